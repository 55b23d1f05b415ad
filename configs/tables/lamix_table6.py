"""LaMix, Table 6: four methods and two networks on Tiny ImageNet; error. 8 runs.

    mixjax grid configs/tables/lamix_table6.py --list
    mixjax grid configs/tables/lamix_table6.py --run 0
    mixjax report --table=lamix_table6 runs/tables

What is open: configs/papers/lamix.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'network': ('preactresnet18', 'resnet50'),
    'method': ('vanilla', 'mixup', 'cutmix', 'lamix'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='network=preactresnet18,method=lamix'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/lamix', f'dataset=tiny_imagenet,network={cell["network"]},method={cell["method"]}')
