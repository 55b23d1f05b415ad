"""Seeded choice of the classes, the labelled examples and the validation examples of a run.

The classes are the same for all seeds of a run; the examples are drawn for each seed, and are the same for all methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mixjax.data.dataset import Dataset
from mixjax.data.pixels.decoded_cache import Subset
from mixjax.errors import UserError, require

REST = 'rest'  # a value of `config.unlabelled.name`: the examples that are not drawn
NOTHING = 'none'  # a value of `config.target.test`: no example is tested on
TESTS = ('', REST, NOTHING)
SAMPLERS = ('stratified', 'global_floor_plus_one')


class Drawn(NamedTuple):
    """Rows of the train part that one seed draws.

    Attributes:
      labelled: rows that were chosen to learn from.
      val: rows to validate on.
      added: all other rows, if they are learned from too.
      unlabelled: rows whose images are learned from without their labels.
    """

    labelled: np.ndarray
    val: np.ndarray
    added: np.ndarray
    unlabelled: np.ndarray = np.zeros(0, np.int64)  # noqa: RUF012, never changed

    @property
    def train(self) -> np.ndarray:
        """Rows that are learned from; the chosen ones come first."""
        return np.concatenate([self.labelled, self.added])

    @property
    def known(self) -> np.ndarray:
        """Rows that are used in training: none of them may be in the test set."""
        return np.concatenate([self.labelled, self.added, self.val, self.unlabelled])


def strata(data: Dataset) -> tuple[np.ndarray, Sequence[str]]:
    """Return the labels and the classes that examples are drawn by; without classes all examples are one."""
    if data.labels.ndim == 1:
        return data.labels, data.classes
    return np.zeros(len(data.labels), np.int32), ('all images',)


def draw(
    labels: np.ndarray, classes: Sequence[str], *, seed: int, per_class: int = 0, rate: float = 1.0,
    counts: Sequence[int] = (), images: int = 0, sampler: str = SAMPLERS[0],
) -> np.ndarray:  # fmt: skip
    """Draw the labelled examples.

    The number is given by the first of `counts`, `images`, `per_class` and `rate` that is not empty or 0.

    Args:
      labels: (n,), labels of all examples to choose from.
      classes: class names, for the error message.
      seed: of the draw; the same seed gives the same rows for all methods.
      per_class: number of examples of each class.
      rate: ceil(rate * n_c) of the n_c examples of class c, or with the sampler `global_floor_plus_one`
        1 + floor(rate * n) of all n examples, regardless of class.
      counts: number of examples of each class.
      images: number of all examples, spread over the classes as evenly as possible.
      sampler: one of SAMPLERS.

    Returns:
      (k,) int64 rows, sorted by class and then by row.
    """
    # RandomState, because numpy guarantees that its streams never change.
    random = np.random.RandomState(seed)
    sizes = np.bincount(labels, minlength=len(classes))
    for size, name in zip(sizes, classes, strict=True):
        require(size > 0, f'class {name!r} has no example to learn from')
    if sampler == 'global_floor_plus_one' and not (len(counts) or images or per_class):
        # As in the released code: in floating point, where 0.29 * 100 is below 29.
        chosen = random.permutation(len(labels))[: 1 + int(rate * len(labels))]
        return chosen[np.lexsort((chosen, labels[chosen]))]
    wanted = _wanted(sizes, classes, counts, images, per_class, rate, seed)
    chosen = [
        np.sort(random.permutation(np.flatnonzero(labels == label))[:count]) for label, count in enumerate(wanted)
    ]
    return np.concatenate(chosen)


def _wanted(
    sizes: np.ndarray,
    classes: Sequence[str],
    counts: Sequence[int],
    images: int,
    per_class: int,
    rate: float,
    seed: int,
) -> Sequence[int]:
    """Return the number of examples to draw from each class."""
    if len(counts):
        require(
            len(counts) == len(classes),
            f'config.target.counts has {len(counts)} numbers, and there are {len(classes)} classes',
        )
        for count, size, name in zip(counts, sizes, classes, strict=True):
            require(count <= size, f'config.target.counts: {count} of class {name!r}, which has only {size} examples')
        return counts
    if images:
        return spread(images, sizes, seed)
    if per_class:
        for size, name in zip(sizes, classes, strict=True):
            require(
                per_class <= size, f'config.target.per_class={per_class}, and class {name!r} has only {size} examples'
            )
        return [per_class] * len(classes)
    # Rounded before the ceiling, so that rounding errors (0.07 * 100 > 7) add no example.
    return [max(1, math.ceil(round(rate * int(size), 9))) for size in sizes]


def spread(total: int, sizes: np.ndarray, seed: int) -> list[int]:
    """Spread `total` examples over classes of these sizes as evenly as possible: one each in turn while there are any.

    If it does not divide evenly, the classes that get one more are drawn at random.

    Args:
      total: number of examples.
      sizes: (c,), number of available examples of each class.
      seed: of the draw.
    """
    if not len(sizes) <= total <= sizes.sum():
        raise UserError(
            f'config.target.images={total} must be at least the number of classes, {len(sizes)}, and at most that '
            f'of their images, {sizes.sum()}'
        )
    level = max(k for k in range(int(sizes.max()) + 1) if np.minimum(sizes, k).sum() <= total)
    out = np.minimum(sizes, level)
    order = np.random.RandomState([seed, 1]).permutation(len(sizes))
    out[[k for k in order if sizes[k] > level][: total - out.sum()]] += 1
    return [int(count) for count in out]


def rest(count: int, chosen: np.ndarray) -> np.ndarray:
    """Return all rows below `count` that were not chosen, ascending."""
    return np.setdiff1d(np.arange(count), chosen)


def validation(labels: np.ndarray, rows: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into (rows to learn from, rows to validate on).

    Of each class `share` is for validation, at least one but never all; a class of one example has none.

    Args:
      labels: (n,), labels of all examples.
      rows: rows to split.
      share: share of the validation part; 0 for none.
      seed: of the split.
    """
    if not share:
        return rows, rows[:0]
    random = np.random.RandomState([seed, 2])
    held = []
    for label in np.unique(labels[rows]):
        mine = rows[labels[rows] == label]
        count = min(max(round(share * len(mine)), 1), len(mine) - 1)
        held.append(random.permutation(mine)[:count])
    val = np.concatenate(held)
    return rows[~np.isin(rows, val)], rows[np.isin(rows, val)]


