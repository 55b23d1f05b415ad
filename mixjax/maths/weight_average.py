"""Averages of the weights of several networks, after they were trained.

* `interpolate`: between the pretrained and the fine-tuned weights (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903).
* `mean` of several networks, all of them or those that `greedy` selects (model soups, Wortsman et al. 2022,
  arXiv:2203.05482, Recipe 1).
* `from_zero_and_slope`: BatchNorm's statistics of a batch, from its update of the running ones, for their re-estimation
  under averaged weights (SWA, Izmailov et al. 2018, arXiv:1803.05407, section 3.2).

Sums are in float64, so that an average of equal weights is these weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mixjax.errors import require

Tree = Any


def interpolate(start: Tree, end: Tree, share: float) -> Tree:
    """Return (1 - share) start + share end; at 0 and 1 one of them itself.

    Args:
      start, end: trees of arrays of the same shapes.
      share: that of `end`, from 0 to 1.
    """
    require(0 <= share <= 1, f'a share must be from 0 to 1, not {share}')
    if share in (0, 1):
        return end if share else start
    return jax.tree.map(lambda a, b: _cast((1 - share) * _wide(a) + share * _wide(b), b), start, end)


def mean(trees: Sequence[Tree]) -> Tree:
    """Return the mean of trees of arrays of the same shapes; of one tree itself."""
    require(len(trees) > 0, 'a mean is of at least one network')
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *each: _cast(np.sum([_wide(x) for x in each], axis=0) / len(each), each[0]), *trees)


def greedy(scores: Sequence[float], score_of: Callable[[tuple[int, ...]], float]) -> tuple[int, ...]:
    """Select networks for a mean: the best first, each of the others if with it the score does not fall.

    Args:
      scores: that of each network alone; they are tried in falling order, equal ones in the order given.
      score_of: the score of the mean of these networks.

    Returns:
      Their numbers in the order in which they were taken, at least one.
    """
    order = sorted(range(len(scores)), key=lambda k: -scores[k])
    taken, best = (order[0],), scores[order[0]]
    for k in order[1:]:
        found = score_of((*taken, k))
        if found >= best:
            taken, best = (*taken, k), found
    return taken


def from_zero_and_slope(zero: Tree, slope: Tree, otherwise: Tree) -> Tree:
    """Return the statistics of a batch, from a rule that moves running ones linearly towards them.

    new = slope old + (1 - slope) batch, so batch = zero / (1 - slope), where zero is the new value at old = 0.

    Args:
      zero: trees of the new running statistics that follow on zeros.
      slope: derivatives of the new statistics with respect to the old ones.
      otherwise: what to return for statistics that the batch does not move (slope 1).
    """

    def one(zero: Any, slope: Any, otherwise: Any) -> np.ndarray:
        moved = 1 - _wide(slope)
        return np.where(moved > 0, _wide(zero) / np.where(moved > 0, moved, 1), _wide(otherwise))

    return jax.tree.map(one, zero, slope, otherwise)


def _wide(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float64)


def _cast(x: np.ndarray, like: Any) -> np.ndarray:
    return np.asarray(x).astype(np.asarray(like).dtype)
