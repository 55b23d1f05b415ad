"""Class activation maps (LaMix, Fig. 7; Zhou et al. 2016, https://arxiv.org/abs/1512.04150).

    M_k(i, j) = sum_c W[c, k] F[i, j, c]

for the last map F of a network whose features are the mean of F: the mean of M_k is class k's logit without its bias.
For other networks (a class token, pooling by attention, a norm behind the pooling) the mean derivative of the logit
stands for W, as in Grad-CAM (Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391): a_c = the mean of dz_k / dF[c]
over all positions, of the last stage whose positions the logit depends on (`by_gradient`). For a network of the first
kind this is the same map, divided by the number of positions.
The paper claims that a method looks at narrower regions. Here this is a number: the share of the image where the map
is above half of its maximum.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array


def activation(maps: Array, kernel: Array, label: Array) -> Array:
    """Return M_label of each image.

    Args:
      maps: (n, h, w, d), the last maps of the network.
      kernel: (d, c), the kernel of the classifier.
      label: (n,), the class whose map is wanted.

    Returns:
      (n, h, w)
    """
    return jnp.einsum('nhwd,dn->nhw', maps, kernel[:, label])


def by_gradient(forward: Callable[..., tuple[Array, dict[str, Array]]], x: Array, label: Array, place: str) -> Array:
    """Return the gradient-weighted map of each image's class.

    Args:
      forward: (x, tap) -> (logits (n, c), maps), as a network has them in eval mode.
      x: (n, H, W, C), the inputs.
      label: (n,), the class whose map is wanted.
      place: name of the map, which is also its tap's: `stage4`.

    Returns:
      (n, h, w)
    """

    def score(shift: Array) -> tuple[Array, tuple[Array, Array]]:
        kept = {}

        def tap(name: str, hidden: Array) -> Array:
            if name != place:
                return hidden
            kept[name] = hidden
            return hidden + shift.astype(hidden.dtype)

        logits, maps = forward(x, tap)
        return jnp.take_along_axis(logits, label[:, None], 1).sum(), (kept[place], maps[place])

    def hidden(x: Array) -> Array:
        kept = {}
        forward(x, lambda name, hidden: kept.setdefault(name, hidden))
        return kept[place]

    shape = jax.eval_shape(hidden, x).shape
    slope, (found, grid) = jax.grad(score, has_aux=True)(jnp.zeros(shape, jnp.float32))
    n, height, width, channels = grid.shape
    # A class token and its like are in front of the positions.
    found, slope = (part.reshape(n, -1, channels)[:, -height * width :] for part in (found, slope))
    return jnp.einsum('npd,nd->np', found, slope.mean(1)).reshape(n, height, width)


def enlarge(maps: Array, height: int, width: int) -> Array:
    """Resize maps bilinearly: (n, h, w) -> (n, height, width)."""
    return jax.image.resize(maps, (maps.shape[0], height, width), 'bilinear')


def positive(maps: Array) -> Array:
    """Return the positive part of each map, (n, h, w), divided by its maximum; all 0 where no value is positive."""
    up = jnp.maximum(maps, 0)
    most = up.max(axis=(1, 2), keepdims=True)
    return up / jnp.where(most == 0, 1.0, most)


def area(shares: Array, level: float = 0.5) -> Array:
    """Return the share of each image where its map is at least `level`: (n, h, w) in [0, 1] -> (n,)."""
    return jnp.mean(shares >= level, axis=(1, 2))


def mean_area(shares: Array, level: float = 0.5) -> tuple[float, int]:
    """Return the mean area over the images whose map is positive somewhere, and the number of the other images.

    The mean is NaN where no map is positive anywhere.

    Args:
      shares: (n, h, w) in [0, 1], as `positive` returns them.
      level: see `area`.
    """
    somewhere = shares.max(axis=(1, 2)) > 0
    return float(jnp.mean(area(shares, level), where=somewhere)), int((~somewhere).sum())
