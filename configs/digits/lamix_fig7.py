"""LaMix, Fig. 7 on the digits: class activation maps of LaMix, Mixup and CutMix.

    mixjax train --config=configs/digits/lamix_fig7.py --workdir=runs/digits_lamix_fig7

Other settings: configs/digits/lamix.py.
"""

from mixjax.config import read


def get_config():
    config = read('digits/lamix')
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {name: {'name': name} for name in ('lamix', 'mixup', 'cutmix')}
    config.baseline = 'mixup'
    config.analyse = '--what=cam --images=0'
    return config
