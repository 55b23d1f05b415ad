"""The forgetting probe (XMixup, Table 2): what a fine-tuned trunk still knows of the source classes.

The trunk is frozen; a new, random classifier is trained on its features of source images and tested on others. Three
subsets of the source images: `auxiliary` (those that the method chose to mix with), `all_but_auxiliary`, and `all`.
The paper does not say how the classifier is trained. Here: features standardised by their training mean and deviation
(the same linear classifiers, better conditioned), softmax cross-entropy, Adam with a cosine from `lr` to 0.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixjax import losses
from mixjax.models.net import torch_linear

Array = jax.Array


class Probe(NamedTuple):
    """A linear classifier on standardised features: ((x - mean) / std) @ kernel + bias."""

    mean: Array
    std: Array
    kernel: Array
    bias: Array


def logits(probe: Probe, features: Array) -> Array:
    """(n, d) -> (n, classes)."""
    return ((features - probe.mean) / probe.std) @ probe.kernel + probe.bias


def accuracy(probe: Probe, features: Any, labels: Any) -> float:
    """The share of the examples whose likeliest class is their label."""
    return float(jnp.mean(jnp.argmax(logits(probe, jnp.asarray(features)), axis=-1) == jnp.asarray(labels)))


def fit(
    key: Array, features: Any, labels: Any, classes: int, *, steps: int = 1000, batch: int = 256, lr: float = 0.01
) -> Probe:
    """Train a classifier from random weights (torch's law for a linear layer).

    Args:
      features: (n, d) of the frozen trunk. labels: (n,) below `classes`.
      batch: examples of a step, drawn anew and with repetition.
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    mean, std = features.mean(0), features.std(0)
    std = jnp.where(std == 0, 1.0, std)  # a channel that is silent says nothing, and is left so
    at_kernel, at_bias, draw = jax.random.split(key, 3)
    d = features.shape[1]
    begin = torch_linear(at_kernel, d, (d, classes)), torch_linear(at_bias, d, (classes,))
    kernel, bias = _train(draw, (features - mean) / std, labels, begin, steps, batch, lr)
    return Probe(mean, std, kernel, bias)


@partial(jax.jit, static_argnums=(4, 5, 6))
def _train(
    key: Array, features: Array, labels: Array, begin: tuple[Array, Array], steps: int, batch: int, lr: float
) -> tuple[Array, Array]:
    adam = optax.adam(optax.cosine_decay_schedule(lr, steps))

    def loss(head: tuple[Array, Array], x: Array, y: Array) -> Array:
        return losses.cross_entropy(x @ head[0] + head[1], y).mean()

    def step(state: tuple, key: Array) -> tuple[tuple, None]:
        head, moments = state
        rows = jax.random.randint(key, (batch,), 0, len(labels))
        update, moments = adam.update(jax.grad(loss)(head, features[rows], labels[rows]), moments)
        return (optax.apply_updates(head, update), moments), None

    (head, _), _ = jax.lax.scan(step, (begin, adam.init(begin)), jax.random.split(key, steps))
    return head


# --- which source images ----------------------------------------------------------------------------------------------


def subsets(chosen: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Rows of the three subsets of `count` source images, of which `chosen` (rows, repeats allowed) are auxiliary."""
    inside = np.zeros(count, bool)
    inside[chosen] = True
    rows = np.arange(count)
    return {'auxiliary': rows[inside], 'all_but_auxiliary': rows[~inside], 'all': rows}


def some(labels: np.ndarray, rows: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """At most `most` of the rows of each class, ascending; 0 takes all."""
    shuffled = np.random.RandomState(seed).permutation(rows)
    if not most:
        return np.sort(rows)
    kept = [shuffled[labels[shuffled] == label][:most] for label in np.unique(labels[rows])]
    return np.sort(np.concatenate(kept)) if kept else rows[:0]


def held_out(labels: np.ndarray, rows: np.ndarray, share: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(train, test) parts of the rows: of each class with two or more, `share` of them, at least one, are tested on."""
    shuffled = np.random.RandomState(seed).permutation(rows)
    test = []
    for label in np.unique(labels[rows]):
        mine = shuffled[labels[shuffled] == label]
        test.append(mine[: min(len(mine) - 1, max(1, round(share * len(mine))))])
    out = np.sort(np.concatenate(test)) if test else rows[:0]
    return np.setdiff1d(rows, out), out
