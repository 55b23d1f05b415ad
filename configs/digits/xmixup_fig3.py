"""XMixup, Fig. 3 on the digits: accuracy against the number of auxiliary letters, 3 labels per class.

    python -m mixjax.main --config=configs/digits/xmixup_fig3.py --workdir=runs/digits_xmixup_fig3

One round of pairing chooses 10 of 160 classes, some 170 images; 16 rounds choose them all.
"""

from mixjax.config import read


def get_config():
    config = read('quickstart')
    sizes = {f'images_{n}': {'max_images': n} for n in (20, 60)}
    sizes |= {f'rounds_{n}': {'rounds': n} for n in (1, 2, 4, 8, 16)}
    methods = {label: {'name': 'xmixup', **knobs} for label, knobs in sizes.items()}
    config.compare = {'finetune': {'name': 'finetune'}, **methods}
    config.analyse = '--what=sweep --over="source images"'
    return config
