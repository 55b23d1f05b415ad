"""Mixing: pure functions on batches, usable in any training loop.

Suffixes: `_t` target, `_s` source, `_mix` mixed. `lam` is the share of the first argument, either a
scalar (one for the batch) or (B,) (one for each example); which of the two is always the caller's
choice, made by the `shape` it draws. Shapes are checked by chex, which costs nothing inside `jit`.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

Array = jax.Array


def like(lam: Array, x: Array) -> Array:
    """`lam` () or (B,), shaped so that it multiplies `x` (B, ...) example by example; float32 or wider."""
    lam = jnp.asarray(lam, jnp.promote_types(x.dtype, jnp.float32))
    chex.assert_rank(lam, {0, 1}, custom_message='lam must be () or (B,)')
    if lam.ndim:
        chex.assert_shape(lam, (len(x),), custom_message='lam must be () or (B,)')
    return lam.reshape(lam.shape + (1,) * (x.ndim - lam.ndim)) if lam.ndim else lam


def blend(lam: Array, a: Array, b: Array) -> Array:
    """lam * a + (1 - lam) * b, for images, features or label rows.

    Args:
      lam: () or (B,), the share of `a`.
      a, b: (B, ...). The sum of bfloat16 maps is taken in float32, whose lam is that of the labels.
    """
    chex.assert_equal_shape([a, b], custom_message='what is blended must have the same shape')
    lam = like(lam, a)
    return (lam * a + (1 - lam) * b).astype(jnp.result_type(a, b))


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
      index: (g, B/g) int, positions within the group; `batch['partner']` holds it. A permutation of the
        whole batch is (1, B), or simply (B,). A batch sharded over d devices needs no communication
        when g is a multiple of d, which is why groups are an axis here and not an offset.
    """
    chex.assert_rank(index, {1, 2}, custom_message='index must be (B,) or (groups, B / groups)')
    groups, size = index.shape if index.ndim == 2 else (1, len(index))
    chex.assert_shape(x, (groups * size, ...), custom_message='index must hold one position for each example of x')
    index = index.reshape(groups, size)
    grouped = x.reshape((groups, size) + x.shape[1:])
    with jax.named_scope('partner'):  # `mixjax.pods` finds what it costs between chips by this name
        return jax.vmap(lambda rows, at: rows[at])(grouped, index).reshape(x.shape)


def cut_box(lam: Array, centre: Array, height: int, width: int) -> Array:
    """CutMix's rectangle, of about 1 - lam of the image, cut off at the borders.

    Half sides are int(H sqrt(1 - lam)) // 2 and the same for W: an uncut box has even sides. At some
    lam (0.75, 0.36, ..) H sqrt(1 - lam) is a whole number up to rounding; only float64 then agrees with the
    authors' code for certain, and float32 may give a half side of one pixel less.

    Yun et al. 2019, https://arxiv.org/abs/1905.04899.

    Args:
      lam: (..), the share of the image that should stay.
      centre: (.., 2) int, row and column of the middle.

    Returns:
      (.., 4) int32: the box is rows [b0, b1) and columns [b2, b3); empty for lam = 1.
    """
    lam, centre = jnp.asarray(lam), jnp.asarray(centre)
    chex.assert_shape(centre, (..., 2), custom_message='centre must be (.., 2), row and column')
    size = jnp.array([height, width], jnp.int32)
    half = (jnp.sqrt(1 - lam)[..., None] * size).astype(jnp.int32) // 2
    start, stop = jnp.clip(centre - half, 0, size), jnp.clip(centre + half, 0, size)
    return jnp.stack([start, stop], axis=-1).reshape(centre.shape[:-1] + (4,)).astype(jnp.int32)


def box_mask(box: Array, height: int, width: int) -> Array:
    """True inside the box; (.., 4) -> (.., H, W) bool, whatever the box's size."""
    chex.assert_shape(box, (..., 4), custom_message='box must be (.., 4), see cut_box')
    row, column = jnp.arange(height)[:, None], jnp.arange(width)
    b0, b1, b2, b3 = (box[..., i, None, None] for i in range(4))
    return (row >= b0) & (row < b1) & (column >= b2) & (column < b3)


def box_lam(box: Array, height: int, width: int) -> Array:
    """1 - area / (H W), the share of the image that stays outside the box; (.., 4) -> (..)."""
    box = jnp.asarray(box)
    chex.assert_shape(box, (..., 4), custom_message='box must be (.., 4), see cut_box')
    area = (box[..., 1] - box[..., 0]) * (box[..., 3] - box[..., 2])
    # Not in float32 where the run is in float64: an int32 would be divided so.
    return 1 - area.astype(jnp.result_type(float)) / (height * width)


def paste(mask: Array, a: Array, b: Array) -> Array:
    """`b` where the mask is true, else `a`.

    Args:
      mask: (H, W) or (B, H, W) bool, such as `box_mask`'s.
      a, b: (B, H, W, C).
    """
    chex.assert_rank(mask, {2, 3}, custom_message='mask must be (H, W) or (B, H, W)')
    chex.assert_rank([a, b], 4, custom_message='images must be (B, H, W, C)')
    chex.assert_equal_shape([a, b], custom_message='both images must have the same shape')
    chex.assert_equal_shape_suffix([mask, a[..., 0]], 2, custom_message="mask must have the images' height and width")
    return jnp.where(mask[..., None], b, a)
