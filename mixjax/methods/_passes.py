"""A pass of a function over all images of a part of the data, for `prepare`."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from mixjax.method import Array, Part

BATCH = 100  # images at a time


def passed(function: Callable[[Array], Array], part: Part) -> np.ndarray:
    """Return a function of each image of a part, in their order.

    Args:
      function: (100, H, W, C) -> (100, ..). The last batch is filled up: one shape, one compilation.
      part: n images.

    Returns:
      (n, ..) float64.
    """
    found = []
    for batch in part.batches(BATCH):
        n = len(batch['label'])
        filled = jnp.pad(batch['image'], [(0, BATCH - n), (0, 0), (0, 0), (0, 0)])
        found.append(np.asarray(function(filled), np.float64)[:n])
    return np.concatenate(found)
