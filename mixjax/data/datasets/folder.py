"""A data set from a folder of images with a sub-folder for each class.

    root/{train,val,test}/<class>/**     given parts; training, valid, test_set, .. are understood too
    root/<class>/**                      one level: a share of each class is held out as the test part

or of a folder with a file of labels (`label_table`), whose images lie anywhere in it.

Every file is read and decoded once, and the result is cached under its `folder_scan.Stamp`, so that the next start
only has to list the folder. A file that cannot be read is left out and named in a note; it never becomes a black
picture. The bytes that are decoded later are compared with those that were checked.
"""

from __future__ import annotations

import copy
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixjax.data.datasets import bucket_copy, folder_scan, label_table
from mixjax.data.datasets.entries import PHOTO, Entry
from mixjax.data.datasets.label_table import Table
from mixjax.data.pixels import photo
from mixjax.errors import UserError

NAME = 'folder'
SHOWN = 5  # names in a line of the notes
THREADS_FROM = 16  # images; for fewer, starting threads costs more than it saves


class Found(NamedTuple):
    """One image of a folder.

    Attributes:
      path: its path below the root.
      id: the path with `/` and composed letters, the same on every system.
      label: its class; of a file of labels, as `label_table.Table.of` has it.
      digest: a digest of its bytes.
      stamp: the stamp of its file.
    """

    path: str
    id: str
    label: Any
    digest: str
    stamp: folder_scan.Stamp


class Folder(NamedTuple):
    """The contents of a folder.

    Attributes:
      root: the folder.
      cache: the folder of the cached checks of its files.
      classes: names of the classes, sorted; of other tasks those of the labels or the numbers.
      train: images of the train part.
      val: images of the validation part; may be empty.
      test: images of the test part; may be empty.
      notes: messages on the files that were found and left out.
      unreadable: {path: reason} of the files that cannot be read.
      table: the file of labels, if there is one.
    """

    root: Path
    cache: Path
    classes: tuple[str, ...]
    train: tuple[Found, ...]
    val: tuple[Found, ...]
    test: tuple[Found, ...]
    notes: tuple[str, ...]
    unreadable: dict[str, str]
    table: Table | None = None

    def labels(self, part: Sequence[Found]) -> np.ndarray:
        """Return the labels of some images as a data set has them."""
        found = [one.label for one in part]
        return np.array(found, np.int32) if self.table is None else self.table.array(found)


def entry(folder: Folder) -> Entry:
    """Return the facts of the folder as an entry of the catalogue."""
    shown = folder.root.name or NAME
    return Entry(NAME, shown, len(folder.classes), len(folder.train), len(folder.test), PHOTO, reader=NAME)


def scan(root: str, *, holdout: float, cache: Path, labels: str = '', task: str = '') -> Folder:
    """List a folder, check the files that are new, and find its parts.

    Args:
      root: the folder.
      holdout: share of each class that becomes the test part if the folder has none; 0 holds out nothing.
      cache: the folder of the cached checks of files.
      labels: a CSV file of labels in the folder, see `label_table`; '' takes the class folders.
      task: `config.target.task`, for a file of labels.
    """
    top = _opened(root, cache)
    if labels:
        return _look_in_table(root, top, label_table.read(top, labels, task), labels, holdout, cache)
    inside = folder_scan.list_parts(top)
    known = folder_scan.check_files(top, inside.files, cache)
    unreadable = {path: known[path].fault for path in inside.files if known[path].fault}
    good = {part: [one for one in found if not known[one[0]].fault] for part, found in inside.parts.items()}
    classes = _classes(top, good)
    ids = _ids([path for found in good.values() for path, _ in found])
    label = {name: k for k, name in enumerate(classes)}
    found = {
        part: tuple(
            sorted(
                (Found(p, ids[p], label[name], known[p].digest, known[p].stamp) for p, name in some),
                key=lambda f: (f.label, f.id),
            )
        )
        for part, some in good.items()
    }
    train, val, test = found['train'], found.get('val', ()), found.get('test', ())
    how = ''
    if 'test' not in found:
        train, test = _held_out(train, holdout)
        how = f', {holdout:g} of each class, held out' if test else ''
    if holdout and not test:
        raise UserError(f'{root} has no class with two different images, so none can be held out to test on')
    notes = _notes(root, classes, (train, val, test), how, inside, unreadable)
    return Folder(top, cache, classes, train, val, test, notes, unreadable)


