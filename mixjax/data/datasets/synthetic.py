"""Synthetic images that differ by class, made row by row when they are read.

An image is the smooth pattern of its class, a 4x4 grid of random colours enlarged bilinearly, plus noise:

    image = 128 + (pattern[class] - 128) / 2 + noise,  noise ~ U{-48 .. 48} for each value

Everything is integer arithmetic on random numbers keyed by (seed, part, row), so a row has the same pixels on every
machine and in any batch, and no array of all images is ever made.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mixjax.errors import UserError

GRID = 4
NOISE = 48
Read = Callable[[np.ndarray], np.ndarray]


def synthetic(
    classes: int, per_class: int, shape: tuple[int, int, int], seed: int, *, part: int = 0
) -> tuple[Read, np.ndarray]:
    """Return a synthetic set of classes * per_class images.

    Args:
      classes: number of classes.
      per_class: number of images of each class.
      shape: (H, W, C) of the images.
      seed: of the patterns of the classes, and of the noise.
      part: parts of one set (train and test) have the same patterns and different noise.

    Returns:
      read: rows (k,) -> images (k, H, W, C) uint8.
      labels: (n,) int32, the classes in turn: 0, 1, .., 0, 1, ..
    """
    if classes < 1 or per_class < 1 or min(shape) < 1:
        raise UserError(f'synthetic images need at least 1 class, image and pixel, not {classes}, {per_class}, {shape}')
    labels = np.tile(np.arange(classes, dtype=np.int32), per_class)
    height, width, channels = shape
    rise, run = _weights(height), _weights(width)
    every = np.arange(len(labels))

    def read(rows: np.ndarray) -> np.ndarray:
        rows = every[np.asarray(rows, np.int64)]
        out = np.empty((len(rows), *shape), np.uint8)
        for image, row in zip(out, rows, strict=True):
            # The keys of patterns and of noise differ in their second number.
            grid = np.random.default_rng([seed, 0, int(labels[row])]).integers(0, 256, (channels, GRID, GRID))
            pattern = (rise @ grid @ run.T) >> 16
            noise = np.random.default_rng([seed, 1 + part, row]).integers(-NOISE, NOISE + 1, shape)
            image[:] = 64 + (pattern.transpose(1, 2, 0) >> 1) + noise
        return out

    return read, labels


def _weights(side: int) -> np.ndarray:
    """Return (side, GRID) integers, the weights of the grid points in linear interpolation, summing to 256."""
    at = np.arange(side) * (GRID - 1) * 256 // max(side - 1, 1)
    return np.maximum(256 - np.abs(at[:, None] - 256 * np.arange(GRID)), 0)