def unlabelled(count: int, drawn: Drawn, share: float, seed: int) -> np.ndarray:
    """Return rows to learn from without their labels: of those that are not drawn, a random share, ascending.

    Args:
      count: number of all examples.
      drawn: the draw of the seed.
      share: share of the rest, rounded down; 1 for all of it.
      seed: of the choice.
    """
    left = rest(count, drawn.known)
    if share == 1:
        return left
    return np.sort(np.random.RandomState([seed, 4]).permutation(left)[: int(share * len(left))])


def balanced(labels: np.ndarray, seed: int) -> np.ndarray:
    """Return the rows of a balanced epoch: rows of smaller classes are repeated up to the size of the largest class.

    So all classes are equally likely in a batch, and mixed images are balanced too, which weights in a loss of mixed
    labels would not achieve. All rows of a class occur equally often, up to one time; the rows that occur once more
    are drawn at random.
    """
    random = np.random.RandomState([seed, 3])
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    most = max(map(len, groups))
    filled = []
    for mine in groups:
        times, more = divmod(most, len(mine))
        filled.append(np.sort(np.concatenate([np.tile(mine, times), random.permutation(mine)[:more]])))
    return np.concatenate(filled)


# --- choice of classes ------------------------------------------------------------------------------------------------


def class_count(total: int, wanted: float) -> int:
    """Return the number of classes that `wanted` means: up to 1 it is a share of `total`, rounded up."""
    count = math.ceil(round(wanted * total, 9)) if wanted <= 1 else int(wanted)
    require(
        2 <= count <= total,
        f'config.target.classes={wanted:g} of {total} classes are {count}; at least 2 are needed, and at most all',
    )
    return count


def choose_classes(total: int, wanted: float, seed: int) -> np.ndarray:
    """Choose classes at random.

    Args:
      total: number of classes.
      wanted: number or share of classes to choose, see `class_count`.
      seed: of the choice.

    Returns:
      Their labels, ascending.
    """
    return np.sort(np.random.RandomState(seed).permutation(total)[: class_count(total, wanted)])


class Some(Sequence):
    """A view of some of the names in another sequence, without a copy."""

    def __init__(self, names: Sequence[str], rows: np.ndarray) -> None:
        self._names, self._rows = names, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int | slice) -> str | Some:  # type: ignore[override]
        return Some(self._names, self._rows[row]) if isinstance(row, slice) else self._names[int(self._rows[row])]


def restrict(data: Dataset, chosen: np.ndarray) -> tuple[Dataset, np.ndarray]:
    """Return the examples of the chosen classes, relabelled from 0, and their rows in the whole set."""
    rows = np.flatnonzero(np.isin(data.labels, chosen))
    labels = np.searchsorted(chosen, data.labels[rows]).astype(np.int32)
    names = tuple(data.classes[k] for k in chosen)
    ids = Some(data.ids, rows) if len(data.ids) else ()
    return Dataset(data.name, names, labels, Subset(data.read, rows), ids), rows
