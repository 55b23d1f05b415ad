"""Checks of the values of a config. Every error is one sentence that names the key and the allowed values."""

from __future__ import annotations

import itertools
import math
import operator
import re
from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from mixjax import models, tasks
from mixjax.config import method_registry, recipes
from mixjax.config.overrides import LARGEST
from mixjax.config.overrides import short as _short
from mixjax.data.datasets import resolve
from mixjax.data.feed import specification
from mixjax.data.labelled import split_file, splits
from mixjax.errors import UserError, nearest
from mixjax.host import storage
from mixjax.models import initializers, preprocessing

# Counters of drawn examples are 32-bit (data/feed/plan.py).
MOST_EXAMPLES = 2**32
MOST_SEEDS, MOST_BATCH, MOST_SWEPT = 10_000, 1 << 20, 1000
FLOAT = (2 - 2**-23) * 2.0**127  # the largest float32
TINY = 2.0**-126  # the smallest float32 that devices tell from 0
ONE = 1 - 2.0**-25  # from here on a float32 is 1
LONGEST = 4096  # characters of a text; no system allows longer paths


def _at_least(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: least <= v < 2**63, f'a whole number of at least {least}'


def _within(least: int, most: int) -> tuple[Callable[[Any], bool], str]:
    """Bound settings that cost memory or time before anything is trained."""
    return lambda v: least <= v <= most, f'a whole number of at least {least} and at most {most}'


_POSITIVE = (lambda v: TINY <= v < math.inf, 'a number above 0 (and of at least 1.2e-38, less is 0 in float32)')
_NOT_NEGATIVE = (
    lambda v: v == 0 or TINY <= v < math.inf,
    'a number of at least 0 (and 0 or at least 1.2e-38, less is 0 in float32)',
)
_SHARE = (lambda v: 0 < v <= 1, 'above 0 and at most 1')
_COLOURS = (lambda v: len(v) in (1, 3) and all(0 <= x <= 1 for x in v), 'one or three numbers between 0 and 1')
_SPREADS = (lambda v: len(v) in (1, 3) and all(0 < x <= 1 for x in v), 'one or three numbers above 0 and at most 1')


def _one_of(*allowed: str) -> tuple[Callable[[Any], bool], str]:
    return lambda v: v in allowed, 'one of ' + ', '.join(allowed)


def _factor(word: str) -> bool:
    part, _, number = word.partition('=')
    if not part or not re.fullmatch(r'\d+(\.\d*)?(e-?\d+)?', number):
        return False
    zero = not set(number.partition('e')[0]) - set('0.')
    return zero or TINY <= float(number) <= FLOAT


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    'seed': (lambda v: 0 <= v < 2**31, 'a whole number from 0 to 2147483647'),
    'num_seeds': _within(1, MOST_SEEDS),
    'mix.groups': _at_least(1),
    'mix.shards': _at_least(1),
    'feed': _one_of('auto', 'resident', 'stream'),
    'cache_limit': _NOT_NEGATIVE,
    'model.dtype': _one_of('float32', 'bfloat16', 'float64'),
    'model.init': (
        lambda v: not v or v in initializers.LAWS,
        f"one of {', '.join(initializers.LAWS)}, or '' for the network's own",
    ),
    'model.head': _one_of('source', 'keep', 'reset'),
    'model.drop_path': (lambda v: v == -1 or 0 <= v < 1, "a number from 0 to below 1, or -1 for the network's own"),
    'target.task': (
        lambda v: v in [task.setting for task in tasks.TASKS.values()],
        "multi_label or regression, or '' for one class an image",
    ),
    'target.per_class': _at_least(0),
    'target.rate': _SHARE,
    'target.holdout': (lambda v: 0 <= v < 1, 'at least 0 and below 1'),
    'target.classes': (lambda v: 0 < v < math.inf and (v <= 1 or v == int(v)), 'a share up to 1, or a whole number'),
    'target.sampler': _one_of(*splits.SAMPLERS),
    'calibrate': _one_of('', 'val', 'folds'),
    'search.minutes': _POSITIVE,
    'search.networks': (lambda v: all(isinstance(x, str) and x for x in v), 'names of networks'),
    'search.methods': (lambda v: all(isinstance(x, str) and x for x in v), 'names of methods'),
    'search.folds': (lambda v: v == 0 or 2 <= v <= 100, '0, or from 2 to 100'),
    'search.repeats': _within(0, 100),
    'search.unknown': (lambda v: 0 <= v < 1, 'at least 0 and below 1'),
    'target.test': (lambda v: v in splits.TESTS, "'', rest or none"),
    'target.images': _at_least(0),
    'target.counts': (lambda v: all(type(x) is int and x > 0 for x in v), 'whole numbers above 0'),
    'target.balance': _one_of('images', 'classes'),
    'unlabelled.share': (lambda v: 0 < v < 1, 'above 0 and below 1'),
    'target.val': (lambda v: 0 <= v < 1, 'at least 0 and below 1'),
    'synthetic.per_class': _within(0, 10_000),
    'synthetic.side': _within(0, preprocessing.LARGEST),
    'image.resize': _within(1, preprocessing.LARGEST),
    'image.crop': _within(1, preprocessing.LARGEST),
    'image.interpolation': _one_of('bilinear', 'bicubic'),
    'image.fit': _one_of('short', 'squash'),
    'image.pad': _within(0, preprocessing.LARGEST),
    'image.mean': _COLOURS,
    'image.std': _SPREADS,
    'optim.name': _one_of('sgd', 'adam', 'amsgrad', 'adamw', 'lion', 'muon'),
    'optim.recipe': (lambda v: v in ('', recipes.NETWORK), "'network', or '' for the settings as they are"),
    'optim.lr': _POSITIVE,
    'optim.betas': (
        lambda v: len(v) in (0, 2) and all(0 <= x < ONE for x in v),
        "two numbers of at least 0 and below 1 (as float32 too), or () for the optimiser's own",
    ),
    'optim.eps': _POSITIVE,
    'optim.momentum': (lambda v: 0 <= v < ONE, 'at least 0 and below 1 (as float32 too)'),
    'optim.weight_decay': _NOT_NEGATIVE,
    'optim.decayed': (lambda v: v in ('', 'all', 'matrices'), "one of all, matrices, or '' for the optimiser's own"),
    'optim.clip': _NOT_NEGATIVE,
    'optim.schedule': _one_of('step', 'cosine', 'constant', 'linear', 'one_cycle'),
    'optim.warmup': (
        lambda v: 0 <= v < 2**31 and (v <= 1 or v == int(v)),
        'a share of the steps up to 1, or a whole number of steps',
    ),
    'optim.drops': (
        lambda v: all(0 < x < 1 for x in v) and list(v) == sorted(v),
        'rising shares of the steps, each above 0 and below 1',
    ),
    'optim.factor': _POSITIVE,
    'optim.freeze': (lambda v: all(isinstance(x, str) and x for x in v), 'names of parts'),
    'optim.factors': (
        lambda v: all(isinstance(x, str) and _factor(x) for x in v),
        'words like trunk=0.1, each factor 0 or a number from 1.2e-38 to 3.4e38',
    ),
    'optim.layer_decay': _SHARE,
    'steps': _at_least(1),
    'batch_size': _within(1, MOST_BATCH),
    'accumulate': _at_least(1),
    'eval_batch_size': _within(1, MOST_BATCH),
    'eval_every': _at_least(1),
    'checkpoint_every': _at_least(1),
    'keep': _one_of('last', 'best'),
    'snapshots': (
        lambda v: all(0 < x <= 1 for x in v) and list(v) == sorted(set(v)),
        'rising shares of the steps, each above 0 and at most 1',
    ),
    'log_every': _at_least(1),
    'on_nan': _one_of('stop', 'skip'),
    'devices': _at_least(0),
    'dispatch': _at_least(0),
}


