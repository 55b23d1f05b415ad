"""LaMix, Table 5: Mixup with uniform label smoothing (ULS) of 0.1 to 0.4; error.

36 runs, 8 of them of Table 1 and 4 of Table 6.

    mixjax grid configs/tables/lamix_table5.py --list
    mixjax grid configs/tables/lamix_table5.py --run 0
    mixjax report --table=lamix_table5 runs/tables

The text says that smoothing made Mixup worse everywhere; by its numbers it made it better on CIFAR-100 with
PreActResNet-18 at 0.3 and 0.4, and on CIFAR-10 with ResNet-50 at 0.1 to 0.3. What is open: configs/papers/lamix.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'dataset': ('tiny_imagenet', 'cifar100', 'cifar10'),
    'network': ('preactresnet18', 'resnet50'),
    'method': ('lamix', 'mixup', 'mixup_uls0.1', 'mixup_uls0.2', 'mixup_uls0.3', 'mixup_uls0.4'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='dataset=cifar100,network=preactresnet18,method=mixup_uls0.1'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/lamix', f'dataset={cell["dataset"]},network={cell["network"]},method={cell["method"]}')