def unlabelled(root: str, cache: Path) -> Folder:
    """List all images below a folder, in whatever folders they are, without classes: label -1, all in `train`."""
    top = _opened(root, cache)
    paths = [path for path, _ in folder_scan.everything(top)[0]]
    known = folder_scan.check_files(top, paths, cache)
    unreadable = {path: known[path].fault for path in paths if known[path].fault}
    good = [path for path in paths if not known[path].fault]
    if not good:
        raise UserError(f'{root} has no image that can be read (config.unlabelled.dir)')
    ids = _ids(good)
    found = [Found(path, ids[path], -1, known[path].digest, known[path].stamp) for path in good]
    notes = [f'{root}: {counted(len(found), "unlabelled image")}']
    notes += [f'left out, {counted(len(unreadable), "image")} that cannot be read'] * bool(unreadable)
    train = tuple(sorted(found, key=lambda one: one.id))
    return Folder(top, cache, (), train, (), (), tuple(notes), unreadable)


def _look_in_table(root: str, top: Path, table: Table, name: str, holdout: float, cache: Path) -> Folder:
    """Find the images that a file of labels names, and their parts."""
    walked = folder_scan.walk(top, [''])
    ids = _ids(walked.files[''])
    place = {file: path for path, file in ids.items()}
    lost = [file for file in table.of if file not in place]
    if lost:
        more = f' and {len(lost) - 1:,} more' if len(lost) > 1 else ''
        raise UserError(
            f'{top / name} names {lost[0][: folder_scan.SHOWN]!r}{more}, and there is no such image in {top}; paths '
            'count from that folder'
        )
    named = sorted(place[file] for file in table.of)
    known = folder_scan.check_files(top, named, cache)
    unreadable = {path: known[path].fault for path in named if known[path].fault}
    good = [Found(p, ids[p], table.of[ids[p]], known[p].digest, known[p].stamp) for p in named if p not in unreadable]
    good.sort(key=lambda one: (one.label if not table.kind else 0, one.id))
    parts = folder_scan.parts_of([one.id for one in good])
    train, val, test = (
        tuple(one for one, its in zip(good, parts, strict=True) if its == part) for part in ('train', 'val', 'test')
    )
    if not table.kind:
        by_part = {name: part for name, part in (('train', train), ('val', val), ('test', test)) if part}
        named_classes = {part: [(one.path, table.names[one.label]) for one in some] for part, some in by_part.items()}
        _classes(top, {'train': [], **named_classes})
        lacking = set(range(len(table.names))) - {one.label for one in train}
        if lacking:
            raise UserError(f'{top}: no image to learn from can be read of {_some([table.names[k] for k in lacking])}')
    how = ''
    if not test:
        train, test = _held_out(train, holdout)
        how = f', {holdout:g} of {"each class" if not table.kind else "them"}, held out' if test else ''
    if not train or holdout and not test:
        raise UserError(f'{root} has not two different images that can be read, so none can be held out to test on')
    found = Folder(top, cache, table.names, train, val, test, (), unreadable, table)
    left = walked.others.copy()
    left.subtract({os.path.splitext(name)[1].lower() or 'without an ending': 1})
    inside = folder_scan.Listing(
        {}, [], +left, walked.hidden, 0, [], walked.irregular, walked.again,
        unnamed=len(walked.files['']) - len(named), table=name,
    )  # fmt: skip
    about = _notes if not table.kind else _notes_of_rows
    return found._replace(notes=about(root, table.names, (train, val, test), how, inside, unreadable))


def _opened(root: str, cache: Path) -> Path:
    if not root:
        raise UserError('data set folder: say where your images are, config.target.dir=PATH (or config.source.dir)')
    try:
        top = bucket_copy.local_copy(root, cache)
        if top.is_dir():
            return top
    except (OSError, RuntimeError, ValueError):  # a name that no system allows, or no home folder
        pass
    raise UserError(f'there is no folder {root!r} (config.target.dir, or config.source.dir)')


# --- parts -----------------------------------------------------------------------------------------------------------


