"""Several kinds of images in one forward pass, those of an example next to each other.

A batch that is spread over devices is cut along its first axis. If one kind followed the other, images would change
their device; side by side they stay. BatchNorm sees all of them, in any order.
"""

from __future__ import annotations

import jax.numpy as jnp

from mixjax.method import Array


def together(*kinds: Array) -> Array:
    """Join kinds of images of one batch, each with k_i images for each of the B examples of the first kind.

    Args:
      kinds: (k_i B, ..) each; k of the first is 1.

    Returns:
      (B sum_i k_i, ..)
    """
    count = len(kinds[0])
    found = jnp.concatenate([kind.reshape(count, -1, *kind.shape[1:]) for kind in kinds], axis=1)
    return found.reshape(-1, *found.shape[2:])


def apart(x: Array, *shares: int) -> list[Array]:
    """Invert `together` for what a network made of it: (B sum_i k_i, ..) -> (k_i B, ..) for each k_i of `shares`."""
    rows = x.reshape(-1, sum(shares), *x.shape[1:])
    ends = [sum(shares[: i + 1]) for i in range(len(shares))]
    return [rows[:, end - k : end].reshape(-1, *x.shape[1:]) for end, k in zip(ends, shares, strict=True)]
