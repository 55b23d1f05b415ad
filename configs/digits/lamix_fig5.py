"""LaMix, Fig. 5 on the digits: training loss and accuracy over a training five times as long.

    mixjax train --config=configs/digits/lamix_fig5.py --workdir=runs/digits_lamix_fig5

LaMix's original and mixed batches have a curve of the loss each. Other settings: configs/digits/lamix.py.
"""

from mixjax.config import read


def get_config():
    config = read('digits/lamix')
    config.method = {'name': ''}  # `compare` says what is trained
    config.compare = {name: {'name': name} for name in ('lamix', 'mixup', 'cutmix')}
    config.baseline = 'mixup'
    config.steps *= 5
    config.analyse = '--what=curves'
    return config
