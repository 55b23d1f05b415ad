"""Training targets of a network with a head for a global label (LaMix, Fig. 2 and 3).

    p = softmax(sigmoid(W_t S)),   t = beta y + (1 - beta) p,   y = lam y_i + (1 - lam) y_j

With c classes every p_k is in [1 / (1 + (c - 1) e), e / (e + c - 1)]: [0.039, 0.232] for ten classes.
"""

from __future__ import annotations

import math

import jax
import numpy as np

from mixjax import losses, mix

Array = jax.Array


def lams(count: int, random: np.random.RandomState) -> np.ndarray:
    """Draw lam for `count` batches, (count,): U(0, 1) as in training, one draw from each of `count` equal parts.

    There are few batches: with independent draws the means would vary more than between seeds.
    """
    return (random.permutation(count) + random.rand(count)) / count


def local_label(label: Array, other: Array, lam: Array, classes: int) -> Array:
    """Return lam y_i + (1 - lam) y_j.

    Args:
      label: (n,), the first labels.
      other: (n,), the second labels.
      lam: () or (n,), the weight of the first.
      classes: number of classes.

    Returns:
      (n, classes)
    """
    return mix.blend(lam, losses.one_hot(label, classes), losses.one_hot(other, classes))


def target(local: Array, logits: Array, beta: float) -> tuple[Array, Array]:
    """Return (t, p), both (n, c).

    Args:
      local: (n, c), the local labels y.
      logits: (n, c), the output of the global label's head.
      beta: weight of the local labels.
    """
    learned = losses.global_label(logits)
    return beta * local + (1 - beta) * learned, learned


def bounds(classes: int) -> tuple[float, float]:
    """Return the smallest and the largest value that an entry of p can have."""
    return 1 / (1 + (classes - 1) * math.e), math.e / (math.e + classes - 1)


def top(targets: np.ndarray, count: int = 5) -> np.ndarray:
    """Return the means of the largest, second largest, .. entries of the rows: (n, c) -> (count,), descending."""
    return np.sort(np.asarray(targets), axis=-1)[:, ::-1][:, :count].mean(0)


def histogram(values: np.ndarray, low: float, high: float, bins: int = 50) -> np.ndarray:
    """Return the share of the values in each of `bins` equal parts of [low, high].

    Args:
      values: an array of any shape.
      low: lower end; smaller values count in the first part.
      high: upper end; larger values count in the last part.
      bins: number of parts.

    Returns:
      (bins,)
    """
    inside = np.clip(np.asarray(values, np.float64).ravel(), low, high)
    return np.histogram(inside, bins, (low, high))[0] / inside.size
