"""XMixup, Fig. 4: accuracy against alpha, from 2^-3 to 2^6; on three data sets.

    mixjax train --config=configs/figures/xmixup_fig4.py:data=stanford_dogs --workdir=runs/xmixup_fig4

The claim: a range of alpha is better than the baselines, 2^-3 to 2^-1 on Stanford Dogs and 2^0 to 2^6 elsewhere. Batch
48, 9,000 steps, five seeds, as in configs/xmixup_dogs.py. The paper's dotted lines are its best baselines, here it is
fine-tuning; `default` is the alpha of the other figures. The same on the digits: configs/digits/xmixup_fig4.py.
"""

from mixjax.config import cells, read

DATA = ('cub200', 'fgvc_aircraft', 'stanford_dogs')


def get_config(argument=''):
    data = cells.choose(argument, data=DATA)['data']
    config = read('xmixup_dogs')
    method = {'name': 'xmixup', 'alpha': 0.5, 'min_images': 100_000, 'per_class': 0}
    if data != 'stanford_dogs':
        method |= {'alpha': 4.0, 'min_images': 200_000}
        config.optim.lr = 0.01
    config.target.name = data
    # Of alpha = 2^k, `alpha_1_8` is 2^-3.
    others = [2.0**k for k in range(-3, 7) if 2.0**k != method['alpha']]
    names = {f'alpha_{a:g}' if a >= 1 else f'alpha_1_{1 / a:g}': {**method, 'alpha': a} for a in others}
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {'finetune': {'name': 'finetune'}, 'default': method, **names}
    config.baseline = 'finetune'
    config.analyse = '--what=sweep'
    return config
