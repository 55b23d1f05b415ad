"""Resolves `config.target` or `config.source` to its data: a set of the catalogue, or a folder of the user.

`node` is one of these groups of settings, or `config.unlabelled`. `cache` is the folder of the cached checks of the
user's files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixjax.data.dataset import Dataset, of_folder
from mixjax.data.datasets import catalog, folder, given, synthetic
from mixjax.data.datasets.entries import PHOTO, Entry
from mixjax.data.pixels import photo
from mixjax.errors import UserError, nearest

# Facts for `:smoke` with a folder that is not named: as many classes as the digits.
UNNAMED = Entry(folder.NAME, 'your own images', 10, 400, 200, PHOTO, reader=folder.NAME)


class Parts(NamedTuple):
    """Parts of a data set; None for a part that does not exist.

    Attributes:
      train: the train part.
      val: the validation part.
      test: the test part.
      notes: messages to show before anything is trained.
      unreadable: {file: reason} of files that were left out.
    """

    train: Dataset
    val: Dataset | None
    test: Dataset | None
    notes: tuple[str, ...] = ()
    unreadable: dict[str, str] = {}


def names() -> list[str]:
    """Return the allowed values of `config.target.name`."""
    return sorted([*catalog.names(), folder.NAME])


def title(name: str) -> str:
    """Return the title of a data set."""
    if name.startswith(given.PREFIX):
        return 'given in Python'
    return UNNAMED.title if name == folder.NAME else catalog.entry(name).title


def check(node: Any) -> None:
    """Refuse an unknown name."""
    if node.name.startswith(given.PREFIX):
        given.find(node.name)
    elif node.name not in names():
        hint = nearest(node.name, names())
        raise UserError(f'unknown data set {node.name!r}{hint}; the data sets are {", ".join(names())}')
    if node.dir and node.name != folder.NAME:
        raise UserError(f'{node.name} is found by its name; a folder of images (dir={node.dir}) is the data set folder')


def entry(node: Any, cache: Path, *, made_up: bool = False) -> Entry:
    """The facts of a data set; those of a folder are found in it. made_up: only their number of classes matters."""
    if node.name.startswith(given.PREFIX):
        return given.entry(node.name)
    if node.name != folder.NAME:
        return catalog.entry(node.name)
    return UNNAMED if made_up and not node.dir else folder.entry(_scan(node, cache))


def channels(node: Any) -> int:
    """Return the number of colour channels of its images."""
    if node.name.startswith(given.PREFIX):
        return given.entry(node.name).image[2]
    return PHOTO[2] if node.name == folder.NAME else catalog.entry(node.name).image[2]


def missing(node: Any, data_dir: str) -> str | None:
    """Return a message on what is missing, the folders searched, and how to get it; None if the data exist."""
    if node.name.startswith(given.PREFIX):
        return given.missing(node.name)
    return None if node.name == folder.NAME else catalog.missing(node.name, data_dir)


def load(node: Any, *, data_dir: str, rule: photo.Rule, cache: Path) -> Parts:
    """Load all parts of a data set.

    Args:
      node: the group of settings.
      data_dir: folder of prepared sets.
      rule: the size and colours of the images.
      cache: the cache folder of this machine.
    """
    if node.name == folder.NAME and 'share' in node:  # config.unlabelled: images in any folders, without classes
        return _of_folder(folder.unlabelled(node.dir, cache), rule)
    if node.name == folder.NAME:
        return _of_folder(_scan(node, cache), rule)
    if node.name.startswith(given.PREFIX):
        train, test, notes = given.parts(node.name, rule, node.get('holdout', 0.0))
        return Parts(train, None, test, notes)
    own = rule._replace(channels=min(rule.channels, channels(node)))
    train = catalog.load(node.name, 'train', data_dir=data_dir, rule=own, cache=cache)
    has_test = catalog.entry(node.name).test > 0
    test = catalog.load(node.name, 'test', data_dir=data_dir, rule=own, cache=cache) if has_test else None
    return Parts(train, None, test)


def made_up(node: Any, cache: Path, *, per_class: int, side: int) -> Parts:
    """Made-up images with the classes of the data set."""
    if node.name.startswith(given.PREFIX):
        classes = given.find(node.name).train.classes
    elif node.name != folder.NAME:
        train, test = (
            catalog.synthetic_like(node.name, split, per_class=per_class, side=side) for split in catalog.SPLITS
        )
        return Parts(train, None, test)
    elif node.dir and 'share' not in node:
        classes = _scan(node, cache).classes
    else:
        classes = tuple(f'class-{k}' for k in range(UNNAMED.classes))

    def part(number: int) -> Dataset:
        patterns = max(2, len(classes))  # there may be a single number to learn
        read, labels = synthetic.synthetic(patterns, per_class, (side, side, PHOTO[2]), 0, part=number)
        return Dataset(f'synthetic:{node.name}', classes, _made_up_labels(node, labels, len(classes)), read)

    return Parts(part(0), None, part(1))


def _made_up_labels(node: Any, labels: np.ndarray, outputs: int) -> np.ndarray:
    """Return the labels of made-up images for the task: classes, one label each, or the same number for all outputs."""
    if not node.get('task', ''):
        return labels
    if node.task == 'regression':
        return np.repeat(labels[:, None].astype(np.float64), outputs, axis=1)
    return np.eye(max(outputs, 2), dtype=np.float32)[labels][:, :outputs]


def _scan(node: Any, cache: Path) -> folder.Folder:
    return folder.scan(
        node.dir, holdout=node.get('holdout', 0.0), cache=cache, labels=node.get('labels', ''),
        task=node.get('task', ''),
    )  # fmt: skip


def _of_folder(found: folder.Folder, rule: photo.Rule) -> Parts:
    def part(some: tuple[folder.Found, ...]) -> Dataset | None:
        return of_folder(found, some, rule) if some else None

    train = part(found.train)
    assert train is not None  # there is an image at least
    return Parts(train, part(found.val), part(found.test), found.notes, found.unreadable)
