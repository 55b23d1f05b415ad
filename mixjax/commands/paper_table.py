"""A table of a paper with our numbers beside the paper's: `mixjax report --table=smile_table2 RUNS/`.

The runs of a table are those of its grid, `configs/tables/<table>.py`, found in RUNS by the names that
`mixjax grid` gives them. A number of `papers.csv` is one cell of the grid and a metric of its run.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.report import papers
from mixjax.report.papers import AVERAGE, Number
from mixjax.report.words import PLAIN, TYPESET, count, markdown, plain

NOT_RUN, UNFINISHED, UNMEASURED = 'not run', 'not finished', 'not measured'
DIMENSIONS = ('dataset', 'network', 'split', 'metric', 'method')  # of a line, from the outside to the inside
PERCENT = ('accuracy', 'error')
# metric: (its part of `analysis.json`, its name there).
MEASURED = {
    **{f'{f}_il_{part}': ('interpolation', f'{f}_{part}') for f in ('label', 'feature') for part in ('train', 'test')},
    **{f'probe_{subset}': ('probe', subset) for subset in ('auxiliary', 'all_but_auxiliary', 'all')},
}


class Spread(NamedTuple):
    """Ours, in the unit of the paper's number. std: None for one seed. n: seeds, or the averaged numbers."""

    mean: float
    std: float | None
    n: int


class Line(NamedTuple):
    """A number of the paper and ours. ours: None where there is none; `state` then says why. folder: of the run."""

    number: Number
    ours: Spread | None
    state: str
    folder: str


# --- ours -------------------------------------------------------------------------------------------------------------


def lines(table: str, root: str | Path, overrides: Sequence[tuple[str, str]] = ()) -> list[Line]:
    """The lines of a table. overrides: settings of every cell that the runs were made with."""
    from mixjax.commands import grid  # needs jax, which the other reports do without

    if not Path(root).is_dir():
        raise UserError(f'{root} is not a folder; give the one with the runs of the grid configs/tables/{table}.py')
    numbers = () if table in papers.UNPRINTED else papers.of(table)
    cells: dict[tuple[tuple[str, str], ...], Any] = {}
    for run in grid.runs(f'configs/tables/{table}.py', overrides, str(root)):
        for spec in run.specs:
            cells[tuple(_said(spec.partition(':')[2]))] = run
    keys = [key for key, _ in next(iter(cells))]
    numbers = numbers or papers.unprinted(table, map(dict, cells))

    def line(number: Number) -> Line:
        run = cells[tuple((key, getattr(number, key)) for key in keys)]
        return Line(number, *read_number(number.metric, run.folder, run.config.steps), run.folder.name)

    out = [line(number) for number in numbers if number.dataset != AVERAGE]
    return out + [average(number, out) for number in numbers if number.dataset == AVERAGE]


def _said(argument: str) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (part.partition('=') for part in argument.split(','))]


def read_number(metric: str, folder: Path, steps: int) -> tuple[Spread | None, str]:
    """Read a metric from a run's folder, or the reason why it is not there."""
    from mixjax.rundir import files

    results = files.finished(folder, steps)
    if results is None:
        return None, UNFINISHED if (folder / 'config.json').exists() else NOT_RUN
    if metric in PERCENT:
        ours = spread(results.get('accuracy'), 100)
        if ours is None:
            raise UserError(f'{folder / "results.json"} is damaged: it has no accuracy; remove it and run again')
        return (ours if metric == 'accuracy' else ours._replace(mean=100 - ours.mean)), ''
    part, name = MEASURED[metric]
    analysis = files.read_json(folder / 'analysis.json') if (folder / 'analysis.json').exists() else {}
    inside = analysis.get(part) if isinstance(analysis, Mapping) else None
    ours = spread(inside.get(name), 100 if part == 'probe' else 1) if isinstance(inside, Mapping) else None
    return ours, '' if ours else UNMEASURED


def spread(value: Any, by: float) -> Spread | None:
    """Scale a number, or {'mean', 'std', 'n'}, by `by`; None for anything else."""
    value = value if isinstance(value, Mapping) else {'mean': value}
    mean, std, n = value.get('mean'), value.get('std'), value.get('n')
    if not _number(mean):
        return None
    return Spread(by * mean, by * std if _number(std) else None, n if isinstance(n, int) else 1)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def average(number: Number, others: Sequence[Line]) -> Line:
    """The mean of a method's numbers over the data sets, once all of them are there."""
    alike = [line for line in others if line.number.method == number.method and line.number.metric == number.metric]
    known = [line.ours.mean for line in alike if line.ours is not None]
    if len(known) < len(alike):
        return Line(number, None, f'{len(known)} of {len(alike)} run', '')
    return Line(number, Spread(math.fsum(known) / len(known), None, len(known)), '', '')


# --- as text ----------------------------------------------------------------------------------------------------------


def varying_dimensions(found: Sequence[Line]) -> list[str]:
    """The dimensions of a table that say something: those with more than one value, and the method."""
    of = [line.number for line in found]
    return [key for key in DIMENSIONS if key == 'method' or len({getattr(other, key) for other in of}) > 1]


