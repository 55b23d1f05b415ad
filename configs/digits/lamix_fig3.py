"""LaMix, Fig. 3 on the digits: soft targets and global labels of one batch, over training.

    mixjax train --config=configs/digits/lamix_fig3.py --workdir=runs/digits_lamix_fig3

Other settings: configs/digits/lamix.py.
"""

from mixjax.config import read


def get_config():
    config = read('digits/lamix')
    config.num_seeds = 1
    config.snapshots = tuple(k / 10 for k in range(1, 11))
    config.analyse = '--what=targets'
    return config
