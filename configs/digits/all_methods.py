"""The papers' methods on the embedded benchmark, 3 and 10 labels per class, 5 seeds: a table of docs/results.md.

    mixjax train --config=configs/digits/all_methods.py --workdir=runs/all_methods

Each method has its defaults, none tuned here: the settings of its paper or its authors' code where these
say them (docs/methods.md names the few that they leave open). The schedule is the quickstart's for all.
`lamix_puzzle` is the paper's PuzzleMix section (beta 1). Later methods are in configs/digits/later_methods.py, and
those that learn from unlabelled images in configs/digits/unlabelled.py.
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
