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
    """The jitted evaluation of one batch: (variables, image, label, mask) -> (correct, loss), summed over the mask."""

    def batch(variables: Tree, image: Array, label: Array, mask: Array) -> tuple[Array, Array]:
        out, _ = net.apply(variables, augment.centre(shard(image), geometry), train=False)
        logits = method.predict(out)
        correct = (jnp.argmax(logits, axis=-1) == label) & mask
        return correct.sum(), jnp.where(mask, losses.cross_entropy(logits, label), 0.0).sum()

    return jax.jit(batch)


def batches(test: Images, size: int, put: Callable[[Tree], Tree]) -> list[Tree]:
    """The test set on the devices, in batches of one size; the last is filled up and masked."""
    out = []
    for start in range(0, len(test.label), size):
        image, label = test.image[start : start + size], test.label[start : start + size]
        short = size - len(label)
        mask = np.arange(size) < len(label)
        image = np.pad(image, ((0, short), (0, 0), (0, 0), (0, 0)))
        out.append(put((image, np.pad(label, (0, short)), mask)))
    return out


def run(evaluate: Callable, variables: Tree, test: list[Tree]) -> dict[str, float]:
    """{'accuracy', 'loss'}: means over all test examples."""
    sums = [evaluate(variables, *batch) for batch in test]
    count = sum(int(np.sum(mask)) for _, _, mask in test)
    correct = sum(int(c) for c, _ in sums)
    return {'accuracy': correct / count, 'loss': float(np.sum([np.float64(x) for _, x in sums])) / count}
