"""Finds the image files of a folder, and checks each file once.

`list_parts` finds the parts and classes of a folder; `everything` is for prediction, which needs neither. Both use the
same `walk`. `check_files` reads and decodes the files that are new or have changed, and keeps a digest of the bytes of
each in the cache, so that a second start only has to list the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import time
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from mixjax.data.pixels import photo
from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.host.progress import Bar

PARTS = {
    'train': 'train', 'training': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val', 'test': 'test',
    'testing': 'test',
}  # fmt: skip
# Words that may be before or after those: training_set, Test Images, data-val.
FILLER = '(?:(?:data)?sets?|data|splits?|parts?|images?|imgs?|photos?|pictures?|folder)?'
PART = re.compile(f'{FILLER}({"|".join(PARTS)}){FILLER}')
NOT_CLASSES = ('__MACOSX', '@eaDir', '$RECYCLE.BIN', 'lost+found')  # folders that operating systems create
FORMAT = 2
CLOSED = 'it cannot be opened'
LARGEST = 1 << 30  # bytes of an image file; the largest image that is decoded has fewer, uncompressed
# Nanoseconds. A file that was written this recently may be written again without a new time stamp: file systems
# have resolutions of up to two seconds.
FRESH = 2 * 10**9
SHOWN = 200  # characters of a path in a message


# --- reading a file ---------------------------------------------------------------------------------------------------


class Stamp(NamedTuple):
    """A stamp that changes when a file is written to, without reading the file.

    `changed` is the ctime: writing, renaming and setting the times of a file all change it, and no program can set it.
    """

    size: int
    modified: int
    changed: int
    inode: int


def stamp_of(facts: os.stat_result) -> Stamp:
    """Return the stamp of a file from its status."""
    return Stamp(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)


def read_file(path: str | Path) -> tuple[bytes, Stamp]:
    """Read a regular file and its stamp. Anything else, such as a pipe or a device, is an `OSError`."""
    with untrusted.open_regular(path) as file:
        facts = os.fstat(file.fileno())
        if facts.st_size > LARGEST:
            raise OSError(errno.EFBIG, f'it has {facts.st_size:,} bytes, and at most {LARGEST:,} are read')
        data = file.read(facts.st_size + 1)
        stamp = stamp_of(facts)
        if len(data) != stamp.size or stamp_of(os.fstat(file.fileno())) != stamp:
            raise OSError(errno.EBUSY, 'it is being written to')
    return data, stamp


def digest_of(data: bytes) -> str:
    """Return the digest of the bytes of a file."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


# --- listing ----------------------------------------------------------------------------------------------------------


class Walked(NamedTuple):
    """Result of `walk`.

    Attributes:
      files: {start: image files in it}.
      others: number of other files, by suffix.
      hidden: number of hidden files.
      irregular: number of pipes, sockets and devices.
      again: folders that were reached before, by another path.
    """

    files: dict[str, list[str]]
    others: Counter[str]
    hidden: int
    irregular: int
    again: list[str]


def walk(top: Path, starts: Iterable[str]) -> Walked:
    """Find the files in some folders below `top` and in their sub-folders.

    Links are followed, and each real folder is entered once, so that its files belong to one start: to the folder
    itself if it is a start, else to the start that contains it without a link, else to the first that links to it. A
    link to a folder that contains a start is not followed.

    Args:
      top: the folder.
      starts: paths of folders below it; '' is `top` itself.
    """
    claimed: dict[tuple[int, int], str | None] = {}
    files: dict[str, list[str]] = {start: [] for start in starts}
    others: Counter[str] = Counter()
    links: list[tuple[str, str]] = []
    again: list[str] = []
    hidden = irregular = 0

    def claim(path: str) -> bool:
        """Return whether this is the first time that the real folder is reached."""
        if claimed.setdefault(_identity(top / path), path) == path:
            return True
        again.append(path)
        return False

    def enter(start: str, folder: str) -> None:
        nonlocal hidden, irregular
        waiting = [folder]
        while waiting:
            below = waiting.pop()
            for item in _inside(top / below):
                path, kind = f'{below}/{item.name}' if below else item.name, _kind(item)
                if kind == 'folder':
                    if not _is_hidden(item.name) and path not in files:
                        if item.is_symlink():
                            links.append((start, path))
                        elif claim(path):
                            waiting.append(path)
                elif _is_hidden(item.name):
                    hidden += 1
                elif kind == 'irregular':
                    irregular += 1
                else:
                    suffix = os.path.splitext(item.name)[1].lower()
                    if suffix in photo.SUFFIXES:
                        files[start].append(path)
                    else:
                        others[suffix or 'without an ending'] += 1

    for folder in _above(top, files):
        claimed[_identity(folder)] = None
    real_first = sorted(files, key=lambda start: bool(start) and (top / start).is_symlink())
    for start in [start for start in real_first if claim(start)]:  # all starts are claimed before any is entered
        enter(start, start)
    for start, path in links:  # the list grows during the loop
        if claim(path):
            enter(start, path)
    for found in files.values():
        found.sort(key=lambda path: path.split('/'))
    return Walked(files, others, hidden, irregular, sorted(again))


