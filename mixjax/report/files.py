"""The files beside a report: `results.md`, its tables, and `results.csv`, a line for each run and seed.

In the CSV accuracies and differences are fractions of 1, not percent, and missing values are empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from mixjax.errors import UserError
from mixjax.host.storage import Place
from mixjax.host.untrusted import open_regular
from mixjax.report import overview, sections, settings, tables
from mixjax.report.answer import Answer, answer
from mixjax.report.gather import Found
from mixjax.report.overview import Line
from mixjax.report.read import Folder
from mixjax.report.words import TYPESET, cell, count, markdown, percent, plain, spread

MARK = '<!-- written by mixjax.report, and again with each report -->'
# The first two identify a file of this kind.
COLUMNS: tuple[str, ...] = (
    'run', 'dataset', 'labels', 'network', 'label', 'method', 'settings', 'seed', 'step', 'accuracy', 'top5',
    'mean_per_class', 'loss', 'val_accuracy', 'baseline', 'difference', 'train_examples', 'test_examples', 'classes',
)  # fmt: skip


def contents(found: Found, page: Place) -> dict[Place, str]:
    """Return {place: text} of the files beside a page; refuse to overwrite other files."""
    stem = 'results' if page.name == 'report.html' else page.stem
    out = {page.with_name(f'{stem}.md'): document(found), page.with_name(f'{stem}.csv'): values(found.folders)}
    if page in out:
        raise UserError(
            f'--out {page} is the name of a table; name the page, {stem}.html: its tables are written beside it'
        )
    for place, text in out.items():
        _ours(place, text)
    return out


def _ours(place: Place, text: str) -> None:
    """Refuse to overwrite a file that was not written by a report."""
    try:
        there = ''
        if place.exists():
            with open_regular(place) as file:
                there = file.read(4000).decode(errors='replace')
    except OSError as error:
        raise UserError(f'{place} cannot be written ({error.strerror}); choose another --out') from error
    known = there.startswith(','.join(COLUMNS[:2])) if place.suffix == '.csv' else MARK in there
    if there and not known:
        raise UserError(f'{place} was not written by a report; move it away, or choose another --out')


# --- Markdown ---------------------------------------------------------------------------------------------------------


def document(found: Found) -> str:
    """Return the Markdown file."""
    if len(found.folders) == 1 and not found.grid:
        (folder,) = found.folders
        told = [f'# {markdown(settings.title(folder))}', '', MARK, '', _words(answer(folder.results)), '']
        return '\n'.join([*told, *sections.body(found.folders)])
    lines = overview.lines(found.folders)
    told = [f'# {count(len(found.folders), "run")} of mixjax', '', MARK, '', _words(overview.answer(lines)), '']
    if found.unfinished:
        told += [f'Not finished, and left out: {", ".join(map(markdown, found.unfinished))}.', '']
    note = (
        f'Test accuracy in percent: mean {TYPESET} standard deviation over n seeds. Difference: percentage points to '
        f'the baseline of the same data, labels and network, paired over seeds, {TYPESET} standard error.'
    )
    head = ['data', 'labels', 'network', 'method', 'accuracy %', 'n', 'difference', 'run']
    rows = [
        [
            *line.setting, line.method, spread(percent(line.row.mean), line.row.std, TYPESET), str(line.row.n),
            overview.difference_text(line), line.name,
        ]
        for line in lines
    ]  # fmt: skip
    told += [note, '', tables.markdown_table(head, rows, '----:::-')]
    commands = [(folder.name, settings.command_of(folder)) for folder in found.folders]
    known = [f'{markdown(name)}\n\n    {plain(command)}\n' for name, command in commands if command]
    return '\n'.join([*told, *(['## Commands', '', *known] if known else [])])


def _words(found: Answer) -> str:
    return markdown(' '.join([found.headline, *found.remarks]))


# --- CSV --------------------------------------------------------------------------------------------------------------


def values(folders: Sequence[Folder]) -> str:
    """Return the CSV file."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator='\n')
    writer.writeheader()
    for line in overview.lines(folders):
        for seed in line.run.results['seeds']:
            writer.writerow({key: _clean(value) for key, value in _row(line, seed).items()})
    return file.getvalue()


def _row(line: Line, seed: dict[str, Any]) -> dict[str, Any]:
    results = line.run.results
    return {
        'run': line.name,
        **line.setting._asdict(),
        'label': line.row.label,
        'method': results['method'],
        'settings': line.knobs,
        'seed': seed['seed'],
        'step': seed.get('step', results['steps']),
        **{key: seed.get(key) for key in ('accuracy', 'top5', 'mean_per_class', 'loss', 'val_accuracy')},
        'baseline': line.base,
        'difference': line.gaps.get(seed['seed']),
        **{key: results[key] for key in ('train_examples', 'test_examples')},
        'classes': len(results['classes']),
    }


def _clean(value: Any) -> Any:
    return cell(value) if isinstance(value, str) else value
