"""A reader of a prepared copy of a data set: labels and names at once, images when they are indexed.

To collect the labels, every record has to be read, including its image. So they are stored in an index,
`mixjax_index.npz` beside the records: the command `prepare` makes it, or the first run with a copy that has none.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mixjax.data.datasets.array_record import AGAIN, Records, example
from mixjax.data.pixels import photo
from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.host.progress import Bar

INDEX = 'mixjax_index.npz'
SKIPPED = 'mixjax_skipped.json'
NAMES = ('id', 'image/filename', 'file_name', 'filename')  # features in which builders store the name of an example
FORMAT = 1
CHUNK = 64  # records read at once


class Index(NamedTuple):
    """Index of the examples of one part, without their images.

    Attributes:
      number: (n,) int64, the numbers of their records, ascending; examples that were left out as unreadable are
        missing.
      label: (n,) int32.
      name: (n,) bytes, UTF-8.
    """

    number: np.ndarray
    label: np.ndarray
    name: np.ndarray


class Names(Sequence):
    """Names of examples as a sequence of strings, without a string in memory for each."""

    def __init__(self, encoded: np.ndarray) -> None:
        self._encoded = encoded

    def __len__(self) -> int:
        return len(self._encoded)

    def __getitem__(self, row: Any) -> Any:
        return Names(self._encoded[row]) if isinstance(row, slice) else bytes(self._encoded[row]).decode()


class Images:
    """A reader of the images of one part, at the size of a rule: rows (k,) -> (k, H, W, C) uint8.

    Threads may share it, and it can be sent to other processes.

    Args:
      records: the records of the part.
      known: the index of the part.
      rule: the size and colours of the images.
      banner: rows of pixels at the bottom of every stored photograph that are not part of it.
      shape: (H, W) of the stored images, where the rule keeps their size.
    """

    def __init__(self, records: Records, known: Index, rule: photo.Rule, *, banner: int, shape: tuple[int, ...]):
        self.records, self.known, self.rule, self.banner = records, known, rule, banner
        self._shape = (*((rule.side, rule.side) if rule.side else shape[:2]), rule.channels)

    @property
    def stamp(self) -> str:
        """Text that identifies the pixels besides the rule: by the records, and the ones that are examples."""
        return f'{_stamp({self.records.part: self.records})} {zlib.crc32(self.known.number.tobytes())} {self.banner}'

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        rows = np.arange(len(self.known.number))[np.asarray(rows, np.int64)]
        out = np.empty((len(rows), *self._shape), np.uint8)
        for start in range(0, len(rows), CHUNK):
            here = rows[start : start + CHUNK]
            found = self.records.read(self.known.number[here])
            for place, row, record in zip(out[start : start + CHUNK], here, found, strict=True):
                place[:] = self._image(int(row), record)
        return out

    def _image(self, row: int, record: bytes) -> np.ndarray:
        try:
            image = photo.read(_bytes(record), self.rule, banner=self.banner)
        except photo.Unreadable as error:
            again = 'mixjax prepare with --skip-corrupt leaves such images out'
            raise UserError(f'{self._said(row)}: {error}; {again}') from None
        if image.shape != self._shape:
            raise UserError(
                f'{self._said(row)} is of size {image.shape[1]} x {image.shape[0]} and not {self._shape[1]} x '
                f'{self._shape[0]} as the set should be; choose a size for all of them (config.image.resize)'
            )
        return image

    def _said(self, row: int) -> str:
        return f'{self.known.name[row].decode()} ({self.records.where(int(self.known.number[row]))})'


def _bytes(record: bytes) -> bytes:
    """Return the stored image of a record; b'' if it has none."""
    try:
        return example(record, ('image',)).get('image', b'')
    except (ValueError, IndexError):
        return b''


# --- the index --------------------------------------------------------------------------------------------------------


def index(
    folder: Path, counts: dict[str, int], classes: int, *, check: bool = False, skip: bool = False
) -> dict[str, Index]:
    """Return the index of each part, read from its file, or made and stored.

    With `check`, which the command `prepare` sets, it is stored beside the records. Otherwise it is stored in the
    cache: the folder of the records may come from the settings of somebody else's run, which must not choose where
    files are written.

    Args:
      folder: the folder of the records.
      counts: {part: required number of examples; 0 for any number}.
      classes: number of classes; labels must be below it.
      check: decode every image once, unless it has been done before. If some cannot be decoded, raise an error that
        lists them.
      skip: with `check`, leave out the images that cannot be decoded, and list them in `mixjax_skipped.json`.
    """
    parts = {part: Records(folder, part) for part in counts}
    about = _stamp(parts)
    for place in (folder / INDEX, _elsewhere(folder)):
        found = _load(place, about, check, parts)
        if found is not None:
            return found
    for part, records in parts.items():
        if counts[part] and len(records) != counts[part]:
            raise UserError(
                f'the {part} part in {folder} has {len(records):,} examples, and the published one has '
                f'{counts[part]:,}; {AGAIN}, or take it as it is with mixjax prepare --allow-counts'
            )
    bar = Bar(sum(map(len, parts.values())), f'{folder}: {"checking the images" if check else "reading the labels"}')
    try:
        collected = {part: _collect(records, classes, check, bar) for part, records in parts.items()}
    finally:
        bar.close()
    unreadable = {part: bad for part, (_, bad) in collected.items() if bad}
    if unreadable and not skip:
        raise UserError(_complaint(folder, [one for bad in unreadable.values() for one in bad], bar.total))
    if unreadable:
        text = json.dumps(unreadable, indent=2) + '\n'
        _write(folder / SKIPPED, lambda file: file.write(text.encode()))
    made = {part: one for part, (one, _) in collected.items()}
    arrays = {f'{part}/{key}': value for part, one in made.items() for key, value in one._asdict().items()}
    arrays |= {'about': np.array(about), 'checked': np.array(check)}
    for place in [*([folder / INDEX] if check else []), _elsewhere(folder)]:
        if _write(place, lambda file: np.savez(file, allow_pickle=False, **arrays)):
            break
    return made


def _complaint(folder: Path, bad: list[dict[str, str]], total: int) -> str:
    shown = [f'\n  {one["name"]}: {one["why"]} ({one["where"]})' for one in bad[:5]]
    more = [f'\n  and {len(bad) - 5} more'] if len(bad) > 5 else []
    return (
        f'{len(bad):,} of the {total:,} images in {folder} cannot be read; '
        f'with --skip-corrupt they are left out:{"".join(shown + more)}'
    )


def _stamp(parts: dict[str, Records]) -> str:
    """Return a text that identifies the records of an index.

    It has the size of every file and a checksum of its beginning and of its end, where the offsets of the records are.
    """
    files: dict[str, list[int]] = {}
    for path in (path for records in parts.values() for path in records.files):
        try:
            with untrusted.open_regular(path) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                first = file.read(1 << 16)
                file.seek(max(size - (1 << 16), 0))
                files[path.name] = [size, zlib.crc32(first + file.read())]
        except OSError as error:
            raise UserError(f'{path} cannot be read ({error.strerror}); {AGAIN}') from None
    return json.dumps({'format': FORMAT, 'files': files})


def _elsewhere(folder: Path) -> Path:
    """Return the path in the cache of the index of a folder."""
    return storage.cache_folder() / f'index-{zlib.crc32(str(folder.resolve()).encode()):08x}.npz'


def _write(path: Path, write: Callable[[BinaryIO], Any]) -> bool:
    """Write a file whole or not at all; return False if that fails."""
    path = storage.resolve_file(path)
    try:
        storage.make_folder(path.parent)
        with storage.open_atomic(path) as file:
            write(file)
    except OSError:
        return False
    return True


def _load(path: Path, about: str, check: bool, parts: dict[str, Records]) -> dict[str, Index] | None:
    """Read the index in a file; None unless it is of these records, and checked if `check` is set."""
    try:
        found = untrusted.arrays(path)
        if str(found['about']) != about or (check and not found['checked']):
            return None
        return {part: Index(*(found[f'{part}/{key}'] for key in Index._fields)) for part in parts}
    except (OSError, ValueError, KeyError):
        return None


def _collect(records: Records, classes: int, check: bool, bar: Bar) -> tuple[Index, list[dict[str, str]]]:
    """Make the index of a part on all processors, and list its unreadable examples as {name, why, where}."""

    def read_chunk(start: int) -> list[tuple[int, bytes, str]]:
        numbers = range(start, min(start + CHUNK, len(records)))
        out = []
        for number, record in zip(numbers, records.read(numbers), strict=True):
            label, name = _label_and_name(records, number, record, classes)
            out.append((label, name, _fault(record) if check else ''))
        bar.add(len(out))
        return out

    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        seen = [one for chunk in pool.map(read_chunk, range(0, len(records), CHUNK)) for one in chunk]
    finally:
        pool.shutdown(cancel_futures=True)
    good = np.array([not why for _, _, why in seen], bool)
    made = Index(
        np.flatnonzero(good),
        np.array([label for label, _, _ in seen], np.int32)[good],
        np.array([name for _, name, _ in seen], np.bytes_)[good],
    )
    bad = [
        {'name': name.decode(), 'why': why, 'where': records.where(number)}
        for number, (_, name, why) in enumerate(seen)
        if why
    ]
    return made, bad


def _label_and_name(records: Records, number: int, record: bytes, classes: int) -> tuple[int, bytes]:
    try:
        found = example(record, ('label', *NAMES))
        label = found['label']
    except (ValueError, IndexError, KeyError):
        raise UserError(f'{records.where(number)} is not an example with an image and a label; {AGAIN}') from None
    if not 0 <= label < classes:
        raise UserError(f'{records.where(number)} has the label {label}, and there are {classes} classes; {AGAIN}')
    return label, next((found[key] for key in NAMES if found.get(key)), f'{records.part}/{number}'.encode())


def _fault(record: bytes) -> str:
    """Return the reason why the image of a record cannot be read; '' if it can."""
    try:
        photo.decode(_bytes(record))
    except photo.Unreadable as error:
        return str(error)
    return ''
