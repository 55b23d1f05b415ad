"""Feeds: from the rows of a plan to a batch on the devices.

A feed has two sides. The host side, one for the seeds that are trained at once, is `inputs(step, count)`, which
returns the tree of arrays for the program of `count` steps. The device side, one for all seeds, is
`batch(inputs, key, step)`, which makes a batch of them inside that program:

    image (B, H, W, C) float32, label (B,) or (B, outputs), index (B,), partner (g, B/g); if source images are drawn
    source_image and source_label; further views of images under their own names; with unlabelled images
    unlabelled_index

There are two kinds. `Resident`: all images are on the devices, and the program makes the plan and gathers. `Stream`:
the host makes the same plan and reads the rows, and the program gets the uint8 images of its steps. Both give the same
bits, at any step and with any number of steps in a program.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax.data.feed import augment, plan
from mixjax.data.feed.augment import Geometry
from mixjax.data.pixels import decoded_cache

Array = jax.Array
Tree = Any
Batch = Callable[[Tree, Array, Array], dict[str, Array]]
KINDS = ('resident', 'stream')


class Images(NamedTuple):
    """Images with labels: image (n, H, W, C) uint8, an array or `Lazy`, label (n,) int32 or (n, outputs) float32."""

    image: Any
    label: np.ndarray


class Lazy:
    """Images of a data set as an array of uint8, `rows.shape + (H, W, C)`, read when they are indexed.

    `images[3:9]` and `images[[0, 7]]` index the rows, by the first axis or all of them.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, read: decoded_cache.Read, rows: np.ndarray) -> None:
        self.rows, self._read = np.asarray(rows, np.int64), read

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        return (*self.rows.shape, *self._read(np.arange(1)).shape[1:])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Any) -> np.ndarray:
        return decoded_cache.Subset(self._read, self.rows)(places)

    def part(self, places: Any) -> Lazy:
        """Return the images at some places, without reading them."""
        return Lazy(self._read, self.rows[places])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return self[...] if dtype is None else self[...].astype(dtype)

    def ensure(self) -> None:
        """Decode all of them now, if decoded images are stored on disk."""
        decoded_cache.ensure(self._read, self.rows)

    def announce(self) -> None:
        """Print how much may be stored on disk, if they are decoded when they are needed."""
        decoded_cache.announce(self._read, self.rows)


# --- on the devices ---------------------------------------------------------------------------------------------------


def batch(
    geometry: Geometry, *, size: int, groups: int, shard: Callable[[Array], Array] = lambda x: x,
    views: Mapping[str, tuple[str, Geometry]] = {}, unlabelled: int = 0,  # noqa: B006, never changed
) -> Batch:  # fmt: skip
    """Return the device side of both kinds of feed; the tree of the inputs determines the kind.

    Args:
      geometry: the crop and normalisation of images.
      size: B.
      groups: g, the number of groups within which partners are drawn.
      shard: spreads the first axis of an array over the devices.
      views: {name: (the images it is a view of, `image` or `unlabelled`, and their crop and augmentation)}.
      unlabelled: number of unlabelled images in a batch.
    """

    def make(inputs: Tree, key: Array, step: Array) -> dict[str, Array]:
        found = select_batch(inputs, step)
        if 'target' in inputs:
            found = gather_batch(inputs, key, step, size, groups)
            found |= gathered_unlabelled(inputs, key, step, unlabelled) if unlabelled else {}
        key_t, key_s = jax.random.split(plan.augmentation(key, step))
        # The barrier prevents fusion, so that the floats of both kinds are equal bit for bit.
        found = jax.lax.optimization_barrier(found)
        out = {name: value if name == 'partner' else shard(value) for name, value in found.items()}
        stored = {'image': out['image'], 'unlabelled': out.pop('unlabelled_image', None)}
        for name, (of, own) in views.items():
            # A key for each name, so that the images of a batch do not depend on what else is in it.
            key_v = jax.random.fold_in(plan.augmentation(key, step), zlib.crc32(name.encode()))
            out[name] = augment.train(key_v, stored[of], own)
        out['image'] = augment.train(key_t, out['image'], geometry)
        if 'source_image' in out:
            out['source_image'] = augment.train(key_s, out['source_image'], geometry)
        return out

    return make


def gather_batch(inputs: Tree, key: Array, step: Array, size: int, groups: int) -> dict[str, Array]:
    """Gather a step's examples from all examples, by the plan.

    Args:
      inputs: of a `Resident`.
      key: the seed's key for the data.
      step: ().
      size: B.
      groups: g.
    """
    target, source, draw = inputs['target'], inputs.get('source'), inputs.get('draw')
    rows = plan.rows(
        key, step, target['label'], batch=size, groups=groups, draw=draw, epoch=inputs.get('epoch'),
        made=inputs.get('orders'),
    )  # fmt: skip
    found = {name: target[name][rows.target] for name in ('image', 'label')}
    found |= {'index': rows.target, 'partner': rows.partner}
    if source is not None and draw is not None and rows.source is not None:
        shards = draw.start.shape[0] if draw.start.ndim == 3 else 0
        found['source_image'] = gather_shards(source['image'], rows.source, shards)
        found['source_label'] = gather_shards(source['label'], rows.source, shards)
    return found


