"""Labels of a folder's images in a CSV file beside them: `config.target.labels`.

    file,label                   one class an image
    a.jpg,cat
    file,labels                  several labels an image, apart by ; or |   (task multi_label)
    a.jpg,sky;sea
    file,sky,sea,tree            the same, a 0/1 column for each label
    a.jpg,1,1,0
    file,age,weight              one or several numbers                     (task regression)
    a.jpg,31,70.5

The paths of the files count from the folder. The CSV is read as a file that may be hostile: it is small enough for
memory, a regular file, text, and each of its cells is checked.
"""

from __future__ import annotations

import csv
import io
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import UserError
from mixjax.host import untrusted

MOST = 1 << 27  # bytes
LONGEST = 1 << 20  # characters of a cell
MOST_NAMES = 10_000  # outputs of a head
LARGEST = 1e30  # a number whose square, too, is one in float32
SHOWN = 60  # characters of a cell in a message
NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?')


class Table(NamedTuple):
    """The contents of the file.

    Attributes:
      names: the classes or the labels, sorted; or the columns of numbers.
      of: {file: its label}: a class index, or a tuple of label indices, or a tuple of numbers.
      kind: the task that it was read for.
    """

    names: tuple[str, ...]
    of: dict[str, Any]
    kind: str

    def array(self, labels: Sequence[Any]) -> np.ndarray:
        """Return some labels as a data set has them: (n,) int32 classes, (n, c) of 1 and 0, or (n, k) numbers."""
        if not self.kind:
            return np.array(labels, np.int32)
        if self.kind == 'regression':
            return np.array(labels, np.float64).reshape(len(labels), len(self.names))
        rows = np.zeros((len(labels), len(self.names)), np.float32)
        for row, chosen in zip(rows, labels, strict=True):
            row[list(chosen)] = 1
        return rows


def read(top: Path, name: str, kind: str) -> Table:
    """Read the file.

    Args:
      top: the folder of the images.
      name: path of the file below it.
      kind: `config.target.task`.
    """
    if Path(name).is_absolute() or '..' in Path(name).parts:
        raise UserError(f'config.target.labels is the name of a file in {top}, such as labels.csv, not {name!r}')
    path = top / name
    head, lines = _lines(path)
    first = head[0].strip().lower() if head else ''
    if first != 'file' or len(head) < 2:
        raise UserError(
            f'{path}: its first line must name the columns, file first and a comma between them, as in '
            f'{EXAMPLES[kind]}, not {",".join(head)[:SHOWN]!r}'
        )
    columns = [_name(cell) for cell in head[1:]]
    for column in columns:
        if not column or columns.count(column) > 1:
            raise UserError(f'{path}: each column needs a name of its own, and one is {column[:SHOWN]!r}')
    if len(columns) > MOST_NAMES:
        raise UserError(f'{path} has {len(columns):,} columns, and at most {MOST_NAMES:,} are learned')
    files: dict[str, tuple[int, list[str]]] = {}
    for number, cells in lines:
        if len(cells) != len(head):
            raise UserError(
                f'{path}, line {number}: it has {len(cells)} cells, and the first line {len(head)}; a cell with a '
                'comma in it must be in double quotes'
            )
        file = _file(cells[0])
        if not file:
            raise UserError(f'{path}, line {number}: it names no file')
        if file in files:
            raise UserError(f'{path}, line {number}: {file[:SHOWN]!r} is there before, in line {files[file][0]}')
        files[file] = number, cells[1:]
    if not files:
        raise UserError(f'{path} has no line but the first, which names the columns')
    return READERS[kind](path, columns, files)


