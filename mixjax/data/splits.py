"""Choosing the few labelled examples of a run: seeded, and the same number of each class."""

from __future__ import annotations

import math

import numpy as np

from mixjax.errors import UserError


def draw(labels: np.ndarray, classes: tuple[str, ...], *, per_class: int, rate: float, seed: int) -> np.ndarray:
    """Rows of the labelled examples, in class order.

    Args:
      labels: (n,) labels of all the examples there are to choose from.
      classes: class names, for the error message.
      per_class: how many of each class; 0 takes ceil(rate * n_c) of the n_c examples of class c.
      seed: of the draw; the same seed gives the same rows whatever the method.

    Returns:
      (k,) int64 rows, sorted by class and then by row.
    """
    # RandomState, because numpy promises that its streams never change.
    random = np.random.RandomState(seed)
    chosen = []
    for label, name in enumerate(classes):
        rows = np.flatnonzero(labels == label)
        if len(rows) == 0:
            raise UserError(f'class {name!r} has no example to learn from')
        # Rounded before the ceiling: 0.3 * 30 is 9.000000000000002 only if one multiplies otherwise.
        count = per_class or math.ceil(round(rate * len(rows), 9))
        if count > len(rows):
            raise UserError(f'config.target.per_class={per_class}, and class {name!r} has only {len(rows)} examples')
        chosen.append(np.sort(random.permutation(rows)[:count]))
    return np.concatenate(chosen)


def rest(count: int, chosen: np.ndarray) -> np.ndarray:
    """All rows below `count` that were not chosen, ascending."""
    return np.setdiff1d(np.arange(count), chosen)
