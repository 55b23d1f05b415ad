"""A reader of the record files of TensorFlow Datasets, without TensorFlow.

A prepared copy of a data set is a folder with `dataset_info.json` and, for each part, files of records
(array_record). A record is a serialised `tf.train.Example`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixjax.errors import UserError
from mixjax.host import untrusted

MOST = 1 << 40  # examples of a file; larger numbers are refused
AGAIN = 'move that folder away and prepare the set again'


# --- one record -------------------------------------------------------------------------------------------------------


def example(record: bytes, wanted: Sequence[str]) -> dict[str, Any]:
    """Return the first value, bytes or an integer, of each wanted feature of a serialised `tf.train.Example`.

    In the terms of protobuf: Example {1: Features {1: map<name, Feature>}}, where an entry of the map is
    {1: name, 2: Feature}, and Feature is {1: {1: bytes ..}} or {3: {1: varint ..}} (2, floats, is not read).

    Args:
      record: the serialised example.
      wanted: names of features.

    Returns:
      {name: value}, without features that the example lacks.
    """
    found: dict[str, Any] = {}
    for features in _fields(record, 0, len(record), 1):
        for entry in _fields(record, *features, 1):
            name = next(_fields(record, *entry, 1), (0, 0))
            key = record[slice(*name)].decode()
            for feature in _fields(record, *entry, 2) if key in wanted else ():
                for values in _fields(record, *feature, 1):
                    for start, end in _fields(record, *values, 1):
                        found.setdefault(key, record[start:end])
                for values in _fields(record, *feature, 3):
                    for start, _ in _fields(record, *values, 1):  # the first integer is here, packed or not
                        number = _varint(record, start)[0]
                        found.setdefault(key, number - (1 << 64) if number >> 63 else number)
    return found


def _fields(data: bytes, at: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the content of the fields with number `wanted` in a protobuf message data[at:end]."""
    while at < end:
        tag, at = _varint(data, at)
        start = at
        if tag & 7 == 2:  # bytes with their length before them
            length, start = _varint(data, at)
            at = start + length
        elif tag & 7 == 0:
            at = _varint(data, at)[1]
        elif tag & 7 in (1, 5):
            at += 8 if tag & 7 == 1 else 4
        else:
            raise ValueError('not a protobuf message')
        if at > end:
            raise ValueError('a protobuf message that is cut short')
        if tag >> 3 == wanted:
            yield start, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read the number at a place, 7 bits a byte, the lowest first; return it and the place after it."""
    value = shift = 0
    while shift < 70:  # 64 bits need no more bytes, and the time would grow with the square of their number
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError('not a protobuf message')


def _files(info: Any, part: str) -> tuple[list[str], list[int]]:
    """Return the names and lengths of the files of a part from `dataset_info.json`."""
    (facts,) = (one for one in info['splits'] if one['name'] == part)
    lengths = [int(length) for length in facts.get('shardLengths', [])]
    template = str(facts.get('filepathTemplate', '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'))
    for name, value in (('DATASET', info['name']), ('SPLIT', part), ('FILEFORMAT', 'array_record')):
        template = template.replace(f'{{{name}}}', str(value))
    names = [template.replace('{SHARD_X_OF_Y}', f'{k:05d}-of-{len(lengths):05d}') for k in range(len(lengths))]
    if any(not 0 <= length < MOST for length in lengths) or any(not n.isprintable() or '/' in n for n in names):
        raise ValueError
    return names, lengths


# --- the records of one part ------------------------------------------------------------------------------------------


class Records:
    """A reader of the records of one part of a prepared copy, by number.

    Threads may share it; a copy in another process opens the files again.
    """

    def __init__(self, folder: Path, part: str) -> None:
        self.part = part
        try:
            names, lengths = _files(untrusted.parse(untrusted.read_regular(folder / 'dataset_info.json')), part)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise UserError(f'{folder}/dataset_info.json is damaged ({type(error).__name__}); {AGAIN}') from None
        self.files = [folder / name for name in names]
        self._ends = np.cumsum(np.array(lengths, np.int64))
        self._forget()

    def _forget(self) -> None:
        self._lock, self._process, self._open = threading.Lock(), os.getpid(), {}

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ('_lock', '_open')}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def place(self, number: int) -> tuple[int, int]:
        """Return the index of the file of a record, and the number of the record in that file."""
        file = int(np.searchsorted(self._ends, number, side='right'))
        return file, int(number - (self._ends[file - 1] if file else 0))

    def where(self, number: int) -> str:
        """Return 'FILE, record 17', for messages."""
        file, place = self.place(number)
        return f'{self.files[file]}, record {place}'

    def read(self, numbers: Sequence[int] | np.ndarray) -> list[bytes]:
        """Read the records with these numbers, in this order."""
        places = [self.place(number) for number in numbers]
        out: list[bytes] = [b''] * len(places)
        for file in sorted({file for file, _ in places}):
            mine = [k for k, (of, _) in enumerate(places) if of == file]
            try:
                found = self._reader(file).read([places[k][1] for k in mine])
            except (RuntimeError, ValueError, IndexError) as error:
                what = str(error).partition(';')[0]
                raise UserError(f'{self.files[file]} is damaged ({what}); {AGAIN}') from None
            for k, record in zip(mine, found, strict=True):
                out[k] = record
        return out

    def _reader(self, file: int) -> Any:
        if self._process != os.getpid():  # after a fork the positions of open files are shared with the parent
            self._forget()
        with self._lock:
            if file not in self._open:
                self._open[file] = self._opened(file)
            return self._open[file]

    def _opened(self, file: int) -> Any:
        try:
            from array_record.python.array_record_module import ArrayRecordReader
        except ImportError:
            raise UserError('prepared data sets are read with array_record: pip install array_record') from None
        path, length = self.files[file], int(np.diff(self._ends, prepend=0)[file])
        if not path.is_file():
            raise UserError(f'{path} is missing; {AGAIN}')
        # Single records are read in any order, and readahead would read 16 MB for each.
        options = 'readahead_buffer_size:0,max_parallelism:0'
        reader = ArrayRecordReader(str(path), options=options, file_reader_buffer_size=1 << 15)
        if reader.num_records() != length:
            found = reader.num_records()
            raise UserError(
                f'{path} has {found} records, and dataset_info.json says {length}: it is not whole; {AGAIN}'
            )
        return reader
