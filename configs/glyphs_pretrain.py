"""The shipped networks: trained from scratch on the printed letters.

    mixjax train --config=configs/glyphs_pretrain.py --workdir=runs/glyphs
    mixjax train --config=configs/glyphs_pretrain.py:glyphnet_deep --workdir=runs/glyphs_deep

Two minutes on two CPU cores. `model.safetensors` and `model.json` of the runs are the package's
mixjax/models/glyphnet.safetensors and .json, glyphnet_deep.safetensors and .json.
"""

from mixjax.config import base
from mixjax.errors import nearest, require
from mixjax.models.weights import EMBEDDED


def get_config(network='glyphnet'):
    told = f'the shipped networks are {", ".join(EMBEDDED)}, not {network!r}{nearest(network, EMBEDDED)}'
    require(network in EMBEDDED, told)
    config = base()
    config.seed = 1
    config.model.name = network
    config.target.name = 'glyphs'
    config.target.rate = 0.9  # the tenth of the images that is left tells how well the letters are known

    config.image.pad = 2
    config.image.flip = False

    config.optim.lr = 0.1
    config.steps = 1500
    config.batch_size = 128
    config.eval_every = config.checkpoint_every = 500
    return config
