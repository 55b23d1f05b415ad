"""Singular values of a feature matrix (XMixup, Fig. 2, after BSS).

Rows are images, columns the pooled features. The values are divided by the largest one; the paper shows the ten
smallest of them, and reads a small tail as little negative transfer.
"""

from __future__ import annotations

import numpy as np

from mixjax.errors import require


def singular_values(features: np.ndarray) -> np.ndarray:
    """Return the singular values divided by the largest: (n, d) -> (min(n, d),), descending.

    They are computed in float64, since the smallest ones matter.
    """
    features = np.asarray(features, np.float64)
    require(features.ndim == 2 and features.size > 0, f'a feature matrix is (images, features), not {features.shape}')
    values = np.linalg.svd(features, compute_uv=False)
    require(values[0] > 0, 'all features are 0, so their singular values have no scale')
    return values / values[0]


def tail(values: np.ndarray, count: int = 10) -> np.ndarray:
    """Return the `count` smallest of descending values, in ascending order."""
    return np.asarray(values)[::-1][:count]
