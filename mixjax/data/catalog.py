"""Which data sets there are: facts as data, and the way from a name to labels and a reader of images.

A new data set is one line in `ENTRIES` and one file of class names in `labels/`. Only numpy and the
standard library are imported here, so that asking what there is costs nothing.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import zlib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixjax.data import synthetic as made_up
from mixjax.errors import UserError, nearest


class Entry(NamedTuple):
    """The facts of a data set.

    train, test: number of examples. test is 0 where the set has no test part of its own: what the
        labelled draw leaves of `train` is then the test set.
    image: (H, W, C) of the stored images, after the deterministic resize.
    labels: the file of `labels/` with the class names, one a line, in label order.
    tfds, version, splits: name, version and the names of (train, test) in TensorFlow Datasets.
    get: shell lines that obtain it; DIR stands for the folder of all prepared sets.
    reader: who reads its images (see `READERS`).
    """

    name: str
    title: str
    classes: int
    train: int
    test: int
    image: tuple[int, int, int]
    labels: str = ''
    tfds: str = ''
    version: str = ''
    splits: tuple[str, str] = ('train', 'test')
    get: tuple[str, ...] = ()
    reader: str = 'tfds'


class Dataset(NamedTuple):
    """One part of a data set.

    classes: names in label order. labels: (n,) int32.
    read(rows): (k,) int -> (k, H, W, C) uint8, the images of those rows.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]


SPLITS = ('train', 'test')
PHOTO, SMALL, SKETCH = (256, 256, 3), (32, 32, 3), (16, 16, 1)


def _tfds(
    facts: Entry, tfds: str, version: str, *, splits: tuple[str, str] = SPLITS, first: tuple[str, ...] = ()
) -> Entry:
    """The entry with how TensorFlow Datasets knows it and the lines that prepare it (`first`: done by hand before)."""
    # A program, not the command `tfds build`: that one asks for apache_beam besides TensorFlow.
    program = (
        f"import tensorflow_datasets as tfds; tfds.builder('{tfds}:{version}', "
        "file_format='array_record').download_and_prepare()"
    )
    get = ("pip install 'mixjax[prepare]'", *first, f'TFDS_DATA_DIR=DIR python -c "{program}"')
    return facts._replace(labels=f'{facts.name}.txt', tfds=tfds, version=version, splits=splits, get=get)


ENTRIES: dict[str, Entry] = {
    facts.name: facts
    for facts in (
        Entry('glyphs', 'printed letters of three alphabets', 160, 2826, 0, SKETCH, reader='embedded'),
        Entry('digits', 'handwritten digits of scikit-learn', 10, 1797, 0, SKETCH, reader='embedded'),
        Entry('synthetic', 'made-up patterns', 10, 400, 200, SKETCH, reader='synthetic'),
        _tfds(Entry('stanford_dogs', 'Stanford Dogs', 120, 12_000, 8_580, PHOTO), 'stanford_dogs', '0.2.0'),
        _tfds(Entry('cub200', 'Caltech-UCSD Birds 200 (2011)', 200, 5_994, 5_794, PHOTO), 'caltech_birds2011', '0.2.0'),
        _tfds(Entry('cifar100', 'CIFAR-100', 100, 50_000, 10_000, SMALL), 'cifar100', '3.0.2'),
        _tfds(
            Entry('places365', 'Places365 (standard, small images)', 365, 1_803_460, 36_500, PHOTO),
            'places365_small',
            '2.1.0',
            splits=('train', 'validation'),
        ),
        _tfds(
            Entry('imagenet2012', 'ImageNet (ILSVRC 2012)', 1000, 1_281_167, 50_000, PHOTO),
            'imagenet2012',
            '5.1.0',
            splits=('train', 'validation'),
            first=(
                '# register at https://image-net.org/download-images, then put '
                'ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into DIR/downloads/manual',
            ),
        ),
    )
}


def names() -> list[str]:
    """All data sets, sorted."""
    return sorted(ENTRIES)


def entry(name: str) -> Entry:
    """The facts of a data set."""
    if name not in ENTRIES:
        raise UserError(f'unknown data set {name!r}{nearest(name, names())}; the data sets are {", ".join(names())}')
    return ENTRIES[name]


@functools.cache
def class_names(name: str) -> tuple[str, ...]:
    """The names of the classes, in label order."""
    facts = entry(name)
    if facts.labels:
        text = resources.files('mixjax.data').joinpath('labels', facts.labels).read_text(encoding='utf-8')
        return tuple(text.splitlines())
    return READERS[facts.reader](facts, 'train', '').classes


def _root(data_dir: str) -> str:
    return data_dir or os.environ.get('TFDS_DATA_DIR', '') or '~/tensorflow_datasets'


def looked_in(name: str, data_dir: str = '') -> list[str]:
    """The folders where a prepared copy would be, with `~` as it stands; none for a set that needs no files."""
    facts = entry(name)
    return [f'{_root(data_dir)}/{facts.tfds}/{facts.version}'] if facts.tfds else []


