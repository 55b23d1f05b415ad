"""A run of seconds, `--config=tests/support/tiny_config.py:METHOD`: two small convolutions, made-up images."""

from mixjax import config as config_lib
from mixjax import models
from tests.support.common import Tiny

models.BACKBONES['tiny'] = lambda dtype=None: Tiny(8)


def get_config(method='finetune'):
    config = config_lib.base()
    config.method = {'name': method}
    config.model.name, config.model.weights = 'tiny', 'random://160'
    config.target.name, config.source.name = 'synthetic', 'glyphs'
    config.synthetic.per_class, config.synthetic.side = 3, 16
    config.image.resize, config.image.crop, config.image.pad, config.image.flip = 16, 16, 1, False
    config.image.mean = config.image.std = (0.5,)
    config.optim.schedule, config.optim.lr = 'constant', 0.03
    config.batch_size, config.eval_batch_size, config.steps = 16, 24, 20
    config.eval_every = config.checkpoint_every = 5
    config.log_every = 5
    return config
