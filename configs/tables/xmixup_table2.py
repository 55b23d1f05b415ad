"""XMixup, Table 2: what a fine-tuned trunk still knows of ImageNet. 6 runs, all of Table 1.

    mixjax grid configs/tables/xmixup_table2.py --list
    mixjax grid configs/tables/xmixup_table2.py --run 0
    mixjax report --table=xmixup_table2 runs/tables

The table is a measurement of finished runs: a new classifier is trained on the frozen trunk, for the source classes
that XMixup chose (Auxiliary), for all others (ABA: all but auxiliary) and for all:

    mixjax analyse --workdir=runs/tables/NAME --what=probe

For a run of plain fine-tuning add --auxiliary=runs/tables/OTHER, the run of XMixup that chose the images. The paper
does not say how that classifier is trained. What is open about the runs: configs/papers/xmixup.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'dataset': ('cub200', 'fgvc_aircraft', 'stanford_dogs'),
    'method': ('finetune', 'xmixup'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='dataset=stanford_dogs,method=xmixup'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/xmixup', f'dataset={cell["dataset"]},method={cell["method"]}')