def check(config: Any, base: Any) -> None:
    """Check types against `base`, single values against RULES, then values that must fit together."""
    types(config, base)
    _network(config)
    for key, (allowed, sentence) in RULES.items():
        value = _get(config, key)
        if not _holds(allowed, value):
            raise UserError(f'config.{key} must be {sentence}, not {_short(value)}{_close(sentence, value)}')
    for place in ('target', 'source'):
        if config[place].name or place == 'target':
            _name_setting(f'config.{place}.name', resolve.check, config[place])
    if config.unlabelled.name not in ('', splits.REST):
        _name_setting('config.unlabelled.name', resolve.check, config.unlabelled)
    elif config.unlabelled.dir:
        raise UserError('config.unlabelled.dir is where the images of config.unlabelled.name=folder are; set that too')
    _name_setting('config.image.augment', specification.augmentations, config.image.augment)
    _name_setting('config.image.tta', specification.views, config.image.tta)
    for label in config.compare:
        if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9_-]*', label):
            raise UserError(f'config.compare: {label!r} names a folder; use letters, digits, - and _ only')
    if config.baseline and config.compare and config.baseline not in config.compare:
        raise UserError(f'config.baseline is one of {", ".join(config.compare)}, not {config.baseline!r}')
    from mixjax.config.variants import swept

    _sweep(config)
    for one in swept(config).values():
        _together(one)
    _build_methods(config)


