"""The labelling problem of PuzzleMix: costs of the labels of blocks, and of neighbours with different labels.

B examples of n x n blocks. `self` is the image of an example, `partner` the image that it is mixed with; label l in
{0, 1, 2} gives the partner the share l / 2. Everything is computed in the type of the images; costs are int32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mixjax.maths.puzzle.mincut import Costs

Array = jax.Array


class Terms(NamedTuple):
    """The labelling problem before scaling and rounding.

    Attributes:
      unary_self: (B, n, n), the cost of each block where self is *not* shown.
      unary_partner: (B, n, n), the cost of each block where the partner is *not* shown.
      down: (B, n - 1, n), the cost of different labels of vertical neighbours, besides beta.
      right: (B, n, n - 1), the same for horizontal neighbours.
    """

    unary_self: Array
    unary_partner: Array
    down: Array
    right: Array


def pool(x: Array, size: int) -> Array:
    """Return the means of size x size squares: (B, H, W, ...) -> (B, H/size, W/size, ...)."""
    b, h, w, *rest = x.shape
    return x.reshape(b, h // size, size, w // size, size, *rest).mean((2, 4))


def added(parts: Sequence[Array]) -> Array:
    """Return the mean of a few arrays, added one after another.

    Differences of 8-bit images are multiples of 1/255, so costs can be integers exactly, and their rounding then
    depends on the last bit: the order of the sums is that of the released code.
    """
    total = sum(parts[1:], parts[0])
    return total / jax.lax.optimization_barrier(jnp.full_like(total, len(parts)))


def normalised(u: Array) -> Array:
    """Divide u (B, n, n) by its sum; where that is 0 the result is uniform, since all blocks are equally good."""
    total = u.sum((1, 2), keepdims=True)
    blank = total <= 0
    return jnp.where(blank, 1 / (u.shape[1] * u.shape[2]), u / jnp.where(blank, 1, total))


def step_down(a: Array, b: Array, k: int) -> Array:
    """Return the mean of |a(row above) - b(row below)| along each border between vertical neighbours.

    Args:
      a: (B, n k, n k, C), the image above.
      b: (B, n k, n k, C), the image below.
      k: side of a block in pixels.

    Returns:
      (B, n - 1, n)
    """
    difference = jnp.abs(a[:, k - 1 : -1 : k] - b[:, k::k])
    difference = added([difference[..., c] for c in range(difference.shape[-1])])
    return added([difference[..., i::k] for i in range(k)])


def terms(
    image_self: Array,
    image_partner: Array,
    u_self: Array,
    u_partner: Array,
    *,
    neighbourhood: int,
    beta: float,
    gamma: float,
) -> Terms:
    """Return the data and smoothness terms of n x n blocks.

    p_ab, beta gamma times the difference along the border, is the cost of an edge with image a above (or to the left)
    and image b below (or to the right). Written as unaries and a distance of labels, the halves of the four p go to
    the unaries of both sides, and (p_sp + p_ps - p_ss - p_pp) / 2 to the edge's weight.

    Args:
      image_self: (B, H, W, C) in [0, 1].
      image_partner: (B, H, W, C) in [0, 1].
      u_self: (B, n, n), the saliency of the blocks of `image_self`, of sum 1.
      u_partner: (B, n, n), the saliency of the blocks of `image_partner`, of sum 1.
      neighbourhood: images are pooled by this many pixels before neighbours are compared.
      beta: weight of the smoothness of the labels.
      gamma: the share of it that depends on the images' differences.
    """
    n = u_self.shape[1]
    i = range(neighbourhood)
    a = {
        name: added([image[:, r::neighbourhood, c::neighbourhood] for r in i for c in i])
        for name, image in (('s', image_self), ('p', image_partner))
    }
    k = a['s'].shape[1] // n

    def edges(a: dict[str, Array]) -> tuple[Array, Array, Array]:
        """Return the terms of the vertical edges in the unaries of self and partner (B, n, n), and the weights."""
        p = {x + y: beta * gamma * step_down(a[x], a[y], k) for x in 'ps' for y in 'ps'}
        above, below = ((0, 0), (0, 1), (0, 0)), ((0, 0), (1, 0), (0, 0))  # pad to (B, n, n)
        own = jnp.pad((p['ps'] + p['pp']) / 2, above) + jnp.pad((p['sp'] + p['pp']) / 2, below)
        partner = jnp.pad((p['sp'] + p['ss']) / 2, above) + jnp.pad((p['ps'] + p['ss']) / 2, below)
        return own, partner, (p['sp'] + p['ps'] - p['ss'] - p['pp']) / 2

    def turned(x: Array) -> Array:
        return jnp.swapaxes(x, 1, 2)

    own_x, partner_x, down = edges(a)
    own_y, partner_y, right = (turned(x) for x in edges({name: turned(x) for name, x in a.items()}))
    return Terms(u_self + own_x + own_y, u_partner + partner_x + partner_y, down, right)


def costs(terms: Terms, lam: Array, *, beta: float, eta: float) -> Costs:
    """Return integer costs: the terms, and a prior of the labels, times 1000 n^2, rounded towards zero.

    Args:
      terms: the data and smoothness terms.
      lam: () in [0, 1]. Label l costs -(eta / n^2) log Binomial(2, 1 - lam)(l) besides its unary.
      beta: added to every weight; weights are never negative as long as gamma <= 1 and images are in [0, 1].
      eta: weight of the prior, before it is divided by n^2.
    """
    own, partner, down, right = terms
    n = own.shape[1]
    lam = jnp.asarray(lam, own.dtype)
    scale, tiny = 1000 * n**2, 1e-8
    probability = jnp.stack([lam**2, 2 * lam * (1 - lam), (1 - lam) ** 2])
    prior = eta * -jnp.log(probability + tiny) / n**2
    shown = jnp.arange(3, dtype=own.dtype) / 2  # the partner's share
    unary = (1 - shown) * partner[..., None] + shown * own[..., None] + prior

    def whole(x: Array) -> Array:
        return (scale * x).astype(jnp.int32)

    return Costs(whole(unary), whole(down + beta), whole(right + beta))
