"""Which examples a step sees: a pure function of the seed's key and the step. No pixels.

Written once in jax.numpy, it runs inside the training program or on the host, with the same
result. Nothing in it depends on how many devices or processes there are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class Draw(NamedTuple):
    """The arrays of `method.Segments` that decide a draw; positions in its `rows`."""

    start: Any
    count: Any
    rounds: Any
    union: Any = False


class Rows(NamedTuple):
    """A step's examples.

    target: (B,) rows of the labelled target set.
    partner: (g, B/g) a permutation of each group of the batch (`mix.partner`).
    source: (B,) positions in the draw's rows, or None.
    augment: key of the step's crops and flips.
    """

    target: Array
    partner: Array
    source: Array | None
    augment: Array


def epochs(key: Array, step: Array, batch: int, count: int) -> Array:
    """Rows of one step's batch out of an endless series of epochs, each a new permutation.

    Batches follow one another without a gap: every example comes once before any comes twice,
    also where the batch is larger than the data set or does not divide it.

    Args:
      step: () int. batch: B. count: n examples.

    Returns:
      (B,) int32 in [0, n).
    """
    first = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(batch)
    epoch, offset = first // jnp.uint32(count), first % jnp.uint32(count)
    place = offset.astype(jnp.int32) + jnp.arange(batch, dtype=jnp.int32)
    span = (batch - 1) // count + 2  # epochs that one batch can touch
    keys = jax.vmap(lambda i: jax.random.fold_in(key, epoch + i))(jnp.arange(span, dtype=jnp.uint32))
    orders = jax.vmap(lambda k: jax.random.permutation(k, count))(keys).astype(jnp.int32)
    return orders[place // count, place % count]


def sources(key: Array, label: Array, draw: Draw) -> Array:
    """For each target label a row of a segment of its class, both uniform; or one of their union.

    A remainder of 32 random bits is taken: no row's probability is off by more than count / 2^32.

    Args:
      label: (B,) int. draw: (c, rounds) tables.

    Returns:
      (B,) int32 positions in the draw's rows.
    """
    bits = jax.random.bits(key, (2,) + label.shape, jnp.uint32)
    mine = jnp.arange(draw.count.shape[1]) < draw.rounds[label][:, None]
    ends = jnp.cumsum(jnp.where(mine, draw.count[label], 0), axis=1)  # of the segments laid end to end
    place = remainder(bits[0], ends[:, -1])
    of_union = jnp.sum(place[:, None] >= ends, axis=1)
    segment = jnp.where(draw.union, of_union, remainder(bits[0], draw.rounds[label]))
    count = draw.count[label, segment]
    before = jnp.take_along_axis(ends, segment[:, None], axis=1)[:, 0] - count
    within = jnp.where(draw.union, place - before, remainder(bits[1], count))
    return draw.start[label, segment].astype(jnp.int32) + within


def remainder(bits: Array, n: Array) -> Array:
    """Uniform 32 bits -> int32 in [0, n)."""
    return (bits % n.astype(jnp.uint32)).astype(jnp.int32)


def rows(key: Array, step: Array, label: Array, *, batch: int, groups: int = 1, draw: Draw | None = None) -> Rows:
    """The plan of one step.

    Args:
      key: the seed's key for the data. step: () int.
      label: (n,) labels of the labelled target set.
      batch: B. groups: g, within which partners are drawn; it divides B.
      draw: the law of the source batch, or None.
    """
    order, pairing, sampling, augment = jax.random.split(key, 4)
    target = epochs(order, step, batch, label.shape[0])
    keys = jax.random.split(jax.random.fold_in(pairing, step), groups)
    partner = jax.vmap(lambda k: jax.random.permutation(k, batch // groups))(keys)
    source = None if draw is None else sources(jax.random.fold_in(sampling, step), label[target], draw)
    return Rows(target, partner, source, jax.random.fold_in(augment, step))
