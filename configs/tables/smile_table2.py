"""SMILE, Table 2: nine methods on three data sets, each with four splits; top-1 accuracy. 108 runs.

    mixjax grid configs/tables/smile_table2.py --list
    mixjax grid configs/tables/smile_table2.py --run 0
    mixjax report --table=smile_table2 runs/tables

ResNet-50 from ImageNet. C:25%/N:400 are 400 images of a quarter of the classes, tested on these classes only (the paper
says so nowhere, but could not mean anything else); C:All/N:15% are 15 % of each class. Everything else, and what is
open: configs/papers/smile.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'dataset': ('cub200', 'stanford_cars', 'fgvc_aircraft'),
    'split': ('c25_n400', 'c25_n800', 'all_15', 'all_100'),
    'method': ('finetune', 'mixup', 'l2sp', 'delta', 'bss', 'rifle', 'cotuning', 'regsl', 'smile'),
}
SPLITS = {
    'c25_n400': {'classes': 0.25, 'images': 400},
    'c25_n800': {'classes': 0.25, 'images': 800},
    'all_15': {'rate': 0.15},
    'all_100': {},
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='dataset=cub200,split=all_100,method=smile'):
    cell = cells.parse(argument, **CHOICES)
    config = read('papers/smile', f'dataset={cell["dataset"]},method={cell["method"]}')
    config.target.update(SPLITS[cell['split']])
    return config
