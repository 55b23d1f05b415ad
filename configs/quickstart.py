"""Five methods on the embedded benchmark: printed letters to handwritten digits, 3 labels per class.

    mixjax train --config=configs/quickstart.py --workdir=runs/quickstart

Two CPU cores, no download. Add --config.num_seeds=10 for the figures of docs/benchmark.md.
"""

from mixjax.config import base


def get_config():
    config = base()
    config.num_seeds = 3
    config.compare = {name: {'name': name} for name in ('finetune', 'mixup', 'smile', 'xmixup', 'lamix')}
    config.baseline = 'finetune'

    config.model.name = 'glyphnet'
    config.model.weights = 'embedded://glyphnet'
    config.target.name = 'digits'
    config.target.per_class = 3
    config.source.name = 'glyphs'

    config.image.pad = 2
    config.image.flip = False  # letters and digits have a left and a right

    config.steps = 400
    config.eval_every = 100
    config.checkpoint_every = 200
    return config