def _ids(paths: Sequence[str]) -> dict[str, str]:
    """Return {path: the path with composed letters}; paths that would become equal are not changed."""
    composed = {path: unicodedata.normalize('NFC', path) for path in paths}
    count = Counter(composed.values())
    return {path: name if count[name] == 1 else path for path, name in composed.items()}


def _classes(top: Path, good: dict[str, list[tuple[str, str]]]) -> tuple[str, ...]:
    """Return the names of the classes, sorted; train and test must have the same ones, and val no others."""
    train = {name for _, name in good['train']}
    if len(train) < 2:
        raise UserError(
            f'{top} has images of {len(train)} class{"es" * (len(train) != 1)}, and at least 2 are needed: '
            'one folder for each class, with its images in it'
        )
    for part in ('test', 'val'):
        if part in good:
            there = {name for _, name in good[part]}
            lost = train - there if part == 'test' else set()
            if there - train:
                raise UserError(
                    f'{top}: the {part} part has images of classes that train does not have: {_some(there - train)}'
                )
            if lost:
                raise UserError(f'{top}: the {part} part has no image that can be read of {_some(lost)}, and train has')
    return tuple(sorted(train))


def _some(names: set[str] | list[str]) -> str:
    shown = [repr(name) for name in sorted(names)]
    return ', '.join(shown[:SHOWN]) + (f' and {len(shown) - SHOWN} more' if len(shown) > SHOWN else '')


def _held_out(found: Sequence[Found], share: float) -> tuple[tuple[Found, ...], tuple[Found, ...]]:
    """(train, test) of the images of a folder without a test part."""
    # Without classes, all images are held out from as one.
    labels = [one.label if isinstance(one.label, int) else 0 for one in found]
    digests = [one.digest for one in found]
    out = held_out(labels, digests, [one.id for one in found], share) if share else set()
    return (
        tuple(one for row, one in enumerate(found) if row not in out),
        tuple(one for row, one in enumerate(found) if row in out),
    )


def held_out(labels: Sequence[int], digests: Sequence[str], ids: Sequence[str], share: float) -> set[int]:
    """The rows that are tested on: of each class the share, at least one and not all; a class of one image only trains.

    Images are taken in the order of the digests of their bytes: the choice depends on nothing else, not on names or
    seeds, so all methods and seeds have one test part. Equal images stay on one side.
    """
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        by_class.setdefault(int(label), []).append(row)
    chosen: set[int] = set()
    for some in by_class.values():
        some.sort(key=lambda row: (digests[row], ids[row]))
        wanted = min(max(round(share * len(some)), 1), len(some) - 1)
        cuts = [k for k in range(1, len(some)) if digests[some[k]] != digests[some[k - 1]]]
        if cuts:
            chosen.update(some[: min(cuts, key=lambda k: (abs(k - wanted), k))])
    return chosen


# --- images -----------------------------------------------------------------------------------------------------------


