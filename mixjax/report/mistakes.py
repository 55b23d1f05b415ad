"""The confused classes, and the most confident mistakes of a network: as charts, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mixjax.report import outputs, pictures, png, tables
from mixjax.report.outputs import Outputs
from mixjax.report.predictions import Confused, Predictions, confused, matrix
from mixjax.report.read import Folder, Run
from mixjax.report.svg import CHAR, WIDTH, Text, frame, shorten
from mixjax.report.words import bdi, count, escape, isolate, number

NUMBERS = 12  # number of classes up to which each cell of the matrix has its number
CELLS = 300  # number of classes up to which the matrix is a picture; beyond, there is only the list
TABLE_PAIRS, TEXT_PAIRS = 12, 5  # confused pairs in the table, and in words
FULL = 0.5  # opacity of the darkest cell, which has its number on it
SUREST = (
    'Test images on which the network of the first seed was wrong and surest of it: what it took them for, with '
    'what probability, and what they are.'
)
LARGEST = 'Test images with the largest loss of the first seed: what the network says of them, and what is true.'
# From none to all: dark blue, grey, yellow. It reads the same with every kind of sight, and on light and dark ground.
SCALE = np.array([(0, 32, 77), (124, 123, 120), (255, 234, 70)], float)


def title(folder: Folder) -> str:
    """Return the title of the section that `confusion` makes."""
    titles = {'multi_label': 'Labels', 'regression': 'Predicted and true'}
    return titles.get(str(folder.runs[0].results.get('task')), 'Confused classes')


def confusion(folder: Folder, prefix: str) -> str:
    """Return the matrix of each method, and the pairs that are confused most."""
    several = [_of_rows(run, run.outputs, f'{prefix}-outputs-{i}') for i, run in enumerate(folder.runs) if run.outputs]
    if several:
        return f'<div class="stack">{"".join(several)}</div>'
    runs = [run for run in folder.runs if run.predictions]
    if not runs:
        return ''
    charts = {run.label: _matrix(run, f'{prefix}-confusion-{place}') for place, run in enumerate(runs)}
    first, rest = (''.join(charts[label] for label in part) for part in _first(folder, list(charts)))
    parts = [f'<div class="two">{first}</div>'] if first else []
    parts.append(_table(runs))
    if rest:
        parts.append(f'<details><summary>The other methods</summary><div class="two">{rest}</div></details>')
    return f'<div class="stack">{"".join(parts)}</div>'


def _of_rows(run: Run, found: Outputs, prefix: str) -> str:
    """Return the table of the labels, or the charts of the numbers."""
    if run.results['task'] == 'multi_label':
        return outputs.labels_html(run.results, found)
    return outputs.charts(run.results, found, prefix)


def _first(folder: Folder, labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split many methods into the baseline and the best one, which are visible at once, and the others."""
    best = tables.best_row(tables.accuracy_rows(folder.results)).label
    first = [label for label in labels if len(labels) <= 2 or label in (folder.baseline, best)] or list(labels[:2])
    return first, [label for label in labels if label not in first]


def confused_text(pairs: Sequence[Confused], classes: Sequence[str]) -> str:
    """Return the most confused pairs in words."""
    if not pairs:
        return 'No class is taken for another.'
    names = [isolate(name) for name in classes]
    each = (f'{names[one.true]} for {names[one.taken]} {number(one.times)} times' for one in pairs[:TEXT_PAIRS])
    return f'Most often taken for another: {"; ".join(each)}.'


def _matrix(run: Run, place: str) -> str:
    found, classes = run.predictions, run.results['classes']
    assert found is not None
    if len(classes) > CELLS:
        return ''
    cells, words = matrix(found, len(classes)), confused_text(confused(found, len(classes)), classes)
    label = isolate(run.label)
    title = f'{label}: classes and what they are taken for'
    many = f', {count(len(found.seeds), "seed")} together' if len(found.seeds) > 1 else ''
    if len(classes) <= NUMBERS:
        chart = numbers(cells, classes, Text(place, title, words))
        note = f'{label}: each row a class, each column what it is taken for{many}.'
        note += ' The stronger the colour, the more of the class are taken for it.'
        return f'<figure class="plot">{chart}<figcaption>{escape(note)}</figcaption></figure>'
    side, alt = len(classes), escape(f'{title}. {words}')
    size, source = f'width="{side}" height="{side}"', png.data_uri(coloured(cells))
    image = f'<img class="pixels matrix" {size} alt="{alt}" src="{source}">'
    note = (
        f'{label}: each row one of the {side} classes, each column what it is taken for{many}, in the order of the '
        'data set; from dark blue (never) by grey to yellow (always). Right is the diagonal.'
    )
    return f'<figure class="plot">{image}<figcaption>{escape(note)}</figcaption></figure>'


