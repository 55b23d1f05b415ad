"""Accuracy as a function of one number: a setting of a method in a comparison, or the values of `config.sweep`.

XMixup's Fig. 3 (auxiliary images) and Fig. 4 (alpha), LaMix's Fig. 4 (beta) and Fig. 6 (label smoothing): several runs
of a comparison have the same method and differ in one number; the other runs are baselines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mixjax.config.method_registry import title
from mixjax.errors import UserError


class Knob(NamedTuple):
    """A setting that differs between runs of one method.

    Attributes:
      method: the method.
      key: its setting.
      values: {label: number}, ascending.
      others: labels of the runs of other methods.
    """

    method: str
    key: str
    values: dict[str, float]
    others: tuple[str, ...]


def knob(methods: Mapping[str, Mapping[str, Any]], notes: Mapping[str, Mapping[str, float]], over: str = '') -> Knob:
    """Find the number in which runs of a comparison differ; of several methods, take the one with the most runs.

    Args:
      methods: {label: config of the method, its name and settings}.
      notes: {label: notes of the method's `prepare`}, such as `source images`.
      over: the setting or note to take; '' finds the one setting that differs.
    """
    found = []
    for name in dict.fromkeys(title(one) for one in methods.values()):
        mine = {label: one for label, one in methods.items() if title(one) == name}
        keys = [over] if over else _differing(list(mine.values()))
        both = {label: {**notes.get(label, {}), **one} for label, one in mine.items()}
        if len(keys) != 1 or not all(type(one.get(keys[0])) in (int, float) for one in both.values()):
            continue
        values = {label: float(one[keys[0]]) for label, one in both.items()}
        if len(set(values.values())) > 1:
            rising = dict(sorted(values.items(), key=lambda item: item[1]))
            found.append(Knob(name, keys[0], rising, tuple(label for label in methods if label not in mine)))
    if not found:
        what = f'in {over!r}' if over else 'in one setting, a number (name it, or a note, with --over)'
        raise UserError(
            f'no two runs of this comparison have the same method and differ {what}, so there is no sweep; '
            f'it has {", ".join(methods)}'
        )
    return max(found, key=lambda one: len(one.values))


def _differing(mine: list[Mapping[str, Any]]) -> list[str]:
    """Return the settings that differ between runs of a method."""
    return [key for key in mine[0] if len({repr(one.get(key)) for one in mine}) > 1]


def logarithmic(values: list[float]) -> bool:
    """Return whether numbers need a logarithmic axis: all are above 0, and more than a factor of 20 apart."""
    return min(values) > 0 and math.log(max(values) / min(values)) > math.log(20)
