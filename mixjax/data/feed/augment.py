"""Augmentation: from stored uint8 images to inputs of the network, inside the jitted step.

Training: black border, random crop, random flip, normalise. Test: centre crop, normalise.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


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
    """Crop and flip each image at random: (B, H, W, C) uint8 -> (B, crop, crop, C) float32.

    Args:
      key: a jax key.
      image: (B, H, W, C) uint8.
      geometry: the settings.
    """
    n, height, width, channels = image.shape
    pad, crop = geometry.pad, geometry.crop
    padded = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    at_row, at_column, mirror = jax.random.split(key, 3)
    # The type affects the random numbers; with a fixed one a float64 run has the crops of a float32 run.
    row = jax.random.randint(at_row, (n,), 0, height + 2 * pad - crop + 1, jnp.int32)
    column = jax.random.randint(at_column, (n,), 0, width + 2 * pad - crop + 1, jnp.int32)

    def cut(one: Array, row: Array, column: Array) -> Array:
        return jax.lax.dynamic_slice(one, (row, column, jnp.zeros_like(row)), (crop, crop, channels))

    cropped = jax.vmap(cut)(padded, row, column)
    if geometry.flip:
        flipped = jax.random.bernoulli(mirror, jnp.float32(0.5), (n, 1, 1, 1))
        cropped = jnp.where(flipped, cropped[:, :, ::-1], cropped)
    return normalise(cropped, geometry)


def centre(image: Array, geometry: Geometry) -> Array:
    """Return the centre crop of each image: (B, H, W, C) uint8 -> (B, crop, crop, C) float32.

    Images smaller than the crop get the training border around them.
    """
    height, width = image.shape[1:3]
    border = [(max(geometry.crop - side, 0) + 1) // 2 for side in (height, width)]
    image = jnp.pad(image, ((0, 0), (border[0],) * 2, (border[1],) * 2, (0, 0)))
    row, column = ((image.shape[axis] - geometry.crop) // 2 for axis in (1, 2))
    return normalise(image[:, row : row + geometry.crop, column : column + geometry.crop], geometry)


# For use outside of jit: one small program, instead of one for each operation.
centred = jax.jit(centre, static_argnums=1)
