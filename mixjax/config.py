"""Configs: the defaults, loading a config file, overrides from the command line, and checking.

A config is data only, an `ml_collections.ConfigDict` that is locked once it is complete: an unknown
key is an error that names the nearest known one. `base()` holds every default; a file in `configs/`
starts from it and changes what its experiment needs.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mixjax import method as method_lib
from mixjax import override, places
from mixjax.config_file import read, shipped
from mixjax.errors import UserError, nearest

__all__ = [
    'base', 'check', 'complete', 'from_data', 'load', 'make_smoke', 'methods', 'read', 'settle', 'shipped', 'swept',
]  # fmt: skip

DEFAULT = 'finetune'  # the method of a config that names none

# An ml_collections.ConfigDict. What its attributes hold is known to `base()` and not to a type checker.
Config = Any


def base() -> Config:
    """The defaults: fine-tuning of ImageNet networks by the protocol of SMILE's released code."""
    config: Config = ConfigDict()
    config.seed = 0  # of the first run; the others use seed + 1, ..
    config.num_seeds = 1  # independent repeats: own labelled examples, initialisation and order

    # What is trained: one method ('' is finetune; its knobs are filled in from its file), or several in `compare`.
    config.method = ConfigDict({'name': ''})
    config.compare = ConfigDict()  # {label: method}: several methods, each in its own sub-folder
    config.baseline = ''  # label of the one that the others are compared with; '' is the first by name
    config.sweep = ConfigDict({'key': '', 'numbers': ()})  # the whole run once for each value of one number
    config.results = ''  # a Markdown file that gets the accuracy table too
    config.analyse = ''  # what mixjax.analyse is asked for at the end: '--what=interpolation,spectrum'
    config.mix = ConfigDict(
        {
            'groups': 1,  # partners are drawn within this many parts of the batch
            'shards': 1,  # source images are dealt out into so many parts, each for its part of the batch
        }
    )

    config.model = ConfigDict(
        {
            'name': 'resnet50',
            'weights': '',  # the pretrained network: hf://.., a file, a run, embedded://glyphnet; '' is from scratch
            'head': 'source',  # the weights' own classifier: becomes the head `source`; keep: the target's too; reset
            'init': '',  # the law of what is not pretrained: torch, kaiming or flax; '' is the network's own
            'dtype': 'float32',  # of the computation; bfloat16 keeps parameters and statistics in float32
        }
    )
    config.target = ConfigDict(
        {
            'name': 'synthetic',
            'dir': '',  # of the data set `folder`: where your images are
            'holdout': 0.2,  # of a folder without a test part: share of each class that is tested on
            'classes': 1.0,  # up to 1 the share of the classes, above it their number
            'per_class': 0,  # labelled examples of each class; 0 takes `rate` of them
            'rate': 1.0,  # share of each class that is labelled, rounded up
            'sampler': 'stratified',  # or global_floor_plus_one: `rate` of all examples, whatever their class
            'images': 0,  # labelled examples of all classes together
            'counts': (),  # labelled examples of each class, a number for each
            'splits': '',  # the splits.json of another run, to repeat its draw
            'val': 0.0,  # share of the labelled examples that is not learned from: to validate on
            'add_rest': False,  # learn from the rest of the train part too
            'balance': 'images',  # an epoch has each image once; classes: all classes equally often
        }
    )
    config.source = ConfigDict({'name': '', 'dir': ''})  # the data set that the weights were trained on
    config.data_dir = ''  # where data sets lie, a folder or gs://..; '' is $TFDS_DATA_DIR or ~/tensorflow_datasets
    config.cache_dir = ''  # where what costs a pass over the source data is kept; '' is ~/.cache/mixjax
    config.feed = 'auto'  # resident: all images on the devices; stream: read as needed; auto: by their bytes
    config.store = True  # keep decoded photographs in cache_dir, so that each is decoded once
    config.cache_limit = 0.5  # what they may take there: up to 1 a share of the room on the disk, above it bytes
    config.synthetic = ConfigDict({'per_class': 0, 'side': 0})  # replace all images by made-up ones (`:smoke`)

    config.image = ConfigDict(
        {
            # Five settings that belong to the pretrained network; 0, '' and () take its own (see `settle`).
            'resize': 0,  # side of the stored images, from which the crops are cut
            'crop': 0,  # side of the random (training) or centre (test) crop
            'interpolation': '',  # bilinear or bicubic
            'mean': (),
            'std': (),
            'fit': 'short',  # short: the shorter side becomes `resize`, centre square; squash: both sides do
            'pad': 0,  # black border before the random crop
            'flip': True,  # random horizontal flip
        }
    )
    config.optim = ConfigDict(
        {
            'name': 'sgd',  # sgd, adam or amsgrad, as torch has them
            'lr': 0.01,
            'betas': (0.9, 0.999),  # of adam and amsgrad
            'eps': 1e-8,
            'momentum': 0.9,  # of sgd
            'nesterov': True,
            'weight_decay': 1e-4,
            'schedule': 'step',  # step: times `factor` at each of `drops`; cosine: to 0; constant
            'drops': (2 / 3,),  # as shares of `steps`
            'factor': 0.1,
            'freeze': (),  # parts that stay as they are: stem, stage1 .., head:target, or trunk and heads for all
            'factors': (),  # of the learning rate of parts: ('trunk=0.1', 'stem=0')
        }
    )
    config.steps = 9000
    config.batch_size = 48
    config.accumulate = 1  # parts of a batch that go through the network one after the other, to save memory
    config.eval_batch_size = 256
    config.eval_every = 1000  # steps; the last step is always evaluated
    config.checkpoint_every = 1000
    config.snapshots = ()  # shares of `steps` after which the first seed's whole network is kept in snapshots/STEP
    config.keep = 'last'  # the network of the last step; best: of the step with the best validation accuracy
    config.log_every = 50
    config.on_nan = 'stop'  # where loss or gradient are not finite; skip: go on without that step
    config.devices = 0  # how many to use at most; 0 is all: seeds side by side, and the batch of each shared out
    config.shard_params = False  # cut parameters and optimiser state over the devices of a seed, for large networks
    config.dispatch = 0  # training steps per call of the compiled program; 0 is 1 on a CPU, up to 25 elsewhere
    return config


