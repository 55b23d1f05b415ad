"""From the plan's rows to a batch on the devices.

A feed has two sides. On the host, one for each seed: the tree of arrays that the training program is
given. On the devices, one for all seeds: `batch(inputs, key, step)`, which makes the batch of them
inside that program:

    image (B, H, W, C) float32, label (B,), index (B,), partner (g, B/g), and where source images are
    drawn source_image and source_label
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax.data import augment, plan
from mixjax.data.augment import Geometry

Array = jax.Array
Tree = Any
Batch = Callable[[Tree, Array, Array], dict[str, Array]]


class Images(NamedTuple):
    """Decoded examples: image (n, H, W, C) uint8 and label (n,) int32."""

    image: np.ndarray
    label: np.ndarray


def resident_batch(
    geometry: Geometry, *, batch: int, groups: int, shard: Callable[[Array], Array] = lambda x: x
) -> Batch:
    """The device side of a feed whose images all lie on the devices: plan, gather, augment.

    `shard` lays a gathered array out over the devices, by its first axis.
    """

    def make(inputs: Tree, key: Array, step: Array) -> dict[str, Array]:
        target, source, draw = inputs['target'], inputs.get('source'), inputs.get('draw')
        rows = plan.rows(key, step, target['label'], batch=batch, groups=groups, draw=draw)
        key_t, key_s = jax.random.split(rows.augment)
        out = {
            'image': augment.train(key_t, shard(target['image'][rows.target]), geometry),
            'label': shard(target['label'][rows.target]),
            'index': shard(rows.target),
            'partner': rows.partner,
        }
        if source is not None and rows.source is not None:
            out['source_image'] = augment.train(key_s, shard(source['image'][rows.source]), geometry)
            out['source_label'] = shard(source['label'][rows.source])
        return out

    return make


def resident_inputs(target: Images, source: Images | None, draw: plan.Draw | None) -> Tree:
    """The host side where all images and tables lie on the devices: one tree, the same at every step.

    `source` holds the images of the draw's rows, in their order.
    """

    def arrays(images: Images) -> dict[str, np.ndarray]:
        return {'image': images.image, 'label': images.label.astype(np.int32)}

    inputs: dict[str, Any] = {'target': arrays(target)}
    if source is not None and draw is not None:
        inputs['source'] = arrays(source)
        inputs['draw'] = plan.Draw(*(np.asarray(table, np.int32) for table in draw))
    return inputs


def padded(inputs: list[Tree]) -> list[Tree]:
    """The inputs of several seeds with source tables of one size; no draw ever reaches what is filled up."""
    if 'source' not in inputs[0]:
        return inputs
    drawn = [{'source': one['source'], 'draw': one['draw']} for one in inputs]

    def fill(leaf: np.ndarray, *others: np.ndarray) -> np.ndarray:
        if leaf.ndim == 0:
            return leaf
        most = np.max([other.shape for other in others], axis=0)
        return np.pad(leaf, [(0, n - m) for n, m in zip(most.tolist(), leaf.shape, strict=True)])

    return [{**one, **jax.tree.map(fill, its, *drawn)} for one, its in zip(inputs, drawn, strict=True)]
