"""The numbers in the tables of the three papers: `papers.csv`, each of them once, with its place.

dataset, method, split, network: as in the cells of `configs/tables/<table>.py`; the row `average` is over the others.
metric: `accuracy` and `error` in percent of the test images; `probe_..` is an accuracy in percent too; `.._il_..` is an
    interpolation loss. std: None if none is printed. n: number of runs, if the paper gives it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import NamedTuple

from mixjax.errors import UserError, nearest

AVERAGE = 'average'
# Grids of comparisons that a paper mentions without printing numbers, and the place.
UNPRINTED = {'smile_with_mixup': 'SMILE | abstract'}


class Number(NamedTuple):
    """A number of a paper. value: None if the paper mentions it but prints none. digits: after the point."""

    table: str
    dataset: str
    method: str
    split: str
    network: str
    metric: str
    value: float | None
    digits: int
    std: float | None
    n: int | None
    source: str
    note: str


@cache
def numbers() -> tuple[Number, ...]:
    """Return all numbers, table by table; methods that are compared with each other are adjacent."""
    text = resources.files('mixjax.report').joinpath('papers.csv').read_text(encoding='utf-8')
    return tuple(
        Number(
            row['table'], row['dataset'], row['method'], row['split'], row['network'], row['metric'],
            float(row['value']), len(row['value'].partition('.')[2]),
            float(row['std']) if row['std'] else None, int(row['n']) if row['n'] else None, row['source'], row['note'],
        )
        for row in csv.DictReader(text.splitlines())
    )  # fmt: skip


def tables() -> list[str]:
    """Return the names of the tables, in the order of the papers."""
    return list(dict.fromkeys(number.table for number in numbers()))


def of(table: str) -> tuple[Number, ...]:
    """Return the numbers of a table."""
    if table not in tables():
        known = [*tables(), *UNPRINTED]
        raise UserError(f'unknown table {table!r}{nearest(table, known)}; the tables are {", ".join(known)}')
    return tuple(number for number in numbers() if number.table == table)


def unprinted(table: str, cells: Iterable[Mapping[str, str]]) -> tuple[Number, ...]:
    """Return the accuracies that the paper would have printed for the cells of a grid, without values."""
    return tuple(
        Number(
            table, cell['dataset'], cell['method'], cell['split'], '', 'accuracy', None, 0, None, None,
            ' | '.join([UNPRINTED[table], *cell.values()]), 'the paper prints no number',
        )
        for cell in cells
    )  # fmt: skip
