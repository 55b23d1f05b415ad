"""Folds for cross-validation: stratified by class, with images that are alike on one side, and of equal size.

All folds of a search learn from the same number of examples and leave the same number out, so that they can be seeds
of one run and share its compiled programs. A fold that is smaller than the largest borrows examples, which it does not
learn from either; what it says of them is not counted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mixjax.errors import require


class Folds(NamedTuple):
    """Folds of some repeats.

    Attributes:
      held: (n, R, F) bool, true where a fold of a repeat leaves an example out. In each repeat every example is left
        out once, except for those that are always learned from: the only ones of their class, and images that are alike
        and of two classes, of which nobody knows what is right.
      learned: (R * F, m) int, rows that each fold learns from, ascending; all others are tested on.
    """

    held: np.ndarray
    learned: np.ndarray

    @property
    def repeats(self) -> int:
        return self.held.shape[1]

    @property
    def count(self) -> int:
        """The number of folds of a repeat."""
        return self.held.shape[2]

    def tested(self, fold: int) -> np.ndarray:
        """Return the rows that a fold (of all repeats, from 0) does not learn from, ascending."""
        return np.setdiff1d(np.arange(len(self.held)), self.learned[fold])

    def of(self, fold: int) -> np.ndarray:
        """Return (n,) bool, true where this fold leaves an example out."""
        return self.held[:, fold // self.count, fold % self.count]

    @property
    def measured(self) -> np.ndarray:
        """(n,) bool, the examples that are left out by some fold."""
        return np.asarray(self.held.any((1, 2)))


def draw(labels: np.ndarray, groups: np.ndarray, *, count: int, repeats: int, seed: int = 0) -> Folds:
    """Draw folds.

    Args:
      labels: (n,).
      groups: (n,), equal for images that are alike.
      count: number of folds of a repeat.
      repeats: number of repeats.
      seed: of the draw.
    """
    require(count >= 2 and repeats >= 1, f'there must be at least 2 folds and 1 repeat, not {count} and {repeats}')
    random = np.random.RandomState(seed)
    held = np.stack([_repeat(labels, groups, count, random) for _ in range(repeats)], 1)
    learned = [_equal(held[:, r], labels, random) for r in range(repeats)]
    least = min(len(rows) for some in learned for rows in some)
    return Folds(held, np.array([rows for some in learned for rows in _trimmed(some, labels, least, random)]))


def _repeat(labels: np.ndarray, groups: np.ndarray, count: int, random: np.random.RandomState) -> np.ndarray:
    """Return one repeat, (n, F): the groups of a class go to the folds in turn, large ones first."""
    names, place = np.unique(groups, return_inverse=True)
    sizes = np.bincount(place)
    one_class = [np.unique(labels[place == k]) for k in range(len(names))]
    of_class = np.array([found[0] if len(found) == 1 else -1 for found in one_class])
    held, total = np.zeros((len(labels), count), bool), np.zeros(count, int)
    for label in np.unique(of_class[of_class >= 0]):
        mine = random.permutation(np.flatnonzero(of_class == label))
        if len(mine) < 2:  # without it, nothing would be known of the class
            continue
        mine = mine[np.argsort(-sizes[mine], kind='stable')]
        here = np.zeros(count, int)
        turn = random.permutation(count)
        for group in mine:
            fold = min(range(count), key=lambda f: (here[f], total[f], turn[f]))
            held[place == group, fold] = True
            here[fold] += sizes[group]
            total[fold] += sizes[group]
    return held


def _equal(held: np.ndarray, labels: np.ndarray, random: np.random.RandomState) -> list[np.ndarray]:
    """Return the rows that each fold learns from, of one number as far as no class loses its last example."""
    most = int(held.sum(0).max())
    return [_without(np.flatnonzero(~out), labels, most - int(out.sum()), random) for out in held.T]


def _trimmed(some: list[np.ndarray], labels: np.ndarray, least: int, random: np.random.RandomState) -> list[np.ndarray]:
    return [_without(rows, labels, len(rows) - least, random) for rows in some]


def _without(rows: np.ndarray, labels: np.ndarray, many: int, random: np.random.RandomState) -> np.ndarray:
    """Return the rows without `many` of them, each of the class with the most that are left."""
    left = np.bincount(labels[rows])
    gone = []
    waiting = {label: list(random.permutation(rows[labels[rows] == label])) for label in np.unique(labels[rows])}
    for _ in range(many):
        label = int(left.argmax())
        if left[label] < 2:
            break
        gone.append(waiting[label].pop())
        left[label] -= 1
    return np.setdiff1d(rows, gone)