def numbers(cells: np.ndarray, classes: Sequence[str], text: Text) -> str:
    """Return a small matrix with its counts: mistakes are shaded by their share of the row, the diagonal is framed."""
    names = [shorten(one, 12) for one in classes]
    longest = CHAR * max(map(len, names))
    left, top = 26 + longest, 20
    wide = (WIDTH - 2 - left) / len(names)
    high = min(wide, 30)
    bottom, level = top + high * len(names), longest <= wide  # level: the names fit below their columns
    mistakes = cells * (1 - np.eye(len(names), dtype=int))
    share = mistakes / np.maximum(cells.sum(1, keepdims=True), 1)
    shade = FULL * np.sqrt(share / max(float(share.max()), 1e-9))
    parts = ['<text class="axis" x="0" y="12">true class</text>']
    for i, one in enumerate(names):
        x, y = left + wide * (i + 0.5), top + high * (i + 0.5) + 4
        parts.append(f'<text class="tick" text-anchor="end" x="{left - 6:.1f}" y="{y:.1f}">{escape(one)}</text>')
        turn = f'end" transform="rotate(-45 {x:.1f} {bottom + 12:.1f})'
        at = f'x="{x:.1f}" y="{bottom + (17 if level else 12):.1f}"'
        parts.append(f'<text class="tick" text-anchor="{"middle" if level else turn}" {at}>{escape(one)}</text>')
        for k in range(len(names)):
            if i != k and not cells[i, k]:
                continue
            paint = 'class="right"' if i == k else f'class="cell" opacity="{shade[i, k]:.2f}"'
            box = (
                f'M{left + wide * k + 0.5:.1f} {top + high * i + 0.5:.1f}h{wide - 1:.1f}v{high - 1:.1f}h{1 - wide:.1f}Z'
            )
            kind, at = 'tick' if i == k else 'tick count', f'x="{left + wide * (k + 0.5):.1f}" y="{y:.1f}"'
            parts.append(f'<path {paint} d="{box}"/>')
            parts.append(f'<text class="{kind}" text-anchor="middle" {at}>{int(cells[i, k])}</text>')
    foot = bottom + (33 if level else 24 + 0.75 * longest)
    parts.append(f'<text class="axis" text-anchor="end" x="{WIDTH - 2}" y="{foot:.1f}">taken for</text>')
    return frame(text, foot + 6, parts)


def coloured(cells: np.ndarray) -> np.ndarray:
    """Return colours of counts, (c, c) -> (c, c, 3) uint8: the square root of the share of each row, by `SCALE`."""
    share = np.sqrt(cells / np.maximum(cells.sum(1, keepdims=True), 1))
    places = np.linspace(0, 1, len(SCALE))
    return np.rint(np.stack([np.interp(share, places, SCALE[:, k]) for k in range(3)], -1)).astype(np.uint8)


def _table(runs: Sequence[Run]) -> str:
    """Return the table of the most confused pairs: how often, as a share of the true class, by each method."""
    classes = runs[0].results['classes']
    found: list[list[Confused]] = []
    for run in runs:
        assert run.predictions is not None
        found.append(confused(run.predictions, len(classes)))
    shares = [{(one.true, one.taken): one.times / one.of for one in pairs} for pairs in found]
    every = {pair: sum(one.get(pair, 0.0) for one in shares) for one in shares for pair in one}
    most = sorted(every, key=lambda pair: (-every[pair], pair))[:TABLE_PAIRS]
    if not most:
        return '<p>No class is taken for another.</p>'
    head = ['class', 'taken for', *(f'{isolate(run.label)} %' for run in runs)]
    rows = [
        [classes[true], classes[taken], *(f'{100 * one.get((true, taken), 0):.1f}' for one in shares)]
        for true, taken in most
    ]
    return tables.html_table('Most confused, in percent of the test images of the class', head, rows, numbers=len(runs))


# --- the most confident mistakes --------------------------------------------------------------------------------------


def surest(folder: Folder, runs: Sequence[Run], side: int) -> str:
    """Return pictures of the first seed's most confident mistakes.

    Args:
      folder: the work directory.
      runs: its runs with predictions.
      side: maximum side of a picture.
    """
    shown, note = {}, SUREST
    for run in runs:
        if run.outputs and len(run.outputs.image):
            note = LARGEST
            each = outputs.cards(run.results, run.outputs, lambda image, alt: pictures.picture(image, alt, side))
            heading = f'<p><b>{bdi(run.label)}</b></p>\n' if len(runs) > 1 else ''
            shown[run.label] = f'{heading}<ul class="mistakes">\n{chr(10).join(each)}\n</ul>'
        if run.predictions and len(run.predictions.image):
            cards = '\n'.join(_cards(run, run.predictions, side))
            heading = f'<p><b>{bdi(run.label)}</b></p>\n' if len(runs) > 1 else ''
            shown[run.label] = f'{heading}<ul class="mistakes">\n{cards}\n</ul>'
    if not shown:
        return ''
    first, rest = ('\n'.join(shown[label] for label in part) for part in _first(folder, list(shown)))
    more = f'\n<details><summary>The other methods</summary>{rest}</details>' if rest else ''
    return f'<p>{note}</p>\n{first}{more}'


def _cards(run: Run, found: Predictions, side: int) -> list[str]:
    classes, first = run.results['classes'], found.seeds.index(run.results['seeds'][0]['seed'])
    out = []
    for place, image in zip(found.shown.tolist(), found.image, strict=True):
        true, taken = (classes[int(part[first, place])] for part in (found.label, found.predicted))
        sure = f'{100 * float(found.probability[first, place]):.1f}\u00a0%'
        shown = pictures.picture(image, f'a test image of the class {isolate(true)}', side)
        words = f'<b>{bdi(taken)}</b> <span class="value">{sure}</span><br>is {bdi(true)}'
        out.append(f'<li>{shown}<p>{words}</p></li>')
    return out
