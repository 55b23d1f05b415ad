"""Small copies of pictures."""

from __future__ import annotations

import numpy as np


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return (H, W, C) uint8 pixels shrunk to at most `side` by means over squares of whole pixels."""
    factor = -(-max(pixels.shape[:2]) // side)
    if factor <= 1:
        return pixels
    height, width = (max(1, size // factor) for size in pixels.shape[:2])
    across, down = min(factor, pixels.shape[1]), min(factor, pixels.shape[0])
    squares = pixels[: height * down, : width * across].reshape(height, down, width, across, -1)
    return np.rint(squares.mean(axis=(1, 3))).astype(np.uint8)
