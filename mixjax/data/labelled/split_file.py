"""`splits.json`, the file of the examples that a run learned from, with which the draw can be repeated anywhere.

    {'target': 'digits', 'classes': [..], 'left out classes': [..], 'data': {'train': .., 'test': ..},
     'labelled rows': {'0': [4, 17, ..]}, 'labelled ids': {'0': [..]}, 'per class': {'0': [3, 3, ..]}, ..}

Rows are those of the whole train part. If the examples have names (`ids`: for a folder, the paths of its files), the
names are used instead, and a folder on another machine may have more files. `validation` and `added` exist only if
there are such examples.
"""

from __future__ import annotations

import functools
import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixjax.data.dataset import Dataset
from mixjax.data.labelled.splits import Drawn
from mixjax.errors import UserError, require
from mixjax.host import storage, untrusted

KINDS = {'labelled': 'labelled', 'validation': 'val', 'added': 'added'}  # {name in the file: field of `Drawn`}
ROWS = tuple(f'{kind} rows' for kind in KINDS)


def stamp(data: Dataset) -> str:
    """Return a text that identifies the examples of a part: its name, and a digest of its labels."""
    labels = np.ascontiguousarray(data.labels, np.int64 if data.labels.ndim == 1 else np.float64).tobytes()
    return f'{data.name} {hashlib.blake2b(labels, digest_size=6).hexdigest()}'


def contents(
    target: str, whole: Sequence[str], data: Dataset, rows: np.ndarray | None, stamps: dict[str, str],
    drawn: dict[int, Drawn],
) -> dict[str, Any]:  # fmt: skip
    """Return the contents of the file.

    Args:
      target: name of the data set.
      whole: all classes of the data set.
      data: the train part with the chosen classes.
      rows: its rows in the whole train part; None if it is the whole part.
      stamps: {part: stamp}.
      drawn: {seed: its draw}.
    """
    out: dict[str, Any] = {
        'target': target,
        'classes': list(data.classes),
        'left out classes': [name for name in whole if name not in set(data.classes)],
        'data': stamps,
    }
    for kind, found in rows_of(rows, drawn).items():
        out[kind] = found
        if len(data.ids):
            field = KINDS[kind.removesuffix(' rows')]
            out[kind.replace('rows', 'ids')] = {
                str(seed): [data.ids[int(r)] for r in getattr(one, field)] for seed, one in drawn.items()
            }
    if data.labels.ndim == 1:
        out['per class'] = {
            str(seed): np.bincount(data.labels[one.labelled], minlength=len(data.classes)).tolist()
            for seed, one in drawn.items()
        }
    return out


def rows_of(rows: np.ndarray | None, drawn: dict[int, Drawn]) -> dict[str, dict[str, list[int]]]:
    """Return {kind of example: {seed: rows of the whole train part}}, without the kinds that no seed has.

    Args:
      rows: see `contents`.
      drawn: {seed: its draw}.
    """
    out = {}
    for kind, field in KINDS.items():
        mine = {str(seed): getattr(one, field) for seed, one in drawn.items()}
        if kind == 'labelled' or any(len(some) for some in mine.values()):
            out[f'{kind} rows'] = {
                s: [int(r) for r in (some if rows is None else rows[some])] for s, some in mine.items()
            }
    return out


# --- reading ----------------------------------------------------------------------------------------------------------


def read(path: str) -> dict[str, Any]:
    """Read and check the file."""
    try:
        where = storage.to_place(path)
        if storage.is_remote(where):
            return _read(where, 0)
        facts = where.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError
        return _read(where, facts.st_mtime_ns)
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else 'it is not what a run writes'
        raise UserError(f'config.target.splits: {path} cannot be read ({why}); give the splits.json of a run') from None


@functools.lru_cache(4)
def _read(path: Path, time: int) -> dict[str, Any]:
    del time
    found = untrusted.parse(untrusted.read_regular(path, untrusted.MOST_TEXT))
    if not isinstance(found, dict) or not isinstance(found.get('target'), str) or 'labelled rows' not in found:
        raise ValueError
    # Rows are checked one by one where they are used (`_rows`).
    kinds = {**{f'{kind} rows': object for kind in KINDS}, **{f'{kind} ids': str for kind in KINDS}, 'per class': int}
    for key, kind in kinds.items():
        by_seed = found.get(key, {})
        if not isinstance(by_seed, dict) or not all(_list_of(kind, some) for some in by_seed.values()):
            raise ValueError
    if not all(_list_of(str, found[key]) for key in ('classes', 'left out classes') if key in found):
        raise ValueError
    return found


