"""The accuracy table, that of other measures, and the pair table: as data, and as plain text, Markdown and HTML.

`results` are the contents of `results.json`, of a run or of a comparison; `pairs` those of `pairs.json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mixjax.report.words import PLAIN, TYPESET, escape, isolate, markdown, percent, plain, points, short, short_spread

NOTE = 'accuracy: mean +- standard deviation over seeds'
NOTE_BEST = '; of the step with the best validation accuracy'
MORE = {'top5': 'top-5 %', 'mean_per_class': 'per class %'}  # the mean accuracy of the classes
FIXED = ('measures', 'prepared')  # groups of the results of a run that are no measures of the task
NOTE_DIFFERENCE = '; difference: percentage points, paired over seeds, +- standard error'


class Primary(NamedTuple):
    """The measure by which methods are compared: the accuracy, shown in percent, or that of another task.

    name: in `results.json`. higher: whether more of it is better.
    """

    name: str = 'accuracy'
    higher: bool = True

    @property
    def percent(self) -> bool:
        return self.name == 'accuracy'

    @property
    def factor(self) -> float:
        """The factor from a stored value to a shown one."""
        return 100.0 if self.percent else 1.0

    @property
    def column(self) -> str:
        """Its name as the head of a column."""
        return 'accuracy %' if self.percent else self.name

    @property
    def title(self) -> str:
        """Its name at the beginning of a sentence."""
        return 'Accuracy' if self.percent else self.name

    @property
    def axis(self) -> str:
        """Its name at an axis of a chart."""
        return 'test accuracy (%)' if self.percent else f'test {self.name}'

    @property
    def unit(self) -> str:
        """The unit of differences in words."""
        return 'percentage points' if self.percent else self.name

    def text(self, value: float) -> str:
        if math.isnan(value):
            return short(None)
        return percent(value) if self.percent else short(value)

    def deviation(self, value: float) -> str:
        return percent(value) if self.percent else f'{value:.2g}'

    def gap(self, value: float, typeset: bool = False) -> str:
        """Return a difference, always signed."""
        if self.percent:
            return points(value, typeset)
        text = short(value + 0.0)
        text = text if text.startswith('-') else f'+{text}'
        return text.replace('-', '\u2212', 1) if typeset else text

    def spread(self, text: str, value: float | None, mark: str = PLAIN) -> str:
        return text if value is None else f'{text} {mark} {self.deviation(value)}'

    def gain(self, value: float) -> float:
        """Return a difference as what it is better by."""
        return value if self.higher else -value


class Difference(NamedTuple):
    """The difference of two values of the primary measure, paired over seeds. stderr: None for one seed."""

    mean: float
    stderr: float | None
    n: int


class Row(NamedTuple):
    """One method. mean, std: of the primary measure; std None for one seed. seeds: (seed, value). difference: to the
    baseline.

    more: means of other measures, by their name in `MORE`. own: (mean, std) of the method's own measures, by name.
    """

    label: str
    mean: float
    std: float | None
    n: int
    seeds: tuple[tuple[int, float], ...]
    difference: Difference | None
    baseline: bool
    more: Mapping[str, float] = {}
    own: Mapping[str, tuple[float | None, float | None]] = {}
    primary: Primary = Primary()

    @property
    def text(self) -> str:
        """The mean as it is shown."""
        return self.primary.text(self.mean)

    @property
    def rank(self) -> float:
        """The mean as a number of which more is better."""
        return -math.inf if math.isnan(self.mean) else self.primary.gain(self.mean)


class PairRow(NamedTuple):
    """One target class, the source classes it is paired with, and how similar each is."""

    target: str
    sources: tuple[str, ...]
    similarity: tuple[float, ...]


def accuracy_rows(results: Mapping[str, Any]) -> tuple[Row, ...]:
    """Return the methods in the order in which they ran; a run is a table of one row."""
    comparison = results['kind'] == 'comparison'
    runs = results['runs'] if comparison else {results['label']: results}
    rows = []
    for label, run in runs.items():
        primary, rest = primary_of(run), more_of(run)
        value = run[primary.name]
        seeds = tuple((entry['seed'], _known(entry[primary.name])) for entry in run['seeds'])
        found = results['differences'].get(label) if comparison else None
        difference = Difference(found['mean'], found['stderr'], found['n']) if found else None
        baseline = comparison and label == results['baseline']
        more = {name: _known(run[name]['mean']) for name in rest}
        own = {name: (found['mean'], found['std']) for name, found in run.get('measures', {}).items()}
        mean = _known(value['mean'])
        rows.append(Row(label, mean, value['std'], value['n'], seeds, difference, baseline, more, own, primary))
    return tuple(rows)


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def primary_of(run: Mapping[str, Any]) -> Primary:
    """Return the primary measure of the results of a run, or of a comparison."""
    run = next(iter(run['runs'].values())) if run['kind'] == 'comparison' else run
    return Primary(run['primary'], run['higher_is_better']) if 'primary' in run else Primary()


def more_of(run: Mapping[str, Any]) -> list[str]:
    """Return the names of the other measures of the task in the results of a run."""
    if 'primary' not in run:
        return [name for name in MORE if name in run]
    fixed = (*FIXED, run['primary'])
    return [name for name, found in run.items() if isinstance(found, Mapping) and 'mean' in found and name not in fixed]


def best_row(rows: Sequence[Row]) -> Row:
    """Return the row with the best mean; among equals the baseline, then the first."""
    return max(rows, key=lambda row: (row.rank, row.baseline))


def pair_rows(pairs: Mapping[str, Any]) -> tuple[PairRow, ...]:
    """Return the pairs in the order of the target's classes."""
    return tuple(PairRow(p['target'], tuple(p['sources']), tuple(p['similarity'])) for p in pairs['pairs'])


