"""The report: one HTML file that needs no network and no script, answer first.

A pure function of the files in the folders: the same files give the same bytes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.report import (
    best,
    calibration,
    curves,
    files,
    measured,
    mistakes,
    pictures,
    settings,
    several,
    style,
    svg,
    tables,
)
from mixjax.report.answer import answer
from mixjax.report.gather import Found, gather
from mixjax.report.page import document
from mixjax.report.read import Folder, Run
from mixjax.report.words import bdi, count, escape, isolate, number

BUDGET = 1_800_000  # bytes for the pictures of the whole page
LEAST = ('accuracy', 'curves', 'settings', 'repeat')  # the sections of each of very many runs
MEASURES = 8  # number of a method's own measures that have a curve


def write(*workdirs: str | Place, out: str | Place | None = None) -> Place:
    """Write the report of one or more folders, by default `report.html` in the folder, or beside several.

    Its tables are written beside it, as `results.md` and `results.csv`; another `out` gives them its name.
    """
    if len(workdirs) == 1 and best.is_search(workdirs[0]):
        return best.write(workdirs[0], out)
    found = gather(workdirs)
    path = storage.to_place(out) if out is not None else _beside([storage.to_place(folder) for folder in workdirs])
    path = storage.resolve_file(path)  # the folder may be named by a link, but no file in it is written through one
    beside = files.contents(found, path)  # a foreign file is refused before anything is written
    try:
        for place, content in {path: _page(found), **beside}.items():
            storage.write(place, content.encode())
    except OSError as error:
        raise UserError(f'the report cannot be written to {path}: {error.strerror}; choose another --out') from error
    return path


def _beside(folders: Sequence[Place]) -> Place:
    if len(folders) == 1:
        return folders[0] / 'report.html'
    if any(map(storage.is_remote, folders)):
        raise UserError('the report of several runs in a store has no default place; name one with --out')
    common = Path(os.path.commonpath([storage.realpath(folder).parent for folder in folders]))
    if (common / 'config.json').exists():
        raise UserError(f'{common / "report.html"} is the report of another run; say where this one goes with --out')
    try:
        return common.relative_to(Path.cwd()) / 'report.html'
    except ValueError:
        return common / 'report.html'


def render(workdirs: Sequence[str | Place]) -> str:
    """Return the page of one or more finished work directories, or of a folder of them."""
    return _page(gather(workdirs))


def _page(found: Found) -> str:
    folders, sheet = found.folders, ''
    if len(folders) == 1 and not found.grid:
        title, subtitle = settings.title(folders[0]), settings.subtitle(folders[0])
        body = _folder(folders[0], 's', 2, BUDGET)
    else:
        title, subtitle = f'{count(len(folders), "run")} of mixjax', ''
        over = measured.over(found.sweep, folders)
        body, sheet = several.body(folders, found.unfinished, over, _section(len(folders)))
    return document(title, subtitle, body, style.sheet() + sheet)


def _section(many: int) -> several.Section:
    """Return the function that makes the section of a folder on the page of `many` folders."""

    def one(folder: Folder, prefix: str, much: int) -> str:
        about = escape(f'{settings.title(folder)}. {settings.subtitle(folder)}')
        inner = _folder(folder, prefix, 3, BUDGET // many if much == several.ALL else 0, much)
        return f'<p class="sub">{about}</p>\n{inner}'

    return one


# --- one folder -------------------------------------------------------------------------------------------------------


def _folder(folder: Folder, prefix: str, level: int, budget: int, much: int = several.ALL) -> str:
    """Return all blocks of one folder, or some. prefix: of the ids; level: of the headings; much: see `several`."""
    plan, primary = pictures.plan(folder, budget), tables.primary_of(folder.results)
    blocks = {
        'accuracy': (primary.title, _accuracy(folder, prefix)),
        'curves': ('Learning curves', _curves(folder, prefix)),
        'measures': ('Measures', _measures(folder, prefix)),
        'confusion': (mistakes.title(folder), mistakes.confusion(folder, prefix)),
        'mistakes': (
            'Surest mistakes' if primary.percent else 'Largest losses',
            mistakes.surest(folder, folder.runs[: plan.runs], plan.side),
        ),
        'calibration': (
            'Probabilities',
            calibration.of_runs([(run.label, run.calibration) for run in folder.runs], prefix),
        ),
        **measured.blocks(folder, prefix, budget // 4),
        'pairs': ('Class pairs', _pairs(folder.runs[: plan.runs], plan)),
        'samples': ('What the network saw', _samples(folder.runs[: plan.runs], plan)),
        'settings': ('Settings', settings.settings_html(folder, whole=much == several.ALL)),
        'repeat': ('Repeat it', settings.repeat_html(folder)),
    }
    kept = {name: block for name, block in blocks.items() if block[1] and (much > several.LEAST or name in LEAST)}
    links = ''.join(f'<li><a href="#{prefix}-{name}">{escape(title)}</a></li>' for name, (title, _) in kept.items())
    label = f' aria-label="Contents of {escape(folder.name)}"' if level > 2 else ' aria-label="Contents"'
    parts = [_found(folder), several.answer_html(answer(folder.results)), f'<nav{label}><ul>{links}</ul></nav>']
    for name, (title, block) in kept.items():
        parts.append(f'<h{level} id="{prefix}-{name}">{escape(title)}</h{level}>\n{block}')
        if name == 'curves' and plan.runs < len(folder.runs) and much == several.ALL:
            parts.append(f'<p class="note">{_left_out(len(folder.runs) - plan.runs)}</p>')
    return '\n'.join(parts)


def _left_out(runs: int) -> str:
    return f'The pictures of {count(runs, "run")} are left out to keep the file small; they are in separate reports.'


def _found(folder: Folder) -> str:
    """Return the notes on a user's images, and on files left out, which precede the numbers from them."""
    notes = folder.runs[0].notes
    items = ''.join(f'<li>{escape(note)}</li>' for note in notes)
    return f'<section aria-label="Data"><ul class="note">{items}</ul></section>' if notes else ''