def gathered_unlabelled(inputs: Tree, key: Array, step: Array, size: int) -> dict[str, Array]:
    """Gather a step's unlabelled images from all of them, by the plan."""
    image = inputs['unlabelled']['image']
    rows = plan.unlabelled(key, step, size, image.shape[0], inputs.get('unlabelled_orders'))
    return {'unlabelled_image': image[rows], 'unlabelled_index': rows}


def gather_shards(table: Array, places: Array, shards: int) -> Array:
    """Gather rows of a table, or of the shards of a table.

    Args:
      table: (n, ..), or (g, m, ..) for g shards.
      places: (B,), rows of the table; with shards, each position's row in its shard.
      shards: g; 0 without shards.

    Returns:
      (B, ..)
    """
    if not shards:
        return table[places]
    # A gather with a batch axis: if that axis is spread over the devices, none needs rows of another one.
    found = jax.vmap(lambda rows, here: rows[here])(table, places.reshape(shards, -1))
    return found.reshape(len(places), *table.shape[2:])


def select_batch(inputs: Tree, step: Array) -> dict[str, Array]:
    """Select a step's examples from those of a `Stream`, for the steps from `first` on; none from another feed."""
    if 'first' not in inputs:
        return {}
    place = step - inputs['first']
    return {
        name: jax.lax.dynamic_index_in_dim(x, place, keepdims=False) for name, x in inputs.items() if name != 'first'
    }


# --- on the host ------------------------------------------------------------------------------------------------------


def seed_inputs(
    target: Images, source: Images | None, draw: plan.Draw | None, epoch: np.ndarray | None = None,
    unlabelled: Lazy | None = None,
) -> Tree:  # fmt: skip
    """Return the inputs of one seed for a feed of any kind.

    Args:
      target: the labelled images, which may be `Lazy`.
      source: the images of the draw's rows, in this order; for g shards (g, m, H, W, C) with labels (g, m).
      draw: the tables of the source draw.
      epoch: as in `plan.rows`.
      unlabelled: the unlabelled images.
    """

    def arrays(images: Images) -> dict[str, Any]:
        kind = np.int32 if images.label.dtype.kind in 'iu' else np.float32
        return {'image': images.image, 'label': images.label.astype(kind)}

    inputs: dict[str, Any] = {'target': arrays(target)}
    if target.label.ndim > 1 and epoch is None:  # the axis of the examples is that of an epoch, see `of_epoch`
        epoch = np.arange(len(target.label))
    if epoch is not None:
        inputs['epoch'] = epoch.astype(np.int32)
    if unlabelled is not None:
        inputs['unlabelled'] = {'image': unlabelled}
    if source is not None and draw is not None:
        inputs['source'] = arrays(source)
        whole = draw.count if draw.whole is None else draw.whole
        inputs['draw'] = plan.Draw(*(np.asarray(table, np.int32) for table in draw._replace(whole=whole)))
    return inputs


def of_epoch(inputs: Tree) -> Any:
    """Return an array of the inputs whose last axis has an entry for each example of an epoch."""
    return inputs['epoch'] if 'epoch' in inputs else inputs['target']['label']


def padded(inputs: list[Tree]) -> list[Tree]:
    """Pad the source tables of several seeds to one size; no draw reaches the padding.

    Images are not padded here but where they are put on the devices.
    """
    if 'source' not in inputs[0]:
        return inputs
    drawn = [{'label': one['source']['label'], 'draw': one['draw']} for one in inputs]

    def fill(leaf: np.ndarray, *others: np.ndarray) -> np.ndarray:
        if leaf.ndim == 0:
            return leaf
        most = np.max([other.shape for other in others], axis=0)
        return np.pad(leaf, [(0, n - m) for n, m in zip(most.tolist(), leaf.shape, strict=True)])

    filled = [jax.tree.map(fill, its, *drawn) for its in drawn]
    return [
        {**one, 'source': {**one['source'], 'label': its['label']}, 'draw': its['draw']}
        for one, its in zip(inputs, filled, strict=True)
    ]


class LongEpochs(NamedTuple):
    """Epochs that are so long that their orders are made apart from the steps, once an epoch.

    batch: number of examples of a batch. count: number of examples of an epoch.
    orders: (first epoch, number of epochs) -> `plan.Orders` on the devices, with an axis of trials.
    """

    batch: int
    count: int
    orders: Callable[[int, int], plan.Orders]


class Resident:
    """A feed with all images and tables on the devices: the same tree at every step, except for orders of long epochs.

    To permute many examples takes a large part of a step, and the order is the same for a whole epoch.

    Args:
      tree: the inputs, on the devices.
      long: {name of the orders among the inputs: the epochs that they are of}.
    """

    def __init__(self, tree: Tree, long: Mapping[str, LongEpochs] = {}) -> None:  # noqa: B006, never changed
        self._tree, self._long = tree, long
        self._latest_orders: dict[str, tuple[tuple[int, int], plan.Orders]] = {}

    def inputs(self, step: int, count: int) -> Tree:
        for name, one in self._long.items():
            wanted = plan.touched(step, count, one.batch, one.count)
            if name not in self._latest_orders or self._latest_orders[name][0] != wanted:
                self._latest_orders[name] = wanted, one.orders(*wanted)
        return {**self._tree, **{name: orders for name, (_, orders) in self._latest_orders.items()}}

    def close(self) -> None:
        pass
