"""Bounded readers for files that we did not write: JSON, and the arrays of an `.npz`.

A malformed file is a `ValueError`. Nothing in a file is run, and the size that it states is compared with what it
holds before memory is allocated. Only regular files are opened: a FIFO or a device could block the reader, or feed it
data, for ever.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

MOST_BYTES = 1 << 30  # of all arrays of a file together
MOST_TEXT = 1 << 28  # of a JSON file or a log
HEADER_BYTES = 10_000
RATIO = 1032  # the largest compression ratio of deflate


class NotRegularFile(OSError):
    """A path leads to something that is not a regular file, such as a FIFO, a device or a socket."""


def open_regular(path: str | os.PathLike[str], dir_fd: int | None = None) -> BinaryIO:
    """Open a regular file for reading; links to regular files are followed.

    Anything else is refused before it is opened, because opening a FIFO can wait and opening a device can act.

    Args:
      path: a file on a disk, or of an object store, which only has regular files.
      dir_fd: the descriptor of the folder that a relative `path` counts from.

    Raises:
      NotRegularFile: it is a FIFO, a device or a socket.
      OSError: it cannot be opened; a folder is an `IsADirectoryError`.
    """
    if '://' in os.fspath(path):
        return cast(Any, path).open('rb')
    try:
        _refuse_special(path, os.stat(path, dir_fd=dir_fd))
        # Between the two calls it may have been replaced, so it is opened without blocking and checked again.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, dir_fd=dir_fd)
    except ValueError as error:  # a null byte in a name
        raise OSError(errno.EINVAL, str(error), path) from None
    try:
        _refuse_special(path, os.fstat(descriptor))
        return open(descriptor, 'rb')
    except BaseException:
        os.close(descriptor)
        raise


def _refuse_special(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: 'a FIFO', stat.S_IFSOCK: 'a socket'}
        kind = kinds.get(stat.S_IFMT(status.st_mode), 'a device')
        raise NotRegularFile(errno.EINVAL, f'it is {kind} and not a regular file', path)


def read_regular(path: str | os.PathLike[str], most: int = MOST_BYTES) -> bytes:
    """Read a whole regular file of at most `most` bytes (see `open_regular` for what is refused).

    Raises:
      ValueError: it is larger. A sparse file is refused by the size that it claims, before anything is read.
      OSError: it cannot be opened or read, or is not a regular file.
    """
    with open_regular(path) as file:
        size = most if '://' in os.fspath(path) else os.fstat(file.fileno()).st_size
        if size <= most:
            data = bytearray()
            # A file of /proc has no size, and one that is being written grows: the size is a hint, not a promise.
            while len(data) <= most:
                block = file.read(min(max(size + 1 - len(data), 1 << 16), most + 1 - len(data)))
                if not block:
                    return bytes(data)
                data += block
        raise ValueError(f'it is larger than {most:,} bytes')


def parse(text: str | bytes) -> Any:
    """Parse a JSON text; raise `ValueError` if it is malformed."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError('it is nested too deeply') from None


def arrays(file: Path | bytes | BinaryIO, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` file.

    Args:
      file: path, content or open file.
      most: largest number of bytes of all arrays together.

    Returns:
      {name: array}

    Raises:
      ValueError: it is malformed or too large.
      OSError: the path cannot be opened or read.
    """
    if isinstance(file, bytes):
        return arrays(io.BytesIO(file), most)
    if isinstance(file, os.PathLike):
        if '://' in os.fspath(file):  # read from a store at once, since each seek would be a request
            return arrays(read_regular(file, most), most)
        with open_regular(file) as opened:
            return arrays(opened, most)
    try:
        return _unpacked(file, most)
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib and numpy raise many types on malformed data
        raise ValueError(f'it is damaged ({type(error).__name__}: {error})') from None


def _unpacked(file: Any, most: int) -> dict[str, np.ndarray]:
    out = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > most:
            raise ValueError(f'its arrays are larger than {most:,} bytes')
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError('it is compressed in a way that numpy does not use')
            if member.file_size > RATIO * (member.compress_size + 1):
                raise ValueError('it claims to hold more than it can')
            data = bytearray(member.file_size)
            with archive.open(member) as unpacked:
                opened, at = cast(io.BufferedIOBase, unpacked), 0
                while count := opened.readinto(memoryview(data)[at:]):
                    at += count
            out[member.filename.removesuffix('.npy')] = _array(data)
    return out


def _array(data: bytearray) -> np.ndarray:
    """Return the array in the bytes of an `.npy`, without a copy."""
    head = io.BytesIO(bytes(data[: HEADER_BYTES + 20]))
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    version, _ = np.lib.format.read_magic(head)
    if version not in read:
        raise ValueError('it is of a later form')
    shape, by_columns, dtype = read[version](head, HEADER_BYTES)
    count = math.prod(shape)
    if dtype.hasobject or not dtype.itemsize or any(length < 0 for length in shape):
        raise ValueError('it holds no numbers')
    if count * dtype.itemsize != len(data) - head.tell():
        raise ValueError('its shape does not fit what it holds')
    array = np.frombuffer(data, dtype, count, head.tell())
    return array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)
