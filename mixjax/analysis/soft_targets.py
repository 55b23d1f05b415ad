"""The targets that a network with a head for a global label learns from (LaMix, Fig. 2 and 3).

    p = softmax(sigmoid(W_t S)),   t = beta y + (1 - beta) p,   y = lam y_i + (1 - lam) y_j

With c classes no p_k can leave [1 / (1 + (c - 1) e), e / (e + c - 1)]: of ten classes, [0.039, 0.232].
"""

from __future__ import annotations

import math

import jax
import numpy as np

from mixjax import losses, mix

Array = jax.Array


def lams(count: int, random: np.random.RandomState) -> np.ndarray:
    """lam of each of `count` batches, (count,): U(0, 1) as in training, one draw from each of `count` equal parts.

    A number of independent draws as small as that of the batches would move the means by more than seeds do.
    """
    return (random.permutation(count) + random.rand(count)) / count


def local_label(label: Array, other: Array, lam: Array, classes: int) -> Array:
    """lam y_i + (1 - lam) y_j of labels (n,) and (n,), with lam one number or (n,): (n, classes)."""
    return mix.blend(lam, losses.one_hot(label, classes), losses.one_hot(other, classes))


def target(local: Array, logits: Array, beta: float) -> tuple[Array, Array]:
    """(t, p) of local labels (n, c) and the logits (n, c) of the global label's head."""
    learned = losses.global_label(logits)
    return beta * local + (1 - beta) * learned, learned


def bounds(classes: int) -> tuple[float, float]:
    """The smallest and the largest value that p may have."""
    return 1 / (1 + (classes - 1) * math.e), math.e / (math.e + classes - 1)


def top(targets: np.ndarray, count: int = 5) -> np.ndarray:
    """Means of the largest, second largest, .. entry of each row: (n, c) -> (count,), falling."""
    return np.sort(np.asarray(targets), axis=-1)[:, ::-1][:, :count].mean(0)


def histogram(values: np.ndarray, low: float, high: float, bins: int = 50) -> np.ndarray:
    """The share of the values in each of `bins` equal parts of [low, high]; what lies outside counts at the ends."""
    inside = np.clip(np.asarray(values, np.float64).ravel(), low, high)
    return np.histogram(inside, bins, (low, high))[0] / inside.size
