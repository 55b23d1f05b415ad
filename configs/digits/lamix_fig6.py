"""LaMix, Fig. 6 on the digits: accuracy of label smoothing, .1 to .9, and of LaMix.

    mixjax train --config=configs/digits/lamix_fig6.py --workdir=runs/digits_lamix_fig6

Other settings: configs/digits/lamix.py.
"""

from mixjax.config import read


def get_config():
    config = read('digits/lamix')
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {f'smoothing_0_{k}': {'name': 'label_smoothing', 'epsilon': k / 10} for k in range(1, 10)}
    config.compare['lamix'] = {'name': 'lamix'}
    config.baseline = 'lamix'
    config.analyse = '--what=sweep'
    return config
