"""LaMix, Table 4: LaMix with PuzzleMix's images against PuzzleMix on Tiny ImageNet; error. 4 runs.

    mixjax grid configs/tables/lamix_table4.py --list
    mixjax grid configs/tables/lamix_table4.py --run 0
    mixjax report --table=lamix_table4 runs/tables

LaMix is 36.32 here and 34.40 in Table 6, on the same data with a network of the same name: the recipes differ.
What is open: configs/papers/puzzlemix.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'network': ('preactresnet18', 'resnet50'),
    'method': ('puzzlemix', 'lamix'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='network=preactresnet18,method=lamix'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/puzzlemix', f'dataset=tiny_imagenet,network={cell["network"]},method={cell["method"]}')
