"""Mixing: pure functions on batches, usable in any training loop.

Suffixes: `_t` target, `_s` source, `_mix` mixed. `lam` is the share of the first argument, either a
scalar (one for the batch) or (B,) (one for each example); which of the two is always the caller's
choice, made by the `shape` it draws.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def like(lam: Array, x: Array) -> Array:
    """`lam` () or (B,), shaped so that it multiplies `x` (B, ...) example by example."""
    lam = jnp.asarray(lam, x.dtype)
    return lam.reshape(lam.shape + (1,) * (x.ndim - lam.ndim)) if lam.ndim else lam


def blend(lam: Array, a: Array, b: Array) -> Array:
    """lam * a + (1 - lam) * b, for images, features or label rows.

    Args:
      lam: () or (B,), the share of `a`.
      a, b: (B, ...).
    """
    lam = like(lam, a)
    return lam * a + (1 - lam) * b


def beta(rng: Array, a: float, b: float, shape: tuple[int, ...] = ()) -> Array:
    """lam ~ Beta(a, b). Beta(1, 1) is uniform and Beta(a, 1) is U^(1/a), both drawn exactly so."""
    if b == 1:
        return jax.random.uniform(rng, shape) ** (1 / a)
    return jax.random.beta(rng, a, b, shape)


def fold(lam: Array) -> Array:
    """max(lam, 1 - lam), in [1/2, 1].

    With a random partner this changes no distribution (swap the roles of the two images); it is in
    the released SMILE code, so it is kept for equality with its traces.
    """
    return jnp.maximum(lam, 1 - lam)


def partner(x: Array, index: Array) -> Array:
    """Each example's partner: a permutation of the batch within g equal contiguous groups.

    Args:
      x: (B, ...) images or labels. Use the same `index` for both, or images and labels part ways.
      index: (g, B/g) int, positions within the group; `batch['partner']` holds it. With g = 1 it is
        a permutation of the whole batch. A batch sharded over d devices needs no communication
        when g is a multiple of d, which is why groups are an axis here and not an offset.
    """
    groups, size = index.shape
    grouped = x.reshape((groups, size) + x.shape[1:])
    return jax.vmap(lambda rows, at: rows[at])(grouped, index).reshape(x.shape)
