"""Methods that learn from unlabelled images, beside those of labelled ones only: 3 and 10 labels per class, 5 seeds.

    mixjax train --config=configs/digits/unlabelled.py --workdir=runs/unlabelled

Half of the digits that are not labelled are the unlabelled images, drawn for each seed, and the other half is tested
on, for all methods alike. `fixmatch` is evaluated by the moving average of its weights, as its authors do.
"""

from mixjax.config import read

METHODS = {
    'finetune': {},
    'mixup': {},
    'selftrain': {},
    'fixmatch': {'wrappers': ('ema',)},
}


def get_config():
    config = read('quickstart')
    config.num_seeds = 5
    config.compare = {label: {'name': label, **knobs} for label, knobs in METHODS.items()}
    config.unlabelled.name = 'rest'
    config.sweep.key, config.sweep.numbers = 'target.per_class', (3, 10)
    config.results = 'docs/results.md'
    return config
