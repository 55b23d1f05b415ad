"""SMILE, Table 3: six methods on scenes and on food, with 30, 50 and 100 % of the images; top-1 accuracy. 36 runs.

    mixjax grid configs/tables/smile_table3.py --list
    mixjax grid configs/tables/smile_table3.py --run 0
    mixjax report --table=smile_table3 runs/tables

MIT-Indoor-67 with ResNet-50 from Places365: put resnet50_places365.pth.tar
(http://places2.csail.mit.edu/models_places365/resnet50_places365.pth.tar) into the folder weights/, or name it with
--config.model.weights. Food-101 with EfficientNet-B4 from ImageNet. The numbers of BSS and RIFLE on 30 % of Food are
the same in the paper, spread included: one of them is probably a copy. What is open: configs/papers/smile.py.
"""

from mixjax.config import cells, read

RUNS = 'tables'  # all tables have one folder of runs: what several of them need is trained once
CHOICES = {
    'dataset': ('mit_indoor67', 'food101'),
    'split': ('30', '50', '100'),
    'method': ('finetune', 'mixup', 'delta', 'bss', 'rifle', 'smile'),
}


def grid():
    return cells.product(**CHOICES)


def get_config(argument='dataset=mit_indoor67,split=100,method=smile'):
    cell = cells.parse(argument, **CHOICES)
    config = read('papers/smile', f'dataset={cell["dataset"]},method={cell["method"]}')
    config.target.rate = int(cell['split']) / 100
    return config
