"""Methods that the three papers do not have, on the embedded benchmark, 3 and 10 labels per class, 5 seeds.

    mixjax train --config=configs/digits/later_methods.py --workdir=runs/later_methods

Fine-tuning, Mixup and SMILE are here to compare with. Each method has its defaults, those of its paper or code
(docs/methods.md), none tuned here; a wrapper that is a method by name is around what its file says (`AROUND`): the
moving average `ema` around fine-tuning, for example.
"""

from mixjax.config import read

METHODS = (
    'finetune', 'mixup', 'smile',
    # on frozen features, and from there
    'probe', 'lpft', 'wiseft',
    # which parameters learn, how, and which are evaluated
    'bitfit', 'lntune', 'lora', 'sam', 'ema',
    # agreement, contrast, mixing
    'distill', 'rdrop', 'supcon', 'xcutmix',
)  # fmt: skip


def get_config():
    config = read('quickstart')
    config.num_seeds = 5
    config.compare = {name: {'name': name} for name in METHODS}
    config.sweep.key, config.sweep.numbers = 'target.per_class', (3, 10)
    config.results = 'docs/results.md'
    return config
