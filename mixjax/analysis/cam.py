"""Class activation maps (LaMix, Fig. 7; Zhou et al. 2016, https://arxiv.org/abs/1512.04150).

    M_k(i, j) = sum_c W[c, k] F[i, j, c]

for the last map F of a network whose features are the mean of F: the mean of M_k is class k's logit without its bias.
The claim of the paper, that a method looks at narrower regions, has a number here: the share of the image where the
map is above half of its maximum.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def activation(maps: Array, kernel: Array, label: Array) -> Array:
    """M_label of each image.

    Args:
      maps: (n, h, w, d). kernel: (d, c) of the classifier. label: (n,).

    Returns:
      (n, h, w)
    """
    return jnp.einsum('nhwd,dn->nhw', maps, kernel[:, label])


def enlarge(maps: Array, height: int, width: int) -> Array:
    """(n, h, w) -> (n, height, width), bilinear."""
    return jax.image.resize(maps, (maps.shape[0], height, width), 'bilinear')


def positive(maps: Array) -> Array:
    """What speaks for the class, as a share of its maximum in the image: (n, h, w) in [0, 1]; 0 where nothing does."""
    up = jnp.maximum(maps, 0)
    most = up.max(axis=(1, 2), keepdims=True)
    return up / jnp.where(most == 0, 1.0, most)


def area(shares: Array, level: float = 0.5) -> Array:
    """The share of each image where the map (n, h, w) in [0, 1] is at least `level`: (n,)."""
    return jnp.mean(shares >= level, axis=(1, 2))


def mean_area(shares: Array, level: float = 0.5) -> tuple[float, int]:
    """The mean area over the images in which some place speaks for the class, NaN if none does; how many do not."""
    somewhere = shares.max(axis=(1, 2)) > 0
    return float(jnp.mean(area(shares, level), where=somewhere)), int((~somewhere).sum())