def head(found: Sequence[Line]) -> list[str]:
    metrics = {line.number.metric for line in found}
    (only,) = metrics if len(metrics) == 1 else ('',)
    unit = f'{only} %, ' if only else ''
    return [*varying_dimensions(found), f'{unit}ours', 'paper', 'difference']


def cells(line: Line, dimensions: Sequence[str], mark: str) -> list[str]:
    """Format the cells of a line: its dimensions, ours with (n), the paper's, the difference."""
    number, ours = line.number, line.ours
    names = [getattr(number, key) for key in dimensions]
    paper = '' if number.value is None else _pair(number.value, number.std, number.digits, mark)
    if ours is None:
        return [*names, line.state, paper, '']
    difference = '' if number.value is None else f'{round(ours.mean, 2) - number.value + 0.0:+.2f}'
    if mark == TYPESET:
        difference = difference.replace('-', '\u2212')
    return [*names, f'{_pair(ours.mean, ours.std, 2, mark)} ({ours.n})', paper, difference]


def _pair(mean: float, std: float | None, digits: int, mark: str) -> str:
    return f'{mean:.{digits}f}' + ('' if std is None else f' {mark} {std:.2f}')


def summary(found: Sequence[Line]) -> str:
    """Summarise how much of the table is there, and how far it is from the paper."""
    measured = [(line.ours.mean, line.number.value) for line in found if line.ours is not None]
    told = f'{len(measured)} of {count(len(found), "number")}'
    known = [round(mean, 2) - value for mean, value in measured if value is not None]
    if not known:
        return f'{told} measured'
    away = f'from {min(known):+.2f} to {max(known):+.2f}, mean {math.fsum(known) / len(known):+.2f}'
    return f'{told} measured; difference to the paper {away}'


def text(found: Sequence[Line]) -> str:
    """For a terminal: aligned columns; a name that is that of the line above is left out."""
    dimensions = varying_dimensions(found)
    rows = [[plain(cell) for cell in cells(line, dimensions, PLAIN)] for line in found]
    names = len(dimensions) - 1
    bare = [
        ['' if i < names and above[: i + 1] == row[: i + 1] else cell for i, cell in enumerate(row)]
        for above, row in zip([[], *rows], rows, strict=False)
    ]
    table = [head(found), *bare]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    aligned = ['  '.join(cell.ljust(wide) for cell, wide in zip(row, widths, strict=True)).rstrip() for row in table]
    return '\n'.join([*aligned, summary(found)])


def document(found: Sequence[Line]) -> str:
    """The Markdown file of a table."""
    paper, title, *_ = found[0].number.source.split(' | ')
    dimensions, top = varying_dimensions(found), head(found)
    rule = ['--' if i < len(top) - 3 else '--:' for i in range(len(top))]
    body = [[*map(markdown, row[:-3]), *row[-3:]] for row in (cells(line, dimensions, TYPESET) for line in found)]
    rows = ['| ' + ' | '.join(row) + ' |' for row in (top, rule, *body)]
    noted: dict[str, list[str]] = {}
    for line in found:
        if line.number.note and line.number.value is not None:
            noted.setdefault(line.number.note, []).append(_place(line.number))
    notes = [f'* {markdown("; ".join(where))}: {markdown(note)}' for note, where in noted.items()]
    return '\n'.join([f'# {paper}, {title}', '', f'{summary(found)}.', '', *rows, '', *notes, *([''] if notes else [])])


def _place(number: Number) -> str:
    return ', '.join(number.source.split(' | ')[2:])


COLUMNS = (
    *('table', 'dataset', 'network', 'split', 'method', 'metric', 'ours', 'ours_std', 'ours_n', 'paper', 'paper_std'),
    *('paper_n', 'difference', 'state', 'run', 'source', 'note'),
)


def values(found: Sequence[Line]) -> str:
    """The CSV file of a table; what is not there is empty, and `state` says why."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
    writer.writeheader()
    for line in found:
        number, ours = line.number, line.ours
        row = {key: getattr(number, key) for key in ('table', *DIMENSIONS, 'source', 'note')}
        if number.value is not None:
            row |= {'paper': f'{number.value:.{number.digits}f}', 'paper_std': number.std, 'paper_n': number.n}
        row |= {'state': line.state or 'measured', 'run': line.folder}
        if ours is not None:
            std = None if ours.std is None else f'{ours.std:.4f}'
            row |= {'ours': f'{ours.mean:.4f}', 'ours_std': std, 'ours_n': ours.n}
            row['difference'] = '' if number.value is None else f'{ours.mean - number.value:.4f}'
        writer.writerow(row)
    return file.getvalue()


def write(
    table: str, root: str | Path, out: str | Path | None = None, overrides: Sequence[tuple[str, str]] = ()
) -> tuple[list[Line], list[Path]]:
    """Write `<table>.md` and `<table>.csv` into the folder of the runs, or `out` with both endings."""
    found = lines(table, root, overrides)
    stem = storage.resolve_file(storage.to_place(root) / f'{table}.md' if out is None else storage.to_place(out))
    files = {stem.with_suffix('.md'): document(found), stem.with_suffix('.csv'): values(found)}
    for path, content in files.items():
        try:
            storage.write(path, content.encode())
        except OSError as error:
            raise UserError(f'{path} cannot be written: {error.strerror}') from error
    return found, list(files)
