"""A small grid: fine-tuning and XMixup with 3 and 10 labelled digits per class, 3 seeds each: four runs.

    mixjax grid configs/digits/grid.py --list
    mixjax grid configs/digits/grid.py --run 0

A cell by itself, as any config:

    mixjax train --config=configs/digits/grid.py:method=xmixup,per_class=10 --workdir=runs/xmixup_10

Everything else is the quickstart's. docs/pods.md says how engines run a grid.
"""

import itertools

from mixjax.config import read
from mixjax.errors import require

METHODS = ('finetune', 'xmixup')
LABELS = ('3', '10')


def grid():
    return [f'method={method},per_class={labels}' for method, labels in itertools.product(METHODS, LABELS)]


def get_config(argument='method=xmixup,per_class=3'):
    cell = {key: value for key, _, value in (part.partition('=') for part in argument.split(','))}
    require(cell.keys() == {'method', 'per_class'}, f'a cell is method=NAME,per_class=NUMBER, not {argument!r}')
    require(cell['per_class'].isdecimal(), f'per_class must be a whole number, not {cell["per_class"]!r}')
    config = read('quickstart')
    config.compare, config.baseline = {}, ''
    config.method = {'name': cell['method']}
    config.target.per_class = int(cell['per_class'])
    return config
