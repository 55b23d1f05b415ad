"""Mixing of images, labels and features: pure functions on batches, usable in any training loop.

`lam` is the share of the first argument: one number for the batch, or one per example of shape `(B,)`. The caller
chooses which by the `shape` it draws. Suffixes: `_t` target, `_s` source, `_mix` mixed. Shapes are checked by chex,
which costs nothing inside `jit`.
"""

from __future__ import annotations

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from mixjax.errors import require

Array = jax.Array


def like(lam: Array, x: Array) -> Array:
    """Reshape `lam` so that it multiplies a batch example by example.

    Args:
      lam: One number, or one per example of shape (B,).
      x: The batch, of shape (B, ...).

    Returns:
      `lam` as a scalar or of shape (B, 1, ..., 1), in float32 or wider.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> mix.like(jnp.array([0.2, 0.8]), jnp.zeros((2, 32, 32, 3))).shape
      (2, 1, 1, 1)
    """
    lam = jnp.asarray(lam, jnp.promote_types(x.dtype, jnp.float32))
    chex.assert_rank(lam, {0, 1}, custom_message='lam must be () or (B,)')
    if lam.ndim:
        chex.assert_shape(lam, (len(x),), custom_message='lam must be () or (B,)')
    return lam.reshape(lam.shape + (1,) * (x.ndim - lam.ndim)) if lam.ndim else lam


def blend(lam: Array, a: Array, b: Array) -> Array:
    """Interpolate two batches, lam * a + (1 - lam) * b: images, features or label rows.

    Args:
      lam: The share of `a`: one number, or one per example of shape (B,).
      a: A batch of shape (B, ...).
      b: A batch of the same shape.

    Returns:
      The blend, of the same shape and type. bfloat16 is summed in float32, so that it agrees with the labels' lam.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> a, b = jnp.array([[0.0, 4.0], [8.0, 4.0]]), jnp.zeros((2, 2))
      >>> print(mix.blend(jnp.array([0.25, 0.5]), a, b))
      [[0. 1.]
       [4. 2.]]
    """
    chex.assert_equal_shape([a, b], custom_message='what is blended must have the same shape')
    lam = like(lam, a)
    return (lam * a + (1 - lam) * b).astype(jnp.result_type(a, b))


def beta(rng: Array, a: float, b: float, shape: tuple[int, ...] = ()) -> Array:
    """Draw lam from Beta(a, b).

    Beta(1, 1) is drawn as a uniform number and Beta(a, 1) as U^(1/a), which are exact.

    Args:
      rng: A jax random key.
      a: The first parameter, above 0.
      b: The second parameter, above 0.
      shape: The shape of the draw: () for one number, (B,) for one per example.

    Returns:
      Numbers in [0, 1], of shape `shape`.

    Example:
      >>> import jax
      >>> from mixjax import mix
      >>> lam = mix.beta(jax.random.key(0), 0.2, 0.2, (8,))
      >>> lam.shape, bool(((lam >= 0) & (lam <= 1)).all())
      ((8,), True)
    """
    if b == 1:
        return jax.random.uniform(rng, shape) ** (1 / a)
    return jax.random.beta(rng, a, b, shape)


def fold(lam: Array) -> Array:
    """Fold lam to [1/2, 1]: max(lam, 1 - lam).

    With a random partner this changes no distribution (swap the roles of the two images). The released SMILE code
    does it, so it is kept for equality with its numbers.

    Args:
      lam: Numbers in [0, 1], of any shape.

    Returns:
      Numbers in [1/2, 1], of the same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> print(mix.fold(jnp.array([0.25, 0.5, 0.9])))
      [0.75 0.5  0.9 ]
    """
    return jnp.maximum(lam, 1 - lam)


