"""Several labels for each image, or none. The primary measure is the mean average precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import losses
from mixjax.tasks.task import Scale, Task

Array = jax.Array


def average_precision(score: np.ndarray, label: np.ndarray) -> float:
    """Return the average precision of one label, sum_i (R_i - R_(i-1)) P_i over the distinct scores, highest first.

    It is the definition of scikit-learn's `average_precision_score`: nothing is interpolated, and examples of equal
    scores count together. NaN if no example has the label, or a score is NaN.

    Args:
      score: (n,).
      label: (n,) of 1 and 0.
    """
    found = label > 0
    if not found.any() or np.isnan(score).any():
        return float('nan')
    order = np.argsort(-score, kind='stable')
    score, found = score[order], found[order]
    last = np.append(score[1:] != score[:-1], True)  # of examples with equal scores
    true = np.cumsum(found)[last]
    precision = true / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(true, prepend=0) / true[-1] * precision))


def f1(true: np.ndarray, taken: np.ndarray, both: np.ndarray) -> np.ndarray:
    """Return 2 both / (true + taken) from numbers of labels: there, predicted, and both; 0 where there are none."""
    return 2 * both / np.maximum(true + taken, 1)


def measures(tally: Any, score: np.ndarray, label: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Return mAP, F1 and the share of images with exactly their labels, all over the whole part.

    mAP and the macro F1 are means over the labels that occur in the part. F1 and the exact match count a label as
    predicted if its probability is above 0.5.

    Args:
      tally: nothing.
      score: (n, c) logits.
      label: (n, c) of 1 and 0.
      names: names of the labels.
    """
    del tally, names
    there, taken = label > 0, score > 0
    occurs = there.any(0)
    precision = [average_precision(score[:, k], label[:, k]) for k in np.flatnonzero(occurs)]
    counts = there.sum(0), taken.sum(0), (there & taken).sum(0)
    return {
        'mAP': float(np.mean(precision)) if precision else float('nan'),
        'F1_macro': float(np.mean(f1(*(count[occurs] for count in counts)))) if precision else float('nan'),
        'F1_micro': float(f1(*(count.sum() for count in counts))),
        'exact_match': float(np.mean((there == taken).all(1))),
    }


def values(logits: np.ndarray, scale: Scale | None) -> np.ndarray:
    """Return the probability of each label."""
    del scale
    return np.asarray(jax.nn.sigmoid(jnp.asarray(logits)))


MULTI_LABEL = Task(
    'multi_label', rows=True, scaled=False, primary='mAP', higher=True,
    named=('mAP', 'F1_macro', 'F1_micro', 'exact_match'), loss=losses.sigmoid_cross_entropy,
    tally=lambda logits, label, mask: (), each=lambda logits: logits, measures=measures, values=values,
)  # fmt: skip
