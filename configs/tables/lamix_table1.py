"""LaMix, Table 1: four methods, two networks, five data sets, from scratch; error. 40 runs.

    mixjax grid configs/tables/lamix_table1.py --list
    mixjax grid configs/tables/lamix_table1.py --run 0
    mixjax report --table=lamix_table1 runs/tables

Batch 128, 400 epochs. What is open: configs/papers/lamix.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'network': ('preactresnet18', 'resnet50'),
    'dataset': ('mnist', 'fashion_mnist', 'svhn', 'cifar10', 'cifar100'),
    'method': ('vanilla', 'mixup', 'cutmix', 'lamix'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='network=preactresnet18,dataset=cifar100,method=lamix'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/lamix', f'dataset={cell["dataset"]},network={cell["network"]},method={cell["method"]}')
