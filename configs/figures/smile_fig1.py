"""SMILE, Fig. 1: fine-tuning and Mixup on 50 random classes, from ImageNet and from scratch.

    python -m mixjax.grid configs/figures/smile_fig1.py --list
    python -m mixjax.grid configs/figures/smile_fig1.py --run 0

Four comparisons, one for each data set and start; by itself, as any config:

    python -m mixjax.main --config=configs/figures/smile_fig1.py:data=cub200,start=scratch --workdir=runs/smile_fig1

The claim: Mixup helps from scratch, and not from a pretrained network. Which classes, how many images and the schedule
from scratch are not said: here all images of 50 classes drawn by seed 0, and the schedule of fine-tuning for both.
Mixup as in SMILE's released code (alpha 0.2, folded). The same on the digits: configs/digits/smile_fig1.py.
"""

import itertools

from mixjax import cells
from mixjax.config import base

DATA, START = ('cub200', 'stanford_cars'), ('imagenet', 'scratch')


def grid():
    return [f'data={data},start={start}' for data, start in itertools.product(DATA, START)]


def get_config(argument=''):
    cell = cells.choose(argument, data=DATA, start=START)
    config = base()
    config.num_seeds = 5
    config.compare = {'finetune': {'name': 'finetune'}, 'mixup': {'name': 'mixup', 'alpha': 0.2, 'fold': True}}
    config.baseline = 'finetune'
    config.model.name = 'resnet50'
    config.model.weights = 'hf://timm/resnet50.tv_in1k' if cell['start'] == 'imagenet' else ''
    config.target.name = cell['data']
    config.target.classes = 50.0
    return config
