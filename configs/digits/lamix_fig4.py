"""LaMix, Fig. 4 on the digits: accuracy against beta, .1 to .9.

    mixjax train --config=configs/digits/lamix_fig4.py --workdir=runs/digits_lamix_fig4

Other settings: configs/digits/lamix.py.
"""

from mixjax.config import read


def get_config():
    config = read('digits/lamix')
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {f'beta_0_{k}': {'name': 'lamix', 'beta': k / 10} for k in range(1, 10)}
    config.baseline = 'beta_0_5'
    config.analyse = '--what=sweep'
    return config
