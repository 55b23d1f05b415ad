"""Which examples a step sees: a pure function of the seed's key and the step. No pixels.

Written once in jax.numpy, it runs inside the training program or on the host, with the same
result. Nothing in it depends on how many devices or processes there are.

Shards are part of it: with g of them, position i of a batch of B draws its source image from shard i // (B/g)
and from no other, on any number of devices. So a device that has the images of its own positions only needs no
other device's.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


class Draw(NamedTuple):
    """The tables of `method.Segments` that decide a draw.

    start, count: (c, k), or (g, c, k) of g shards: where each segment begins in the rows, or in those of a shard,
        and its length there.
    rounds: (c,). union: () bool. whole: (c, k) the length of each segment in all shards together; None for `count`.
    """

    start: Any
    count: Any
    rounds: Any
    union: Any = False
    whole: Any = None


class Rows(NamedTuple):
    """A step's examples.

    target: (B,) rows of the labelled target set.
    partner: (g, B/g) a permutation of each group of the batch (`mix.partner`).
    source: (B,) positions in the draw's rows, or in those of the shard that a position draws from; or None.
    augment: key of the step's crops and flips.
    """

    target: Array
    partner: Array
    source: Array | None
    augment: Array


class Orders(NamedTuple):
    """The orders of some epochs, made once for many steps. first: () uint32, the first of them. table: (e, n) int32."""

    first: Any
    table: Any


class Streams(NamedTuple):
    """The streams of random numbers that the key of the data is split into."""

    order: Array
    pairing: Array
    sampling: Array
    augment: Array


def streams(key: Array) -> Streams:
    return Streams(*jax.random.split(key, len(Streams._fields)))


def order(key: Array, epoch: Array | int, count: int) -> Array:
    """(n,) int32: the examples in the order of one epoch. key: `Streams.order`."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), count).astype(jnp.int32)


def touched(step: int, steps: int, batch: int, count: int) -> tuple[int, int]:
    """(first epoch of a step, how many epochs it and the steps after it, `steps` in all, can touch)."""
    return step * batch % 2**32 // count, (batch * steps - 1) // count + 2


def orders(key: Array, first: Array, many: int, count: int) -> Orders:
    """Those of `many` epochs from one on. key: `Streams.order`."""
    return Orders(first, jax.vmap(lambda i: order(key, first + i, count))(jnp.arange(many, dtype=jnp.uint32)))


def epochs(key: Array, step: Array, batch: int, count: int, made: Orders | None = None) -> Array:
    """Rows of one step's batch out of an endless series of epochs, each a new permutation.

    Batches follow one another without a gap: every example comes once before any comes twice,
    also where the batch is larger than the data set or does not divide it.

    Args:
      key: `Streams.order`. step: () int. batch: B. count: n examples.
      made: the orders of all epochs that the step touches; None makes them here, again at every step.

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
    """For each target label a row of a segment of its class, both uniform; or one of their union.

    A remainder of 32 random bits is taken: no row's probability is off by more than count / 2^32.
    With shards, the segment is drawn by its whole length, and the row among those that the position's shard has.

    Args:
      label: (B,) int. draw: tables of (c, rounds), or of (g, c, rounds) where g divides B.

    Returns:
      (B,) int32 positions in the draw's rows, or in those of the shard.
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
    if shards == 1:  # one number says both segment and row of a union
        before = jnp.take_along_axis(ends, segment[:, None], axis=1)[:, 0] - here
        within = jnp.where(draw.union, place - before, within)
    return start[shard, label, segment].astype(jnp.int32) + within


def remainder(bits: Array, n: Array) -> Array:
    """Uniform 32 bits -> int32 in [0, n)."""
    return (bits % n.astype(jnp.uint32)).astype(jnp.int32)


def rows(
    key: Array, step: Array, label: Array, *, batch: int, groups: int = 1, draw: Draw | None = None,
    epoch: Array | None = None, made: Orders | None = None,
) -> Rows:  # fmt: skip
    """The plan of one step.

    Args:
      key: the seed's key for the data. step: () int.
      label: (n,) labels of the labelled target set.
      batch: B. groups: within which partners are drawn; it divides B.
      draw: the law of the source batch, or None.
      epoch: (m,) the rows of one epoch, where some come more than once; None for each of them once.
      made: as in `epochs`.
    """
    target = epochs(streams(key).order, step, batch, (label if epoch is None else epoch).shape[0], made)
    target = target if epoch is None else epoch[target]
    return of_target(key, step, target, label[target], groups=groups, draw=draw)


def of_target(
    key: Array, step: Array, target: Array, label: Array, *, groups: int = 1, draw: Draw | None = None
) -> Rows:
    """The rest of a step's plan, where its target rows, and their labels, are known: (B,) both."""
    _, pairing, sampling, augment = streams(key)
    keys = jax.random.split(jax.random.fold_in(pairing, step), groups)
    partner = jax.vmap(lambda k: jax.random.permutation(k, target.shape[0] // groups))(keys)
    source = None if draw is None else sources(jax.random.fold_in(sampling, step), label, draw)
    return Rows(target, partner, source, jax.random.fold_in(augment, step))


def augmentation(key: Array, step: Array) -> Array:
    """`Rows.augment` of a step, without the rest of its plan."""
    return jax.random.fold_in(streams(key).augment, step)


# --- shards -----------------------------------------------------------------------------------------------------------


def deal(rows: np.ndarray, draw: Draw, shards: int) -> tuple[np.ndarray, Draw]:
    """Deal a draw's rows out to g shards, evenly from every segment, as cards are dealt. On the host.

    Position p goes to shard p mod g, so of a segment of m rows each shard has floor(m/g) or ceil(m/g), and a row's
    expected probability is m / (g floor(m/g)) or m / (g ceil(m/g)) times the uniform one. A segment with fewer
    rows than shards is whole in every shard, and its probabilities are exact.

    Args:
      rows: (n,). draw: tables of (c, k), positions in them.

    Returns:
      rows: (g, m); a line that is short is filled up with its first row, which is not drawn for it.
      draw: tables of (g, c, k), positions in a line.
    """
    g, n = shards, len(rows)
    start, count = np.asarray(draw.start, np.int64), np.asarray(draw.count, np.int64)
    shard = np.arange(g)[:, None, None]

    def before(position: np.ndarray) -> np.ndarray:
        """How many positions below this one are the shard's."""
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