# --- from a file and the command line to a complete config ------------------------------------------------------------


def load(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """A complete, locked and checked config.

    Args:
      spec: `FILE.py` or the name of a shipped config, then perhaps `:ARGUMENT[,ARGUMENT]`. The argument
        `smoke` (and `full` with it) turns any config into a two-step trial on made-up images; the
        rest is handed to the file's `get_config`.
      overrides: (dotted key, text) pairs, as `--config.optim.lr=0.1` gives them.
    """
    path, _, text = spec.partition(':')
    arguments = [a for a in text.split(',') if a]
    own = [a for a in arguments if a not in ('smoke', 'full')]
    config = read(path, ','.join(own))
    # Which settings there are depends on the methods and their wrappers, so these come first.
    names = {key: value for key, value in overrides if _is_of_method(key, 'name')}
    wrappers = {key: value for key, value in overrides if _is_of_method(key, 'wrappers')}
    for key, value in names.items():
        _replace_method(config, key, value)
    _check_groups(config)
    for key, _ in overrides:
        if key.startswith('method.') and config.compare:
            raise UserError(
                f'config.{key} has no effect: this config compares {", ".join(config.compare)}; '
                f'set config.compare.LABEL.{key.removeprefix("method.")}, or choose one with config.method.name'
            )
    for key, value in wrappers.items():
        _replace_wrappers(config, key, value)
    complete(config)
    if 'smoke' in arguments:
        make_smoke(config, full='full' in arguments)
    elif 'full' in arguments:
        raise UserError("config argument 'full' goes with 'smoke': FILE.py:smoke,full")
    for key, value in overrides:
        if key not in names and key not in wrappers:
            override.apply(config, key, value)
    check(settle(config))
    return config


def _is_of_method(key: str, last: str) -> bool:
    """Whether a key is `last` of the method or of one that is compared."""
    *place, end = key.split('.')
    return end == last and (place == ['method'] or len(place) == 2 and place[0] == 'compare')


def _parent(config: Config, key: str) -> tuple[Any, list[str]]:
    """The group that holds the method which a key is of, and the method's place."""
    *parents, _ = key.split('.')
    node: Any = config
    for part in parents[:-1]:
        node = node[part]
    if parents[-1] not in node:
        raise UserError(f'unknown config key {key!r}{nearest(parents[-1], node.keys())}')
    return node, parents


def _replace_wrappers(config: Config, key: str, text: str) -> None:
    """Other wrappers take the place of the file's, whose settings go with them."""
    node, parents = _parent(config, key)
    method = node[parents[-1]]
    wrappers = tuple(name.strip() for name in text.split(',') if name.strip())
    with method.unlocked():
        before = method.get('wrappers', ())
        kept = {'name': method.name, 'wrappers': tuple(name for name in before if name in wrappers)}
        known = method_lib.defaults({**method.to_dict(), **kept})
        gone = {'wrappers', *method_lib.defaults(method.to_dict())} - set(known)
        for setting in [setting for setting in method if setting in gone]:
            del method[setting]
        method.wrappers = wrappers


def _replace_method(config: Config, key: str, name: str) -> None:
    """Another method takes the place of the file's, with its own knobs at their defaults."""
    if not name:
        raise UserError(f'config.{key} must be the name of a method, such as finetune')
    node, parents = _parent(config, key)
    with node.unlocked():
        node[parents[-1]] = ConfigDict({'name': name})
    if parents[0] == 'method' and len(config.compare):
        with config.unlocked():
            config.compare = ConfigDict()  # one method was asked for


def methods(config: Config) -> dict[str, Config]:
    """{dotted place: method config} of the methods that a config trains: those of `compare`, or the one."""
    if len(config.compare):
        return {f'compare.{label}': node for label, node in config.compare.items()}
    return {'method': config.method}


def _one_or_several(config: Config) -> None:
    """Name `finetune` where nothing is named, and refuse a config that names one method and compares several."""
    node = config.method
    if not len(config.compare):
        if not node.get('name', None):
            with node.unlocked():
                node.name = DEFAULT
        return
    if node.get('name', None) or len(node) > 1:
        said = node.get('name', None) or ', '.join(node)
        raise UserError(
            f'config.method ({said}) and config.compare ({", ".join(config.compare)}) both say what is trained; set '
            "config.compare = {} to train the one method (as --config.method.name does), or config.method = {'name': "
            "''} to compare"
        )


def swept(config: Config) -> dict[str, Config]:
    """{name: config} of a run for each value of `sweep`; without one, the config itself under ''."""
    key = config.sweep.key
    if not key:
        return {'': config}
    out = {}
    for value in config.sweep.numbers:
        one = copy.deepcopy(config).unlock()
        one.sweep = base().sweep
        override.apply(one, key, str(value))
        out[f'{key.rpartition(".")[2]}={value}'] = one.lock()
    return out


def _check_groups(config: Config) -> None:
    """Refuse a config without methods, or with something else in their place."""
    for key in ('method', 'compare'):
        if not isinstance(config.get(key), ConfigDict):
            raise UserError(f'config.{key} is missing; start from mixjax.config.base()')
    _one_or_several(config)
    for place, node in methods(config).items():
        if not isinstance(node, ConfigDict) or not isinstance(node.get('name'), str):
            raise UserError(f"config.{place} must be a method: {{'name': ..., <its knobs>}}")


def complete(config: Config, told_by: str = '') -> Config:
    """Fill in the knobs of every method from its file, refuse those it lacks, and lock the config.

    told_by: the file that the config was read from, if it is data and no person's config.
    """
    _check_groups(config)
    for place, node in methods(config).items():
        key = 'name'
        try:
            method_lib.knobs(method_lib.load(node.name, told_by))
            key = 'wrappers'  # what is wrong from here on is not the method's
            known = method_lib.defaults(node, told_by)
        except UserError as error:
            raise UserError(f'config.{place}.{key}: {error}') from error
        given = {key: value for key, value in node.items() if key not in method_lib.RESERVED}
        for key, value in given.items():
            if key not in known:
                raise UserError(
                    f'method {method_lib.title(node)!r} has no knob {key!r} (config.{place}.{key})'
                    f'{nearest(key, known)}; it has {", ".join(known) or "none"}'
                )
            given[key] = override.typed(f'{place}.{key}', known[key], value)
        wrappers = tuple(node.get('wrappers', ()))
        with node.unlocked():
            if 'wrappers' in node:
                del node['wrappers']
            node.update({**known, **given})
            if wrappers:  # without any, the config is the one that it was before there were wrappers
                node.wrappers = wrappers
    return config.lock()


# Settings that choose where something is written, or what is done after a run. A stored config's are not obeyed: it
# may be a stranger's.
NOT_STORED = ('cache_dir', 'results', 'analyse')


def from_data(data: dict[str, Any]) -> Config:
    """The config that a work directory's `config.json` holds, but for `NOT_STORED`, which have their defaults."""

    def lists(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: lists(inner) for key, inner in value.items()}
        return tuple(lists(inner) for inner in value) if isinstance(value, list) else value

    config = base()
    try:
        with config.unlocked():
            config.update(lists({key: value for key, value in data.items() if key not in NOT_STORED}))
            if len(config.compare):  # of earlier versions, which put finetune there
                config.method = ConfigDict({'name': ''})
        complete(config, 'config.json')
        check(settle(config))
        return config
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f'this config.json was written by another version of mixjax: {error}') from error