class Images:
    """A reader of the images of one part: rows (k,) -> (k, side, side, C) uint8.

    Threads may share it, and it can be sent to other processes. A file whose bytes differ from those that were listed
    is an error: the run and its cached images are identified by the digests of the listing.
    """

    stamp = 'bytes compared'  # distinguishes cached images of this class from those of earlier versions
    notes: tuple[str, ...] = ()  # messages on the folder, where nothing else shows them

    def __init__(self, folder: Folder, part: Sequence[Found], rule: photo.Rule) -> None:
        self.rule = photo.check(rule)
        self._root, self._cache, self._part = folder.root, folder.cache, tuple(part)
        self._stamps = [one.stamp for one in part]

    @property
    def name(self) -> str:
        """Tells the images from all others: their ids, classes and bytes."""
        digest = hashlib.blake2b(digest_size=6)
        for one in self._part:
            digest.update(f'{one.id}\0{one.label}\0{one.digest}\n'.encode('utf-8', 'surrogateescape'))
        return f'{NAME}-{digest.hexdigest()}'

    def chosen(self, rows: np.ndarray, rule: photo.Rule) -> Images:
        """Some of the images, made to one size by another rule."""
        other = copy.copy(self)
        other.rule = photo.check(rule._replace(upright=True))
        other._part = tuple(self._part[row] for row in rows)
        other._stamps = [one.stamp for one in other._part]
        return other

    def digests(self) -> list[str]:
        """Digests that distinguish each image from others."""
        return [one.digest for one in self._part]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        chosen = np.arange(len(self._part))[np.asarray(rows, np.int64)]
        out = np.empty((len(chosen), self.rule.side, self.rule.side, self.rule.channels), np.uint8)

        def one(place: int) -> None:
            out[place] = self._image(int(chosen[place]))

        if len(chosen) < THREADS_FROM:
            for place in range(len(chosen)):
                one(place)
        else:
            with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
                list(pool.map(one, range(len(chosen))))
        return out

    def check(self, rows: np.ndarray) -> None:
        """Refuse rows whose files have changed since they were listed. Files with the same stamp are not read."""
        for row in rows:
            path = f'{self._root}/{self._part[row].path}'
            try:
                same = folder_scan.stamp_of(os.stat(path)) == self._stamps[row]
            except OSError as error:
                raise self._changed(row, error.strerror) from None
            if not same:
                self._bytes(row)

    def _image(self, row: int) -> np.ndarray:
        try:
            return photo.read(self._bytes(row), self.rule)
        except photo.Unreadable as error:  # the decoder is not the one that checked it
            folder_scan.forget_checks(self._root, self._cache)
            path = self._root / self._part[row].path
            raise UserError(f'{path} cannot be read: {error}; the next start leaves it out') from None

    def _bytes(self, row: int) -> bytes:
        one = self._part[row]
        try:
            data, stamp = folder_scan.read_file(f'{self._root}/{one.path}')
        except OSError as error:
            raise self._changed(row, error.strerror) from None
        if folder_scan.digest_of(data) != one.digest:
            raise self._changed(row, 'it is empty' if not data else 'its bytes are others')
        self._stamps[row] = stamp
        return data

    def _changed(self, row: int, why: str | None) -> UserError:
        folder_scan.forget_checks(self._root, self._cache)  # or the next start would trust the same stamp again
        return UserError(
            f'{self._root / self._part[row].path} has changed since it was checked: {why}; put it back and give the '
            'same command again, or begin a new run with another --workdir'
        )


# --- notes ------------------------------------------------------------------------------------------------------------


def _notes(
    root: str, classes: tuple[str, ...], parts: tuple[Sequence[Found], ...], how: str, inside: folder_scan.Listing,
    unreadable: dict[str, str],
) -> tuple[str, ...]:  # fmt: skip
    train, val, test = parts
    sizes = np.bincount([one.label for one in train], minlength=len(classes))
    said = [f'{len(train):,} to learn from']
    said += [f'{len(val):,} to validate on'] * bool(val)
    said += [f'{len(test):,} to test on{how}'] * bool(test)
    least, most = int(sizes.argmin()), int(sizes.argmax())
    lines = [
        f'{root}: {sum(map(len, parts)):,} images of {len(classes):,} classes: {", ".join(said)}',
        f'images to learn from of each class: {sizes.min():,} ({classes[least]}) to {sizes.max():,} ({classes[most]})',
    ]
    lines += _left_out(inside, unreadable)
    untested = set(range(len(classes))) - {one.label for one in test} if test else set()
    lines += [f'classes without an image to test on: {_some([classes[k] for k in untested])}'] * bool(untested)
    place = 'in the folders of two classes'
    differ = ('has two classes', 'have two classes') if inside.table else (f'is {place}', f'are {place}')
    doubles = _doubles(train, val, test, differ)
    return _printable([*lines, *doubles])


