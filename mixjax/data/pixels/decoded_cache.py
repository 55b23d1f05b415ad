"""A disk cache of decoded photographs, at the size at which they are used.

One part of a data set at one size is a `RowFile` in `<cache>/images`, local to a host. Its name identifies the pixels:
by the data set and part, the files they were read from, and the rule. Runs may share it. The size of all files of the
folder together is limited; images beyond it are decoded each time.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from mixjax.data.dataset import Dataset
from mixjax.data.pixels.rowfile import RESERVE, RowFile, size
from mixjax.errors import UserError

FORMAT = 2
CHUNK = 16  # rows that a thread decodes at once
LIMIT = 0.5  # `config.cache_limit`
Read = Callable[[np.ndarray], np.ndarray]
Say = Callable[[str], None]


def stored(dataset: Dataset, part: str, folder: Path, say: Say | None = None, limit: float = LIMIT) -> Dataset:
    """Return a data set whose reader decodes each image once; unchanged if its images need no decoding.

    Args:
      dataset: one part of a data set.
      part: name of the part, such as 'train'.
      folder: the folder of the cache files.
      say: prints a message; None is silent.
      limit: largest number of bytes of all files in the folder; up to 1, a share of the free space and theirs.
    """
    # Readers that decode photographs have a rule; embedded and synthetic images are faster than a file.
    if not getattr(dataset.read, 'rule', None) or not len(dataset.labels):
        return dataset
    return dataset._replace(read=Stored(dataset, part, folder, say, limit))


def ensure(read: Read, rows: Any, *, must: bool = True) -> None:
    """Decode the rows that are not stored yet, on all processors; does nothing for a reader without a cache.

    Args:
      read: a reader.
      rows: rows to decode.
      must: raise an error if the disk has no space for them; otherwise they are then decoded each time.
    """
    if isinstance(read, Stored | Subset):
        read.ensure(rows, must=must)


def announce(read: Read, rows: Any) -> None:
    """Print how much may be stored, and where, when these rows are read one after the other."""
    if isinstance(read, Stored | Subset):
        read.announce(rows)


def passing(read: Read) -> Read:
    """Return a reader of the same images that reads the cache but adds nothing to it: for a single pass."""
    return read.passing() if isinstance(read, Stored | Subset) else read


def stamp_of(read: Read) -> str:
    """Return a text that identifies pixels besides the data set's name and the rule, such as by its record files."""
    return getattr(read.dataset.read if isinstance(read, Stored) else read, 'stamp', '')


class Subset:
    """A reader of some rows of another reader; `rows` may have any shape."""

    def __init__(self, read: Read, rows: np.ndarray) -> None:
        self.read, self.rows = read, np.asarray(rows, np.int64)

    def __call__(self, places: Any) -> np.ndarray:
        rows = self.rows[places]
        if not rows.size:  # the shape is that of the first image
            return np.empty((*rows.shape, *self.read(np.arange(1)).shape[1:]), np.uint8)
        images = self.read(rows.ravel())
        return images.reshape(*rows.shape, *images.shape[1:])

    def ensure(self, places: Any, *, must: bool = True) -> None:
        ensure(self.read, self.rows[places], must=must)

    def announce(self, places: Any) -> None:
        announce(self.read, self.rows[places])

    def passing(self) -> Subset:
        return Subset(passing(self.read), self.rows)


