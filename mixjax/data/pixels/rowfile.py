"""`RowFile`: rows of bytes in two sparse files that several processes may fill at once.

    NAME.pixels    row after row; a row takes space on the disk once it is written
    NAME.sums      uint32 of each row, its CRC; 0 for a row that is not written yet

A row is written before its sum, and all processes that write it write the same bytes: a killed process leaves rows
that are complete, or that count as missing. `pread` and `pwrite` are used instead of a memory map: on a full disk, or
for a file that is truncated, a map raises a signal that kills the process, and these raise an error.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
import zlib
from pathlib import Path

import numpy as np

RESERVE = 1 << 30  # bytes of a disk that are left free


def size(count: int) -> str:
    """Format a number of bytes: '2.4 GB', '3 MB'."""
    if count >= 1e9:
        return f'{count / 1e9:.1f} GB'
    return f'{count / 1e6:.0f} MB' if count >= 1e6 else f'{count / 1e3:.0f} kB'


class RowFile:
    """A file of `count` rows of `size` bytes, which is opened on first use. Threads may share it.

    Attributes:
      path: the file of the rows.
      fault: the `OSError` for which nothing can be written; None as long as writing works.
    """

    def __init__(self, path: Path, count: int, size: int) -> None:
        self.path = path
        self.fault: OSError | None = None
        self._count, self._size = count, size
        self._sums = np.zeros(count, np.uint32)
        self._known = np.zeros(count, bool)  # rows whose sum was checked in this process
        self._files: tuple[int, int] | None = None
        self._opened, self._lock = False, threading.Lock()

    def is_there(self, row: int) -> bool:
        """Return whether the row was written, by this process or another one."""
        files = self._open()
        if not self._sums[row] and files is not None:
            found = os.pread(files[1], 4, 4 * row)
            self._sums[row] = np.frombuffer(found, np.uint32)[0] if len(found) == 4 else 0
        return bool(self._sums[row])

    def read(self, row: int, out: np.ndarray) -> bool:
        """Read a row that was written into `out`; if it is damaged, return False and count it as missing from now on.

        Its sum is checked the first time that this process reads it.
        """
        files = self._open()
        assert files is not None
        try:
            whole = os.preadv(files[0], [out.data.cast('B')], row * self._size) == self._size
        except OSError:
            whole = False
        if not whole or not (self._known[row] or _sum(out) == self._sums[row]):
            self._sums[row] = 0
            return False
        self._known[row] = True
        return True

    def write(self, row: int, data: np.ndarray) -> None:
        """Write a row; if that fails, set `fault` and write nothing any more."""
        files, summed = self._open(), _sum(data)
        if files is None or self.fault is not None:
            return
        try:
            _write(files[0], data.data.cast('B'), row * self._size)
            _write(files[1], np.array([summed], np.uint32).data.cast('B'), 4 * row)
        except OSError as error:
            self.fault = error
        else:
            self._sums[row], self._known[row] = summed, True

    def _open(self) -> tuple[int, int] | None:
        """Return the descriptors of both files; None if they cannot be opened."""
        with self._lock:
            if not self._opened:
                self._opened = True
                try:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._take(os.O_RDWR | os.O_CREAT)
                except OSError as error:
                    self.fault = error
                    with contextlib.suppress(OSError):  # existing rows can still be read
                        self._take(os.O_RDONLY)
            return self._files

    def _take(self, how: int) -> None:
        paths = (self.path, self.path.with_suffix('.sums'))
        with contextlib.ExitStack() as opened:
            files = []
            for path, length in zip(paths, (self._count * self._size, 4 * self._count), strict=True):
                files.append(os.open(path, how | os.O_CLOEXEC, 0o666))
                opened.callback(os.close, files[-1])
                if how & os.O_CREAT and os.fstat(files[-1]).st_size != length:
                    os.ftruncate(files[-1], length)
            opened.pop_all()
        for file in files:
            weakref.finalize(self, os.close, file)
        found = os.pread(files[1], 4 * self._count, 0)
        self._sums[: len(found) // 4] = np.frombuffer(found[: len(found) // 4 * 4], np.uint32)
        self._files = (files[0], files[1])


def _sum(data: np.ndarray) -> int:
    """Return the CRC; 0 means a row that is not written, so it becomes 1."""
    return zlib.crc32(data.data) or 1


def _write(file: int, data: memoryview, place: int) -> None:
    while data:
        written = os.pwrite(file, data, place)
        data, place = data[written:], place + written
