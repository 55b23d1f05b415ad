"""LaMix, Fig. 4: accuracy against beta, .1 to .9 (CIFAR-100).

    mixjax train --config=configs/figures/lamix_fig4.py --workdir=runs/lamix_fig4

The claim: 0.5 is best, and .3 to .8 are alike.
Other settings: configs/lamix_cifar100.py. The same on the digits: configs/digits/lamix_fig4.py.
"""

from mixjax.config import read


def get_config():
    config = read('lamix_cifar100')
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {f'beta_0_{k}': {'name': 'lamix', 'beta': k / 10} for k in range(1, 10)}
    config.baseline = 'beta_0_5'
    config.analyse = '--what=sweep'
    return config
