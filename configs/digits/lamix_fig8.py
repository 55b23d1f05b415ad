"""LaMix, Fig. 8 on the digits: two units at four steps of a training.

    mixjax train --config=configs/digits/lamix_fig8.py --workdir=runs/digits_lamix_fig8

The learning rate falls at a half and three quarters of the training, between the pictures at 40, 70 and 100 %. Other
settings: configs/digits/lamix.py.
"""

from mixjax.config import read


def get_config():
    config = read('digits/lamix')
    config.model.name = 'glyphnet_plane'
    config.num_seeds = 1
    config.steps = 2500
    config.snapshots = (0.1, 0.4, 0.7, 1.0)
    config.analyse = '--what=plane --classes=3,5,8'
    return config