def _column(values: Sequence[tuple[str, str | None]], mark: str) -> list[str]:
    """Return `mean +- spread` for each of `values`, padded so that points and marks are aligned."""
    wide = max((len(mean) for mean, _ in values), default=0)
    wide_spread = max((len(value) for _, value in values if value is not None), default=0)
    return [
        mean.rjust(wide) if value is None else f'{mean.rjust(wide)} {mark} {value.rjust(wide_spread)}'
        for mean, value in values
    ]


def shown_more(rows: Sequence[Row]) -> list[str]:
    """Return the other measures that all rows have, without a mean over classes that equals the accuracy everywhere."""
    known = [name for name in rows[0].more if all(name in row.more for row in rows)]
    same = all(percent(row.more.get('mean_per_class', row.mean)) == percent(row.mean) for row in rows)
    return [name for name in known if not (same and name == 'mean_per_class')]


def own_measures(rows: Sequence[Row]) -> list[str]:
    """Return the names of the methods' own measures, in the order in which they are first there."""
    return list(dict.fromkeys(name for row in rows for name in row.own))


def measures_cells(results: Mapping[str, Any], mark: str) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the table of the methods' own measures; no rows if there are none."""
    rows = accuracy_rows(results)
    names = own_measures(rows)
    cells = [[row.label, *(short_spread(*row.own.get(name, (None, None)), mark) for name in names)] for row in rows]
    return ['method', *names], cells if names else []


def best_kept(results: Mapping[str, Any]) -> bool:
    """Return whether the accuracies are those of steps that were chosen by validation."""
    return any(run.get('keep') == 'best' for run in [results, *results.get('runs', {}).values()])


