"""One or several numbers for each image. The primary measure is the mean absolute error.

A network learns numbers that are standardised by the mean and the standard deviation of the examples that its seed
learns from; all measures, and all predictions that a user sees, are in the units of the labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mixjax import losses
from mixjax.tasks.task import Scale, Task


def measures(tally: Any, found: np.ndarray, label: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return MAE, RMSE and R^2, means over the outputs, and if these are several those of each.

    R^2 = 1 - sum (y - p)^2 / sum (y - mean y)^2 is not known, NaN, for an output that is the same in the whole part.

    Args:
      tally: nothing.
      found: (n, k) predictions.
      label: (n, k).
      names: names of the outputs.
    """
    del tally
    found, label = np.asarray(found, np.float64), np.asarray(label, np.float64)
    error, spread = found - label, np.square(label - label.mean(0)).sum(0)
    each = {
        'MAE': np.abs(error).mean(0),
        'RMSE': np.sqrt(np.square(error).mean(0)),
        'R2': 1 - np.square(error).sum(0) / np.where(spread > 0, spread, np.nan),
    }
    out = {name: float(np.mean(value)) for name, value in each.items()}
    if len(names) > 1:
        out |= {f'{name} {output}': float(value[k]) for k, output in enumerate(names) for name, value in each.items()}
    return out


def values(logits: np.ndarray, scale: Scale | None) -> np.ndarray:
    """Return the numbers in the units of the labels."""
    assert scale is not None
    return scale.mean + scale.std * np.asarray(logits, np.float64)


REGRESSION = Task(
    'regression', rows=True, scaled=True, primary='MAE', higher=False, named=('MAE', 'RMSE', 'R2'),
    loss=losses.squared_error, tally=lambda logits, label, mask: (), each=lambda logits: logits, measures=measures,
    values=values,
)  # fmt: skip
