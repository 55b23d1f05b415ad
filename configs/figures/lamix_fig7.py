"""LaMix, Fig. 7: class activation maps of LaMix, Mixup and CutMix: birds and frogs (CIFAR-10).

    mixjax train --config=configs/figures/lamix_fig7.py --workdir=runs/lamix_fig7

The claim: LaMix looks at narrower regions. Beside the maps there is the share of the image above half of their maximum.
Other settings: configs/lamix_cifar100.py. The same on the digits: configs/digits/lamix_fig7.py.
"""

from mixjax.config import read


def get_config():
    config = read('lamix_cifar100')
    config.target.name = 'cifar10'
    config.num_seeds = 1
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {name: {'name': name} for name in ('lamix', 'mixup', 'cutmix')}
    config.baseline = 'mixup'
    config.analyse = '--what=cam --images=0 --classes=bird,frog'
    return config