def _above(top: Path, starts: Iterable[str]) -> set[Path]:
    """Return the real folders that contain the starts, and their parents up to the root."""
    if '' in starts:
        return set(Path(os.path.realpath(top)).parents)
    holding = [Path(os.path.realpath(folder)) for folder in {(top / start).parent for start in starts}]
    return {folder for one in holding for folder in (one, *one.parents)}


class Listing(NamedTuple):
    """Result of `list_parts`. The fields from `empty` on are about files and folders that were left out.

    Attributes:
      parts: {part: [(path, class)]}.
      empty: class folders without an image.
      others: see `Walked`.
      hidden: see `Walked`.
      outside: number of files outside of the class folders.
      unused: folders beside the parts.
      irregular: see `Walked`.
      again: see `Walked`.
      unnamed: number of images that the file of labels does not name.
      table: name of the file of labels; '' without one.
    """

    parts: dict[str, list[tuple[str, str]]]
    empty: list[str]
    others: Counter[str]
    hidden: int
    outside: int
    unused: list[str]
    irregular: int
    again: list[str]
    unnamed: int = 0
    table: str = ''

    @property
    def files(self) -> list[str]:
        return [path for found in self.parts.values() for path, _ in found]


def list_parts(top: Path) -> Listing:
    """Find the parts of a folder, their classes and image files."""
    places, unused = _places(top)
    parts, empty, others, again = {}, [], Counter(), []
    hidden = outside = irregular = 0
    for part, place in places.items():
        classes = {}
        for item in _inside(top / place):
            if _is_hidden(item.name):
                hidden += 1
            elif _kind(item) == 'folder':
                classes[f'{place}/{item.name}' if place else item.name] = unicodedata.normalize('NFC', item.name)
            elif _kind(item) == 'irregular':
                irregular += 1
            else:
                outside += 1
        walked = walk(top, classes)
        parts[part] = [(path, classes[start]) for start, paths in walked.files.items() for path in paths]
        empty += [start for start, paths in walked.files.items() if not paths and start not in walked.again]
        others += walked.others
        again += walked.again
        hidden, irregular = hidden + walked.hidden, irregular + walked.irregular
    return Listing(parts, empty, others, hidden, outside, unused, irregular, again)


def everything(top: Path) -> tuple[list[tuple[str, Path]], Walked]:
    """Find all image files of a folder: (path, path from its class folder on), and the `Walked`.

    Class folders are those of `list_parts`; for a file outside of them, the second path is the first one.
    """
    try:
        places = _places(top)[0].values()
    except UserError:  # ambiguous names, which matter for training only
        places = ['']
    classes = [f'{place}/{name}' if place else name for place in places for name in _folders(top / place)]
    walked = walk(top, [*classes, ''])
    found = [(path, Path(path[start.rfind('/') + 1 :])) for start, paths in walked.files.items() for path in paths]
    return sorted(found, key=lambda one: one[0].split('/')), walked