def _close(sentence: str, value: Any) -> str:
    """Return the nearest of the names that a rule's sentence lists, as a hint; '' if it lists none."""
    names = re.findall(r'\w+', sentence.removeprefix('one of ').partition(', or ')[0])
    return nearest(value, names) if sentence.startswith('one of ') and isinstance(value, str) else ''


def _holds(allowed: Callable[[Any], bool], value: Any) -> bool:
    try:
        return allowed(value)
    except (TypeError, OverflowError):  # an item of another type in a tuple of numbers
        return False


def types(config: Any, base: Any) -> None:
    """Check that every setting exists and has the right type, and that numbers are finite and texts printable."""
    _same_types(config, base, '')


def _name_setting(place: str, function: Callable[..., Any], *given: Any) -> Any:
    """Return `function(*given)`; a `UserError` of it names the setting `place`."""
    try:
        return function(*given)
    except UserError as error:
        raise UserError(str(error) if place in str(error) else f'{place}: {error}') from error


def _network(config: Any) -> None:
    if config.model.name not in models.names():
        raise UserError(f'config.model.name: {models.unknown(config.model.name)}')


def _sweep(config: Any) -> None:
    key, values = config.sweep.key, config.sweep.numbers
    if bool(key) != bool(values):
        raise UserError('config.sweep needs both key and numbers, or neither')
    if key and (key.partition('.')[0] in ('sweep', 'steps', 'compare', 'method', 'synthetic') or key not in RULES):
        allowed = [k for k in RULES if k.partition('.')[0] not in ('steps', 'synthetic')]
        raise UserError(f'config.sweep.key must be the name of a number, not {key!r}{nearest(key, allowed)}')
    if key and type(_get(config, key)) not in (int, float):
        raise UserError(f'config.sweep.key must be the name of a number, and config.{key} is {_get(config, key)!r}')
    for value in values:
        if type(value) not in (int, float):
            raise UserError(f'config.sweep.numbers must be numbers, not {value!r}')
        if not _holds(RULES[key][0], value):
            raise UserError(f'config.sweep.numbers: {key} must be {RULES[key][1]}, not {value!r}')
    if len(values) > MOST_SWEPT:
        raise UserError(f'config.sweep.numbers are {len(values)}, and at most {MOST_SWEPT} can be swept')
    if len(set(values)) < len(values):
        raise UserError(f'config.sweep.numbers are given twice: {values}')


