"""The shipped network: trained from scratch on the printed letters.

    python -m mixjax.main --config=configs/glyphs_pretrain.py --workdir=runs/glyphs

Two minutes on two CPU cores. `model.safetensors` and `model.json` of the run are the package's
mixjax/models/glyphnet.safetensors and glyphnet.json.
"""

from mixjax.config import base


def get_config():
    config = base()
    config.seed = 1
    config.model.name = 'glyphnet'
    config.target.name = 'glyphs'
    config.target.rate = 0.9  # the tenth of the images that is left tells how well the letters are known

    config.image.pad = 2
    config.image.flip = False

    config.optim.lr = 0.1
    config.steps = 1500
    config.batch_size = 128
    config.eval_every = config.checkpoint_every = 500
    return config
