"""The accuracy table and the pair table: as data, and as plain text, Markdown and HTML.

`results` are the contents of `results.json`, of a run or of a comparison; `pairs` those of `pairs.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mixjax.report.words import PLAIN, TYPESET, escape, isolate, markdown, percent, plain, points, spread

NOTE = 'accuracy: mean +- standard deviation over seeds'
NOTE_BEST = '; of the step with the best validation accuracy'
MORE = {'top5': 'top-5 %', 'mean_per_class': 'per class %'}  # the mean accuracy of the classes
NOTE_DIFFERENCE = '; difference: percentage points, paired over seeds, +- standard error'


class Difference(NamedTuple):
    """The difference of two accuracies, paired over seeds. stderr: None for one seed."""

    mean: float
    stderr: float | None
    n: int


class Row(NamedTuple):
    """One method. std: None for one seed. seeds: (seed, accuracy). difference: to the baseline.

    more: means of other measures, by their name in `MORE`.
    """

    label: str
    mean: float
    std: float | None
    n: int
    seeds: tuple[tuple[int, float], ...]
    difference: Difference | None
    baseline: bool
    more: Mapping[str, float] = {}


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
        accuracy = run['accuracy']
        seeds = tuple((entry['seed'], entry['accuracy']) for entry in run['seeds'])
        found = results['differences'].get(label) if comparison else None
        difference = Difference(found['mean'], found['stderr'], found['n']) if found else None
        baseline = comparison and label == results['baseline']
        more = {name: run[name]['mean'] for name in MORE if name in run}
        rows.append(Row(label, accuracy['mean'], accuracy['std'], accuracy['n'], seeds, difference, baseline, more))
    return tuple(rows)


def best_row(rows: Sequence[Row]) -> Row:
    """Return the row with the highest mean; among equals the baseline, then the first."""
    return max(rows, key=lambda row: (row.mean, row.baseline))


def pair_rows(pairs: Mapping[str, Any]) -> tuple[PairRow, ...]:
    """Return the pairs in the order of the target's classes."""
    return tuple(PairRow(p['target'], tuple(p['sources']), tuple(p['similarity'])) for p in pairs['pairs'])


def _column(values: Sequence[tuple[str, float | None]], mark: str) -> list[str]:
    """Return `mean +- spread` for each of `values`, padded so that points and marks are aligned."""
    wide = max((len(mean) for mean, _ in values), default=0)
    wide_spread = max((len(percent(value)) for _, value in values if value is not None), default=0)
    return [spread(mean.rjust(wide), value, mark, wide_spread) for mean, value in values]


def shown_more(rows: Sequence[Row]) -> list[str]:
    """Return the other measures that all rows have, without a mean over classes that equals the accuracy everywhere."""
    known = [name for name in MORE if all(name in row.more for row in rows)]
    same = all(percent(row.more.get('mean_per_class', row.mean)) == percent(row.mean) for row in rows)
    return [name for name in known if not (same and name == 'mean_per_class')]


def best_kept(results: Mapping[str, Any]) -> bool:
    """Return whether the accuracies are those of steps that were chosen by validation."""
    return any(run.get('keep') == 'best' for run in [results, *results.get('runs', {}).values()])


def _accuracy_cells(results: Mapping[str, Any], mark: str, more: bool = False) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the accuracy table; with `more`, the other measures too."""
    rows = accuracy_rows(results)
    head = ['method', 'accuracy %', 'n']
    accuracy = _column([(percent(row.mean), row.std) for row in rows], mark)
    wide = max(len(str(row.n)) for row in rows)
    cells = [[row.label, text, str(row.n).rjust(wide)] for row, text in zip(rows, accuracy, strict=True)]
    for name in shown_more(rows) if more else ():
        head.append(MORE[name])
        for row, line in zip(rows, cells, strict=True):
            line.append(percent(row.more[name]).rjust(5))
    baseline = next((row.label for row in rows if row.baseline), None)
    if baseline is None:
        return head, cells
    known = [row.difference for row in rows if row.difference]
    numbers = iter(_column([(points(d.mean, mark == TYPESET), d.stderr) for d in known], mark))
    for row, line in zip(rows, cells, strict=True):
        line.append(next(numbers) if row.difference else 'baseline' if row.baseline else '-')
    return [*head, f'difference to {baseline}'], cells


def _compares(head: Sequence[str]) -> bool:
    return head[-1].startswith('difference')


def _pair_cells(row: PairRow) -> tuple[str, str, str]:
    return row.target, ', '.join(map(isolate, row.sources)), ', '.join(f'{value:.2f}' for value in row.similarity)


def accuracy_text(results: Mapping[str, Any]) -> str:
    """Return the table for a terminal: aligned columns, and a last line that explains the numbers."""
    head, rows = _accuracy_cells(results, PLAIN, more=True)
    lines = [[plain(cell) for cell in line] for line in (head, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    note = NOTE + (NOTE_BEST if best_kept(results) else '') + (NOTE_DIFFERENCE if _compares(head) else '')

    aligned = ['  '.join(cell.ljust(wide) for cell, wide in zip(line, widths, strict=True)).rstrip() for line in lines]
    return '\n'.join([*aligned, note])


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
    caption = 'Test accuracy' + (' and difference to the baseline' if _compares(head) else '')
    return html_table(caption, head, cells, best, numbers=len(head) - 1)


def pairs_html(pairs: Mapping[str, Any]) -> str:
    """Return an HTML table of the pairs."""
    rows = [_pair_cells(row) for row in pair_rows(pairs)]
    return html_table('Class pairs', ['target class', 'source class', 'similarity'], rows, numbers=1)
