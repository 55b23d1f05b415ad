"""The forgetting probe: accuracy of a fine-tuned trunk on the source classes (XMixup, Table 2).

The trunk is frozen; a new, random classifier is trained on its features of source images and tested on others. Three
subsets of the source images: `auxiliary` (those that the method chose to mix with), `all_but_auxiliary`, and `all`.
The paper leaves open how the classifier is trained. Here features are standardised by their training mean and
deviation (the same linear classifiers, better conditioned), the loss is softmax cross-entropy, and the optimiser is
Adam with a cosine schedule from `lr` to 0.
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
    """Return the logits of a probe: features (n, d) -> (n, classes)."""
    return ((features - probe.mean) / probe.std) @ probe.kernel + probe.bias


def accuracy(probe: Probe, features: Any, labels: Any) -> float:
    """Return the share of the examples whose most likely class is their label.

    Args:
      probe: the classifier.
      features: (n, d).
      labels: (n,).
    """
    return float(jnp.mean(jnp.argmax(logits(probe, jnp.asarray(features)), axis=-1) == jnp.asarray(labels)))


def fit(
    key: Array, features: Any, labels: Any, classes: int, *, steps: int = 1000, batch: int = 256, lr: float = 0.01
) -> Probe:
    """Train a classifier from random weights (torch's initialisation of a linear layer).

    Args:
      key: for the initial weights and the batches.
      features: (n, d) of the frozen trunk.
      labels: (n,) below `classes`.
      classes: number of classes.
      steps: number of steps.
      batch: number of examples in a step, drawn with replacement.
      lr: learning rate of the first step.
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    mean, std = features.mean(0), features.std(0)
    std = jnp.where(std == 0, 1.0, std)  # a constant channel carries no information and stays 0
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


# --- subsets of the source images -------------------------------------------------------------------------------------


def subsets(chosen: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return the rows of the three subsets of `count` source images; `chosen` (repeats allowed) are the auxiliary."""
    inside = np.zeros(count, bool)
    inside[chosen] = True
    rows = np.arange(count)
    return {'auxiliary': rows[inside], 'all_but_auxiliary': rows[~inside], 'all': rows}


def sample(labels: np.ndarray, rows: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Choose at random at most `most` of the rows of each class.

    Args:
      labels: (n,), labels of all examples.
      rows: rows to choose from.
      most: largest number of rows of a class; 0 for all.
      seed: of the choice.

    Returns:
      The chosen rows, ascending.
    """
    shuffled = np.random.RandomState(seed).permutation(rows)
    if not most:
        return np.sort(rows)
    kept = [shuffled[labels[shuffled] == label][:most] for label in np.unique(labels[rows])]
    return np.sort(np.concatenate(kept)) if kept else rows[:0]


def held_out(labels: np.ndarray, rows: np.ndarray, share: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into (train, test), with `share`, at least one, of the rows of each class of two or more in test.

    Args:
      labels: (n,), labels of all examples.
      rows: rows to split.
      share: share of each class in the test part.
      seed: of the choice.
    """
    shuffled = np.random.RandomState(seed).permutation(rows)
    test = []
    for label in np.unique(labels[rows]):
        mine = shuffled[labels[shuffled] == label]
        test.append(mine[: min(len(mine) - 1, max(1, round(share * len(mine))))])
    out = np.sort(np.concatenate(test)) if test else rows[:0]
    return np.setdiff1d(rows, out), out
