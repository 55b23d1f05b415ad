"""LaMix, Fig. 2 on the digits: the five largest soft targets, means.

    mixjax train --config=configs/digits/lamix_fig2.py --workdir=runs/digits_lamix_fig2

Other settings: configs/digits/lamix.py.
"""

from mixjax.config import read


def get_config():
    config = read('digits/lamix')
    config.num_seeds = 1
    config.snapshots = (0.25, 0.5, 0.75, 1.0)
    config.analyse = '--what=targets'
    return config
