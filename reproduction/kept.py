"""The numbers behind docs/results.md, seed by seed: reproduction/results/digits.csv.

A line is one metric of one run. The run's name ends with a hash of its settings (`mixjax grid`), so numbers of settings
that have changed are known and left out. `files` is a digest of what a run that is repeated must leave alike.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mixjax.host import storage
from reproduction.claims import PerSeed

SAME = ('results.json', 'metrics.jsonl', 'model.safetensors')
SEED = 'seed '  # what the columns of numbers are called, and the seed


class Line(NamedTuple):
    """One metric of one run. cell: the first of the grid's cells that are this run. values: {seed: number}."""

    run: str
    cell: str
    metric: str
    mixjax: str
    jax: str
    commit: str
    files: str
    values: PerSeed


COLUMNS = Line._fields[:-1]
Key = tuple[str, str]  # run and metric


def digest(folder: Path) -> str:
    """Of the files that say all about how a run went, and of nothing that says when or where."""
    return hashlib.sha256(b''.join((folder / name).read_bytes() for name in SAME)).hexdigest()[:16]


def read(path: Path) -> dict[Key, Line]:
    """The lines that are kept; none where there is no file."""
    if not path.exists():
        return {}
    found = {}
    for row in csv.DictReader(io.StringIO(path.read_text())):
        values = {int(name.removeprefix(SEED)): text for name, text in row.items() if name.startswith(SEED)}
        numbers = {seed: float(text) for seed, text in values.items() if text}
        found[row['run'], row['metric']] = Line(**{name: row[name] for name in COLUMNS}, values=numbers)
    return found


def write(path: Path, lines: Iterable[Line]) -> None:
    """Numbers as Python writes them, so that they are read as they were; what a seed has no number of stays empty."""
    lines = list(lines)
    seeds = sorted({seed for line in lines for seed in line.values})
    out = io.StringIO()
    rows = csv.writer(out, lineterminator='\n')
    rows.writerow([*COLUMNS, *(f'{SEED}{seed}' for seed in seeds)])
    rows.writerows([*line[:-1], *(line.values.get(seed, '') for seed in seeds)] for line in lines)
    storage.write(path, out.getvalue().encode())


def merged(old: Mapping[Key, Line], new: Sequence[Line], order: Iterable[Key]) -> list[Line]:
    """The new lines and the old ones beside them, in that order: of other runs, and of the same files.

    What is not in `order` is left out.
    """
    files = {line.run: line.files for line in new}
    both = {key: line for key, line in old.items() if files.get(line.run, line.files) == line.files}
    both |= {(line.run, line.metric): line for line in new}
    return [both[key] for key in order if key in both]