def _together(config: Any) -> None:
    batch, groups = config.batch_size, config.mix.groups
    for name, parts in config.mix.items():
        if batch % parts:
            raise UserError(f'config.mix.{name}={parts} must divide config.batch_size={batch}')
    if batch % config.accumulate:
        raise UserError(f'config.accumulate={config.accumulate} must divide config.batch_size={batch}')
    if groups % config.accumulate:
        raise UserError(
            f'config.accumulate={config.accumulate} must divide config.mix.groups={groups}: partners are drawn within '
            f'a part of the batch; set config.mix.groups={config.accumulate} too'
        )
    _rates(config.optim)
    _warmup(config.optim, config.steps)
    if config.steps * batch >= MOST_EXAMPLES:
        raise UserError(f'config.steps x config.batch_size must stay below 2^32, not {config.steps} x {batch}')
    if config.seed + config.num_seeds > 2**31:
        raise UserError('config.seed + config.num_seeds must stay below 2^31')
    _how_many(config.target)
    _task(config)
    if config.image.tta and config.target.task not in ('', 'classification'):
        raise UserError(
            f'config.image.tta averages the probabilities of classes, and config.target.task={config.target.task} has '
            "none; leave it ''"
        )
    if len(config.image.mean) != len(config.image.std):
        raise UserError('config.image.mean and config.image.std must have the same number of colours')
    if bool(config.synthetic.per_class) != bool(config.synthetic.side):
        raise UserError('config.synthetic needs both per_class and side, or neither')
    side = config.synthetic.side or config.image.resize
    stored = 'synthetic.side' if config.synthetic.side else 'image.resize'
    if config.image.crop > side + 2 * config.image.pad:
        raise UserError(
            f'config.image.crop={config.image.crop} is larger than the stored images '
            f'(config.{stored}={side}) with a border of config.image.pad={config.image.pad}'
        )
    if 'crops' in specification.views(config.image.tta) and config.image.crop >= side and not config.synthetic.side:
        raise UserError(
            f'config.image.tta={config.image.tta}: the crops of {config.image.crop} are all the same in stored images '
            f'of {side}; set config.image.resize above config.image.crop'
        )


def _rates(optim: Any) -> None:
    """Refuse learning rates that become 0 or infinite in float32."""
    drops = len(optim.drops) if optim.schedule == 'step' else 0
    rates = itertools.accumulate([float(optim.lr)] + drops * [optim.factor], operator.mul)
    for k, rate in enumerate(rates):
        if not TINY <= rate <= FLOAT:
            raise UserError(
                f'config.optim.lr={optim.lr:g} is {rate:g} after {k} drops by config.optim.factor={optim.factor:g}, '
                'which is not a valid learning rate (in float32 it must be from 1.2e-38 to 3.4e38)'
            )
    for word in optim.factors:
        part, _, factor = word.partition('=')
        if float(factor) and not TINY <= optim.lr * float(factor) <= FLOAT:
            raise UserError(
                f'config.optim.factors: {part} learns at {optim.lr:g} (config.optim.lr) times {factor}, which is not a '
                'valid learning rate (in float32 it must be from 1.2e-38 to 3.4e38); give 0 to freeze it'
            )


def _warmup(optim: Any, steps: int) -> None:
    if optim.warmup and optim.schedule == 'one_cycle':
        raise UserError(
            f'config.optim.warmup={optim.warmup:g}: config.optim.schedule=one_cycle begins with a warm-up of its own; '
            'set config.optim.warmup=0, or another schedule, such as cosine'
        )
    if optim.warmup > max(steps, 1):
        raise UserError(
            f'config.optim.warmup={optim.warmup:g} steps are more than config.steps={steps}; a number up to 1 is a '
            'share of the steps'
        )


def _how_many(target: Any) -> None:
    said = [key for key in ('per_class', 'images', 'counts', 'splits') if target[key]]
    said += ['rate'] * (target.rate != 1)
    if len(said) > 1:
        raise UserError(f'config.target.{said[0]} and config.target.{said[-1]} both say how many; set one of them')
    if target.sampler != splits.SAMPLERS[0] and said != ['rate']:
        raise UserError(f'config.target.sampler={target.sampler} draws a share: set config.target.rate below 1 too')
    for key, none in (('classes', 1), ('val', 0), ('add_rest', False)):
        if target.splits and target[key] != none:
            raise UserError(f'config.target.splits lists the examples; leave config.target.{key} as it is')


