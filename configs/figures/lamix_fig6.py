"""LaMix, Fig. 6: accuracy of label smoothing, .1 to .9, and of LaMix (CIFAR-100).

    mixjax train --config=configs/figures/lamix_fig6.py --workdir=runs/lamix_fig6

The claim: the best smoothing, 78.47 % at .2, is below LaMix, 80.62 %.
Other settings: configs/lamix_cifar100.py. The same on the digits: configs/digits/lamix_fig6.py.
"""

from mixjax.config import read


def get_config():
    config = read('lamix_cifar100')
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {f'smoothing_0_{k}': {'name': 'label_smoothing', 'epsilon': k / 10} for k in range(1, 10)}
    config.compare['lamix'] = {'name': 'lamix'}
    config.baseline = 'lamix'
    config.analyse = '--what=sweep'
    return config
