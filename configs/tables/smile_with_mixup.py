"""SMILE, abstract: above six methods of transfer learning "even with mixup strategies combined". 84 runs.

    mixjax grid configs/tables/smile_with_mixup.py --list
    mixjax grid configs/tables/smile_with_mixup.py --run 0

L2-SP, DELTA, BSS, RIFLE, Co-Tuning and RegSL, each with Mixup in front of its loss, beside SMILE, on the data sets and
splits of its Table 2. The paper prints no numbers of them: its Table 2 has the six without Mixup, and Mixup with plain
fine-tuning. The runs of SMILE are those of configs/tables/smile_table2.py. Everything else, and what is open:
configs/papers/smile.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'dataset': ('cub200', 'stanford_cars', 'fgvc_aircraft'),
    'split': ('c25_n400', 'c25_n800', 'all_15', 'all_100'),
    'method': ('l2sp_mixup', 'delta_mixup', 'bss_mixup', 'rifle_mixup', 'cotuning_mixup', 'regsl_mixup', 'smile'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='dataset=cub200,split=all_100,method=l2sp_mixup'):
    cell = cells.parse(argument, **CHOICES)
    config = read('papers/smile', f'dataset={cell["dataset"]},method={cell["method"]}')
    config.target = read('tables/smile_table2', f'dataset={cell["dataset"]},split={cell["split"]},method=smile').target
    return config