def partner(x: Array, index: Array) -> Array:
    """Gather the partner of each example: a permutation of the batch within g contiguous groups of equal size.

    Use the same `index` for images and labels. A batch that is sharded over d devices needs no communication when g is
    a multiple of d, which is why groups are an axis of `index` and not an offset.

    Args:
      x: Images or labels, of shape (B, ...).
      index: Positions within the group, int of shape (g, B / g); a permutation of the whole batch is (1, B), or simply
        (B,). In a method, `batch['partner']`.

    Returns:
      The partners, of the shape of `x`.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> label = jnp.array([10, 11, 12, 13])
      >>> print(mix.partner(label, jnp.array([3, 2, 1, 0])))
      [13 12 11 10]
      >>> print(mix.partner(label, jnp.array([[1, 0], [1, 0]])))  # two groups
      [11 10 13 12]
    """
    chex.assert_rank(index, {1, 2}, custom_message='index must be (B,) or (groups, B / groups)')
    groups, size = index.shape if index.ndim == 2 else (1, len(index))
    chex.assert_shape(x, (groups * size, ...), custom_message='index must hold one position for each example of x')
    index = index.reshape(groups, size)
    grouped = x.reshape((groups, size) + x.shape[1:])
    with jax.named_scope('partner'):  # `mixjax plan` finds what it costs between chips by this name
        return jax.vmap(lambda rows, at: rows[at])(grouped, index).reshape(x.shape)


def cut_box(lam: Array, centre: Array, height: int, width: int) -> Array:
    """Compute CutMix's rectangle, which covers about 1 - lam of the image, cut off at the borders.

    Half sides are int(H sqrt(1 - lam)) // 2 and the same for W: an uncut box has even sides. At some lam (0.75,
    0.36, ..) H sqrt(1 - lam) is a whole number up to rounding; only float64 then agrees with the authors' code for
    certain, and float32 may give a half side of one pixel less. Yun et al. 2019, https://arxiv.org/abs/1905.04899.

    Args:
      lam: The share of the image that should stay, of shape (...).
      centre: Row and column of the middle, int of shape (..., 2).
      height: The height H of the image.
      width: The width W of the image.

    Returns:
      int32 of shape (..., 4): the box is rows [b0, b1) and columns [b2, b3), empty for lam = 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> print(mix.cut_box(jnp.array(0.5), jnp.array([4, 0]), 8, 8))
      [2 6 0 2]
    """
    lam, centre = jnp.asarray(lam), jnp.asarray(centre)
    chex.assert_shape(centre, (..., 2), custom_message='centre must be (.., 2), row and column')
    size = jnp.array([height, width], jnp.int32)
    half = (jnp.sqrt(1 - lam)[..., None] * size).astype(jnp.int32) // 2
    start, stop = jnp.clip(centre - half, 0, size), jnp.clip(centre + half, 0, size)
    return jnp.stack([start, stop], axis=-1).reshape(centre.shape[:-1] + (4,)).astype(jnp.int32)


def box_mask(box: Array, height: int, width: int) -> Array:
    """Rasterise boxes: True inside of each box.

    Args:
      box: Boxes of shape (..., 4); see `cut_box`.
      height: The height H of the image.
      width: The width W of the image.

    Returns:
      bool of shape (..., H, W), for boxes of any size.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> print(mix.box_mask(jnp.array([0, 1, 1, 3]), 2, 3).astype(int))
      [[0 1 1]
       [0 0 0]]
    """
    chex.assert_shape(box, (..., 4), custom_message='box must be (.., 4), see cut_box')
    row, column = jnp.arange(height)[:, None], jnp.arange(width)
    b0, b1, b2, b3 = (box[..., i, None, None] for i in range(4))
    return (row >= b0) & (row < b1) & (column >= b2) & (column < b3)


def box_lam(box: Array, height: int, width: int) -> Array:
    """Compute the share of the image that stays outside of the box, 1 - area / (H W).

    Args:
      box: Boxes of shape (..., 4); see `cut_box`.
      height: The height H of the image.
      width: The width W of the image.

    Returns:
      Numbers in [0, 1], of shape (...).

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> print(mix.box_lam(jnp.array([2, 6, 0, 2]), 8, 8))
      0.875
    """
    box = jnp.asarray(box)
    chex.assert_shape(box, (..., 4), custom_message='box must be (.., 4), see cut_box')
    area = (box[..., 1] - box[..., 0]) * (box[..., 3] - box[..., 2])
    # Not in float32 where the run is in float64: an int32 would be divided so.
    return 1 - area.astype(jnp.result_type(float)) / (height * width)


