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
from mixjax.report.words import TYPESET, cell, count, markdown, plain

MARK = '<!-- written by mixjax.report, and again with each report -->'
# The first two identify a file of this kind.
COLUMNS: tuple[str, ...] = (
    'run', 'dataset', 'labels', 'network', 'label', 'method', 'settings', 'seed', 'step', 'accuracy', 'top5',
    'mean_per_class', 'loss', 'val_accuracy', 'baseline', 'difference', 'train_examples', 'test_examples', 'classes',
)  # fmt: skip

OWN = 'measure '  # begins the columns of the methods' own measures, which follow


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
    primary = overview.shared_primary(lines)
    percent = primary is not None and primary.percent
    note = (
        f'Test {primary.name if primary else "results"}{" in percent" if percent else ""}: mean {TYPESET} standard '
        f'deviation over n seeds. Difference{": percentage points" if percent else ""} to the baseline of the same '
        f'data, labels and network, paired over seeds, {TYPESET} standard error.'
    )
    column = primary.column if primary else 'primary measure'
    head = ['data', 'labels', 'network', 'method', column, 'n', 'difference', 'run']
    rows = [
        [
            *line.setting, line.method, line.row.primary.spread(line.row.text, line.row.std, TYPESET), str(line.row.n),
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
    found = overview.lines(folders)
    task = dict.fromkeys(name for line in found for name in _of_task(line))
    own = [cell(f'{OWN}{name}') for name in tables.own_measures([line.row for line in found])]
    writer = csv.DictWriter(file, [*COLUMNS, *map(cell, task), *own], lineterminator='\n')
    writer.writeheader()
    for line in found:
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
        **{cell(name): seed.get(name) for name in _of_task(line)},
        **{cell(f'{OWN}{name}'): value for name, value in _own(seed).items()},
    }


def _of_task(line: Line) -> list[str]:
    """Return the names of the measures of another task than classification, its primary one and that of val first."""
    primary = line.row.primary.name
    return [] if line.row.primary.percent else [primary, f'val_{primary}', *line.row.more]


def _own(seed: dict[str, Any]) -> dict[str, float | None]:
    """Return the method's own measures of one seed."""
    found = seed.get('measures', {})
    return found if isinstance(found, dict) else {}


def _clean(value: Any) -> Any:
    return cell(value) if isinstance(value, str) else value
