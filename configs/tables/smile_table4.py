"""SMILE, Table 4: interpolation losses of four runs on 30 % of CUB-200-2011. 4 runs.

    mixjax grid configs/tables/smile_table4.py --list
    mixjax grid configs/tables/smile_table4.py --run 0
    mixjax report --table=smile_table4 runs/tables

The table is a measurement of finished runs, of labels and of features, on training and on test images:

    mixjax analyse --workdir=runs/tables/NAME --what=interpolation

`finetune_add` learns from the other 70 % too; its training loss is that of the 30 %. The paper leaves open whether
labels are logits or probabilities, the law of lam, the pairs and any normalisation, so compare the order of the
methods and not the numbers. Everything else that is open: configs/papers/smile.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'method': ('finetune', 'finetune_add', 'mixup', 'smile'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='method=smile'):
    cell = cells.parse(argument, **CHOICES)
    config = read('papers/smile', f'dataset=cub200,method={cell["method"].removesuffix("_add")}')
    config.target.rate = 0.3
    config.target.add_rest = cell['method'] == 'finetune_add'
    return config