def _places(top: Path) -> tuple[dict[str, str], list[str]]:
    """Return {part: its folder, '' for the root itself}, and the unused folders beside the parts.

    `train` beside `bus` and `car` is a class; beside `test` it is a part. A test part without class folders has no
    labels, so it cannot be used for testing.
    """
    folders = _folders(top)
    named: dict[str, list[str]] = {}
    for name in folders:
        if part := _part(name):
            named.setdefault(part, []).append(name)
    others = [name for name in folders if not _part(name)]
    if 'train' not in named or (others and len(named) == 1):
        _check_classes(top, folders)
        return {'train': ''}, []
    for part, names in named.items():
        if len(names) > 1:
            raise UserError(
                f'{top} has {len(names)} folders for its {part} part ({_quoted(names)}); keep one of them there'
            )
    unlabelled = [names[0] for part, names in named.items() if part != 'train' and not _folders(top / names[0])]
    places = {part: names[0] for part, names in named.items() if names[0] not in unlabelled}
    if 'test' not in places and 'val' in places:
        places['test'] = places.pop('val')
    # A fixed order, independent of the names of the folders.
    places = {part: places[part] for part in ('train', 'val', 'test') if part in places}
    return places, [f'{name} (no class folders in it)' for name in unlabelled] + others


def parts_of(files: list[str]) -> list[str]:
    """Return the part of each file by the folder that its path begins with; all are `train` unless each lies in one.

    As of class folders, a validation part without a test part is the test part.

    Args:
      files: paths below the root.
    """
    parts = [_part(file.partition('/')[0]) if '/' in file else '' for file in files]
    there = set(parts)
    if '' in there or 'train' not in there or len(there) == 1:
        return ['train'] * len(files)
    return parts if 'test' in there else ['test' if part == 'val' else part for part in parts]


def _part(name: str) -> str:
    """Return the part that the name of a folder means: 'train' for 'Training_set'; '' for other names."""
    match = PART.fullmatch(re.sub(r'[\s_.-]+', '', name.lower()))
    return PARTS[match[1]] if match else ''


def _check_classes(top: Path, folders: list[str]) -> None:
    """Refuse folders that would be used as classes but look like parts."""
    said = {name: _part(name) or _hint(name) for name in folders}
    like = [name for name, part in said.items() if part]
    inside = {name: set(_folders(top / name)) for name in like}
    # They look like parts: test/cat and test/dog beside cat and dog, or beside my_train/cat and my_train/dog.
    beside = any(len(inside[name] & (set(folders) - {name})) > 1 for name in like)
    shared = any(len(inside[a] & inside[b]) > 1 for a in like for b in like if said[a] != said[b])
    named = {_part(name) for name in folders}
    alone = like == folders and (len(set(said.values())) > 1 or bool(named & {'val', 'test'}))
    if beside or shared or alone or {'val', 'test'} <= named:
        raise UserError(
            f'{top}: {_quoted(like)} may be classes or parts of the data set; call the parts train, val and test, with '
            f'a folder for each class in them, or put the folders of all classes into {top / "train"}'
        )


def _hint(name: str) -> str:
    """Return the part that a word in the name of a folder means: 'train' for 'my_train'; '' if there is none."""
    return next((PARTS[word] for word in re.split(r'[\W\d_]+', name.lower()) if word in PARTS), '')


def _quoted(names: list[str]) -> str:
    return ', '.join(map(repr, names[:5])) + (f' and {len(names) - 5} more' if len(names) > 5 else '')


def _folders(folder: Path) -> list[str]:
    return [item.name for item in _inside(folder) if _kind(item) == 'folder' and not _is_hidden(item.name)]


