"""The files of a folder of images: which there are, which are passed over, and what is known of each.

`listed` walks through the folder; `known` reads and decodes what is new since the last time. What was found is kept
in the cache, by the size and time of each file, so that a second start only has to list the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mixjax import places as storage
from mixjax import plain
from mixjax.data import photo
from mixjax.data.prepared import Bar
from mixjax.errors import UserError

PARTS = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation'),
    'test': ('test', 'testing'),
}
NOT_CLASSES = ('__MACOSX', '@eaDir', '$RECYCLE.BIN', 'lost+found')  # what systems put between a person's files
FORMAT = 1
CLOSED = 'it cannot be opened'


# --- which files there are --------------------------------------------------------------------------------------------


class Listing(NamedTuple):
    """parts: {part: [(path, class)]}. empty: class folders without an image. The rest counts what was passed over."""

    parts: dict[str, list[tuple[str, str]]]
    empty: list[str]
    others: Counter[str]
    hidden: int
    outside: int
    unused: list[str]

    @property
    def files(self) -> list[str]:
        return [path for found in self.parts.values() for path, _ in found]


def listed(top: Path) -> Listing:
    places, unused = _places(top)
    listing = Listing({}, [], Counter(), 0, 0, unused)
    hidden = outside = 0
    for part, place in places.items():
        found = listing.parts.setdefault(part, [])
        for item in _inside(top / place):
            below = f'{place}/{item.name}' if place else item.name
            if _is_hidden(item.name):
                hidden += 1
            elif not item.is_dir():
                outside += 1
            else:
                before = len(found)
                for path in _walk(top, below, {_identity(top / below)}):
                    name = path.rpartition('/')[2]
                    suffix = os.path.splitext(name)[1].lower()
                    if _is_hidden(name):
                        hidden += 1
                    elif suffix in photo.SUFFIXES:
                        found.append((path, unicodedata.normalize('NFC', item.name)))
                    else:
                        listing.others[suffix or 'without an ending'] += 1
                if len(found) == before:
                    listing.empty.append(below)
    return listing._replace(hidden=hidden, outside=outside)


def _places(top: Path) -> tuple[dict[str, str], list[str]]:
    """{part: its folder, '' for the root itself}, and the folders beside the parts, which are not used.

    `train` beside `bus` and `car` is a class; beside `test` it is a part. A test part without class folders has
    no labels: it cannot be tested on.
    """
    folders = [item.name for item in _inside(top) if item.is_dir() and not _is_hidden(item.name)]
    lower = {name.lower(): name for name in folders}
    named = {
        part: lower[word] for part, words in PARTS.items() for word in reversed(words) if word in lower
    }  # of several, the first of the words
    others = [name for name in folders if name not in named.values()]
    if 'train' not in named or (others and len(named) == 1):
        return {'train': ''}, []
    unlabelled = [
        name for part, name in named.items() if part != 'train' and not any(i.is_dir() for i in _inside(top / name))
    ]
    places = {part: name for part, name in named.items() if name not in unlabelled}
    if 'test' not in places and 'val' in places:
        places['test'] = places.pop('val')
    return places, [f'{name} (no class folders in it)' for name in unlabelled] + others


def _inside(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return sorted(items, key=lambda item: item.name)
    except OSError as error:
        raise UserError(f'{folder} cannot be read: {error.strerror}') from None


def _walk(top: Path, below: str, above: set[tuple[int, int]]) -> Iterator[str]:
    """Paths of all files below a folder, sub-folders included; `above` stops links that lead in a circle."""
    for item in _inside(top / below):
        path = f'{below}/{item.name}'
        if item.is_dir():
            identity = _identity(Path(item.path))
            if not _is_hidden(item.name) and identity not in above:
                yield from _walk(top, path, above | {identity})
        else:
            yield path


def _identity(folder: Path) -> tuple[int, int]:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino


def _is_hidden(name: str) -> bool:
    return name.startswith('.') or name in NOT_CLASSES


# --- what is in them --------------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """Of a file: its size and time, by which it is recognised, a digest of its bytes, and why it is no picture."""

    size: int
    time: int
    digest: str
    fault: str


def known(top: Path, files: list[str], cache: Path) -> dict[str, Known]:
    """What is known of each file: from the last time, or by reading it now."""
    memory = cache / 'folders' / f'{zlib.crc32(os.fsencode(top.resolve())):08x}.json'
    before = _remembered(memory)
    out, new = {}, []
    for path in files:
        try:
            facts = os.stat(top / path)
            stamp = (facts.st_size, facts.st_mtime_ns)
        except OSError as error:
            out[path] = Known(-1, 0, '', f'{CLOSED} ({error.strerror})')
            continue
        if path in before and before[path][:2] == stamp:
            out[path] = before[path]
        else:
            new.append((path, stamp))
    if new:
        bar = Bar(len(new), f'{top}: checking the images')
        pool = ThreadPoolExecutor(os.cpu_count() or 1)

        def check(one: tuple[str, tuple[int, int]]) -> Known:
            made = Known(*one[1], *_checked(top / one[0]))
            bar.add(1)
            return made

        try:
            out |= zip((path for path, _ in new), pool.map(check, new), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()
        _remember(memory, out)
    return out


def _checked(path: Path) -> tuple[str, str]:
    """(digest, why the file is no picture, or '')."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return '', f'{CLOSED} ({error.strerror})'
    try:
        photo.decode(data)
    except photo.Unreadable as error:
        return '', str(error)
    return hashlib.blake2b(data, digest_size=16).hexdigest(), ''


def _remembered(memory: Path) -> dict[str, Known]:
    try:
        kept = plain.parse(plain.read_regular(memory))
        return {path: Known(*facts) for path, facts in kept['files'].items()} if kept['format'] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _remember(memory: Path, known: dict[str, Known]) -> None:
    """Keep it; a cache that cannot be written to costs time and nothing else."""
    # What could not be opened may be another time.
    files = {path: list(one) for path, one in known.items() if not one.fault.startswith(CLOSED)}
    try:
        storage.make(memory.parent)
        storage.write(memory, json.dumps({'format': FORMAT, 'files': files}).encode())
    except OSError:
        return
