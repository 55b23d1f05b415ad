"""Augmentation: from stored uint8 images to inputs of the network, inside the jitted step.

Training: black border, random crop, random flip, the operations of `config.image.augment`, normalise. Test: centre
crop, normalise.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixjax.data.feed import random_ops, specification

Array = jax.Array
# Places after those of the three keys of crop and flip, `jax.random.split(key, 3)`.
CROPS, OPERATIONS = 3, 4


class Geometry(NamedTuple):
    """Settings of `config.image`, as Python values."""

    crop: int
    pad: int
    flip: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: str = ''


def normalise(image: Array, geometry: Geometry) -> Array:
    """Return (x / 255 - mean) / std for each colour: uint8 or float (B, H, W, C) -> float32."""
    mean, std = jnp.asarray(geometry.mean, jnp.float32), jnp.asarray(geometry.std, jnp.float32)
    return (image.astype(jnp.float32) / 255 - mean) / std


def denormalise(image: Array, geometry: Geometry) -> Array:
    """Invert `normalise`, rounding to uint8."""
    mean, std = jnp.asarray(geometry.mean, jnp.float32), jnp.asarray(geometry.std, jnp.float32)
    return jnp.clip(jnp.round((image * std + mean) * 255), 0, 255).astype(jnp.uint8)


def train(key: Array, image: Array, geometry: Geometry) -> Array:
    """Crop, flip and augment each image at random: (B, H, W, C) uint8 -> (B, crop, crop, C) float32.

    With one key, crops and flips are the same whatever `geometry.augment` is, except for `resized_crop`, which takes
    the place of the crop.

    Args:
      key: a jax key.
      image: (B, H, W, C) uint8.
      geometry: the settings.
    """
    operations = specification.augmentations(geometry.augment)
    at_row, at_column, mirror = jax.random.split(key, 3)
    if operations and operations[0].name == 'resized_crop':
        least, most = operations[0].numbers
        cropped = random_ops.resized_crops(jax.random.fold_in(key, CROPS), image, (least, most), geometry.crop)
        operations = operations[1:]
    else:
        cropped = _random_crops(at_row, at_column, image, geometry)
    if geometry.flip:
        flipped = jax.random.bernoulli(mirror, jnp.float32(0.5), (len(image), 1, 1, 1))
        cropped = jnp.where(flipped, cropped[:, :, ::-1], cropped)
    if operations:
        cropped = random_ops.apply(jax.random.fold_in(key, OPERATIONS), cropped, operations)
    return normalise(cropped, geometry)


def _random_crops(at_row: Array, at_column: Array, image: Array, geometry: Geometry) -> Array:
    """Put a black border around each image, and cut out a window at a random place."""
    n, height, width, channels = image.shape
    pad, crop = geometry.pad, geometry.crop
    padded = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    # The type affects the random numbers; with a fixed one a float64 run has the crops of a float32 run.
    row = jax.random.randint(at_row, (n,), 0, height + 2 * pad - crop + 1, jnp.int32)
    column = jax.random.randint(at_column, (n,), 0, width + 2 * pad - crop + 1, jnp.int32)

    def cut(one: Array, row: Array, column: Array) -> Array:
        return jax.lax.dynamic_slice(one, (row, column, jnp.zeros_like(row)), (crop, crop, channels))

    return jax.vmap(cut)(padded, row, column)


def bordered(image: Array, geometry: Geometry) -> Array:
    """Return images, with the training border around them where they are smaller than the crop."""
    border = [(max(geometry.crop - side, 0) + 1) // 2 for side in image.shape[1:3]]
    return jnp.pad(image, ((0, 0), (border[0],) * 2, (border[1],) * 2, (0, 0)))


def centre(image: Array, geometry: Geometry) -> Array:
    """Return the centre crop of each image: (B, H, W, C) uint8 -> (B, crop, crop, C) float32.

    Images smaller than the crop get the training border around them.
    """
    image = bordered(image, geometry)
    row, column = ((image.shape[axis] - geometry.crop) // 2 for axis in (1, 2))
    return normalise(image[:, row : row + geometry.crop, column : column + geometry.crop], geometry)


def centre_box(height: int, width: int, geometry: Geometry) -> tuple[int, int, int, int]:
    """Return the top, left, bottom and right of the centre crop in a stored image; below 0 in the border around it."""
    found = []
    for side in (height, width):
        border = (max(geometry.crop - side, 0) + 1) // 2
        found.append((side + 2 * border - geometry.crop) // 2 - border)
    top, left = found
    return top, left, top + geometry.crop, left + geometry.crop


# For use outside of jit: one small program, instead of one for each operation.
centred = jax.jit(centre, static_argnums=1)
