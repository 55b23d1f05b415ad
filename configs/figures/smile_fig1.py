"""SMILE, Fig. 1: fine-tuning and Mixup on 50 random classes, from ImageNet and from scratch.

    mixjax grid configs/figures/smile_fig1.py --list
    mixjax grid configs/figures/smile_fig1.py --run 0

Four comparisons, one for each data set and start; by itself, as any config:

    mixjax train --config=configs/figures/smile_fig1.py:data=cub200,start=scratch --workdir=runs/smile_fig1

The claim: Mixup helps from scratch, and not from a pretrained network. Which classes, how many images and the schedule
from scratch are not said: here all images of 50 classes drawn by seed 0, and the schedule of fine-tuning for both.
Everything else, the form of the images and of Mixup too, is the protocol of its tables: configs/papers/smile.py.
The same on the digits: configs/digits/smile_fig1.py.
"""

import itertools

from mixjax.config import cells, read

DATA, START = ('cub200', 'stanford_cars'), ('imagenet', 'scratch')


def grid():
    return [f'data={data},start={start}' for data, start in itertools.product(DATA, START)]


def get_config(argument=''):
    cell = cells.choose(argument, data=DATA, start=START)
    methods = {}
    for method in ('mixup', 'finetune'):
        config = read('papers/smile', f'dataset={cell["data"]},method={method}')
        methods[method] = config.method
    config.method = {'name': ''}
    config.compare, config.baseline = methods, 'finetune'
    config.target.classes = 50.0
    if cell['start'] == 'scratch':
        config.model.weights = ''
    return config
