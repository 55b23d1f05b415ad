"""LaMix on the digits from scratch, 100 labels per class: what the digits' forms of its figures begin with.

    mixjax train --config=configs/digits/lamix.py --workdir=runs/digits_lamix

As on CIFAR: SGD with momentum 0.9, learning rate 0.1 divided by 10 at a half and three quarters, weight decay 1e-4.
1,000 labelled digits and 797 to test on; batch 64, 1,000 steps (64 epochs).
"""

from mixjax.config import base


def get_config():
    config = base()
    config.num_seeds = 3
    config.method = {'name': 'lamix'}
    config.model.name = 'glyphnet'
    config.target.name = 'digits'
    config.target.per_class = 100
    config.image.pad = 2
    config.image.flip = False

    config.optim.lr = 0.1
    config.optim.nesterov = False
    config.optim.drops = (0.5, 0.75)
    config.steps = 1000
    config.batch_size = 64
    config.eval_every = config.checkpoint_every = 250
    return config
