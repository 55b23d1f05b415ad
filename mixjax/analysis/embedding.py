"""Separation of the classes in a bottleneck of two units, two numbers for each image (LaMix, Fig. 8)."""

from __future__ import annotations

import numpy as np

from mixjax.errors import require


def separation(codes: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean distance between class centres over the mean distance of an image to its class's centre.

    The larger it is, the tighter are the clusters and the wider the gaps; it is infinite where each class is a point.

    Args:
      codes: (n, k), the coordinates of each image.
      labels: (n,), of two classes at least.
    """
    codes, labels = np.asarray(codes, np.float64), np.asarray(labels)
    present = np.unique(labels)
    require(len(present) > 1, 'the separation of classes needs two of them')
    centres = np.stack([codes[labels == label].mean(0) for label in present])
    between = np.linalg.norm(centres[:, None] - centres, axis=-1)[np.triu_indices(len(present), 1)].mean()
    within = np.linalg.norm(codes - centres[np.searchsorted(present, labels)], axis=-1).mean()
    return float(between / within) if within > 0 else float('inf')
