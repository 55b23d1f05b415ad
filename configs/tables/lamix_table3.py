"""LaMix, Table 3: LaMix with PuzzleMix's images against PuzzleMix; error. 30 runs, 10 of them of Table 1.

    mixjax grid configs/tables/lamix_table3.py --list
    mixjax grid configs/tables/lamix_table3.py --run 0
    mixjax report --table=lamix_table3 runs/tables

The plain networks' numbers are those of Table 1 digit for digit, so here they are Table 1's runs, although the other
two methods have another network of the same name, another batch and 600 epochs. What is open:
configs/papers/puzzlemix.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'network': ('preactresnet18', 'resnet50'),
    'dataset': ('mnist', 'fashion_mnist', 'svhn', 'cifar10', 'cifar100'),
    'method': ('vanilla', 'puzzlemix', 'lamix'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='network=preactresnet18,dataset=cifar100,method=lamix'):
    cell = cells.parse(argument, **CHOICES)
    protocol = 'lamix' if cell['method'] == 'vanilla' else 'puzzlemix'
    return read(f'papers/{protocol}', ','.join(f'{key}={value}' for key, value in cell.items()))
