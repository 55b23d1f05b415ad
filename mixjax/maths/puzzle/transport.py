"""The transport of PuzzleMix: moves the salient blocks of an image to the places where the mask shows it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def first_bits(bits: Array, count: int) -> Array:
    """Return the indices of the first set bits of each line: (..., n) bool -> (..., count) int32, padded with n.

    Lines are packed into words of 32 bits, of which the lowest set bits are removed one by one: a sort would be much
    slower, and is not split over the devices of a batch.
    """
    n = bits.shape[-1]
    bits = jnp.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -n % 32)])
    values = jnp.left_shift(jnp.uint32(1), jnp.arange(32, dtype=jnp.uint32))
    words = jnp.sum(jnp.where(bits.reshape(*bits.shape[:-1], -1, 32), values, 0), axis=-1, dtype=jnp.uint32)
    index = jnp.arange(words.shape[-1], dtype=jnp.int32)

    def take(words: Array, _: None) -> tuple[Array, Array]:
        lowest = words & (~words + 1)
        at = jnp.where(words == 0, n, 32 * index + 31 - jax.lax.clz(lowest).astype(jnp.int32)).min(axis=-1)
        return jnp.where(index == at[..., None] // 32, words ^ lowest, words), at

    _, found = jax.lax.scan(take, words, None, length=count)
    return jnp.moveaxis(found, 0, -1)


def best_columns(mask: Array, u: Array, eps: float) -> tuple[Array, Array]:
    """Return the q nearest places of each block inside the mask and the q nearest outside, and their costs.

    Both are (B, q^2, 2 q); missing places cost infinity. No other place can be claimed in q rounds, because a block
    loses at most one place in each.

    Args:
      mask: (B, q, q), the share of this image in each place.
      u: (B, q, q), the saliency of its blocks.
      eps: the cost of distance.
    """
    b, q, _ = mask.shape
    rows = q * q
    at = np.stack(np.divmod(np.arange(rows), q), axis=-1)
    distance = np.square(at[:, None] - at).sum(-1) / max(q - 1, 1) ** 2
    # Constants, so that no compiler fuses a rounding away, since equal costs must stay equal.
    far = np.asarray(eps, u.dtype) * distance.astype(u.dtype)
    order = np.argsort(far, axis=1, kind='stable').astype(np.int32)
    column = jnp.asarray(np.pad(order, ((0, 0), (0, 1)), constant_values=rows))
    price = jnp.asarray(np.pad(np.take_along_axis(far, order, 1), ((0, 0), (0, 1)), constant_values=np.inf))
    inside = mask.reshape(b, 1, rows) > 0
    found = first_bits(jnp.concatenate([inside, ~inside], axis=1)[:, :, order], q)  # (B, 2, q^2, q)
    block = jnp.arange(rows)[:, None]
    gain = jnp.stack([u.reshape(b, rows, 1), jnp.zeros((b, rows, 1), u.dtype)], axis=1)

    def joined(x: Array) -> Array:
        return jnp.moveaxis(x, 1, 2).reshape(b, rows, 2 * q)

    return joined(column[block, found]), joined(price[block, found] - gain)


def plan(mask: Array, u: Array, eps: float) -> Array:
    """Return the block to put at each place, (B, q^2) int32; -1 where there is none.

    Block i at place j costs eps |i - j|^2 / (q - 1)^2 - u_i [mask_j > 0]. In each of q rounds every block claims its
    cheapest place, and in every place one claimant stays; for the others that place costs 1 more from then on. As in
    the released code, a place compares its claimants' costs with a 0 for every block that does not claim it, and takes
    the first block of least cost: a claim at cost > 0 loses, one at cost 0 loses unless its block is the first of the
    zeros. The result is not a bijection: blocks may be lost, and places may stay empty.

    Args:
      mask: (B, q, q), the share of this image in each place.
      u: (B, q, q), the saliency of its blocks.
      eps: the cost of distance.
    """
    b, q, _ = mask.shape
    rows = q * q
    i = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32), (b, rows))
    columns, costs = best_columns(mask, u, eps)

    def least(values: Array, column: Array, nothing: Any) -> Array:
        """Return for each claimant the least value among the claimants of its place: (B, q^2)."""

        def one(values: Array, column: Array) -> Array:
            return jnp.full_like(values, nothing).at[column].min(values)[column]

        return jax.vmap(one)(values, column)

    def claim(cost: Array) -> tuple[Array, Array]:
        """Return the place that each block claims, the first of the cheapest, and whether it gets it: (B, q^2)."""
        lowest = cost.min(axis=-1)
        column = jnp.where(cost == lowest[..., None], columns, rows).min(axis=-1)
        best = least(lowest, column, jnp.inf)
        first = i == least(jnp.where(lowest == best, i, rows), column, rows)
        # The first block that does not claim the place at a cost above 0: block 0, unless block 0 claims it so.
        leading = jnp.cumprod((column == column[:, :1]) & (lowest > 0), axis=-1).sum(axis=-1, keepdims=True)
        first_zero = jnp.where(column == column[:, :1], leading, 0)
        return column, first & ((best < 0) | ((best == 0) & (i == first_zero)) | (leading == rows))

    def play(_: Any, cost: Array) -> Array:
        column, wins = claim(cost)
        return cost + ((columns == column[..., None]) & ~wins[..., None])

    column, wins = claim(jax.lax.fori_loop(0, q - 1, play, costs))
    return jax.vmap(lambda c, r: jnp.full(rows, -1, jnp.int32).at[c].max(r))(column, jnp.where(wins, i, -1))


def moved(image: Array, source: Array) -> Array:
    """Return the image with block source[j] at place j, and 0 (the mean colour) where that is -1.

    Args:
      image: (B, H, W, C).
      source: (B, q^2) int.
    """
    b, h, w, c = image.shape
    q = round(source.shape[1] ** 0.5)
    blocks = image.reshape(b, q, h // q, q, w // q, c).swapaxes(2, 3).reshape(b, q * q, -1)
    taken = jax.vmap(lambda rows, at: rows[at])(blocks, jnp.maximum(source, 0))
    taken = jnp.where(source[..., None] >= 0, taken, 0)
    return taken.reshape(b, q, q, h // q, w // q, c).swapaxes(2, 3).reshape(image.shape)
