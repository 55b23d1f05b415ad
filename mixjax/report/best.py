"""The page of a search (`mixjax best`): the answer first, then what was tried, what is doubtful, and what would help.

It reads `best.json` and `best.npz` of the work directory, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.host.storage import Place
from mixjax.report import calibration, pictures, png, several, style, svg, tables
from mixjax.report.answer import Answer
from mixjax.report.mistakes import CELLS, NUMBERS, coloured, confused_text, numbers
from mixjax.report.page import document
from mixjax.report.predictions import Confused
from mixjax.report.svg import Series, Text
from mixjax.report.words import bdi, count, escape, isolate, percent, plain

FILE, ARRAYS = 'best.json', 'best.npz'
SHOWN = 12  # lines of the table of what was tried that are visible at once
SIDE = 96  # of pictures


def is_search(folder: str | Place) -> bool:
    """Return whether a folder is the work directory of a finished search."""
    return storage.is_file(storage.to_place(folder) / FILE)


def write(folder: str | Place, out: str | Place | None = None) -> Place:
    """Write the page of a search, by default `report.html` in its folder; returns its place."""
    place = storage.reachable(folder)
    path = storage.resolve_file(storage.to_place(out) if out is not None else place / 'report.html')
    try:
        storage.write(path, render(place).encode())
    except OSError as error:
        raise UserError(f'the report cannot be written to {path}: {error.strerror}; choose another --out') from error
    return path


def read(folder: Place) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read the two files of a search."""
    try:
        found = untrusted.parse(untrusted.read_regular(folder / FILE, untrusted.MOST_TEXT))
        arrays = untrusted.arrays(folder / ARRAYS)
        if not isinstance(found, dict) or found.get('format') != 1:
            raise ValueError('it is of another format')
    except (OSError, ValueError) as error:
        raise UserError(
            f'{folder / FILE} or {ARRAYS} cannot be read ({error}); remove them and search again'
        ) from error
    return found, arrays


def render(folder: Place) -> str:
    """Return the page of a search."""
    found, arrays = read(folder)
    try:
        title = f'The best classifier for {isolate(plain(Path(found["folder"]).name or "a folder"))}'
        return document(title, subtitle(found), body(found, arrays), style.sheet())
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f'{folder / FILE} is damaged ({error}); remove it and search again') from error


# --- words ------------------------------------------------------------------------------------------------------------


def subtitle(found: Mapping[str, Any]) -> str:
    """Return a line with the numbers of images, classes, folds and minutes."""
    folds = f'{found["folds"]} folds' + (f' x {found["repeats"]}' if found['repeats'] > 1 else '')
    return (
        f'{count(found["images"], "image")} of {count(len(found["classes"]), "class", "classes")}; {folds}; '
        f'{count(len(found["tried"]), "entry", "entries")} tried in {found["seconds"] / 60:.1f} of '
        f'{found["minutes"]:g} minutes'
    )


def expected(found: Mapping[str, Any]) -> tuple[float, Sequence[float], str]:
    """Return the accuracy to expect, its 90 % interval, and what it is measured on."""
    if 'test' in found:
        return found['test']['accuracy'], found['test']['interval'], f'{found["test"]["images"]:,} test images'
    one = found['expected']
    return one['accuracy'], one['interval'], 'images that were left out of training, without the flattery of the choice'


def headline(found: Mapping[str, Any]) -> str:
    """Return the answer in one sentence."""
    share, (low, high), _ = expected(found)
    return (
        f'{isolate(found["winner"]["label"])}: expect {100 * share:.1f} % right '
        f'(90 % interval {100 * low:.1f} to {100 * high:.1f} %).'
    )


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Return what else is worth knowing, a sentence each."""
    out = []
    lead, winner, probe = found['lead'], found['winner'], found['probe']
    if winner['label'] == probe['label']:
        tuned = [one for one in found['tried'] if one['method'].get('name') != 'probe']
        out.append(
            f'It is a probe on frozen features; {count(len(tuned), "trial")} of fine-tuning did not beat it.' if tuned
            else 'It is a probe on frozen features; no fine-tuning was tried in the time.'
        )  # fmt: skip
    else:
        by = f'{100 * lead["mean"]:+.1f} +- {100 * lead["stderr"]:.1f} points'
        chance = 'more than chance' if lead['clear'] else 'which may be chance'
        better = '' if lead['mean'] > 0 else '; its log loss is lower'
        out.append(
            f'The best probe, {isolate(probe["label"])}, had {100 * probe["accuracy"]:.1f} %; the difference of the '
            f'winner to it is {by}, {chance}{better}.'
        )
    if 'test' not in found:
        selected, share = found['expected']['selected'], found['expected']['accuracy']
        out.append(
            f'In cross-validation it had {100 * selected:.1f} %; choosing the best of {lead["tried"]} by the same '
            f'images flatters that by {100 * (selected - share):.1f} points, which is taken off above.'
        )
    if found['growth'].get('twice'):
        twice = found['growth']['twice']
        now = found['growth']['accuracy'][-1]
        out.append(
            f'Twice as many labelled images may give {100 * max(0.0, twice["accuracy"] - now):.1f} points more (an '
            'extrapolation of the probe).'
        )
    if found['independent'] < 100:
        out.append(f'Measured on {found["independent"]} independent images, so the interval is wide.')
    if found['doubtful']:
        out.append(
            f'{count(len(found["doubtful"]), "image")} that were left out are taken for another class; the report '
            'shows them, the likeliest wrong labels first.'
        )
    return out


def table(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the table of what was tried, the best first: a row of titles, then a row for each entry."""
    order = sorted(found['tried'], key=lambda one: (not one['whole'], -one['accuracy'], one['loss']))
    probes = [one for one in order if one['method'].get('name') == 'probe']
    chosen = found['winner']['label']
    shown = [one for one in order if one not in probes] + _best_of_each(probes, chosen)
    rows = [
        [
            one['label'] + (' (chosen)' if one['label'] == chosen else ''), f'{100 * one["accuracy"]:.1f}',
            f'{one["loss"]:.3f}', f'{one["folds"]} of {found["folds"] * found["repeats"]}', f'{one["seconds"]:.0f}',
        ]
        for one in sorted(shown, key=order.index)
    ]  # fmt: skip
    return [['tried', 'accuracy %', 'log loss', 'folds', 'seconds'], *rows]


