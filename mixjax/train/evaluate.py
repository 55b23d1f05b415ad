"""Accuracy on the test examples, each counted exactly once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import losses
from mixjax.data import augment
from mixjax.data.feed import Images
from mixjax.method import Method
from mixjax.models.net import Net

Array = jax.Array
Tree = Any


def make(
    net: Net, method: Method, geometry: augment.Geometry, shard: Callable[[Array], Array]
) -> Callable[[Tree, Array, Array, Array], tuple[Array, Array]]:
    """The evaluation of one batch: (variables, image, label, mask) -> (correct, loss), summed over the mask."""

    def batch(variables: Tree, image: Array, label: Array, mask: Array) -> tuple[Array, Array]:
        out, _ = net.apply(variables, augment.centre(shard(image), geometry), train=False)
        logits = method.predict(out)
        correct = (jnp.argmax(logits, axis=-1) == label) & mask
        return correct.sum(), jnp.where(mask, losses.cross_entropy(logits, label), 0.0).sum()

    return batch


def batches(test: Images, size: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The test set as (image, label, mask), in batches of one size; the last is filled up and masked."""
    out = []
    for start in range(0, len(test.label), size):
        image, label = test.image[start : start + size], test.label[start : start + size]
        short = size - len(label)
        mask = np.arange(size) < len(label)
        image = np.pad(image, ((0, short), (0, 0), (0, 0), (0, 0)))
        out.append((image, np.pad(label, (0, short)), mask))
    return out


def run(evaluate: Callable, variables: Tree, test: list[Tree], count: int) -> list[dict[str, float]]:
    """For each trial {'accuracy', 'loss'}: means over all `count` test examples."""
    sums = [evaluate(variables, *batch) for batch in test]
    correct = np.sum([np.asarray(c, np.int64) for c, _ in sums], axis=0)
    loss = np.sum([np.asarray(x, np.float64) for _, x in sums], axis=0)
    return [{'accuracy': int(c) / count, 'loss': float(x) / count} for c, x in zip(correct, loss, strict=True)]