def _lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the first line of a CSV file, and the others with their numbers; blank ones are left out."""
    try:
        data = untrusted.read_regular(path, MOST)
    except FileNotFoundError:
        raise UserError(f'config.target.labels: there is no file {path}') from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f'config.target.labels: {path} cannot be read: {why}') from None
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise UserError(f'{path}, line {line}: it is not text in UTF-8; save it as "CSV UTF-8"') from None
    if '\0' in text:
        raise UserError(f'{path}, line {text.count(chr(10), 0, text.index(chr(0))) + 1}: it has a NUL character in it')
    reader = csv.reader(io.StringIO(text, newline=''), strict=True)
    limit = csv.field_size_limit(LONGEST)
    try:
        found = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise UserError(f'{path}, line {reader.line_num}: it is not CSV ({error})') from None
    finally:
        csv.field_size_limit(limit)
    return (found[0][1] if found else []), found[1:]


def _name(cell: str) -> str:
    return unicodedata.normalize('NFC', cell.strip())


def _file(cell: str) -> str:
    """Return a path as the folder's ids have it: with `/`, composed letters, and without a `./` before it."""
    text = _name(cell).replace('\\', '/')
    return str(PurePosixPath(text)) if text else ''


def _classes(path: Path, columns: list[str], files: dict[str, tuple[int, list[str]]]) -> Table:
    if columns != ['label']:
        raise UserError(
            f'{path}: of one class an image the columns are file,label, not file,{",".join(columns)[:SHOWN]}; several '
            'labels an image are config.target.task=multi_label, and numbers config.target.task=regression'
        )
    found = {}
    for file, (number, (cell,)) in files.items():
        found[file] = _name(cell)
        if not found[file]:
            raise UserError(f'{path}, line {number}: {file[:SHOWN]!r} has no label')
    names = _known(path, set(found.values()))
    place = {name: k for k, name in enumerate(names)}
    return Table(names, {file: place[name] for file, name in found.items()}, '')


def _several(path: Path, columns: list[str], files: dict[str, tuple[int, list[str]]]) -> Table:
    if columns == ['labels']:
        chosen = {
            file: {name for part in re.split('[;|]', cell) if (name := _name(part))}
            for file, (_, (cell,)) in files.items()
        }
        names = _known(path, set().union(*chosen.values()))
        if not names:
            raise UserError(f'{path}: no image has a label')
        place = {name: k for k, name in enumerate(names)}
        found = {file: tuple(sorted(place[name] for name in some)) for file, some in chosen.items()}
        return Table(names, found, 'multi_label')
    names = _known(path, set(columns))
    order = [columns.index(name) for name in names]
    found = {}
    for file, (number, cells) in files.items():
        marks = [cell.strip() for cell in cells]
        for column, mark in zip(columns, marks, strict=True):
            if mark not in ('0', '1'):
                raise UserError(
                    f'{path}, line {number}: {column[:SHOWN]!r} must be 1 or 0, not {mark[:SHOWN]!r}; labels apart by '
                    '; in one cell are in a column that is called labels'
                )
        found[file] = tuple(k for k, column in enumerate(order) if marks[column] == '1')
    return Table(names, found, 'multi_label')


def _numbers(path: Path, columns: list[str], files: dict[str, tuple[int, list[str]]]) -> Table:
    names = _known(path, set(columns), columns)
    found = {}
    for file, (number, cells) in files.items():
        for column, cell in zip(columns, cells, strict=True):
            if not NUMBER.fullmatch(cell.strip()) or not math.isfinite(float(cell)) or abs(float(cell)) > LARGEST:
                raise UserError(
                    f'{path}, line {number}: {column[:SHOWN]!r} must be a number from -1e30 to 1e30, with a decimal '
                    f'point, not {cell.strip()[:SHOWN]!r}'
                )
        found[file] = tuple(map(float, cells))
    return Table(names, found, 'regression')


def _known(path: Path, names: set[str], order: Sequence[str] = ()) -> tuple[str, ...]:
    """Return names in their order, sorted by default, once it is sure that they can be shown."""
    for name in names:
        if not name.isprintable() or len(name) > 200:
            raise UserError(f'{path}: a name must be a short text of printable characters, not {name[:SHOWN]!r}')
    if len(names) > MOST_NAMES:
        raise UserError(f'{path} has {len(names):,} different labels, and at most {MOST_NAMES:,} are learned')
    return tuple(order or sorted(names))


READERS: dict[str, Callable[[Path, list[str], dict[str, tuple[int, list[str]]]], Table]] = {
    '': _classes, 'multi_label': _several, 'regression': _numbers,
}  # fmt: skip
EXAMPLES = {'': 'file,label', 'multi_label': 'file,labels', 'regression': 'file,age'}
