"""Every method on the embedded benchmark, 3 and 10 labels per class, 5 seeds: the table of docs/results.md.

    python -m mixjax.main --config=configs/digits/all_methods.py --workdir=runs/all_methods

Each method has the settings of its paper or its authors' code, none was tuned here. Three that these
leave to the data set are named: the weight of the pull to the pretrained weights (the SMILE code's for
CUB-200), manifold mixup's layers by the stages that the network has, and the number of RIFLE's resets.
"""

from mixjax.config import read

METHODS = {
    'finetune': {},
    # transfer
    'feature_extraction': {},
    'l2sp': {},
    'delta': {},
    'bss': {},
    'rifle': {},
    'cotuning': {},
    'regsl': {},
    'seqtrain': {},
    'cotrain': {},
    'smile': {},
    'xmixup': {},
    # mixing
    'label_smoothing': {},
    'mixup': {},
    'mixup_smoothed': {'name': 'mixup', 'label_smoothing': 0.1},
    'cutmix': {},
    'manifold_mixup': {},
    'puzzlemix': {},
    'lamix': {},
    'lamix_puzzle': {'name': 'lamix', 'mixing': 'puzzle', 'beta': 1.0},
}


def get_config():
    config = read('quickstart')
    config.num_seeds = 5
    config.compare = {label: {'name': label, **knobs} for label, knobs in METHODS.items()}
    config.sweep.key, config.sweep.numbers = 'target.per_class', (3, 10)
    config.results = 'docs/results.md'
    return config
