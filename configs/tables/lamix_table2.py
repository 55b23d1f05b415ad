"""LaMix, Table 2: a shallower, a wider and a deeper network on CIFAR-100; error. 12 runs.

    mixjax grid configs/tables/lamix_table2.py --list
    mixjax grid configs/tables/lamix_table2.py --run 0
    mixjax report --table=lamix_table2 runs/tables

LeNet, WideResNet-28-10 and DenseNet-121. LeNet may learn nothing at the paper's learning rate of 0.1, as it does on the
digits: see there what to do. What is open: configs/papers/lamix.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'network': ('lenet', 'wrn28_10', 'densenet121'),
    'method': ('vanilla', 'mixup', 'cutmix', 'lamix'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='network=wrn28_10,method=lamix'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/lamix', f'dataset=cifar100,network={cell["network"]},method={cell["method"]}')
