"""LaMix, Table 7: without batches of original images; error. 8 runs, 4 of them of Table 1.

    mixjax grid configs/tables/lamix_table7.py --list
    mixjax grid configs/tables/lamix_table7.py --run 0
    mixjax report --table=lamix_table7 runs/tables

What is open: configs/papers/lamix.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'dataset': ('cifar100', 'cifar10'),
    'network': ('preactresnet18', 'resnet50'),
    'method': ('lamix', 'lamix_without_originals'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='dataset=cifar100,network=preactresnet18,method=lamix_without_originals'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/lamix', f'dataset={cell["dataset"]},network={cell["network"]},method={cell["method"]}')