def settle(config: Config) -> Config:
    """Put the settings of images that are left open, where the weights or the network say what they are."""
    from mixjax import models, validate
    from mixjax.models import images, weights

    validate.types(config, base())
    image = config.image
    if config.model.name in models.names() and not all(image[key] for key in images.KEYS):
        own = weights.image(config.model.weights, config.model.name)
        if not image.resize and image.crop:
            own['resize'] = round(own['resize'] * image.crop / own['crop'])  # the same share of the image is seen
        for key in images.KEYS:
            if not image[key]:
                image[key] = tuple(own[key]) if isinstance(own[key], list) else own[key]
    return config


def make_smoke(config: Config, *, full: bool) -> None:
    """Two steps on made-up images with the true classes and heads; random weights; small unless `full`."""
    from mixjax.data import sets
    from mixjax.models import weights

    side = settle(copy.deepcopy(config)).image.crop
    side = side if full else min(side, 64)
    config.steps = 2
    config.num_seeds = 1
    config.batch_size = config.eval_batch_size = 8
    config.eval_every = config.checkpoint_every = 2
    config.log_every = 1
    config.mix.groups = config.mix.shards = config.accumulate = 1
    for key in ('per_class', 'rate', 'images', 'counts', 'splits'):
        config.target[key] = base().target[key]
    config.sweep.key, config.sweep.numbers, config.results = '', (), ''
    config.snapshots = config.snapshots and (0.5, 1.0)
    config.image.crop = config.image.resize = side
    config.synthetic.per_class = 2
    config.synthetic.side = side
    if config.model.weights:
        source = config.source.name
        known = sets.entry(config.source, places.kept(config.cache_dir), made_up=True).classes if source else 0
        classes = known or weights.classes(config.model.weights, config.model.name)
        config.model.weights = f'{weights.RANDOM}{classes}'


def check(config: Config) -> None:
    """Refuse impossible values, before anything is loaded or compiled."""
    from mixjax import validate

    validate.check(config, base())
