"""XMixup, Fig. 4 on the digits: accuracy against alpha, from 2^-3 to 2^6, 3 labels per class.

    mixjax train --config=configs/digits/xmixup_fig4.py --workdir=runs/digits_xmixup_fig4

Other settings: configs/quickstart.py.
"""

from mixjax.config import read


def get_config():
    config = read('quickstart')
    alphas = {f'alpha_{2**k}' if k >= 0 else f'alpha_1_{2**-k}': 2.0**k for k in range(-3, 7)}
    mixed = {label: {'name': 'xmixup', 'alpha': alpha} for label, alpha in alphas.items()}
    config.compare = {'finetune': {'name': 'finetune'}, **mixed}
    config.analyse = '--what=sweep'
    return config
