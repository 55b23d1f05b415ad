"""The numbers for docs/results.md, seed by seed: reproduction/results/digits.csv.

A line is one metric of one run. The run's name ends with a hash of its settings (`mixjax grid`), so numbers of changed
settings are recognised and left out. `files` is a digest of the files that a repeated run must reproduce.
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
SEED = 'seed '  # the columns of numbers are called this, and the seed


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
    """Return a digest of the files that determine how a run went, and of none that depends on time or place."""
    return hashlib.sha256(b''.join((folder / name).read_bytes() for name in SAME)).hexdigest()[:16]


def read(path: Path) -> dict[Key, Line]:
    """Read the kept lines; none if there is no file."""
    if not path.exists():
        return {}
    found = {}
    for row in csv.DictReader(io.StringIO(path.read_text())):
        values = {int(name.removeprefix(SEED)): text for name, text in row.items() if name.startswith(SEED)}
        numbers = {seed: float(text) for seed, text in values.items() if text}
        found[row['run'], row['metric']] = Line(**{name: row[name] for name in COLUMNS}, values=numbers)
    return found


def write(path: Path, lines: Iterable[Line]) -> None:
    """Write numbers as Python does, so that they are read back exactly; seeds without a number stay empty."""
    lines = list(lines)
    seeds = sorted({seed for line in lines for seed in line.values})
    out = io.StringIO()
    rows = csv.writer(out, lineterminator='\n')
    rows.writerow([*COLUMNS, *(f'{SEED}{seed}' for seed in seeds)])
    rows.writerows([*line[:-1], *(line.values.get(seed, '') for seed in seeds)] for line in lines)
    storage.write(path, out.getvalue().encode())


def merged(old: Mapping[Key, Line], new: Sequence[Line], order: Iterable[Key]) -> list[Line]:
    """Return the new lines, and the old ones of other runs and of unchanged files, in the given order.

    Lines that are not in `order` are left out.
    """
    files = {line.run: line.files for line in new}
    both = {key: line for key, line in old.items() if files.get(line.run, line.files) == line.files}
    both |= {(line.run, line.metric): line for line in new}
    return [both[key] for key in order if key in both]
