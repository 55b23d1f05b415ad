"""Loads a config file with overrides into a complete, locked and checked config."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from mixjax.config import method_registry, recipes
from mixjax.config import overrides as overrides_lib
from mixjax.config.defaults import Config, base
from mixjax.config.files import read
from mixjax.config.variants import methods
from mixjax.errors import UserError, nearest
from mixjax.host import storage

DEFAULT = 'finetune'  # the method of a config without a method name


def load(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Config:
    """Load a complete, locked and checked config.

    Args:
      spec: `FILE.py` or the name of a shipped config, optionally followed by `:ARGUMENT[,ARGUMENT]`. The argument
        `smoke` (and `full` with it) turns any config into a two-step trial on synthetic images; the
        others are passed to the file's `get_config`.
      overrides: (dotted key, text) pairs, as `--config.optim.lr=0.1` gives them.
    """
    path, _, text = spec.partition(':')
    arguments = [a for a in text.split(',') if a]
    own = [a for a in arguments if a not in ('smoke', 'full')]
    config = read(path, ','.join(own))
    # The set of settings depends on the methods and their wrappers, so these come first.
    names = {key: value for key, value in overrides if _is_of_method(key, 'name')}
    wrappers = {key: value for key, value in overrides if _is_of_method(key, 'wrappers')}
    for key, value in names.items():
        _replace_method(config, key, value)
    for key, value in overrides:
        if key == 'model.name':  # a method that is left open goes by the network
            overrides_lib.apply(config, key, value)
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
            overrides_lib.apply(config, key, value)
    check(settle(config))
    return config


def _is_of_method(key: str, last: str) -> bool:
    """Return whether a key is the entry `last` of the method, or of one of the compared methods."""
    *place, end = key.split('.')
    return end == last and (place == ['method'] or len(place) == 2 and place[0] == 'compare')


def _parent(config: Config, key: str) -> tuple[Any, list[str]]:
    """Return the group that holds the method which a key belongs to, and the path of the method."""
    *parents, _ = key.split('.')
    node: Any = config
    for part in parents[:-1]:
        node = node[part]
    if parents[-1] not in node:
        raise UserError(f'unknown config key {key!r}{nearest(parents[-1], node.keys())}')
    return node, parents


def _replace_wrappers(config: Config, key: str, text: str) -> None:
    """Replace the wrappers of a method; settings of removed wrappers are removed too."""
    node, parents = _parent(config, key)
    method = node[parents[-1]]
    wrappers = tuple(name.strip() for name in text.split(',') if name.strip())
    with method.unlocked():
        before = method.get('wrappers', ())
        kept = {'name': method.name, 'wrappers': tuple(name for name in before if name in wrappers)}
        known = method_registry.defaults({**method.to_dict(), **kept})
        gone = {'wrappers', *method_registry.defaults(method.to_dict())} - set(known)
        for setting in [setting for setting in method if setting in gone]:
            del method[setting]
        method.wrappers = wrappers


def _replace_method(config: Config, key: str, name: str) -> None:
    """Replace the method of the file by another one, with its knobs at their defaults."""
    if not name:
        raise UserError(f'config.{key} must be the name of a method, such as finetune')
    node, parents = _parent(config, key)
    with node.unlocked():
        node[parents[-1]] = ConfigDict({'name': name})
    if parents[0] == 'method' and len(config.compare):
        with config.unlocked():
            config.compare = ConfigDict()  # one method was asked for


def _one_or_several(config: Config) -> None:
    """Set the method to `finetune` if the config names none; refuse a config with both a method and a comparison.

    A method that is left open becomes the one for the network's family (`recipes`).
    """
    node = config.method
    if not len(config.compare):
        name = node.get('name', None) or DEFAULT
        if recipes.is_open(name):
            from mixjax import models

            name = recipes.method_of(name, models.family(config.model.name))
        if name != node.get('name', None):
            with node.unlocked():
                node.name = name
        return
    if node.get('name', None) or len(node) > 1:
        said = node.get('name', None) or ', '.join(node)
        raise UserError(
            f'config.method ({said}) and config.compare ({", ".join(config.compare)}) both say what is trained; set '
            "config.compare = {} to train the one method (as --config.method.name does), or config.method = {'name': "
            "''} to compare"
        )


def _check_groups(config: Config) -> None:
    """Refuse a config where `method` or `compare` is missing or has the wrong type."""
    for key in ('method', 'compare'):
        if not isinstance(config.get(key), ConfigDict):
            raise UserError(f'config.{key} is missing; start from mixjax.config.base()')
    _one_or_several(config)
    for place, node in methods(config).items():
        if not isinstance(node, ConfigDict) or not isinstance(node.get('name'), str):
            raise UserError(f"config.{place} must be a method: {{'name': ..., <its knobs>}}")


def complete(config: Config, origin: str = '') -> Config:
    """Fill in the default knobs of every method, refuse unknown knobs, and lock the config.

    Args:
      config: the config, which is changed.
      origin: the file that the config was read from, if it is stored data and not a config that the user wrote.
    """
    _check_groups(config)
    for place, node in methods(config).items():
        key = 'name'
        try:
            method_registry.knobs(method_registry.load(node.name, origin))
            key = 'wrappers'  # errors from here on are about the wrappers
            known = method_registry.defaults(node, origin)
        except UserError as error:
            raise UserError(f'config.{place}.{key}: {error}') from error
        given = {key: value for key, value in node.items() if key not in method_registry.RESERVED}
        for key, value in given.items():
            if key not in known:
                raise UserError(
                    f'method {method_registry.title(node)!r} has no knob {key!r} (config.{place}.{key})'
                    f'{nearest(key, known)}; it has {", ".join(known) or "none"}'
                )
            given[key] = overrides_lib.typed(f'{place}.{key}', known[key], value)
        wrappers = tuple(node.get('wrappers', ()))
        with node.unlocked():
            if 'wrappers' in node:
                del node['wrappers']
            node.update({**known, **given})
            if wrappers:  # without any there is no such key, as before wrappers existed
                node.wrappers = wrappers
    return config.lock()


# Settings that choose where files are written, or what is done after a run. They are ignored in a stored config,
# which may come from somebody else.
NOT_STORED = ('cache_dir', 'results', 'analyse')


def from_data(data: dict[str, Any]) -> Config:
    """Return the config in a work directory's `config.json`; the settings in `NOT_STORED` have their defaults."""

    def lists(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: lists(inner) for key, inner in value.items()}
        return tuple(lists(inner) for inner in value) if isinstance(value, list) else value

    config = base()
    try:
        with config.unlocked():
            config.update(lists({key: value for key, value in data.items() if key not in NOT_STORED}))
            if len(config.compare):  # earlier versions stored finetune there
                config.method = ConfigDict({'name': ''})
        complete(config, 'config.json')
        check(settle(config))
        return config
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f'this config.json was written by another version of mixjax: {error}') from error


