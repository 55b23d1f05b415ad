"""SMILE, Fig. 1 on the digits: fine-tuning and Mixup with 3 labels per class, from the letters and from scratch.

    mixjax grid configs/digits/smile_fig1.py --run 0
    mixjax grid configs/digits/smile_fig1.py --run 1
    mixjax train --config=configs/digits/smile_fig1.py:start=scratch --workdir=runs/digits_smile_fig1

Other settings: configs/quickstart.py.
"""

from mixjax.config import cells, read

START = ('glyphs', 'scratch')


def grid():
    return [f'start={start}' for start in START]


def get_config(argument=''):
    config = read('quickstart')
    config.compare = {'finetune': {'name': 'finetune'}, 'mixup': {'name': 'mixup', 'alpha': 0.2, 'fold': True}}
    if cells.choose(argument, start=START)['start'] == 'scratch':
        config.model.weights = ''
    return config