def _task(config: Any) -> None:
    """Refuse settings that have no meaning for the task."""
    target, task = config.target, config.target.task
    if target.labels and target.name != 'folder':
        raise UserError(
            f'config.target.labels={target.labels} is the file of labels of a folder of images; set '
            'config.target.name=folder and config.target.dir'
        )
    if not task:
        return
    if target.name != 'folder' or not (target.labels or config.synthetic.per_class):
        raise UserError(
            f'config.target.task={task} needs a folder of images with a file of labels: set config.target.name=folder, '
            'config.target.dir, and config.target.labels=labels.csv'
        )
    for key, none in (('per_class', 0), ('counts', ()), ('classes', 1), ('balance', 'images')):
        if target[key] != none:
            raise UserError(
                f'config.target.{key} needs one class for each image, and config.target.task={task} has none; the '
                'labelled images are chosen at random, by config.target.rate or config.target.images'
            )
    if config.calibrate:
        raise UserError(f'config.calibrate is for one class an image, and config.target.task is {task}')
    if config.analyse:
        raise UserError(f'config.analyse measures runs of one class an image, and config.target.task is {task}')
    if tasks.of(task).scaled and config.model.head == 'keep':
        raise UserError(
            f'config.model.head=keep: the numbers of config.target.task={task} are standardised by the images of each '
            'run, so a head is of no use in another one; use source or reset'
        )


def _for_task(place: str, node: Any, method: Any, task: str) -> None:
    """Refuse a method that is not for the task."""
    if task in method.tasks:
        return
    title, only = method_registry.title(node), ' and '.join(method.tasks)
    one_class = method.tasks == ('classification',)
    why = 'its loss needs one class for each image' if one_class else 'it mixes labels that numbers do not have'
    raise UserError(
        f'config.{place}: {title} is for {only or "no task"} only ({why}), and config.target.task is '
        f'{task if task != "classification" else "not set"}; the methods for {task} are '
        f'{", ".join(method_registry.for_task(task))}'
    )


def _build_methods(config: Any) -> None:
    """Build every method, so that each checks its knobs."""
    from mixjax.config.variants import methods

    target = config.target
    made_up = bool(config.synthetic.per_class)
    classes = resolve.entry(target, storage.cache_folder(config.cache_dir), made_up=made_up).classes
    given = target.splits
    if not target.task:
        classes = split_file.count(given, classes) if given else splits.class_count(classes, target.classes)
    for place, node in methods(config).items():
        for key, value in node.items():
            _plain(f'{place}.{key}', value)
        method = _name_setting(f'config.{place}', method_registry.build, node, classes)
        _for_task(place, node, method, tasks.of(target.task).name)


def _get(config: Any, key: str) -> Any:
    node: Any = config
    for part in key.split('.'):
        node = node[part]
    return node


def _plain(key: str, value: Any) -> None:
    """Refuse numbers that are not finite or are too large for float32, and texts that cannot be a file name."""
    for one in value if isinstance(value, tuple) else (value,):
        if type(one) is float and FLOAT < abs(one) < math.inf:
            raise UserError(f'config.{key} must be a number of at most 3.4e38, not {_short(one)}')
        if type(one) is float and not math.isfinite(one) or type(one) is int and abs(one) >= LARGEST:
            raise UserError(f'config.{key} must be a finite number, not {_short(one)}')
        if isinstance(one, str) and not nameable(one):
            raise UserError(f'config.{key} must be text of printable characters, not too long, not {_short(one)}')


def nameable(text: str) -> bool:
    """Return whether a text could be the path of a file."""
    if not text.isprintable() or len(text) > LONGEST:
        return False
    return all(len(part.encode('utf-8', 'surrogateescape')) < 256 for part in text.split('/'))


def _same_types(config: Any, base: Any, prefix: str) -> None:
    """Check that every key of `base` exists with its type. Knobs of methods are checked where they are filled in."""
    for key in config:
        if key not in base and prefix not in ('method.', 'compare.'):
            raise UserError(f'unknown config key {prefix + key!r}{nearest(key, base.keys())}')
    for key, default in base.items():
        if key not in config:
            raise UserError(f'config.{prefix}{key} is missing; start from mixjax.config.base()')
        value = config[key]
        if isinstance(default, ConfigDict):
            if not isinstance(value, ConfigDict):
                raise UserError(f'config.{prefix}{key} is a group of settings, not {value!r}')
            _same_types(value, default, f'{prefix}{key}.')
        elif type(value) is not type(default) and not (type(default) is float and type(value) is int):
            raise UserError(f'config.{prefix}{key} must be of type {type(default).__name__}, not {_short(value)}')
        else:
            _plain(f'{prefix}{key}', value)