def _accuracy_cells(results: Mapping[str, Any], mark: str, more: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the accuracy table; with `more`, the other measures too."""
    rows = accuracy_rows(results)
    primary = rows[0].primary
    head = ['method', primary.column, 'n']
    accuracy = _column([(row.text, _deviation(primary, row.std)) for row in rows], mark)
    wide = max(len(str(row.n)) for row in rows)
    cells = [[row.label, text, str(row.n).rjust(wide)] for row, text in zip(rows, accuracy, strict=True)]
    for name in shown_more(rows) if more else ():
        head.append(MORE.get(name, name))
        for row, line in zip(rows, cells, strict=True):
            line.append(primary.text(row.more[name]).rjust(5))
    baseline = next((row.label for row in rows if row.baseline), None)
    if baseline is None:
        return head, cells
    known = [row.difference for row in rows if row.difference]
    gaps = [(primary.gap(d.mean, mark == TYPESET), _deviation(primary, d.stderr)) for d in known]
    numbers = iter(_column(gaps, mark))
    for row, line in zip(rows, cells, strict=True):
        line.append(next(numbers) if row.difference else 'baseline' if row.baseline else '-')
    return [*head, f'difference to {baseline}'], cells


def _deviation(primary: Primary, value: float | None) -> str | None:
    return None if value is None else primary.deviation(value)


def _compares(head: Sequence[str]) -> bool:
    return head[-1].startswith('difference')


def _pair_cells(row: PairRow) -> tuple[str, str, str]:
    return row.target, ', '.join(map(isolate, row.sources)), ', '.join(f'{value:.2f}' for value in row.similarity)


def accuracy_text(results: Mapping[str, Any]) -> str:
    """Return the table for a terminal: aligned columns, and a last line that explains the numbers."""
    head, rows = _accuracy_cells(results, PLAIN, more=True)
    primary = primary_of(results)
    note = NOTE + (NOTE_BEST if best_kept(results) else '') + (NOTE_DIFFERENCE if _compares(head) else '')
    note = note.replace('accuracy', primary.name).replace('percentage points', primary.unit)
    own, cells = measures_cells(results, PLAIN)
    return '\n'.join([*_aligned(head, rows), note, *(['', *_aligned(own, cells)] if cells else [])])


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table for a terminal."""
    lines = [[plain(cell) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return ['  '.join(cell.ljust(wide) for cell, wide in zip(line, widths, strict=True)).rstrip() for line in lines]


def pairs_text(pairs: Mapping[str, Any], width: int = 80) -> str:
    """Return the pairs for a terminal: `3 -> ze   0.83`, in as many columns as fit in `width`, read downwards."""
    cells = [tuple(map(plain, _pair_cells(row))) for row in pair_rows(pairs)]
    if not cells:
        return ''
    target, names, values = (max(len(cell[i]) for cell in cells) for i in range(3))
    entries = [f'{t.rjust(target)} -> {n.ljust(names)}   {v.ljust(values)}' for t, n, v in cells]
    columns = max(1, (width + 4) // (len(entries[0]) + 4))
    height = -(-len(entries) // columns)
    table = '\n'.join('    '.join(entries[row::height]).rstrip() for row in range(height))
    told = notes_text(pairs)
    return f'{table}\n{plain(told)}' if told else table


def _short(value: float) -> str:
    return f'{value:,.0f}' if value == int(value) else f'{value:.4g}'


def notes_text(pairs: Mapping[str, Any]) -> str:
    """Return the method's notes on its preparation: `similarity 0.84, best similarity 0.85`."""
    return ', '.join(f'{name} {_short(value)}' for name, value in pairs.get('notes', {}).items())


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], right: str) -> str:
    """Return a Markdown table.

    Args:
      head: names of the columns.
      rows: the cells of each row.
      right: for each column `-` or `:` at the right end of its rule (`:` aligns numbers).
    """
    rule = '|'.join(f' --{end} ' for end in right)
    lines = ['| ' + ' | '.join(markdown(cell) for cell in line) + ' |' for line in (head, *rows)]
    return '\n'.join([lines[0], f'|{rule}|', *lines[1:]]) + '\n'


def accuracy_markdown(results: Mapping[str, Any]) -> str:
    """Return a Markdown table; the best mean is not marked, so that a diff shows numbers only."""
    head, rows = _accuracy_cells(results, TYPESET)
    return markdown_table(head, rows, '-' + ':' * (len(head) - 1))


def html_table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], best: int = -1, numbers: int = 0
) -> str:
    """Return a table in a box that scrolls sideways, also by keyboard, if the page is narrower than it.

    The first cell of a row names it; the last `numbers` columns are aligned right; row `best` is set bold.

    Args:
      caption: caption of the table.
      head: names of the columns.
      rows: the cells of each row.
      best: index of the bold row; -1 for none.
      numbers: number of last columns that are aligned right.
    """
    start = len(head) - numbers

    def line(cells: Sequence[str], index: int) -> str:
        first = f'<th scope="row">{escape(cells[0])}</th>'
        rest = (f'<td{" class=num" if i >= start else ""}>{escape(cell)}</td>' for i, cell in enumerate(cells) if i)
        return f'<tr{" class=best" if index == best else ""}>{first}{"".join(rest)}</tr>'

    titles = (f'<th scope="col"{" class=num" if i >= start else ""}>{escape(cell)}</th>' for i, cell in enumerate(head))
    top = f'<thead><tr>{"".join(titles)}</tr></thead>' if any(head) else ''
    body = '\n'.join(line(cells, index) for index, cells in enumerate(rows))
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f'<table><caption>{escape(caption)}</caption>{top}<tbody>\n{body}\n</tbody></table></div>'
    )


def accuracy_html(results: Mapping[str, Any]) -> str:
    """Return an HTML table with the best method in bold."""
    rows = accuracy_rows(results)
    head, cells = _accuracy_cells(results, TYPESET, more=True)
    best = rows.index(best_row(rows)) if len(rows) > 1 else -1
    caption = f'Test {primary_of(results).name}' + (' and difference to the baseline' if _compares(head) else '')
    return html_table(caption, head, cells, best, numbers=len(head) - 1)


def measures_html(results: Mapping[str, Any]) -> str:
    """Return an HTML table of the methods' own measures; '' if there are none."""
    head, cells = measures_cells(results, TYPESET)
    caption = 'Measures of the methods over the test images'
    return html_table(caption, head, cells, numbers=len(head) - 1) if cells else ''


def measures_markdown(results: Mapping[str, Any]) -> str:
    """Return a Markdown table of the methods' own measures; '' if there are none."""
    head, cells = measures_cells(results, TYPESET)
    return markdown_table(head, cells, '-' + ':' * (len(head) - 1)) if cells else ''


def pairs_html(pairs: Mapping[str, Any]) -> str:
    """Return an HTML table of the pairs."""
    rows = [_pair_cells(row) for row in pair_rows(pairs)]
    return html_table('Class pairs', ['target class', 'source class', 'similarity'], rows, numbers=1)
