"""XMixup, Table 3: random source images in place of paired ones; top-1 accuracy. 6 runs.

    mixjax grid configs/tables/xmixup_table3.py --list
    mixjax grid configs/tables/xmixup_table3.py --run 0
    mixjax report --table=xmixup_table3 runs/tables

As many ImageNet images as pairing chooses, taken at random from all of them, shared by all target classes. In brackets
the paper prints the difference to its Table 1. What is open: configs/papers/xmixup.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'dataset': ('cub200', 'stanford_cars', 'flowers102', 'food101', 'stanford_dogs', 'fgvc_aircraft'),
    'method': ('xmixup_random',),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='dataset=stanford_dogs,method=xmixup_random'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/xmixup', f'dataset={cell["dataset"]},method={cell["method"]}')
