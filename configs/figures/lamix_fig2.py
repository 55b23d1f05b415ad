"""LaMix, Fig. 2: the five largest soft targets, means.

    mixjax train --config=configs/figures/lamix_fig2.py:data=cifar100 --workdir=runs/lamix_fig2

The claim: half of the mass goes to other classes; the second target is 0.14 of 100 classes, and 0.25 of ten. The
means "during training" are here those of labelled images with the network of the last step, and at three steps before.
Other settings: configs/lamix_cifar100.py. The same on the digits: configs/digits/lamix_fig2.py.
"""

from mixjax.config import cells, read


def get_config(argument=''):
    config = read('lamix_cifar100')
    config.target.name = cells.choose(argument, data=('cifar100', 'cifar10'))['data']
    config.num_seeds = 1
    config.snapshots = (0.25, 0.5, 0.75, 1.0)
    config.analyse = '--what=targets'
    return config
