"""XMixup, Fig. 2 on the digits: tail singular values of fine-tuning and XMixup at 3, 10, 30 and 100 labels per class.

    mixjax train --config=configs/digits/xmixup_fig2.py --workdir=runs/digits_xmixup_fig2

Other settings: configs/quickstart.py.
"""

from mixjax.config import read


def get_config():
    config = read('quickstart')
    config.compare = {name: {'name': name} for name in ('finetune', 'xmixup')}
    config.sweep.key, config.sweep.numbers = 'target.per_class', (3, 10, 30, 100)
    config.analyse = '--what=spectrum --images=0'
    return config
