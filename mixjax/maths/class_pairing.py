"""Pairing of target classes with source classes (XMixup section 3): numpy, once a run.

The paper's Eq. 2 takes the *argmin* over a "dist" that it defines as the cosine; that would pair each class with the
least similar one. The cosine is maximised here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import chex
import numpy as np

from mixjax.errors import UserError


def centroids(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the mean feature of each class (Eq. 1), in float64.

    Args:
      features: (n, d).
      labels: (n,) int.
      classes: number of classes.

    Returns:
      (classes, d); a class without examples gets zeros.
    """
    return centroids_of([(features, labels)], classes)


def centroids_of(parts: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> np.ndarray:
    """Return `centroids` of parts (features (n, d), labels (n,)), of which only one at a time is in memory."""
    sums, counts = np.zeros((classes, 0)), np.zeros(classes, int)
    for features, labels in parts:
        chex.assert_rank(features, 2, custom_message='features must be (n, d)')
        chex.assert_shape(labels, (len(features),), custom_message='labels must be (n,), one for each row of features')
        sums = sums if sums.shape[1] else np.zeros((classes, features.shape[1]))
        np.add.at(sums, labels, features.astype(np.float64))
        counts += np.bincount(labels, minlength=classes)
    return sums / np.maximum(counts, 1)[:, None]


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosine of every row of `a` (p, d) with every row of `b` (q, d): (p, q); 0 for a zero row."""

    def unit(x: np.ndarray) -> np.ndarray:
        norm = np.linalg.norm(x, axis=1, keepdims=True)
        return x / np.where(norm == 0, 1.0, norm)

    chex.assert_rank([a, b], 2, custom_message='features must be (classes, d)')
    chex.assert_equal_shape_suffix([a, b], 1, custom_message='both sets of features must have the same width d')
    return unit(a) @ unit(b).T


def greedy(score: np.ndarray) -> np.ndarray:
    """Pair classes one to one: repeatedly take the best remaining (target, source) pair.

    Args:
      score: (c, m) with c <= m; -inf for a source class that must not be used.

    Returns:
      (c,), the source class of each target class. Ties go to the lower target class, then to the lower source class.
    """
    _check_score(score)
    score = score.copy()
    mapping = np.full(len(score), -1)
    # The best remaining source class of each target class; it is searched again only when that class is taken.
    at = score.argmax(axis=1)
    best = np.take_along_axis(score, at[:, None], axis=1)[:, 0]
    for _ in range(len(score)):
        t = int(best.argmax())
        s = mapping[t] = at[t]
        score[:, s] = -np.inf
        best[t], at[t] = -np.inf, -1
        lost = np.flatnonzero(at == s)
        at[lost] = score[lost].argmax(axis=1)
        best[lost] = score[lost, at[lost]]
    return mapping


def assignment(score: np.ndarray) -> np.ndarray:
    """Return the one-to-one pairing with the largest total score (Hungarian algorithm); arguments as in `greedy`."""
    from scipy.optimize import linear_sum_assignment

    _check_score(score)
    return linear_sum_assignment(np.where(np.isneginf(score), -1e9, score), maximize=True)[1]


def _check_score(score: np.ndarray) -> None:
    chex.assert_rank(score, 2, custom_message='score must be (target classes, source classes)')


class Pairs(NamedTuple):
    """Pairs of classes.

    mapping: (rounds, c) source class of each target class. score: (rounds, c) their cosines.
    """

    mapping: np.ndarray
    score: np.ndarray


def require_enough(c: int, m: int) -> None:
    """Refuse c target classes if there are fewer than c source classes, m, to pair with."""
    if c > m:
        raise UserError(f'{c} target classes cannot each get a separate source class: the source has only {m}')


def pair(score: np.ndarray, sizes: np.ndarray, *, rounds: int = 1, min_images: int = 0, exact: bool = False) -> Pairs:
    """Pair classes in rounds: at least `rounds`, and until the chosen source classes have `min_images` images.

    Each round pairs every target class with a source class that no earlier round has used.

    Args:
      score: (c, m), similarities.
      sizes: (m,), number of images of each source class.
      rounds: smallest number of rounds.
      min_images: smallest number of images of the chosen source classes together.
      exact: take the optimal assignment in each round instead of the greedy one.
    """
    _check_score(score)
    chex.assert_shape(sizes, (score.shape[1],), custom_message='sizes must be (m,), the images of each source class')
    c = len(score)
    m = int(np.count_nonzero(sizes))  # a class without images cannot be paired
    require_enough(c, m)
    free, made, images = np.where(sizes > 0, score, -np.inf), [], 0
    while len(made) < max(rounds, 1) or images < min_images:
        if (len(made) + 1) * c > m:
            what = f'{min_images} source images' if len(made) >= rounds else f'{rounds} rounds of pairing'
            raise UserError(
                f'{what} need {(len(made) + 1) * c} source classes or more ({c} a round), and the source has only {m}; '
                f'ask for at most rounds={len(made)} or min_images={images}'
            )
        mapping = (assignment if exact else greedy)(free)
        free[:, mapping] = -np.inf
        images += int(sizes[mapping].sum())
        made.append(mapping)
    mapping = np.stack(made)
    return Pairs(mapping, score[np.arange(c), mapping])
