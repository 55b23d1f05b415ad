"""Runs that one config stands for: one for each compared method, and for each value of a sweep."""

from __future__ import annotations

import copy
from typing import Any

from ml_collections import ConfigDict

from mixjax.config import method_registry, overrides
from mixjax.config.defaults import Config, base
from mixjax.host.storage import Place


def methods(config: Config) -> dict[str, Any]:
    """Return {dotted key: method config} of the methods that a config trains: those of `compare`, or the single one."""
    if len(config.compare):
        return {f'compare.{label}': node for label, node in config.compare.items()}
    return {'method': config.method}


def swept(config: Config) -> dict[str, Config]:
    """Return {name: config} with a run for each value of `sweep`; without a sweep, {'': config}."""
    key = config.sweep.key
    if not key:
        return {'': config}
    out = {}
    for value in config.sweep.numbers:
        one = copy.deepcopy(config).unlock()
        one.sweep = base().sweep
        overrides.apply(one, key, str(value))
        out[f'{key.rpartition(".")[2]}={value}'] = one.lock()
    return out


def labels(config: Config) -> list[str]:
    """Return the labels of the compared methods: the baseline, then the others by name; [] without a comparison."""
    names = sorted(config.compare)
    first = config.baseline or next(iter(names), '')
    return [name for name in [first] if name in names] + [name for name in names if name != first]


def single(config: Config, label: str) -> Config:
    """Return the config of one method of a comparison."""
    config = copy.deepcopy(config).unlock()
    config.method = config.compare[label]
    config.compare = ConfigDict()
    config.baseline = ''
    return config.lock()


def singles(config: Config, folder: Place) -> dict[str, tuple[Config, Place]]:
    """Return {label: (config, folder)} of the runs of a comparison, or of the single run."""
    return {label: (single(config, label), folder / label) for label in labels(config)} or {
        method_registry.title(methods(config)['method']): (config, folder)
    }


def summary(config: Config) -> str:
    """Return one line on what will be trained."""
    what = ', '.join(labels(config)) or method_registry.title(methods(config)['method'])
    few = f'{config.target.per_class} labels per class of ' if config.target.per_class else ''
    where = config.target.dir or config.target.name
    return (
        f'{what} on {few}{where}: {config.num_seeds} seed{"s" * (config.num_seeds > 1)} '
        f'x {config.steps} steps, batch {config.batch_size}, {config.model.name}'
    )