def _inside(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as items:
            return sorted(items, key=lambda item: item.name)
    except OSError as error:
        raise _closed(folder, error) from None


def _kind(item: os.DirEntry[str]) -> str:
    """Return 'folder', 'file', or 'irregular' for a pipe, a socket or a device. Links are followed."""
    try:
        if item.is_dir():
            return 'folder'
        return 'file' if item.is_file() or stat.S_ISREG(os.stat(item.path).st_mode) else 'irregular'
    except OSError:  # a broken or circular link: opening it later gives the error
        return 'file'


def _identity(folder: Path) -> tuple[int, int]:
    try:
        facts = folder.stat()
    except OSError as error:
        raise _closed(folder, error) from None
    return facts.st_dev, facts.st_ino


def _closed(folder: Path, error: OSError) -> UserError:
    text = str(folder)
    shown = text if len(text) <= SHOWN else f'{text[: SHOWN // 2]}..{text[-SHOWN // 2 :]}'
    return UserError(f'{shown} cannot be read: {error.strerror}')


def _is_hidden(name: str) -> bool:
    return name.startswith('.') or name in NOT_CLASSES


# --- checking ---------------------------------------------------------------------------------------------------------


class Known(NamedTuple):
    """A checked file: its stamp, and either a digest of its bytes or the reason why it is not a picture."""

    stamp: Stamp
    digest: str
    fault: str


def checks_file(top: Path, cache: Path) -> Path:
    """Return the file of the cached checks of a folder."""
    return cache / 'folders' / f'{zlib.crc32(os.fsencode(top.resolve())):08x}.json'


def check_files(top: Path, files: list[str], cache: Path) -> dict[str, Known]:
    """Check each file, or take the cached check if its stamp is the same.

    Args:
      top: the folder.
      files: paths below it.
      cache: the folder of the cached checks.

    Returns:
      {path: check}
    """
    memory = checks_file(top, cache)
    before = _read_checks(memory)
    out, kept, new = {}, {}, []
    for path in files:
        try:
            stamp = stamp_of(os.stat(f'{top}/{path}'))
        except OSError as error:
            out[path] = Known(Stamp(0, 0, 0, 0), '', f'{CLOSED} ({error.strerror})')
            continue
        if path in before and before[path].stamp == stamp:
            out[path] = kept[path] = before[path]
        else:
            new.append(path)
    if new:
        bar = Bar(len(new), f'{top}: checking the images')
        pool = ThreadPoolExecutor(os.cpu_count() or 1)

        def check(path: str) -> tuple[Known, bool]:
            made = _checked(top / path)
            bar.add(1)
            return made

        try:
            for path, (made, lasting) in zip(new, pool.map(check, new), strict=True):
                out[path] = made
                if lasting:
                    kept[path] = made
        finally:
            pool.shutdown(cancel_futures=True)
            bar.close()
            _write_checks(memory, kept)
    return out


def _checked(path: Path) -> tuple[Known, bool]:
    """Check a file; also return whether its stamp is old enough to show later changes."""
    try:
        data, stamp = read_file(path)
    except OSError as error:
        return Known(Stamp(0, 0, 0, 0), '', f'{CLOSED} ({error.strerror})'), False
    except MemoryError:
        raise _too_little(path) from None
    lasting = time.time_ns() - stamp.changed > FRESH
    try:
        photo.decode(data)
    except photo.Unreadable as error:
        return Known(stamp, '', str(error)), lasting
    except MemoryError:
        raise _too_little(path) from None
    return Known(stamp, digest_of(data), ''), lasting


def _too_little(path: Path) -> UserError:
    """Return the error for too little memory, which is not a property of the file and is not cached."""
    return UserError(f'there is too little memory to decode {path}; make some free, and give the same command again')


def forget_checks(top: Path, cache: Path) -> None:
    """Remove the cached checks of a folder, so that all files are checked again."""
    try:
        checks_file(top, cache).unlink(missing_ok=True)
    except OSError:
        return


def _read_checks(memory: Path) -> dict[str, Known]:
    try:
        kept = untrusted.parse(untrusted.read_regular(memory))
        return {path: _known(*facts) for path, facts in kept['files'].items()} if kept['format'] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _known(stamp: Any, digest: Any, fault: Any) -> Known:
    """Return a cached check, or raise `ValueError` or `TypeError` if it is malformed."""
    found = Known(Stamp(*stamp), digest, fault)
    if not all(type(number) is int for number in found.stamp) or not type(digest) is type(fault) is str:
        raise ValueError
    if digest if fault else not re.fullmatch('[0-9a-f]{32}', digest):
        raise ValueError
    return found


def _write_checks(memory: Path, known: dict[str, Known]) -> None:
    """Store the checks; a cache that cannot be written to costs time only."""
    # Files that could not be opened may be readable next time.
    files = {path: list(one) for path, one in known.items() if not one.fault.startswith(CLOSED)}
    try:
        storage.make_folder(memory.parent)
        storage.write(memory, json.dumps({'format': FORMAT, 'files': files}).encode())
    except OSError:
        return
