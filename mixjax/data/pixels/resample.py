"""A faster version of Pillow's antialiased bilinear resize, by products of small matrices.

Each pixel is a weighted mean of the few source pixels around it: first along the rows and then along the columns,
rounded to a byte both times. Neighbours share most of those, so a block of them is one product of matrices.

A weight is a multiple of 2**-16 (Pillow's are of 2**-22), and the weights of a pixel sum to 1. So every partial sum is
an exact float32: the result does not depend on the order of addition, and differs from Pillow's by 1 in about one value
in a thousand, where that was near a half.

Pillow 13 begins with the columns if the height shrinks more than the width (pull request 9549), which changes one
value in five by 1. The published pipelines used earlier versions; this keeps their order.
"""

from __future__ import annotations

import functools

import numpy as np

BLOCKS = (8, 4)  # pixels; the first one that fits is used
TOGETHER = 8  # blocks in one product
# Multiplications in a product above which BLAS would start threads; images are already resized in threads.
ALONE = 1 << 18
KEPT = 1 << 16  # largest number of weights of an axis that are cached


def bilinear(image: np.ndarray, rows: tuple[int, int], columns: tuple[int, int], side: int) -> np.ndarray | None:
    """Resize and then crop an image.

    Args:
      image: (H, W, C) uint8.
      rows: the height after resizing, and the first of the `side` rows that are kept.
      columns: the width after resizing, and the first of the `side` columns that are kept.
      side: side of the result.

    Returns:
      (side, side, C) uint8, or None for an image that is too large to gain anything.
    """
    import cv2

    (height, width), depth = image.shape[:2], image.shape[2]
    for block in BLOCKS:
        down, across = _blocks(height, *rows, side, block), _blocks(width, *columns, side, block)
        if max(across.products * (down.end - down.begin), down.products * side) * depth <= ALONE:
            break
    else:
        return None
    # The first axis is combined. OpenCV drops the last axis if there is one channel.
    part = cv2.transpose(image[down.begin : down.end, across.begin : across.end])
    part = cv2.transpose(_combined(across, part.reshape(*part.shape[:2], depth)))
    return _combined(down, part.reshape(*part.shape[:2], depth))


class _Blocks:
    """Resizing of one axis: the source pixels of each block, and their weights.

    Args:
      size: length of the axis.
      length: its length after resizing.
      first: the first of the pixels that are kept.
      side: number of pixels that are kept.
      block: number of pixels in a block.
    """

    def __init__(self, size: int, length: int, first: int, side: int, block: int) -> None:
        step = size / length
        self._reach, count = max(step, 1.0), -(-side // block)
        centre = (first + np.minimum(np.arange(count * block), side - 1) + 0.5) * step
        low = np.maximum((centre - self._reach + 0.5).astype(np.int64), 0)
        high = np.minimum((centre + self._reach + 0.5).astype(np.int64), size)
        self._taken = int((high[block - 1 :: block] - low[::block]).max())
        self._start = np.minimum(low[::block], size - self._taken)
        self._centre = centre.reshape(count, block, 1)
        self.begin, self.end, self.side = int(self._start[0]), int(self._start[-1]) + self._taken, side
        self.products = block * self._taken
        self._kept: tuple[np.ndarray, np.ndarray] | None = None

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the source pixels (n, k) of n blocks, and the weights (n, block, k) float32.

        They are computed on use, because many instances are only compared, and those of a long strip are large.
        """
        if self._kept is not None:
            return self._kept
        count, block, taken = *self._centre.shape[:2], self._taken
        at = self._start[:, None] + np.arange(taken)
        distance = np.abs(at[:, None] + 0.5 - self._centre)
        weights = np.clip(1 - distance / self._reach, 0, None)
        weights = np.floor(weights / weights.sum(-1, keepdims=True) * 65536 + 0.5).reshape(count * block, taken)
        weights[np.arange(count * block), weights.argmax(-1)] += 65536 - weights.sum(-1)
        made = at - self.begin, (weights / 65536).astype(np.float32).reshape(count, block, taken)
        if weights.size <= KEPT:
            self._kept = made
        return made


@functools.lru_cache(256)
def _blocks(size: int, length: int, first: int, side: int, block: int) -> _Blocks:
    return _Blocks(size, length, first, side, block)


def _combined(how: _Blocks, image: np.ndarray) -> np.ndarray:
    """Resize the first axis: (m, n, C) uint8 -> (side, n, C)."""
    flat = image.reshape(len(image), -1)
    places, weights = how.table()
    out = np.empty((*weights.shape[:2], flat.shape[1]), np.uint8)
    # As many blocks at once as fit into a CPU cache; not one by one, since each call waits for the GIL afterwards.
    for start in range(0, len(out), TOGETHER):
        some = slice(start, start + TOGETHER)
        sums = np.matmul(weights[some], flat.take(places[some], axis=0).astype(np.float32))
        sums += 0.5  # halves are rounded up
        out[some] = sums
    return out.reshape(-1, flat.shape[1])[: how.side].reshape(how.side, *image.shape[1:])
