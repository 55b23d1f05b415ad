"""From the plan's rows to a batch on the devices.

A `Feed` has a host side and a device side, so that a resident and a streamed feed look the same to
the trainer: `inputs` is what the host hands to a step's program, `batch` makes the batch of it inside
that program.
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


class Feed(NamedTuple):
    """inputs(step) -> arrays, on the host. batch(inputs, key, step) -> the batch, inside jit.

    A batch has image (B, H, W, C) float32, label (B,), index (B,), partner (g, B/g), and where source
    images are drawn source_image and source_label.
    """

    inputs: Callable[[int], Tree]
    batch: Callable[[Tree, Array, Array], dict[str, Array]]


class Images(NamedTuple):
    """Decoded examples: image (n, H, W, C) uint8 and label (n,) int32."""

    image: np.ndarray
    label: np.ndarray


def make_batch(
    geometry: Geometry, *, batch: int, groups: int, shard: Callable[[Array], Array] = lambda x: x
) -> Callable[[Tree, Array, Array], dict[str, Array]]:
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


def resident_inputs(target: Images, source: Images | None, draw: plan.Draw | None, put: Callable[[Tree], Tree]) -> Tree:
    """All images and tables on the devices; `put` places a tree there (replicated).

    `source` holds the images of the draw's rows, in their order.
    """

    def arrays(images: Images) -> dict[str, np.ndarray]:
        return {'image': images.image, 'label': images.label.astype(np.int32)}

    inputs: dict[str, Any] = {'target': arrays(target)}
    if source is not None and draw is not None:
        inputs['source'] = arrays(source)
        inputs['draw'] = plan.Draw(*(np.asarray(table, np.int32) for table in draw))
    return put(inputs)