def paste(mask: Array, a: Array, b: Array) -> Array:
    """Paste `b` into `a` where the mask is true.

    Args:
      mask: bool of shape (H, W) or (B, H, W), such as `box_mask` returns.
      a: Images of shape (B, H, W, C).
      b: Images of the same shape.

    Returns:
      Images of the same shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> mask = mix.box_mask(jnp.array([0, 1, 1, 3]), 2, 3)
      >>> print(mix.paste(mask, jnp.zeros((1, 2, 3, 1)), jnp.ones((1, 2, 3, 1)))[0, ..., 0])
      [[0. 1. 1.]
       [0. 0. 0.]]
    """
    chex.assert_rank(mask, {2, 3}, custom_message='mask must be (H, W) or (B, H, W)')
    chex.assert_rank([a, b], 4, custom_message='images must be (B, H, W, C)')
    chex.assert_equal_shape([a, b], custom_message='both images must have the same shape')
    chex.assert_equal_shape_suffix([mask, a[..., 0]], 2, custom_message="mask must have the images' height and width")
    return jnp.where(mask[..., None], b, a)


# --- one batch mixed within itself, by each of the schemes ------------------------------------------------------------


def mixup(rng: Array, image: Array, index: Array, alpha: float, folded: bool = False) -> tuple[Array, Array]:
    """Mix a batch with itself by Mixup, with one lam ~ Beta(alpha, alpha).

    Zhang et al. 2018, https://arxiv.org/abs/1710.09412.

    Args:
      rng: A jax random key.
      image: Images of shape (B, ...).
      index: The partner of each example; see `partner`.
      alpha: The parameter of the Beta distribution, above 0.
      folded: Whether lam is folded to [1/2, 1]; see `fold`.

    Returns:
      The mixed images, of the shape of `image`, and lam, a scalar: the share of the image itself.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> image = jnp.array([[0.0], [1.0]])
      >>> mixed, lam = mix.mixup(jax.random.key(0), image, jnp.array([1, 0]), alpha=1.0)
      >>> bool(jnp.allclose(mixed, jnp.array([[1 - lam], [lam]])))
      True
    """
    lam = beta(rng, alpha, alpha)
    lam = fold(lam) if folded else lam
    return blend(lam, image, partner(image, index)), lam


def cutmix(rng: Array, image: Array, index: Array, alpha: float, probability: float) -> tuple[Array, Array]:
    """Mix a batch with itself by CutMix, with one box for all images and lam ~ Beta(alpha, alpha).

    Yun et al. 2019, https://arxiv.org/abs/1905.04899.

    Args:
      rng: A jax random key.
      image: Images of shape (B, H, W, C).
      index: The partner of each example; see `partner`.
      alpha: The parameter of the Beta distribution, above 0.
      probability: How likely it is that the batch is cut at all.

    Returns:
      The mixed images, of the shape of `image`, and a scalar: the share of the image that stays outside of the box.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> image = jnp.stack([jnp.zeros((8, 8, 1)), jnp.ones((8, 8, 1))])
      >>> mixed, lam = mix.cutmix(jax.random.key(0), image, jnp.array([1, 0]), alpha=1.0, probability=1.0)
      >>> bool(jnp.allclose(mixed[1].mean(), lam))
      True
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
    """Mix hidden activations of a batch by manifold mixup, at one layer drawn at random.

    Verma et al. 2019, https://arxiv.org/abs/1806.05236.

    Args:
      rng: A jax random key.
      index: The partner of each example; see `partner`.
      layers: Names of the activations that a network calls its tap with, such as `('input', 'stage1')`.
      alpha: The parameter of the Beta distribution that lam is drawn from, above 0.

    Returns:
      The tap that mixes, called as `tap(name, hidden)`; lam, a scalar; and a function to call after the forward pass,
      which raises an error if the network lacks one of the layers.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from mixjax import mix
      >>> tap, lam, check = mix.manifold(jax.random.key(0), jnp.array([1, 0]), ('stage1',), alpha=2.0)
      >>> hidden = tap('stage1', jnp.array([[0.0], [1.0]]))
      >>> check()
      >>> bool(jnp.allclose(hidden, jnp.array([[1 - lam], [lam]])))
      True
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
    """Refuse a list of layers that is empty or names one twice.

    Args:
      layers: Names of layers, for `manifold`.

    Raises:
      UserError: If the list is empty, or a name in it is empty or repeated.

    Example:
      >>> from mixjax import mix
      >>> mix.check_layers(('input', 'stage1'))
      >>> mix.check_layers(('input', 'input'))
      Traceback (most recent call last):
          ...
      mixjax.errors.UserError: layers must be different names, not ('input', 'input')
    """
    require(all(layers) and 0 < len(layers) == len(set(layers)), f'layers must be different names, not {layers!r}')
