"""Plain data from files that may lie: JSON, and the arrays of an `.npz`.

Whatever is wrong with them is a `ValueError`. Nothing in them is run, and what they say of their size is compared
with what they hold before memory is taken.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

MOST_BYTES = 1 << 30  # of all arrays of a file together
HEADER_BYTES = 10_000
RATIO = 1032  # what deflate makes of a byte at most


def parse(text: str | bytes) -> Any:
    """What a JSON text says."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError('it is nested too deeply') from None


def arrays(file: Path | bytes | BinaryIO, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """{name: array} of an `.npz`; of a path also `OSError`."""
    if isinstance(file, bytes):
        return arrays(io.BytesIO(file), most)
    if hasattr(file, 'open'):
        with file.open('rb') as opened:  # pyright: ignore[reportAttributeAccessIssue]
            return arrays(opened, most)
    try:
        return _unpacked(file, most)
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # bytes of a stranger: zipfile, zlib and numpy fail on them in every way there is
        raise ValueError(f'it is damaged ({type(error).__name__}: {error})') from None


def _unpacked(file: Any, most: int) -> dict[str, np.ndarray]:
    out = {}
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > most:
            raise ValueError(f'its arrays are larger than {most:,} bytes')
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError('it is compressed as no array is')
            if member.file_size > RATIO * (member.compress_size + 1):
                raise ValueError('it says that it holds more than it can')
            data = bytearray(member.file_size)
            with archive.open(member) as unpacked:
                opened, at = cast(io.BufferedIOBase, unpacked), 0
                while count := opened.readinto(memoryview(data)[at:]):
                    at += count
            out[member.filename.removesuffix('.npy')] = _array(data)
    return out


def _array(data: bytearray) -> np.ndarray:
    """An array of the bytes of an `.npy`; its memory is theirs."""
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