def _accuracy(folder: Folder, prefix: str) -> str:
    rows = tables.accuracy_rows(folder.results)
    table = f'<div>{tables.accuracy_html(folder.results)}{_each_seed(rows)}{_kept(folder)}</div>'
    primary, values = rows[0].primary, [value for row in rows for _, value in row.seeds]
    if len(values) == 1 or any(map(math.isnan, values)):  # one dot shows nothing
        return table
    colours = curves.colours(folder.runs, folder.baseline)
    factor = primary.factor
    reference = next((factor * row.mean for row in rows if row.baseline), None)
    dots = [
        svg.Dots(
            row.label, colours[row.label], tuple((seed, factor * value) for seed, value in row.seeds), factor * row.mean
        )
        for row in rows
    ]
    desc = '; '.join(f'{isolate(row.label)} {row.text}' for row in rows)
    title = f'Test {primary.name} of each seed' + (', in percent' if primary.percent else '')
    text = svg.Text(f'{prefix}-dots', title, f'Means: {desc}.')
    several = len({row.n for row in rows} - {1}) > 0
    note = 'Each dot is a seed, the bar their mean' if several else 'One seed each'
    note += '; the dashed line is the mean of the baseline.' if reference is not None else '.'
    chart = svg.dot_chart(dots, text, primary.axis, reference)
    return f'<div class="two broad">{table}<figure class="plot">{chart}<figcaption>{note}</figcaption></figure></div>'


def _kept(folder: Folder) -> str:
    """Return a line on the steps of the kept networks, if they were chosen."""
    if not tables.best_kept(folder.results):
        return ''
    steps = {run.label: [str(seed.get('step', '?')) for seed in run.results['seeds']] for run in folder.runs}
    told = '; '.join(f'{isolate(label)} {", ".join(chosen)}' for label, chosen in steps.items())
    name = escape(tables.primary_of(folder.results).name)
    return f'<p class="note">For each seed the step with the best validation {name} was kept: {escape(told)}.</p>'


