"""The catalogue of data sets: from a name to labels and a reader of images.

The facts are in `entries.py`. Only numpy and the standard library are imported here, so that listing the data sets is
fast.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mixjax.data.dataset import Dataset
from mixjax.data.datasets import synthetic as made_up
from mixjax.data.datasets.entries import ENTRIES, Entry
from mixjax.errors import UserError, nearest
from mixjax.host import storage, untrusted

if TYPE_CHECKING:
    from mixjax.data.pixels.photo import Rule


SPLITS = ('train', 'test')


def names() -> list[str]:
    """Return the names of all data sets, sorted."""
    return sorted(ENTRIES)


def entry(name: str) -> Entry:
    """Return the facts of a data set."""
    if name not in ENTRIES:
        raise UserError(f'unknown data set {name!r}{nearest(name, names())}; the data sets are {", ".join(names())}')
    return ENTRIES[name]


@functools.cache
def class_names(name: str) -> tuple[str, ...]:
    """Return the names of the classes, in label order."""
    facts = entry(name)
    if facts.labels:
        text = resources.files('mixjax.data.datasets').joinpath('labels', facts.labels).read_text(encoding='utf-8')
        return tuple(text.splitlines())
    return IN_MEMORY[facts.reader](facts, 'train').classes


def _root(data_dir: str) -> str:
    return data_dir or os.environ.get('TFDS_DATA_DIR', '') or '~/tensorflow_datasets'


def searched_folders(name: str, data_dir: str = '') -> list[str]:
    """Return the folders where a prepared copy would be, with `~` not expanded; [] for a set that needs no files."""
    facts = entry(name)
    return [f'{_root(data_dir)}/{facts.tfds}/{facts.version}'] if facts.tfds else []


def missing(name: str, data_dir: str = '') -> str | None:
    """Return None if the data exist; else a message on what is missing, the folders searched, and how to get it."""
    facts, folders = entry(name), searched_folders(name, data_dir)
    faults = [fault(facts, folder) for folder in folders]
    if not folders or '' in faults:
        return None
    where = [f'  {folder}: {why}' for folder, why in zip(folders, faults, strict=True)]
    root = _root(data_dir)
    target = 'DIR' if storage.is_remote(root) else _quoted(root)
    lines = ['  ' + re.sub(r'\bDIR\b', lambda _: target, line) for line in facts.get]
    if storage.is_remote(root):
        lines.append(f'  gcloud storage cp -r DIR/{facts.tfds} {root}/')
    return '\n'.join([f'the images of {name} ({facts.title}) are missing; looked in', *where, 'to get them:', *lines])


def _quoted(folder: str) -> str:
    """Quote a folder for a shell line; a leading `~` stays outside the quotes, where the shell expands it."""
    if not folder.startswith('~'):
        return shlex.quote(folder)
    home, _, rest = folder.partition('/')
    return f'{home}/{shlex.quote(rest)}' if rest else home


def fault(facts: Entry, folder: str | Path) -> str:
    """Return the reason why a folder is not a prepared copy; '' if it is one."""
    try:
        info = untrusted.parse(untrusted.read_regular(storage.reachable(str(folder)) / 'dataset_info.json'))
        stored, splits = info.get('fileFormat', 'tfrecord'), {split['name'] for split in info.get('splits', [])}
    except (FileNotFoundError, NotADirectoryError):
        return 'no such copy'
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        return f'its dataset_info.json cannot be read ({type(error).__name__}); move that folder away'
    if stored != 'array_record':
        return f'its files are {stored}, not array_record; move that folder away'
    lost = [split for split in facts.splits if split not in splits]
    return f'it has no {" and no ".join(lost)} part; move that folder away' if lost else ''


def load(name: str, split: str, *, data_dir: str = '', rule: Rule | None = None, cache: Path | None = None) -> Dataset:
    """Load one part of a data set.

    Args:
      name: name of the data set.
      split: 'train' or 'test'.
      data_dir: folder of prepared sets; '' for $TFDS_DATA_DIR or ~/tensorflow_datasets.
      rule: the size and colours of the images; None for those of the entry.
      cache: the folder for a copy of data in an object store.
    """
    facts = entry(name)
    _check(facts, split)
    if split == 'test' and not facts.test:
        raise UserError(
            f'{name} has no test part: load its train part and test on what the labelled draw leaves'
        )
    message = missing(name, data_dir)
    if message is not None:
        raise UserError(message)
    if facts.reader in IN_MEMORY:
        return _ruled(IN_MEMORY[facts.reader](facts, split), rule)
    return _prepared(facts, split, data_dir, rule, cache)


def folder(name: str, data_dir: str = '') -> Path:
    """Return the folder of the prepared copy of a data set, on a disk; it need not exist."""
    if storage.is_remote(_root(data_dir)):
        raise UserError(f'data sets are prepared on a disk; `gcloud storage cp -r DIR/* {_root(data_dir)}` copies them')
    return storage.to_place(searched_folders(name, data_dir)[0])


def _prepared(facts: Entry, split: str, data_dir: str, rule: Rule | None, cache: Path | None) -> Dataset:
    """Load a part of a prepared copy. The whole copy is indexed at once, so the other part is fast afterwards."""
    from mixjax.data.datasets import bucket_copy, tfds_copy
    from mixjax.data.pixels import photo

    where = bucket_copy.local_copy(searched_folders(facts.name, data_dir)[0], cache or storage.cache_folder())
    part = facts.splits[SPLITS.index(split)]
    counts = dict(zip(facts.splits, (facts.train, facts.test), strict=True))
    known = tfds_copy.index(where, counts, facts.classes)[part]
    rule = photo.check(rule or photo.Rule(side=facts.image[0], channels=facts.image[2]))
    read = tfds_copy.Images(tfds_copy.Records(where, part), known, rule, banner=facts.banner, shape=facts.image)
    return Dataset(facts.name, class_names(facts.name), known.label, read, tfds_copy.Names(known.name))


def _ruled(data: Dataset, rule: Rule | None) -> Dataset:
    """Return the data set with its images converted to the size and colours of a rule."""
    if rule is None:
        return data
    from mixjax.data.pixels import photo

    photo.check(rule)
    shape = data.read(np.arange(1)).shape[1:]
    wanted = ((rule.side, rule.side) if rule.side else shape[:2]) + (rule.channels,)
    if shape == wanted:
        return data

    def one(image: np.ndarray) -> np.ndarray:
        if image.shape[2] != rule.channels:
            image = photo.grey(image) if rule.channels == 1 else np.repeat(image, 3, axis=2)
        return photo.fit(image, rule)

    def read(rows: np.ndarray) -> np.ndarray:
        images = [one(image) for image in data.read(rows)]
        return np.stack(images) if images else np.empty((0, *wanted), np.uint8)

    return data._replace(read=read)


def synthetic_like(name: str, split: str, *, per_class: int, side: int) -> Dataset:
    """Return synthetic images with the classes and the channels of a data set.

    Both parts exist, even if the set itself has no test part.

    Args:
      name: name of the data set.
      split: 'train' or 'test'.
      per_class: number of images of each class.
      side: their height and width.
    """
    facts = entry(name)
    _check(facts, split)
    made = _made_up(facts, class_names(name), per_class, (side, side, facts.image[2]), split)
    return made._replace(name=f'synthetic:{name}')


def _check(facts: Entry, split: str) -> None:
    if split not in SPLITS:
        raise UserError(f'unknown part {split!r} of {facts.name}{nearest(split, SPLITS)}; the parts are train and test')


def _embedded(facts: Entry, split: str) -> Dataset:
    """Return the images that ship with mixjax or scikit-learn; all of them are the train part."""
    del split
    from mixjax.data.datasets import embedded

    image, label, classes = getattr(embedded, facts.name)()
    return Dataset(facts.name, tuple(classes), label.astype(np.int32), lambda rows: image[np.asarray(rows, np.int64)])


def _synthetic(facts: Entry, split: str) -> Dataset:
    """Return the data set `synthetic`."""
    classes = tuple(f'pattern-{k}' for k in range(facts.classes))
    return _made_up(facts, classes, getattr(facts, split) // facts.classes, facts.image, split)


def _made_up(
    facts: Entry, classes: tuple[str, ...], per_class: int, shape: tuple[int, int, int], split: str
) -> Dataset:
    # crc32 of the name, so that the patterns of a target and of a source set are independent.
    seed = zlib.crc32(facts.name.encode())
    read, labels = made_up.synthetic(len(classes), per_class, shape, seed, part=SPLITS.index(split))
    return Dataset(facts.name, classes, labels, read)


# Entry.reader -> (facts, split) -> Dataset, for the sets that need no files.
IN_MEMORY: dict[str, Callable[[Entry, str], Dataset]] = {'embedded': _embedded, 'synthetic': _synthetic}