class Stored:
    """A reader that decodes images once and stores them: rows (k,) -> (k, H, W, C) uint8.

    Threads may share it.

    Args:
      dataset: one part of a data set.
      part: name of the part.
      folder: the folder of the cache files.
      say: prints a message; None is silent.
      limit: see `stored`.
    """

    def __init__(self, dataset: Dataset, part: str, folder: Path, say: Say | None, limit: float) -> None:
        self.dataset, self._folder, self._say, self._limit = dataset, folder, say, limit
        # For files that may change during a run; see `folder.Images.check`.
        self._check: Callable[[np.ndarray], None] = getattr(dataset.read, 'check', lambda rows: None)
        self._keeps, self._writing = True, threading.Lock()
        rule = getattr(dataset.read, 'rule')  # noqa: B009
        self._count = len(dataset.labels)
        if rule.side:
            self.shape = (rule.side, rule.side, rule.channels)
        else:
            self.shape = dataset.read(np.arange(1)).shape[1:]
        self._size = int(np.prod(self.shape))
        self.file = RowFile(folder / f'{_name(dataset, part, self.shape)}.pixels', self._count, self._size)
        self._said: set[str] = set()

    def __call__(self, rows: Any) -> np.ndarray:
        rows = np.arange(self._count)[np.asarray(rows, np.int64)]
        out = np.empty((len(rows), *self.shape), np.uint8)
        found = np.array([self._found(int(row), out[place]) for place, row in enumerate(rows)], bool)
        self._check(rows[found])
        lost = np.flatnonzero(~found)
        for places, images in self._in_chunks(lambda some: (some, self._decode(rows[some])), lost):
            out[places] = images
        return out

    def passing(self) -> Stored:
        """Return the same reader without storing of new images."""
        other = copy.copy(self)
        other._keeps = False
        return other

    def announce(self, rows: Any) -> None:
        """Print how much may be stored: see `announce`."""
        missing = self._missing(self._rows(rows))
        if len(missing) and self._keeps and self._can_write():
            some = self._fitting(missing)
            self._tell(
                f'{len(some):,} images of {self.dataset.name} are decoded when they are needed, and kept in '
                f'{self._folder} ({self._sizes(some)})'
            )

    def ensure(self, rows: Any, *, must: bool = True) -> None:
        """Decode rows that are not stored yet, with messages and progress: see `ensure`."""
        missing = self._missing(self._rows(rows))
        if not self._keeps and len(missing):
            self._tell(f'decoding {len(missing):,} images of {self.dataset.name} for one pass over them; none is kept')
        if not len(missing) or not self._keeps or not self._can_write():
            return
        missing = self._fitting(missing)
        needed, free = len(missing) * self._size, shutil.disk_usage(self._folder).free
        if needed + RESERVE > free:
            if not must:
                return
            raise UserError(
                f'{len(missing):,} images of {self.dataset.name} take {size(needed)}, and {self._folder} has '
                f'{size(free)} free; set config.cache_dir to a folder on a larger disk, or decode them each time '
                'with config.store=False'
            )
        if not len(missing):
            return
        self._tell(
            f'decoding {len(missing):,} images of {self.dataset.name}, once, into {self._folder} '
            f'({self._sizes(missing)})'
        )
        from mixjax.host.progress import Bar

        bar = Bar(len(missing), f'{self.dataset.name}: decoding images') if self._say else None

        def fill(rows: np.ndarray) -> int:
            rest = self._missing(rows)  # another run may have been faster
            if len(rest):
                self._decode(rest)
            return len(rows)

        try:
            for count in self._in_chunks(fill, missing):
                if bar:
                    bar.add(count)
        finally:
            if bar:
                bar.close()

    def _rows(self, rows: Any) -> np.ndarray:
        return np.unique(np.arange(self._count)[np.asarray(rows, np.int64).ravel()])

    def _sizes(self, rows: np.ndarray) -> str:
        return f'{size(len(rows) * self._size)}; {size(shutil.disk_usage(self._folder).free)} free'

    def _fitting(self, rows: np.ndarray) -> np.ndarray:
        """Return the missing rows that may still be stored; print a message if these are not all."""
        many = max(self._left(), 0) // self._size
        if len(rows) > many:
            self._tell_limit()
        return rows[:many]

    def _left(self) -> int:
        """Return the number of bytes that may still be written."""
        taken = 0
        with contextlib.suppress(OSError):
            for item in os.scandir(self._folder):
                taken += item.stat().st_blocks * 512
        room = taken + shutil.disk_usage(self._folder).free
        return int(self._limit if self._limit > 1 else self._limit * room) - taken

    def _found(self, row: int, out: np.ndarray) -> bool:
        """Read a row into `out`; return False if it is not stored."""
        if not self.file.is_there(row):
            return False
        if self.file.read(row, out):
            return True
        self._tell(f'{self.file.path} was damaged; its images are decoded again where that is so')
        return False

    def _missing(self, rows: np.ndarray) -> np.ndarray:
        return np.array([row for row in rows if not self.file.is_there(int(row))], np.int64)

    def _in_chunks(self, work: Callable[[np.ndarray], Any], items: np.ndarray) -> Iterator[Any]:
        """Yield `work` of the items, a chunk at a time, computed by as many threads as there are processors."""
        chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
        if len(chunks) < 2:
            yield from map(work, chunks)
            return
        # OpenCV and Pillow release the GIL while they decode.
        pool = ThreadPoolExecutor(min(os.cpu_count() or 1, len(chunks)), thread_name_prefix='mixjax-decode')
        try:
            yield from pool.map(work, chunks)
        finally:
            pool.shutdown(cancel_futures=True)

    def _decode(self, rows: np.ndarray) -> np.ndarray:
        from mixjax.data.pixels.photo import Unreadable

        try:
            images = self.dataset.read(rows)
        except Unreadable as error:  # from a reader that does not name the image
            if len(rows) > 1:
                return np.concatenate([self._decode(row) for row in rows[:, None]])
            name = self.dataset.ids[int(rows[0])] if len(self.dataset.ids) else f'image {rows[0]}'
            raise UserError(f'{self.dataset.name}: {name}: {error}') from None
        assert images.dtype == np.uint8 and images.shape == (len(rows), *self.shape), (images.dtype, images.shape)
        if self._keeps and self._can_write():
            with self._writing:  # writes of one thread count for the next
                for row, image in zip(self._fitting(rows), images, strict=False):
                    self.file.write(int(row), np.ascontiguousarray(image))
        return images

    def _tell_limit(self) -> None:
        limit = f'{self._limit:g} of the room there' if self._limit <= 1 else size(int(self._limit))
        self._tell(
            f'decoded images in {self._folder} take all that config.cache_limit allows ({limit}); the others are '
            'decoded anew each time. Raise the limit, or delete the files there that no run needs'
        )

    def _can_write(self) -> bool:
        """Return whether images can be stored; the first time that they cannot, print a message."""
        try:
            if self.file.fault is None and shutil.disk_usage(self._folder).free < RESERVE:
                self.file.fault = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self.file.fault = error
        if self.file.fault is not None:
            self._tell(
                f'decoded images cannot be kept in {self._folder} ({self.file.fault.strerror}); they are decoded anew '
                'each time (config.cache_dir chooses another folder)'
            )
        return self.file.fault is None

    def _tell(self, line: str) -> None:
        """Print a message once."""
        if line not in self._said and self._say is not None:
            self._say(line)
        self._said.add(line)


def _name(dataset: Dataset, part: str, shape: Sequence[int]) -> str:
    """Return a readable name with the hash of everything that the pixels depend on."""
    rule = getattr(dataset.read, 'rule')._asdict()  # noqa: B009
    about = {
        'format': FORMAT,
        'data': dataset.name,
        'part': part,
        'records': stamp_of(dataset.read),
        'rule': rule,
        'shape': [len(dataset.labels), *shape],
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
    plain = re.sub(r'[^A-Za-z0-9_.-]', '_', dataset.name)[:60]
    return f'{plain}-{part}-{shape[0]}-{rule["fit"]}-{digest}'
