"""LaMix, Fig. 3: soft targets and global labels of one batch, over 400 epochs (CIFAR-10).

    mixjax train --config=configs/figures/lamix_fig3.py --workdir=runs/lamix_fig3

Twenty snapshots (45 MB each). The claim: global labels move from 0.14 .. 0.18 to 0.18 .. 0.20, the largest targets are
between 0.55 and 0.65 (docs/analysis.md says why not above 0.616).
Other settings: configs/lamix_cifar100.py. The same on the digits: configs/digits/lamix_fig3.py.
"""

from mixjax.config import read


def get_config():
    config = read('lamix_cifar100')
    config.target.name = 'cifar10'
    config.num_seeds = 1
    config.snapshots = tuple(k / 20 for k in range(1, 21))
    config.analyse = '--what=targets'
    return config
