"""Finds images that are equal, or nearly so: they must be on one side of every fold, or accuracy is flattered.

Two images are alike if their difference hashes (64 comparisons of neighbouring pixels of a 9 x 8 picture) differ in at
most `BITS` places, and then their 16 x 16 thumbnails fit too. The hash finds pairs among many images; the thumbnails
keep cut-out objects on a white ground apart, whose hashes are mostly that ground.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

Read = Callable[[np.ndarray], np.ndarray]

BITS = 6  # of 64; at most 7, so that two hashes of a pair share one of eight bytes
FEW = 3  # for more than MANY images: so that they share two of eight bytes, which fewer pairs do by chance
MANY = 20_000
SIDE = 16
CLOSE, SAME = 10.0, 0.985  # mean difference in grey levels, and correlation of the thumbnails
BATCH = 256


class Prints(NamedTuple):
    """The fingerprints of some images.

    Attributes:
      digest: (n,) digests of the pixels, as bytes.
      hashed: (n,) uint64, difference hashes.
      thumb: (n, SIDE, SIDE) float32, in grey levels.
    """

    digest: np.ndarray
    hashed: np.ndarray
    thumb: np.ndarray


def reduced(grey: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the means of the cells of a grid: (m, H, W) -> (m, rows, columns); each cell has at least a pixel."""
    high, wide = grey.shape[1:]

    def edges(size: int, cells: int) -> np.ndarray:
        return np.minimum(np.arange(cells) * size // cells, size - 1)

    top, left = edges(high, rows), edges(wide, columns)
    ends = [np.maximum(np.append(start[1:], size), start + 1) for start, size in ((top, high), (left, wide))]
    whole = np.zeros((len(grey), high + 1, wide + 1))
    whole[:, 1:, 1:] = grey.cumsum(1).cumsum(2)

    def corner(r: np.ndarray, c: np.ndarray) -> np.ndarray:
        return whole[:, r][:, :, c]

    total = corner(ends[0], ends[1]) - corner(top, ends[1]) - corner(ends[0], left) + corner(top, left)
    return total / ((ends[0] - top)[:, None] * (ends[1] - left)[None])


def prints(read: Read, count: int, said: Callable[[int], None] = lambda many: None) -> Prints:
    """Look at `count` images, a batch at a time. said: is called with the number of images of each batch."""
    digest, hashed, thumb = [], [], []
    bits = np.uint64(1) << np.arange(64, dtype=np.uint64)
    for start in range(0, count, BATCH):
        images = read(np.arange(start, min(start + BATCH, count)))
        digest += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
        grey = images.mean(-1)
        small = reduced(grey, 8, 9)
        brighter = (small[:, :, 1:] > small[:, :, :-1]).reshape(len(images), 64)
        hashed.append((brighter * bits).sum(1, dtype=np.uint64))
        thumb.append(reduced(grey, SIDE, SIDE).astype(np.float32))
        said(len(images))
    return Prints(np.array(digest), np.concatenate(hashed), np.concatenate(thumb))


def pairs(found: Prints) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows that are alike; of many that are all alike, each with the first."""
    first: dict[bytes, int] = {}
    for row, key in enumerate(found.digest.tolist()):
        if first.setdefault(key, row) != row:
            yield first[key], row
    rows = np.array(sorted(first.values()))
    contrast = found.thumb[rows].std((1, 2))
    rows = rows[contrast > 1]  # of a picture of one colour, every other such picture would be a near copy
    few = len(rows) > MANY
    parts = found.hashed[rows].view(np.uint8).reshape(-1, 8) if len(rows) else np.zeros((0, 8), np.uint8)
    keys = [(a, b) for a in range(8) for b in range(a + 1, 8)] if few else [(a, a) for a in range(8)]
    seen: set[tuple[int, int]] = set()
    for a, b in keys:
        value = parts[:, a].astype(np.int32) * 256 + parts[:, b]
        order = np.argsort(value, kind='stable')
        starts = np.flatnonzero(np.diff(value[order], prepend=-1))
        for bucket in np.split(order, starts[1:]):
            for here, others in _close(found, rows, bucket, FEW if few else BITS):
                for other in others:
                    pair = (int(rows[here]), int(rows[other]))
                    if pair not in seen:
                        seen.add(pair)
                        yield pair


def _close(found: Prints, rows: np.ndarray, bucket: np.ndarray, bits: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each place of a bucket with the later places whose images are alike."""
    hashed = found.hashed[rows[bucket]]
    for k in range(len(bucket) - 1):
        differ = np.bitwise_count(hashed[k + 1 :] ^ hashed[k])
        near = bucket[k + 1 :][differ <= bits]
        if len(near):
            good = fits(found.thumb[rows[bucket[k]]], found.thumb[rows[near]])
            if good.any():
                yield int(bucket[k]), near[good]


def fits(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return whether the thumbnails (m, S, S) show what `one` (S, S) shows."""
    gap = np.abs(others - one).mean((1, 2))
    a, b = one - one.mean(), others - others.mean((1, 2), keepdims=True)
    norm = np.sqrt((a**2).sum() * (b**2).sum((1, 2)))
    return (gap < CLOSE) & ((a * b).sum((1, 2)) > SAME * norm)


def groups(found: Prints) -> np.ndarray:
    """Return for each image the lowest row of those that it is alike with, directly or by others: (n,) int."""
    parent = np.arange(len(found.hashed))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for one, other in pairs(found):
        a, b = root(one), root(other)
        parent[max(a, b)] = min(a, b)
    return np.array([root(row) for row in range(len(parent))])