def settle(config: Config) -> Config:
    """Fill in what follows from other settings.

    Image settings that are unset become those of the weights or the network, and settings of the optimiser that are
    left open those of the network's recipe (`recipes`); if a method learns from unlabelled images and no others are
    named, they are the rest of the train part.
    """
    from mixjax import models
    from mixjax.config import validate, variants
    from mixjax.data.labelled import splits
    from mixjax.models import preprocessing, weights

    validate.types(config, base())
    recipes.fill_in(config, models.family(config.model.name))
    image = config.image
    if config.model.name in models.names() and not all(image[key] for key in preprocessing.KEYS):
        own = weights.image(config.model.weights, config.model.name)
        if not image.resize and image.crop:
            own['resize'] = round(own['resize'] * image.crop / own['crop'])  # crops the same share of the image
        for key in preprocessing.KEYS:
            if not image[key]:
                image[key] = tuple(own[key]) if isinstance(own[key], list) else own[key]
    if not config.unlabelled.name and any(map(method_registry.needs_unlabelled, variants.methods(config).values())):
        config.unlabelled.name = splits.REST
    return config


def make_smoke(config: Config, *, full: bool) -> None:
    """Change a config to two steps on synthetic images with the true classes and heads and random weights.

    Args:
      config: the config, which is changed.
      full: keep the size of the images; otherwise they are small.
    """
    from mixjax.data.datasets import resolve
    from mixjax.models import weights

    side = settle(copy.deepcopy(config)).image.crop
    side = side if full else min(side, 64)
    config.steps = 2
    config.num_seeds = 1
    config.batch_size = config.eval_batch_size = 8
    config.eval_every = config.checkpoint_every = 2
    config.log_every = 1
    config.optim.warmup = min(config.optim.warmup, 1)  # more would be a number of steps, and there are two
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
        cache = storage.cache_folder(config.cache_dir)
        known = resolve.entry(config.source, cache, made_up=True).classes if source else 0
        classes = known or weights.classes(config.model.weights, config.model.name)
        config.model.weights = f'{weights.RANDOM}{classes}'


def check(config: Config) -> None:
    """Refuse impossible values before anything is loaded or compiled."""
    from mixjax.config import validate

    validate.check(config, base())