def _list_of(kind: type, values: Any) -> bool:
    return isinstance(values, list) and all(kind is object or type(value) is kind for value in values)


def classes(path: str, target: str, names: Sequence[str]) -> np.ndarray:
    """Return the labels of the file's classes in the data set, ascending; both must have the same classes.

    Args:
      path: the file.
      target: name of the data set.
      names: all classes of the data set.
    """
    found = read(path)
    if found['target'] != target:
        raise UserError(f'config.target.splits: {path} is of the data set {found["target"]!r}, not of {target!r}')
    chosen = found.get('classes', list(names))
    known = {*chosen, *found.get('left out classes', ())}
    for there, sentence in ((known - set(names), 'names classes that the data set has not'),
                            (set(names) - known, 'lacks classes of the data set')):  # fmt: skip
        if there:
            shown = ', '.join(map(repr, sorted(there)[:5])) + (', ..' if len(there) > 5 else '')
            raise UserError(f'config.target.splits: {path} {sentence}: {shown}')
    place = {name: k for k, name in enumerate(names)}
    return np.array(sorted(place[name] for name in chosen))


def count(path: str, total: int) -> int:
    """Return the number of classes that the file draws from; `total` if it has no list of classes."""
    return len(read(path).get('classes', range(total)))


def read_draw(path: str, data: Dataset, rows: np.ndarray | None, seed: int, tested: Sequence[str]) -> Drawn:
    """Return the draw of one seed from the file.

    Args:
      path: the file.
      data: see `contents`.
      rows: see `contents`.
      seed: the seed.
      tested: ids of the test part.
    """
    found = read(path)
    if str(seed) not in found['labelled rows']:
        seeds = ', '.join(found['labelled rows'])
        raise UserError(f'config.target.splits: {path} has the draws of the seeds {seeds}, and not of {seed}')
    where = f'config.target.splits: {path}, seed {seed}'
    parts = {field: _rows(found, kind, data, rows, seed, where) for kind, field in KINDS.items()}
    out = Drawn(**parts)
    known, count = np.unique(out.known, return_counts=True)
    if (count > 1).any():
        raise UserError(f'{where}: {_name(data, known[count > 1][0])} is listed twice')
    if len(data.ids):
        overlap = {data.ids[int(row)] for row in known}.intersection(tested)
        if overlap:
            raise UserError(f'{where}: {sorted(overlap)[0]!r} is in the test part, and cannot be learned from')
    if data.labels.ndim > 1:  # without classes
        return out
    per_class = np.bincount(data.labels[out.labelled], minlength=len(data.classes))
    wanted = found.get('per class', {}).get(str(seed), per_class)
    require(len(wanted) == len(per_class), f'{where}: per class has {len(wanted)} numbers for {len(per_class)} classes')
    for name, is_there, said in zip(data.classes, per_class, wanted, strict=True):
        if is_there != said:
            raise UserError(
                f'{where}: {said} labelled examples of class {name!r} are announced, and {is_there} listed'
            )
    return out


def _rows(
    found: dict[str, Any], kind: str, data: Dataset, rows: np.ndarray | None, seed: int, where: str
) -> np.ndarray:
    """Return rows of the train part with the chosen classes, in the order of the file."""
    if len(data.ids) and f'{kind} ids' in found:
        place = {name: k for k, name in enumerate(data.ids)}
        wanted = found[f'{kind} ids'].get(str(seed), [])
        lost = [name for name in wanted if name not in place]
    else:
        wanted = found.get(f'{kind} rows', {}).get(str(seed), [])
        place = {int(row): k for k, row in enumerate(range(len(data.labels)) if rows is None else rows)}
        lost = [row for row in wanted if type(row) is not int or row not in place]
    if lost:
        more = f' and {len(lost) - 1} more' if len(lost) > 1 else ''
        raise UserError(f'{where}: the train part of these classes has no example {lost[0]!r}{more}')
    return np.array([place[one] for one in wanted], np.int64)


def _name(data: Dataset, row: int) -> str:
    return repr(data.ids[int(row)]) if len(data.ids) else f'row {row}'