def missing(name: str, data_dir: str = '') -> str | None:
    """None if the data are there; otherwise what is missing, where it was looked for, and how to get it."""
    facts, folders = entry(name), looked_in(name, data_dir)
    faults = [_fault(facts, folder) for folder in folders]
    if not folders or '' in faults:
        return None
    where = [f'  {folder}: {fault}' for folder, fault in zip(folders, faults, strict=True)]
    target = _quoted(_root(data_dir))
    lines = ['  ' + re.sub(r'\bDIR\b', lambda _: target, line) for line in facts.get]
    return '\n'.join([f'the images of {name} ({facts.title}) are missing; looked in', *where, 'to get them:', *lines])


def _quoted(folder: str) -> str:
    """The folder as a word of a shell line; a leading `~` stays outside the quotes, where the shell expands it."""
    if not folder.startswith('~'):
        return shlex.quote(folder)
    home, _, rest = folder.partition('/')
    return f'{home}/{shlex.quote(rest)}' if rest else home


def _fault(facts: Entry, folder: str) -> str:
    """What keeps a folder from being a prepared copy; '' if nothing does."""
    try:
        info = json.loads((Path(folder).expanduser() / 'dataset_info.json').read_text(encoding='utf-8'))
        stored, splits = info.get('fileFormat', 'tfrecord'), {split['name'] for split in info.get('splits', [])}
    except (FileNotFoundError, NotADirectoryError):
        return 'no such copy'
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        return f'its dataset_info.json cannot be read ({type(error).__name__}); move that folder away'
    if stored != 'array_record':
        return f'its files are {stored}, not array_record; move that folder away'
    lost = [split for split in facts.splits if split not in splits]
    return f'it has no {" and no ".join(lost)} part; move that folder away' if lost else ''


def load(name: str, split: str, *, data_dir: str = '') -> Dataset:
    """The part `split` ('train' or 'test') of a data set.

    Args:
      data_dir: folder of prepared sets; '' for $TFDS_DATA_DIR or ~/tensorflow_datasets.
    """
    facts = entry(name)
    _check(facts, split)
    if split == 'test' and not facts.test:
        raise UserError(
            f'{name} has no test part of its own: load its train part and test on what the labelled draw leaves'
        )
    message = missing(name, data_dir)
    if message is not None:
        raise UserError(message)
    if facts.reader not in READERS:
        there = ', '.join(other for other in names() if ENTRIES[other].reader in READERS)
        raise UserError(
            f'{name} is prepared in {looked_in(name, data_dir)[0]}, but this version of mixjax reads images only of '
            f'{there}; choose one of these, or add :smoke to the name of the config to try it on made-up images'
        )
    return READERS[facts.reader](facts, split, data_dir)


def synthetic_like(name: str, split: str, *, per_class: int, side: int) -> Dataset:
    """Made-up images with the classes of a data set: `per_class` of each, (side, side), as many channels as it has.

    Both parts exist, also where the set itself has no test part.
    """
    facts = entry(name)
    _check(facts, split)
    made = _made_up(facts, class_names(name), per_class, (side, side, facts.image[2]), split)
    return made._replace(name=f'synthetic:{name}')


def _check(facts: Entry, split: str) -> None:
    if split not in SPLITS:
        raise UserError(f'unknown part {split!r} of {facts.name}{nearest(split, SPLITS)}; the parts are train and test')


def _embedded(facts: Entry, split: str, data_dir: str) -> Dataset:
    """The images that ship with mixjax or with scikit-learn: all of them are the train part."""
    del split, data_dir
    from mixjax.data import embedded

    image, label, classes = getattr(embedded, facts.name)()
    return Dataset(facts.name, tuple(classes), label.astype(np.int32), lambda rows: image[np.asarray(rows, np.int64)])


def _synthetic(facts: Entry, split: str, data_dir: str) -> Dataset:
    """The plain made-up set."""
    del data_dir
    classes = tuple(f'pattern-{k}' for k in range(facts.classes))
    return _made_up(facts, classes, getattr(facts, split) // facts.classes, facts.image, split)


def _made_up(
    facts: Entry, classes: tuple[str, ...], per_class: int, shape: tuple[int, int, int], split: str
) -> Dataset:
    # crc32 of the name, so that the patterns of a target and of a source set have nothing in common.
    seed = zlib.crc32(facts.name.encode())
    read, labels = made_up.synthetic(len(classes), per_class, shape, seed, part=SPLITS.index(split))
    return Dataset(facts.name, classes, labels, read)


# Entry.reader -> (facts, split, data_dir) -> Dataset. A kind of stored files is read once it has a line here.
READERS: dict[str, Callable[[Entry, str, str], Dataset]] = {'embedded': _embedded, 'synthetic': _synthetic}
