"""XMixup, Table 1: six methods on six data sets; top-1 accuracy. 36 runs.

    mixjax grid configs/tables/xmixup_table1.py --list
    mixjax grid configs/tables/xmixup_table1.py --run 0
    mixjax report --table=xmixup_table1 runs/tables

ResNet-50 from ImageNet, all training images. Seq-Train, Co-Train and XMixup need the images of ImageNet. The paper's
last row, the averages over the data sets, is computed from the others. What is open: configs/papers/xmixup.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'dataset': ('cub200', 'stanford_cars', 'flowers102', 'food101', 'stanford_dogs', 'fgvc_aircraft'),
    'method': ('finetune', 'l2sp', 'bss', 'seqtrain', 'cotrain', 'xmixup'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='dataset=stanford_dogs,method=xmixup'):
    cell = cells.parse(argument, **CHOICES)
    return read('papers/xmixup', f'dataset={cell["dataset"]},method={cell["method"]}')
