"""The runs that one config stands for: the methods it compares, and the values it sweeps."""

from __future__ import annotations

import copy
from typing import Any

from mixjax.config import overrides
from mixjax.config.defaults import Config, base


def methods(config: Config) -> dict[str, Any]:
    """{dotted place: method config} of the methods that a config trains: those of `compare`, or the one."""
    if len(config.compare):
        return {f'compare.{label}': node for label, node in config.compare.items()}
    return {'method': config.method}


def swept(config: Config) -> dict[str, Config]:
    """{name: config} of a run for each value of `sweep`; without one, the config itself under ''."""
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
