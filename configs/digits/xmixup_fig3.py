"""XMixup, Fig. 3 on the digits: accuracy against the number of auxiliary letters, 3 labels per class.

    mixjax train --config=configs/digits/xmixup_fig3.py --workdir=runs/digits_xmixup_fig3

One round of pairing chooses 10 of 160 classes, some 170 images; 16 rounds choose them all, 16 for each target class.
`all` has no selection: any letter for any digit.
"""

from mixjax.config import read


def get_config():
    config = read('quickstart')
    sizes = {f'images_{n}': {'name': 'xmixup', 'max_images': n} for n in (20, 60)}
    sizes |= {f'rounds_{n}': {'name': 'xmixup', 'rounds': n} for n in (1, 2, 4, 8, 16)}
    sizes['all'] = {'name': 'xmixup', 'auxiliary': 'all'}
    config.compare = {'finetune': {'name': 'finetune'}, **sizes}
    config.analyse = '--what=sweep --over="source images"'
    return config
