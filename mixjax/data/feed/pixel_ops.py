"""Operations on the pixels of one image, as Pillow has them: (H, W, C) uint8 -> (H, W, C) uint8.

They are pure functions of arrays of any number of channels, made to be mapped over a batch with `jax.vmap`: the
strength of an operation may differ from image to image, so it is an array and never a Python branch. Types are fixed,
so that a program with 64-bit types computes the same bytes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array
LEVELS = 256
LUMA = (19595, 38470, 7471)  # ITU-R 601-2, as shares of 65536
BLUR_RADIUS = 6  # of a blur's taps: three times the largest standard deviation, 2


def fixed(x: Array) -> Array:
    """Return numbers in 65536ths, int32: sums and products of these are exact, in whatever way they are compiled."""
    return jnp.floor(x * 65536 + jnp.float32(0.5)).astype(jnp.int32)


# --- colours ----------------------------------------------------------------------------------------------------------


def grey(image: Array) -> Array:
    """Return the luma of a colour image in all three channels; an image without three channels is returned as it is."""
    if image.shape[-1] != 3:
        return image
    luma = (image.astype(jnp.int32) * jnp.asarray(LUMA, jnp.int32)).sum(-1, keepdims=True, dtype=jnp.int32)
    return jnp.broadcast_to((luma + 0x8000) >> 16, image.shape).astype(jnp.uint8)


def mean(image: Array) -> Array:
    """Return the mean of all values of an image, rounded to the nearest byte: () int32."""
    total, many = image.astype(jnp.uint32).sum(dtype=jnp.uint32), jnp.uint32(image.size)
    whole = total // many
    return (whole + (2 * (total - whole * many) >= many)).astype(jnp.int32)


def blend(base: Array, image: Array, factor: Array) -> Array:
    """Return base + factor (image - base), cut off to a byte: the image for 1, beyond it for more.

    Args:
      base: (H, W, C), or a shape that broadcasts to it, of bytes.
      image: (H, W, C) uint8.
      factor: () float32.
    """
    base, image = base.astype(jnp.int32), image.astype(jnp.int32)
    # The rounding of the factor changes a product by less than 128, so none that should be whole falls below it.
    return jnp.clip(base + ((fixed(factor) * (image - base) + 128) >> 16), 0, 255).astype(jnp.uint8)


def smooth(image: Array) -> Array:
    """Return a 3x3 mean in which the centre weighs five times; the outermost pixels stay as they are."""
    height, width, _ = image.shape
    if height < 3 or width < 3:
        return image
    x = image.astype(jnp.int32)
    around = sum(x[i : height - 2 + i, j : width - 2 + j] for i in range(3) for j in range(3))
    inside = (2 * (around + 4 * x[1:-1, 1:-1]) + 13) // 26  # rounded
    return image.at[1:-1, 1:-1].set(inside.astype(jnp.uint8))


def shift_hue(image: Array, turn: Array) -> Array:
    """Turn the hue of a colour image by a share of the circle, from -0.5 to 0.5; others are returned as they are.

    Value and saturation are kept. Pillow's own HSV images round all three to bytes on the way, and this does not.
    """
    if image.shape[-1] != 3:
        return image
    x = image.astype(jnp.float32)
    red, green, blue = x[..., 0], x[..., 1], x[..., 2]
    value = x.max(-1)
    chroma = value - x.min(-1)
    some = jnp.where(chroma > 0, chroma, 1)
    sixth = jnp.where(
        value == red, (green - blue) / some,
        jnp.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some),
    )  # fmt: skip
    # Each channel falls by the chroma over one sixth of the circle, stays low for two, and rises again.
    place = jnp.asarray((5, 3, 1), jnp.float32) + (sixth + 6 * turn)[..., None]
    place = place - 6 * jnp.floor(place / 6)  # a remainder takes CPUs several times longer
    fall = jnp.clip(jnp.minimum(place, 4 - place), 0, 1)
    turned = value[..., None] - chroma[..., None] * fall
    return jnp.clip(jnp.round(turned), 0, 255).astype(jnp.uint8)


# --- tables: the new value of each value ------------------------------------------------------------------------------


def histogram(image: Array) -> Array:
    """Return how often each value occurs in each channel: (C, 256) int32."""
    channels = image.shape[-1]
    place = image.reshape(-1, channels).astype(jnp.int32) + LEVELS * jnp.arange(channels, dtype=jnp.int32)
    return jnp.zeros(channels * LEVELS, jnp.int32).at[place].add(1).reshape(channels, LEVELS)


def posterize_table(bits: Array) -> Array:
    """Return the table that keeps the upper `bits` bits of a byte: (256,) int32."""
    return jnp.arange(LEVELS, dtype=jnp.int32) & ((0xFF00 >> bits.astype(jnp.int32)) & 0xFF)


def solarize_table(threshold: Array) -> Array:
    """Return the table that inverts the values from a threshold on: (256,) int32."""
    value = jnp.arange(LEVELS, dtype=jnp.int32)
    return jnp.where(value.astype(jnp.float32) < threshold, value, 255 - value)


def autocontrast_table(counts: Array) -> Array:
    """Return the table that stretches a channel from its least and largest value to 0 and 255: (256,) int32.

    A channel with a single value is left alone.

    Args:
      counts: (256,), how often each value occurs.
    """
    value = jnp.arange(LEVELS, dtype=jnp.int32)
    low = jnp.min(jnp.where(counts > 0, value, 255))
    high = jnp.max(jnp.where(counts > 0, value, 0))
    stretched = jnp.clip((value - low) * 255 // jnp.maximum(high - low, 1), 0, 255)
    return jnp.where(high > low, stretched, value)


def equalize_table(counts: Array) -> Array:
    """Return the table that makes the values of a channel about equally frequent: (256,) int32.

    Args:
      counts: (256,), how often each value occurs.
    """
    value = jnp.arange(LEVELS, dtype=jnp.int32)
    last = jnp.max(jnp.where(counts > 0, value, 0))
    total = jnp.cumsum(counts, dtype=jnp.int32)
    step = (total[-1] - counts[last]) // 255
    below = total - counts
    table = jnp.minimum((below + step // 2) // jnp.maximum(step, 1), 255)
    return jnp.where(step > 0, table, value)


def look_up(image: Array, table: Array) -> Array:
    """Replace each value of an image by its entry in the table of its channel, (C, 256)."""
    channels = image.shape[-1]
    place = image.astype(jnp.int32) + LEVELS * jnp.arange(channels, dtype=jnp.int32)
    return table.astype(jnp.uint8).reshape(-1)[place]


# --- places -----------------------------------------------------------------------------------------------------------


def affine(image: Array, across: tuple[Array, Array, Array], down: tuple[Array, Array, Array]) -> Array:
    """Sample an image at transformed places: the nearest pixel, and black outside of the image.

    Args:
      image: (H, W, C) uint8.
      across: of the input's column, counted from the left edge, in 65536ths (`fixed`): how much it grows from a column
        of the output to the next, from a row to the next, and where it is for the first pixel; each () int32.
      down: the same of the input's row, counted from the upper edge.
    """
    height, width, channels = image.shape
    x, y = jnp.arange(width, dtype=jnp.int32), jnp.arange(height, dtype=jnp.int32)[:, None]
    column, row = ((of_x * x + of_y * y + first) >> 16 for of_x, of_y, first in (across, down))
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    place = jnp.where(inside, row * width + column, 0)
    return jnp.where(inside[..., None], image.reshape(-1, channels)[place], 0).astype(jnp.uint8)


def resample(image: Array, start: Array, size: Array, side: int) -> Array:
    """Cut a rectangle out of an image and resize it to a square, bilinear and antialiased, as Pillow does.

    Args:
      image: (H, W, C) uint8.
      start: (2,) int32, the first row and column.
      size: (2,) int32, the height and width.
      side: of the result.
    """

    def weights(start: Array, size: Array, whole: int) -> Array:
        """Return the weight of each input in each output along one axis: (side, whole) float32."""
        scale = size.astype(jnp.float32) / side
        middle = start.astype(jnp.float32) + (jnp.arange(side, dtype=jnp.float32)[:, None] + jnp.float32(0.5)) * scale
        place = jnp.arange(whole, dtype=jnp.int32)
        far = jnp.abs(place.astype(jnp.float32) + jnp.float32(0.5) - middle) / jnp.maximum(scale, 1)
        found = jnp.where((place >= start) & (place < start + size), jnp.maximum(1 - far, 0), 0)
        return found / found.sum(-1, keepdims=True)

    down, across = (weights(start[axis], size[axis], image.shape[axis]) for axis in (0, 1))
    # Along the rows first, as Pillow; accelerators would otherwise round the weights.
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum('jw,hwc->hjc', across, image.astype(jnp.float32), precision=exact)
    x = jnp.einsum('ih,hjc->ijc', down, x, precision=exact)
    return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)


def blur(image: Array, sigma: Array) -> Array:
    """Blur an image with a Gaussian; the outermost pixels are repeated beyond the edge.

    Args:
      image: (H, W, C) uint8.
      sigma: () float32, the standard deviation in pixels, at most 2.
    """
    tap = jnp.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=jnp.float32)
    weight = jnp.exp(-jnp.square(tap / sigma) / 2)
    weight = weight / weight.sum()
    x = image.astype(jnp.float32)
    for axis in (0, 1):
        border = [(BLUR_RADIUS, BLUR_RADIUS) if a == axis else (0, 0) for a in range(3)]
        wide = jnp.pad(x, border, mode='edge')
        many = image.shape[axis]
        shifted = [jax.lax.slice_in_dim(wide, k, k + many, axis=axis) for k in range(len(tap))]
        x = jnp.asarray(sum(part * weight[k] for k, part in enumerate(shifted)))
    return jnp.clip(jnp.round(x), 0, 255).astype(jnp.uint8)


def erase(image: Array, start: Array, size: Array, noise: Array) -> Array:
    """Replace a rectangle of an image by other pixels.

    Args:
      image: (H, W, C) uint8.
      start: (2,) int32, the first row and column.
      size: (2,) int32, the height and width; 0 for none.
      noise: (H, W, C) uint8.
    """
    row, column = (jnp.arange(image.shape[axis], dtype=jnp.int32) - start[axis] for axis in (0, 1))
    inside = ((row >= 0) & (row < size[0]))[:, None] & ((column >= 0) & (column < size[1]))
    return jnp.where(inside[..., None], noise, image)