def _best_of_each(probes: Sequence[Mapping[str, Any]], chosen: str) -> list[Mapping[str, Any]]:
    """Return the best strength of each kind of probe on each network, or the one that was chosen; they are in order."""
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for one in sorted(probes, key=lambda one: one['label'] != chosen):
        first.setdefault((one['network'], str(one['method'].get('kind'))), one)
    return list(first.values())


# --- the page ---------------------------------------------------------------------------------------------------------


def body(found: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Return the page below its title."""
    blocks = {
        'tried': ('What was tried', _table_html(found)),
        'doubtful': ('Labels that may be wrong', _doubtful(found, arrays)),
        'alike': ('Alike, and of two classes', _alike(found, arrays)),
        'confusion': ('Confused classes', _confusion(found, arrays)),
        'growth': ('More labels', _growth(found)),
        'calibration': ('Probabilities', calibration.section(found['calibration'], 'predictions for left-out images')),
        'folder': ('The folder', _folder(found)),
        'use': ('Use it', _use(found)),
    }
    kept = {name: block for name, block in blocks.items() if block[1]}
    links = ''.join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, (title, _) in kept.items())
    share, (low, high), what = expected(found)
    figures = [
        (f'{100 * share:.1f} %', f'expected accuracy; 90 % interval {100 * low:.1f} to {100 * high:.1f} %, on {what}')
    ]
    figures.append((f'{100 * found["probe"]["accuracy"]:.1f} %', 'the best probe, in cross-validation'))
    answer = Answer(headline(found), tuple(figures), tuple(sentences(found)))
    parts = [several.answer_html(answer), f'<nav aria-label="Contents"><ul>{links}</ul></nav>']
    parts += [f'<h2 id="{name}">{escape(title)}</h2>\n{block}' for name, (title, block) in kept.items()]
    return '\n'.join(parts)


def _table_html(found: Mapping[str, Any]) -> str:
    head, *rows = table(found)
    caption = 'Accuracy on images that the folds left out; seconds are those of all folds'
    whole = tables.html_table(caption, head, rows[:SHOWN], numbers=4)
    more = tables.html_table('The others', head, rows[SHOWN:], numbers=4) if rows[SHOWN:] else ''
    more = (
        f'<details><summary>{count(len(rows) - SHOWN, "more entry", "more entries")}</summary>{more}</details>'
        if more
        else ''
    )
    note = (
        '<p class="note">A trial that was behind on its first folds was not run on the others; its accuracy is of '
        'fewer images. Of each kind of probe the best strength is shown. Chosen is the lowest log loss among '
        'those whose accuracy is within a standard error of the highest.</p>'
    )
    left = ''.join(
        f'<p class="note">{bdi(name)} is left out: {escape(why)}.</p>' for name, why in found['left out'].items()
    )
    return f'{whole}{more}{note}{left}'


def _doubtful(found: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    if not found['doubtful']:
        return '<p>None: every image that was left out is taken for what its label says.</p>'
    cards = []
    for one, image in zip(found['doubtful'], arrays['image'], strict=True):
        picture = pictures.picture(image, f'an image labelled {isolate(one["label"])}', SIDE)
        cards.append(
            f'<li>{picture}<p><b>{bdi(one["taken for"])}</b> <span class="value">{100 * one["probability"]:.0f}\u00a0%'
            f'</span><br>labelled {bdi(one["label"])}<br><span class="note">{bdi(one["image"])}</span></p></li>'
        )
    return (
        '<p>Images that were left out of training and are taken for another class, the least probable labels first: '
        'wrong labels, and hard images. Look at the first ones.</p>\n'
        f'<ul class="mistakes">\n{chr(10).join(cards)}\n</ul>'
    )


def _alike(found: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    if not found['contradictions']:
        return ''
    cards = []
    for names, pair in zip(found['contradictions'], arrays.get('pair', ()), strict=False):
        shown = ''.join(pictures.picture(image, 'one of two images that are alike', SIDE) for image in pair)
        words = ' and '.join(f'<span class="note">{bdi(name)}</span>' for name in names)
        cards.append(f'<li><div class="pictures">{shown}</div><p>{words}</p></li>')
    return (
        f'<p>{count(len(found["contradictions"]), "pair")} of images that are equal, or nearly so, in the folders of '
        f'two classes. One of the two is wrong.</p>\n<ul class="pairs" style="--n:2">\n{chr(10).join(cards)}\n</ul>'
    )


def _confusion(found: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    counts, classes = arrays['confusion'], found['classes']
    inside = counts.ndim == 2 and counts.shape[1] == 3 and bool((counts >= 0).all())
    if not inside or not (counts[:, :2] < len(classes)).all():
        raise KeyError('confusion')
    total = np.bincount(counts[:, 0], counts[:, 2], len(classes))
    pairs = sorted(
        (Confused(t, k, times, int(total[t])) for t, k, times in counts.tolist() if t != k),
        key=lambda one: (-one.times, one.true, one.taken),
    )
    cells = np.zeros((len(classes),) * 2 if len(classes) <= CELLS else (0, 0), np.int64)
    if len(cells):
        cells[counts[:, 0], counts[:, 1]] = counts[:, 2]
    words = confused_text(pairs, classes)
    text = Text('confusion-chart', 'Classes and what they are taken for', words)
    chart = ''
    if len(classes) <= NUMBERS:
        note = 'Each row a class, each column what it is taken for, when it was left out.'
        chart = f'<figure class="plot">{numbers(cells, classes, text)}<figcaption>{note}</figcaption></figure>'
    elif len(classes) <= CELLS:
        side = len(classes)
        image = png.data_uri(coloured(cells))
        chart = (
            f'<figure class="plot"><img class="pixels matrix" width="{side}" height="{side}" alt="{escape(words)}" '
            f'src="{image}"><figcaption>Each row a class, each column what it is taken for.</figcaption></figure>'
        )
    rows = [[classes[one.true], classes[one.taken], str(one.times), str(one.of)] for one in pairs[:SHOWN]]
    listed = tables.html_table('Most confused', ['class', 'taken for', 'times', 'of'], rows, numbers=2) if rows else (
        '<p>No class is taken for another.</p>'
    )  # fmt: skip
    return f'<div class="two">{chart}<div>{listed}</div></div>'


def _growth(found: Mapping[str, Any]) -> str:
    growth = found['growth']
    if len(growth.get('images', ())) < 2:
        return ''
    x, y = tuple(growth['images']), tuple(100 * one for one in growth['accuracy'])
    twice = growth['twice']
    lines = [Series('measured', 1, x, y, y, y)]
    far = (x[-1], float(twice['images'])), (y[-1], max(y[-1], 100 * twice['accuracy']))
    lines.append(Series('extrapolated', 0, *far, far[1], far[1]))
    text = Text('growth-chart', 'Accuracy with fewer and with more labelled images',
                '; '.join(f'{a:.0f} images {b:.1f} %' for a, b in zip(x, y, strict=True)) + '.')  # fmt: skip
    chart = svg.line_chart(lines, text, 'labelled images', 'accuracy (%)')
    return (
        f'<figure class="plot">{chart}<figcaption>The probe on the winner\u2019s network, with a share of the images '
        'of each class. The dashed end is a power law through the points, and a guess.</figcaption></figure>'
    )


def _folder(found: Mapping[str, Any]) -> str:
    notes = ''.join(f'<li>{escape(note)}</li>' for note in found['notes'])
    copies = found['copies']
    twins = (
        f'<p>{count(copies["alike"], "image is a copy", "images are copies")} of another one, '
        f'{copies["exact"]:,} exact. Copies are on one side of every fold, and count once where an interval is '
        'computed.</p>'
    )
    return f'<ul class="note">{notes}</ul>{twins if copies["alike"] else ""}'


def _use(found: Mapping[str, Any]) -> str:
    command = escape(plain(found['command'])) if found['command'] else ''
    again = f'<p>The search again:</p><pre><code>{command}</code></pre>' if command else ''
    winner = found['winner']
    share = percent(winner['accuracy'])
    return (
        '<pre><code>mixjax predict --workdir=FOLDER photo.jpg more/</code></pre>\n'
        f'<p class="note">Network {bdi(winner["network"])}, from {bdi(winner["weights"])}; '
        f'{escape(share)} % in cross-validation.</p>{again}'
    )
