"""Mixing: pure functions on batches, usable in any training loop.

Suffixes: `_t` target, `_s` source, `_mix` mixed. `lam` is the share of the first argument, either a
scalar (one for the batch) or (B,) (one for each example); which of the two is always the caller's
choice, made by the `shape` it draws. Shapes are checked by chex, which costs nothing inside `jit`.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from mixjax.errors import require

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
    with jax.named_scope('partner'):  # `mixjax plan` finds what it costs between chips by this name
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


# --- one batch mixed within itself, by each of the schemes ------------------------------------------------------------


def mixup(rng: Array, image: Array, index: Array, alpha: float, folded: bool = False) -> tuple[Array, Array]:
    """Mixup of a batch with one lam ~ Beta(alpha, alpha); Zhang et al. 2018, https://arxiv.org/abs/1710.09412.

    Args:
      image: (B, ...). index: see `partner`. folded: see `fold`.

    Returns:
      The mixed images, and lam (), the share of the image itself.
    """
    lam = beta(rng, alpha, alpha)
    lam = fold(lam) if folded else lam
    return blend(lam, image, partner(image, index)), lam


def cutmix(rng: Array, image: Array, index: Array, alpha: float, probability: float) -> tuple[Array, Array]:
    """CutMix of a batch with one box, lam ~ Beta(alpha, alpha); Yun et al. 2019, https://arxiv.org/abs/1905.04899.

    Args:
      image: (B, H, W, C). index: see `partner`. probability: that the batch is cut at all.

    Returns:
      The mixed images, and the share () of the image that is left outside the box.
    """
    height, width = image.shape[1:3]
    for_lam, for_centre, for_coin = jax.random.split(rng, 3)
    # A batch that stays as it is has lam = 1: an empty box, and plain cross-entropy.
    cut = jax.random.uniform(for_coin) < probability
    lam = jnp.where(cut, beta(for_lam, alpha, alpha), 1.0)
    centre = jax.random.randint(for_centre, (2,), 0, jnp.array([height, width]))
    box = cut_box(lam, centre, height, width)
    return paste(box_mask(box, height, width), image, partner(image, index)), box_lam(box, height, width)


def manifold(
    rng: Array, index: Array, layers: tuple[str, ...], alpha: float
) -> tuple[Callable[[str, Array], Array], Array, Callable[[], None]]:
    """Manifold mixup of a batch at one of `layers`, drawn anew; Verma et al. 2019, https://arxiv.org/abs/1806.05236.

    Args:
      index: see `partner`. layers: names of the activations that a network's tap is called with.

    Returns:
      The tap that mixes, lam () ~ Beta(alpha, alpha), and a function to call after the forward pass, which refuses
      layers that the network does not have.
    """
    for_lam, for_layer = jax.random.split(rng)
    lam = beta(for_lam, alpha, alpha)
    chosen = jax.random.randint(for_layer, (), 0, len(layers))
    met = set()

    def tap(name: str, hidden: Array) -> Array:
        met.add(name)
        if name not in layers:
            return hidden
        # Every layer is mixed, but all except the chosen one with lam = 1: no branch around convolutions.
        here = jnp.where(chosen == layers.index(name), lam, 1.0)
        return blend(here, hidden, partner(hidden, index))

    def check() -> None:
        lacking = [name for name in layers if name not in met]
        require(
            not lacking, f'layers must be some of {", ".join(sorted(met))}: this network has no {", ".join(lacking)}'
        )

    return tap, lam, check


def check_layers(layers: tuple[str, ...]) -> None:
    """Refuse a list of layers that is empty or names one twice."""
    require(all(layers) and 0 < len(layers) == len(set(layers)), f'layers must be different names, not {layers!r}')