def _notes_of_rows(
    root: str, names: tuple[str, ...], parts: tuple[Sequence[Found], ...], how: str, inside: folder_scan.Listing,
    unreadable: dict[str, str],
) -> tuple[str, ...]:  # fmt: skip
    """Return the notes on images with several labels or with numbers."""
    train, val, test = parts
    several = not any(isinstance(value, float) for one in train for value in one.label)
    said = [f'{len(train):,} to learn from']
    said += [f'{len(val):,} to validate on'] * bool(val)
    said += [f'{len(test):,} to test on{how}'] * bool(test)
    what = counted(len(names), 'label' if several else 'number')
    lines = [f'{root}: {sum(map(len, parts)):,} images with {what} ({inside.table}): {", ".join(said)}']
    if several:
        sizes = np.bincount([k for one in train for k in one.label], minlength=len(names))
        least, most = int(sizes.argmin()), int(sizes.argmax())
        lines.append(
            f'images to learn from with each label: {sizes.min():,} ({names[least]}) to {sizes.max():,} '
            f'({names[most]}); with none of them: {sum(not one.label for one in train):,}'
        )
    else:
        rows = np.array([one.label for one in train])
        each = zip(names, rows.min(0), rows.max(0), rows.mean(0), strict=True)
        shown = [f'{name} {low:g} to {high:g}, on average {mean:.4g}' for name, low, high, mean in each]
        lines.append(f'of those to learn from: {"; ".join(shown[:SHOWN])}')
    doubles = _doubles(train, val, test, ('has two different labels', 'have two different labels'))
    return _printable([*lines, *_left_out(inside, unreadable), *doubles])


def _left_out(inside: folder_scan.Listing, unreadable: dict[str, str]) -> list[str]:
    """Return lines on the files that were left out."""
    lines = []
    if unreadable:
        shown = '; '.join(f'{path}: {why}' for path, why in list(unreadable.items())[:SHOWN])
        more = f'; and {len(unreadable) - SHOWN:,} more' if len(unreadable) > SHOWN else ''
        lines.append(f'left out, {counted(len(unreadable), "image")} that cannot be read: {shown}{more}')
    by_count = sorted(inside.others.items(), key=lambda item: (-item[1], item[0]))
    others = ', '.join(f'{suffix} {count:,}' for suffix, count in by_count[:SHOWN])
    no_image = 'that is not an image' if inside.others.total() == 1 else 'that are not images'
    passed = [f'{counted(inside.others.total(), "file")} {no_image} ({others})'] * bool(inside.others)
    passed += [f'{counted(inside.unnamed, "image")} that {inside.table} does not name'] * bool(inside.unnamed)
    passed += [f'{counted(inside.hidden, "hidden file")}'] * bool(inside.hidden)
    passed += [f'{counted(inside.outside, "file")} outside of the class folders'] * bool(inside.outside)
    not_regular = 'that is not a regular file' if inside.irregular == 1 else 'that are not regular files'
    passed += [f'{counted(inside.irregular, "file")} {not_regular}'] * bool(inside.irregular)
    passed += [f'empty folders: {_some(inside.empty)}'] * bool(inside.empty)
    passed += [f'folders that were reached by another path: {_some(inside.again)}'] * bool(inside.again)
    passed += [f'folders that are not used: {_some(inside.unused)}'] * bool(inside.unused)
    return [*lines, *[f'left out, {"; ".join(passed)}'] * bool(passed)]


def _printable(lines: Sequence[str]) -> tuple[str, ...]:
    """Return lines that do not move the cursor of a terminal."""
    return tuple(''.join(c if c.isprintable() else '?' for c in line) for line in lines)


def _doubles(train: Sequence[Found], val: Sequence[Found], test: Sequence[Found], differ: tuple[str, str]) -> list[str]:
    """Return warnings about equal files in two parts, and with two labels: `differ` says so of one and of several."""
    lines = []
    learned = {one.digest: one for one in train}
    for part, found in (('test', test), ('val', val)):
        twins = [one for one in found if one.digest in learned]
        if twins:
            first = f'{twins[0].id} is {learned[twins[0].digest].id}'
            lines.append(
                f'warning: {counted(len(twins), "image")} of the {part} part {"is" if len(twins) == 1 else "are"} in '
                f'the train part too, byte for byte ({first}): accuracy will look better than it is'
            )
    label: dict[str, Any] = {}
    twofold = {one.digest for one in (*train, *val, *test) if label.setdefault(one.digest, one.label) != one.label}
    if twofold:
        one, several = differ
        lines.append(f'warning: {counted(len(twofold), "image")} {one if len(twofold) == 1 else several}')
    return lines


def counted(n: int, what: str) -> str:
    """Format a number with its noun: '1 image', '1,200 images'."""
    return f'{n:,} {what}{"s" * (n != 1)}'
