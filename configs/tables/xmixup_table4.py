"""XMixup, Table 4: without crossing domains (Mixup), and without labels of source images; top-1 accuracy. 9 runs.

    mixjax grid configs/tables/xmixup_table4.py --list
    mixjax grid configs/tables/xmixup_table4.py --run 0
    mixjax report --table=xmixup_table4 runs/tables

Three of the runs are those of Table 1. What is open, the form of the two ablations too: configs/papers/xmixup.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'dataset': ('cub200', 'fgvc_aircraft', 'stanford_dogs'),
    'method': ('xmixup', 'mixup', 'without_label'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='dataset=stanford_dogs,method=without_label'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/xmixup', f'dataset={cell["dataset"]},method={cell["method"]}')
