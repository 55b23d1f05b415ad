"""LaMix, Table 8: without the learned global label (beta 1); error. 8 runs, 4 of them of Table 1.

    mixjax grid configs/tables/lamix_table8.py --list
    mixjax grid configs/tables/lamix_table8.py --run 0
    mixjax report --table=lamix_table8 runs/tables

The table prints "PreAct ResNet10" for PreActResNet-18. What is open: configs/papers/lamix.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'dataset': ('cifar100', 'cifar10'),
    'network': ('preactresnet18', 'resnet50'),
    'method': ('lamix', 'lamix_without_global'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='dataset=cifar100,network=preactresnet18,method=lamix_without_global'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/lamix', f'dataset={cell["dataset"]},network={cell["network"]},method={cell["method"]}')
