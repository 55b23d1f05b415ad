"""Data sets that were given in Python, `mixjax.train.run(.., target=dataset)`: the name of one begins with `given:`.

A config names them and cannot hold them, so they are put where all that reads a config finds them, for as long as the
run takes. A work directory has their digests and not their images.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from mixjax.data.dataset import Dataset, checked
from mixjax.data.datasets import folder
from mixjax.data.datasets.entries import Entry
from mixjax.data.pixels import arrays, photo
from mixjax.errors import UserError, require

PREFIX = 'given:'
CHUNK = 64  # images that are read at once to take their digests


class Given(NamedTuple):
    """A data set by the name that a config has for it. test: its test part; None where it has none."""

    train: Dataset
    test: Dataset | None = None


_now: ContextVar[Mapping[str, Given]] = ContextVar('given data sets')


@contextlib.contextmanager
def use(sets: Mapping[str, Given]) -> Iterator[None]:
    """Let configs name these data sets, {name: data set}, inside of the block."""
    token = _now.set({**_now.get({}), **sets})
    try:
        yield
    finally:
        _now.reset(token)


def named(train: Dataset, test: Dataset | None = None) -> tuple[str, Given]:
    """A data set with the name that a config has for it, once it is sure that it can be one."""
    for data in (train, test):
        if data is not None and not isinstance(data, Dataset):
            raise UserError(
                f'data must be a mixjax.Dataset, not {type(data).__name__}; mixjax.Dataset.from_arrays and '
                'mixjax.Dataset.from_folder make one'
            )
    train = checked(train)
    lost = [name for k, name in enumerate(train.classes) if k not in set(train.labels.tolist())]
    require(not lost, f'data set {train.name!r} has no image of {", ".join(lost[:5])}')
    if test is not None:
        test = checked(test)
        if test.classes != train.classes:
            raise UserError('the test images must have the classes of the target, in their order')
    return f'{PREFIX}{train.name}', Given(train, test)


def missing(name: str) -> str | None:
    """None if the data set is here, else what to do."""
    if name in _now.get({}):
        return None
    return (
        f'the data set {name.removeprefix(PREFIX)!r} was given in Python, and a work directory does not keep its '
        'images; give it again: mixjax.train.run(config, workdir, target=..)'
    )


def find(name: str) -> Given:
    """The data set of that name."""
    problem = missing(name)
    if problem:
        raise UserError(problem)
    return _now.get({})[name]


def entry(name: str) -> Entry:
    """The facts of a data set, in the form that the catalogue has for its sets."""
    train, test = find(name)
    height, width, colours = train.read(np.arange(1)).shape[1:]
    tested = 0 if test is None else len(test.labels)
    title = train.name
    return Entry(name, title, len(train.classes), len(train.labels), tested, (height, width, colours), reader='given')


def parts(name: str, rule: photo.Rule, holdout: float) -> tuple[Dataset, Dataset | None, tuple[str, ...]]:
    """The train part, the test part and notes for people, the images of the size and colours of the rule.

    Args:
      holdout: share of each class that is the test part where none was given; 0 holds out nothing.
    """
    train, test = find(name)
    known = digests(train)
    if test is None and holdout:
        ids = train.ids or [f'{row:09}' for row in range(len(known))]
        out = folder.held_out(train.labels.tolist(), known, ids, holdout)
        if not out:
            raise UserError(f'{train.name} has no class with two different images, so none can be held out to test on')
        rows = np.arange(len(known))
        tested = np.isin(rows, sorted(out))
        both = [_some(train, known, rule, rows[chosen]) for chosen in (~tested, tested)]
    else:
        whole = test and _some(test, digests(test), rule, np.arange(len(test.labels)))
        both = [_some(train, known, rule, np.arange(len(known))), whole]
    made = both[0]
    assert made is not None
    return made, both[1], train.read.notes if isinstance(train.read, folder.Images) else ()


def digests(data: Dataset) -> list[str]:
    """Digests that distinguish each image of a data set; all images are read if the reader has none."""
    if isinstance(data.read, folder.Images | arrays.Arrays):
        return data.read.digests()
    rows = np.array_split(np.arange(len(data.labels)), -(-len(data.labels) // CHUNK))
    return [arrays.digest(image) for some in rows for image in data.read(some)]


def _some(data: Dataset, known: list[str], rule: photo.Rule, rows: np.ndarray) -> Dataset:
    """Some examples of a data set, with images that follow the rule."""
    stamp = sha256('\n'.join(known[row] for row in rows).encode()).hexdigest()
    some = data._replace(labels=data.labels[rows], ids=tuple(data.ids[row] for row in rows) if len(data.ids) else ())
    if isinstance(data.read, folder.Images):
        read = data.read.chosen(rows, rule)
        return some._replace(name=read.name, read=read)
    if isinstance(data.read, arrays.Arrays):
        return some._replace(read=data.read.chosen(rows, rule, stamp))
    return some._replace(read=Resized(data.read, rows, rule, stamp))


class Resized:
    """rows -> (k, side, side, C) uint8: some of the images that a reader of the user's gives, made to one size.

    stamp: tells these images from others.
    """

    def __init__(
        self, read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, rule: photo.Rule, stamp: str
    ) -> None:
        self._read, self._rows, self._rule, self.stamp = read, rows, photo.check(rule), stamp

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        images = np.asarray(self._read(self._rows[np.asarray(rows, np.int64)]))
        return np.stack([photo.fit(arrays.colours(image, self._rule.channels), self._rule) for image in images])