def _each_seed(rows: Sequence[tables.Row]) -> str:
    """Return the dots as a table, for readers who cannot see them."""
    seeds = sorted({seed for row in rows for seed, _ in row.seeds})
    if len(seeds) < 2:
        return ''
    body = []
    for row in rows:
        found = dict(row.seeds)
        body.append([row.label, *(row.primary.text(found[seed]) if seed in found else '-' for seed in seeds)])
    primary = rows[0].primary
    head = [primary.column, *(f'seed {seed}' for seed in seeds)]
    table = tables.html_table(f'Test {primary.name} of each seed', head, body, numbers=len(seeds))
    return f'<details><summary>{escape(primary.title)} of each seed</summary>{table}</details>'


def _curves(folder: Folder, prefix: str) -> str:
    several = any(len(run.results['seeds']) > 1 for run in folder.runs)
    band = ' Lines are means over seeds, bands one standard deviation to each side.' if several else ''
    primary = tables.primary_of(folder.results)
    losses = ' Each method minimises its own loss: compare shapes, not heights.' if len(folder.runs) > 1 else ''
    charts = [
        _curve(
            folder, f'{prefix}-test', 'eval', primary.name, f'Test {primary.name} over steps', primary.axis,
            primary.factor, band,
        ),
        _curve(folder, f'{prefix}-train', 'train', 'loss', 'Training loss over steps', 'training loss', 1.0, losses),
    ]
    found = [chart for chart in charts if chart]
    if not found:
        return '<p>No curves: there is no metrics.jsonl with evaluations or losses in this folder.</p>'
    return f'<div class="two">{"".join(found)}</div>'


def _measures(folder: Folder, prefix: str) -> str:
    """Return the table of the methods' own measures, with a curve of each over the steps."""
    table = tables.measures_html(folder.results)
    if not table:
        return ''
    names = tables.own_measures(tables.accuracy_rows(folder.results))
    charts = [
        _curve(folder, f'{prefix}-measure-{i}', 'eval', name, f'{isolate(name)} over steps', isolate(name), 1.0, '')
        for i, name in enumerate(names[:MEASURES])
    ]
    return f'{table}<div class="two">{"".join(charts)}</div>'


def _curve(
    folder: Folder, name: str, kind: str, metric: str, title: str, label: str, factor: float, note: str
) -> str:  # fmt: skip
    colours = curves.colours(folder.runs, folder.baseline)
    lines = [one for run in folder.runs for one in curves.series(run, colours[run.label], kind, metric, factor)]
    if not lines:
        return ''
    ends = '; '.join(f'{isolate(one.label)} {one.mean[-1]:.4g} at step {number(int(one.x[-1]))}' for one in lines)
    chart = svg.line_chart(lines, svg.Text(name, title, f'Last values: {ends}.'), 'step', label)
    return f'<figure class="plot">{chart}<figcaption>{title}.{note}</figcaption></figure>'


def _pairs(runs: Sequence[Run], plan: pictures.Plan) -> str:
    shown = [run for run in runs if run.pairs and run.pairs.table['pairs']]
    parts = []
    for run in shown:
        assert run.pairs is not None
        seed = run.pairs.table.get('seed')
        which = f', seed {seed}' if seed is not None else ''
        parts.append(
            f'<p><b>{bdi(run.label)}</b>{escape(which)}: each target class and the source classes its images are '
            f'mixed with, as the method paired them; the number is their similarity.{_noted(run.pairs.table)}</p>'
            f'{pictures.pairs(run, plan)}'
        )
    return '\n'.join(parts)


def _noted(pairs: Mapping[str, Any]) -> str:
    told = tables.notes_text(pairs)
    return f' In all: {escape(told)}.' if told else ''


def _samples(runs: Sequence[Run], plan: pictures.Plan) -> str:
    shown = [pictures.samples(run, plan) for run in runs if run.samples is not None and len(run.samples.label)]
    if not shown:
        return ''
    return '<p>Some images of one training batch, after augmentation.</p>\n' + '\n'.join(shown)
