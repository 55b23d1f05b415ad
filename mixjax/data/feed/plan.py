"""The plan of a step, its choice of examples: a pure function of the seed's key and the step, without pixels.

It is written once in jax.numpy and runs inside the training program or on the host, with the same result. Nothing in it
depends on the number of devices or processes.

Shards are part of it: with g of them, position i of a batch of B draws its source image from shard i // (B/g) only, on
any number of devices. So a device needs only the images of the shards of its positions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
UNLABELLED = 2**32 - 1  # folded into the key of the orders; no epoch has this number


class Sizes(NamedTuple):
    """The sizes of a batch.

    batch: B, number of labelled images.
    groups: g, number of groups within which partners are drawn; it divides B.
    unlabelled: number of unlabelled images, a multiple of B.
    """

    batch: int
    groups: int = 1
    unlabelled: int = 0


class Draw(NamedTuple):
    """Tables of `method.Segments` that define a draw.

    Attributes:
      start: (c, k), or (g, c, k) for g shards: the first position of each segment in the rows, or in those of a shard.
      count: the length of each segment, with the shape of `start`.
      rounds: (c,), the number of segments of each class.
      union: () bool, draw from the union of the segments.
      whole: (c, k), the length of each segment in all shards together; None for `count`.
    """

    start: Any
    count: Any
    rounds: Any
    union: Any = False
    whole: Any = None


class Rows(NamedTuple):
    """Examples of a step.

    Attributes:
      target: (B,), rows of the labelled target set.
      partner: (g, B/g), a permutation of each group of the batch (`mix.partner`).
      source: (B,), positions in the draw's rows, or in those of the shard that a position draws from; or None.
      augment: key of the step's crops and flips.
    """

    target: Array
    partner: Array
    source: Array | None
    augment: Array


class Orders(NamedTuple):
    """Orders of consecutive epochs, made once for many steps.

    Attributes:
      first: () uint32, the first epoch.
      table: (e, n) int32, the order of each epoch.
    """

    first: Any
    table: Any


class Streams(NamedTuple):
    """Keys that the key of the data is split into, one for each use."""

    order: Array
    pairing: Array
    sampling: Array
    augment: Array


def streams(key: Array) -> Streams:
    """Split the key of the data."""
    return Streams(*jax.random.split(key, len(Streams._fields)))


def order(key: Array, epoch: Array | int, count: int) -> Array:
    """Return the order of the examples in one epoch.

    Args:
      key: `Streams.order`.
      epoch: the epoch.
      count: n, the number of examples.

    Returns:
      (n,) int32
    """
    return jax.random.permutation(jax.random.fold_in(key, epoch), count).astype(jnp.int32)


def touched(step: int, steps: int, batch: int, count: int) -> tuple[int, int]:
    """Return the first epoch of a step, and the largest number of epochs in `steps` steps from there on.

    Args:
      step: the first step.
      steps: number of steps.
      batch: B.
      count: number of examples in an epoch.
    """
    return step * batch % 2**32 // count, (batch * steps - 1) // count + 2


def orders(key: Array, first: Array, many: int, count: int) -> Orders:
    """Return the orders of consecutive epochs.

    Args:
      key: `Streams.order`.
      first: (), the first epoch.
      many: number of epochs.
      count: number of examples in an epoch.
    """
    return Orders(first, jax.vmap(lambda i: order(key, first + i, count))(jnp.arange(many, dtype=jnp.uint32)))


def epochs(key: Array, step: Array, batch: int, count: int, made: Orders | None = None) -> Array:
    """Return the rows of one step's batch in an endless series of epochs, each a new permutation.

    Batches follow one another without a gap: every example occurs once before any occurs twice, even if the batch is
    larger than the data set or does not divide it.

    Args:
      key: `Streams.order`.
      step: () int.
      batch: B.
      count: n, the number of examples.
      made: the orders of all epochs that the step touches; None makes them here at every step.

    Returns:
      (B,) int32 in [0, n).
    """
    first = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(batch)
    epoch, offset = first // jnp.uint32(count), first % jnp.uint32(count)
    place = offset.astype(jnp.int32) + jnp.arange(batch, dtype=jnp.int32)
    if made is None:
        _, many = touched(0, 1, batch, count)
        table = orders(key, epoch, many, count).table
    else:
        place, table = place + (epoch - made.first).astype(jnp.int32) * count, made.table
    return table[place // count, place % count]


def sources(key: Array, label: Array, draw: Draw) -> Array:
    """Draw for each target label a row of a segment of its class, both uniformly; or a row of the segments' union.

    The remainder of 32 random bits is taken, so the error of a probability is at most count / 2^32. With shards, the
    segment is drawn by its whole length, and the row among those in the position's shard.

    Args:
      key: a jax key.
      label: (B,) int.
      draw: tables of (c, rounds), or of (g, c, rounds) where g divides B.

    Returns:
      (B,) int32, positions in the draw's rows, or in those of the shard.
    """
    start, count = (jnp.reshape(table, (-1, *table.shape[-2:])) for table in (draw.start, draw.count))
    shards, whole = count.shape[0], count[0] if draw.whole is None else draw.whole
    shard = jnp.arange(label.shape[0]) // (label.shape[0] // shards)
    bits = jax.random.bits(key, (2,) + label.shape, jnp.uint32)
    mine = jnp.arange(whole.shape[1]) < draw.rounds[label][:, None]
    ends = jnp.cumsum(jnp.where(mine, whole[label], 0), axis=1)  # of the segments laid end to end
    place = remainder(bits[0], ends[:, -1])
    of_union = jnp.sum(place[:, None] >= ends, axis=1)
    segment = jnp.where(draw.union, of_union, remainder(bits[0], draw.rounds[label]))
    here = count[shard, label, segment]
    within = remainder(bits[1], here)
    if shards == 1:  # one number determines both segment and row of a union
        before = jnp.take_along_axis(ends, segment[:, None], axis=1)[:, 0] - here
        within = jnp.where(draw.union, place - before, within)
    return start[shard, label, segment].astype(jnp.int32) + within


def unlabelled(key: Array, step: Array, batch: int, count: int, made: Orders | None = None) -> Array:
    """Return the rows of one step's unlabelled images, in an endless series of epochs of their own.

    Args:
      key: the seed's key for the data.
      step: () int.
      batch: number of unlabelled images in a batch.
      count: number of all of them.
      made: as in `epochs`.
    """
    return epochs(unlabelled_order(key), step, batch, count, made)


def unlabelled_order(key: Array) -> Array:
    """Return the key of the orders of the unlabelled images."""
    return jax.random.fold_in(streams(key).order, UNLABELLED)


def remainder(bits: Array, n: Array) -> Array:
    """Map uniform 32 bits to int32 in [0, n)."""
    return (bits % n.astype(jnp.uint32)).astype(jnp.int32)


def rows(
    key: Array, step: Array, label: Array, *, batch: int, groups: int = 1, draw: Draw | None = None,
    epoch: Array | None = None, made: Orders | None = None,
) -> Rows:  # fmt: skip
    """Return the plan of one step.

    Args:
      key: the seed's key for the data.
      step: () int.
      label: (n,), labels of the labelled target set.
      batch: B.
      groups: g, the number of groups within which partners are drawn; it divides B.
      draw: the tables of the source draw, or None.
      epoch: (m,), the rows of one epoch if some occur more than once; None if each occurs once.
      made: as in `epochs`.
    """
    target = epochs(streams(key).order, step, batch, (label if epoch is None else epoch).shape[0], made)
    target = target if epoch is None else epoch[target]
    return of_target(key, step, target, label[target], groups=groups, draw=draw)


def of_target(
    key: Array, step: Array, target: Array, label: Array, *, groups: int = 1, draw: Draw | None = None
) -> Rows:
    """Return the plan of a step from its target rows.

    Args:
      key: the seed's key for the data.
      step: () int.
      target: (B,), the target rows.
      label: (B,), their labels.
      groups: g.
      draw: the tables of the source draw, or None.
    """
    _, pairing, sampling, augment = streams(key)
    keys = jax.random.split(jax.random.fold_in(pairing, step), groups)
    partner = jax.vmap(lambda k: jax.random.permutation(k, target.shape[0] // groups))(keys)
    source = None if draw is None else sources(jax.random.fold_in(sampling, step), label, draw)
    return Rows(target, partner, source, jax.random.fold_in(augment, step))


def augmentation(key: Array, step: Array) -> Array:
    """Return `Rows.augment` of a step, without the rest of its plan."""
    return jax.random.fold_in(streams(key).augment, step)


# --- shards -----------------------------------------------------------------------------------------------------------


def deal(rows: np.ndarray, draw: Draw, shards: int) -> tuple[np.ndarray, Draw]:
    """Deal the rows of a draw to g shards, evenly from every segment, as cards are dealt. On the host.

    Position p goes to shard p mod g, so of a segment of m rows each shard has floor(m/g) or ceil(m/g), and a row's
    expected probability is m / (g floor(m/g)) or m / (g ceil(m/g)) times the uniform one. A segment with fewer
    rows than shards is whole in every shard, and its probabilities are exact.

    Args:
      rows: (n,).
      draw: tables of (c, k), positions in the rows.
      shards: g.

    Returns:
      rows: (g, m); a short line is padded with its first row, which is never drawn from the padding.
      draw: tables of (g, c, k), positions in a line.
    """
    g, n = shards, len(rows)
    start, count = np.asarray(draw.start, np.int64), np.asarray(draw.count, np.int64)
    shard = np.arange(g)[:, None, None]

    def before(position: np.ndarray) -> np.ndarray:
        """Return the number of positions below this one that belong to the shard."""
        return (position - shard + g - 1) // g

    starts, counts = before(start), before(start + count) - before(start)
    lines = -(-n // g)
    dealt = np.arange(lines) * g + np.arange(g)[:, None]
    dealt = np.where(dealt < n, dealt, np.minimum(np.arange(g)[:, None], n - 1))
    used = np.arange(start.shape[1]) < np.asarray(draw.rounds)[:, None]
    short = used & (count < g)
    tails: list[np.ndarray] = []
    place = lines
    for first, length in np.unique(np.stack([start[short], count[short]], axis=1), axis=0):
        mine = short & (start == first) & (count == length)
        starts[:, mine], counts[:, mine] = place, length
        tails.append(np.arange(first, first + length))
        place += length
    whole = np.concatenate([dealt, *(np.tile(tail, (g, 1)) for tail in tails)], axis=1)
    return rows[whole], Draw(starts.astype(np.int32), counts.astype(np.int32), draw.rounds, draw.union, count)
