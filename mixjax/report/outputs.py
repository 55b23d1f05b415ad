"""The predictions of a task with several labels or with numbers: as tables, charts and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import UserError
from mixjax.host import untrusted
from mixjax.host.storage import Place
from mixjax.report import tables
from mixjax.report.svg import CHAR, HEIGHT, WIDTH, Scale, Text, frame, x_axis, y_axis
from mixjax.report.words import bdi, escape, isolate, number, short

FILE = 'predictions.npz'
AWAY = 'remove it, the report does without'
MOST_LABELS = 300  # rows of the table of labels
MOST_CHARTS = 6  # numbers with a chart of each
MOST_POINTS = 2000  # of a chart
LARGEST = 1e300  # larger numbers, and those that are none, are not drawn


class Outputs(NamedTuple):
    """The predictions of some seeds.

    seeds: those whose kept step is in the file.
    value, label: (seeds, n, outputs), probabilities and true labels, or numbers.
    shown: (m,) the examples of the first seed with pictures, those with the largest loss.
    image: (m, H, W, C) uint8, the pictures; none if the file has none.
    """

    seeds: tuple[int, ...]
    value: np.ndarray
    label: np.ndarray
    shown: np.ndarray
    image: np.ndarray


def read(folder: Place, results: Mapping[str, Any]) -> Outputs | None:
    """Read the predictions of a run with these results; None without such a file, or if it is of other steps."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        arrays = untrusted.arrays(path)
        found = _of(arrays, results)
    except KeyError as error:
        raise UserError(f'{path} is damaged: {error} is missing; {AWAY}') from error
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read ({error}); {AWAY}') from error
    steps = {one['seed']: one.get('step', results['steps']) for one in results['seeds']}
    there = [i for i, step in enumerate(arrays['step'].tolist()) if steps.get(found.seeds[i]) == step]
    if not there:
        return None
    first = results['seeds'][0]['seed'] in [found.seeds[i] for i in there]
    shown = found.shown if first else found.shown[:0]
    kept = tuple(found.seeds[i] for i in there)
    return Outputs(kept, found.value[there], found.label[there], shown, found.image[: len(shown)])


def _of(arrays: Mapping[str, np.ndarray], results: Mapping[str, Any]) -> Outputs:
    """Check and return the arrays; a `ValueError` names the problem."""
    seed, step, value, label = (arrays[name] for name in ('seed', 'step', 'value', 'label'))
    shape = (results['test_examples'], len(results['classes']))
    if seed.ndim != 1 or seed.dtype.kind not in 'iu' or step.shape != seed.shape or step.dtype.kind not in 'iu':
        raise ValueError("'seed' or 'step' are not whole numbers")
    if len(set(seed.tolist())) < len(seed):
        raise ValueError('a seed is there twice')
    if value.dtype.kind != 'f' or value.shape != (len(seed), *shape):
        raise ValueError("'value' is not a number for each output of each example")
    if label.dtype.kind != 'f' or label.shape not in (shape, value.shape):
        raise ValueError("'label' is not a number for each output of each example")
    shown, image = arrays.get('shown', np.zeros(0, int)), arrays.get('image', np.zeros((0, 1, 1, 1), np.uint8))
    if shown.dtype.kind not in 'iu' or shown.shape != (len(image) if image.ndim == 4 else -1,):
        raise ValueError("'shown' is not a row for each picture")
    if shown.size and not (int(shown.min()) >= 0 and int(shown.max()) < shape[0]):
        raise ValueError("'shown' is out of range")
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3) or 0 in image.shape[1:]:
        raise ValueError(f"'image' holds no pictures ({image.dtype} {image.shape})")
    value, label = (array.astype(np.float64) for array in (value, label))
    return Outputs(tuple(seed.tolist()), value, np.broadcast_to(label, value.shape), shown.astype(int), image)


# --- several labels ---------------------------------------------------------------------------------------------------


def labels_html(results: Mapping[str, Any], found: Outputs) -> str:
    """Return a table of the labels: how many images have each, and how many of these and of the others are found."""
    there, taken = found.label > 0, found.value > 0.5
    counts = (array.sum((0, 1)) for array in (there, taken, there & taken))
    rows = []
    for name, true, said, both in zip(results['classes'], *(count.tolist() for count in counts), strict=True):
        precision = f'{100 * both / said:.1f}' if said else '-'
        recall = f'{100 * both / true:.1f}' if true else '-'
        rows.append([name, number(true), number(said), precision, recall])
    seeds = f', {len(found.seeds)} seeds together' if len(found.seeds) > 1 else ''
    head = ['label', 'images with it', 'predicted', 'precision %', 'recall %']
    caption = f'{isolate(results["label"])}: labels at a probability of 0.5{seeds}'
    note = f'<p class="note">The first {MOST_LABELS} of {number(len(rows))} labels.</p>'
    table = tables.html_table(caption, head, rows[:MOST_LABELS], numbers=4)
    return table + (note if len(rows) > MOST_LABELS else '')


# --- numbers ----------------------------------------------------------------------------------------------------------


def charts(results: Mapping[str, Any], found: Outputs, prefix: str) -> str:
    """Return a chart of each number, of what was predicted against what is true."""
    out = []
    for k, name in enumerate(results['classes'][:MOST_CHARTS]):
        true, said = found.label[..., k].ravel(), found.value[..., k].ravel()
        good = (np.abs(true) < LARGEST) & (np.abs(said) < LARGEST)
        points = list(zip(true[good].tolist(), said[good].tolist(), strict=True))
        if points:
            out.append(_chart(f'{isolate(results["label"])}: {isolate(name)}', points, f'{prefix}-{k}'))
    more = len(results['classes']) - MOST_CHARTS
    note = f'<p class="note">{number(more)} more numbers have no chart.</p>' if more > 0 else ''
    return f'<div class="two">{"".join(out)}</div>{note}'


def _chart(title: str, points: list[tuple[float, float]], place: str) -> str:
    every = [value for point in points for value in point]
    low, high = min(every), max(every)
    room = 0.04 * (high - low) or max(1.0, abs(high)) / 2
    low, high = low - room, high + room
    left, right, top, bottom = 16 + CHAR * 8, WIDTH - 8.0, 24.0, HEIGHT - 40.0
    x, y = Scale(low, high, left, right), Scale(low, high, bottom, top)
    shown = points[:: -(-len(points) // MOST_POINTS)]
    circles = ''.join(f'<circle class="point" cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.2"/>' for a, b in shown)
    line = f'<path class="reference" d="M{left:.1f} {bottom:.1f}L{right:.1f} {top:.1f}"/>'
    parts = [*x_axis(x, top, bottom, 'true', grid=True), *y_axis(y, left, right, 'predicted'), line]
    parts.append(f'<g class="c1">{circles}</g>')
    words = f'{len(points)} predictions from {short(min(b for _, b in points))} to {short(max(b for _, b in points))}.'
    chart = frame(Text(place, f'{title}, predicted and true', words), HEIGHT, parts)
    note = f'{title}: each point a test image; on the line the prediction is right.'
    return f'<figure class="plot">{chart}<figcaption>{escape(note)}</figcaption></figure>'


# --- the largest losses -----------------------------------------------------------------------------------------------


def cards(results: Mapping[str, Any], found: Outputs, picture: Any) -> list[str]:
    """Return a card for each picture: what the network said of it, and what is true.

    Args:
      results: of the run.
      found: its predictions.
      picture: (image, alternative text) -> HTML.
    """
    first, names = found.seeds.index(results['seeds'][0]['seed']), results['classes']
    out = []
    for place, image in zip(found.shown.tolist(), found.image, strict=True):
        value, label = found.value[first, place], found.label[first, place]
        said, true = _in_words(results['task'], names, value, label)
        out.append(f'<li>{picture(image, "a test image")}<p>{said}<br>is {true}</p></li>')
    return out


def _in_words(task: str, names: Sequence[str], value: np.ndarray, label: np.ndarray) -> tuple[str, str]:
    """Return what was predicted of an image and what is true of it, as HTML."""
    if task == 'multi_label':
        order = [k for k in np.argsort(-value, kind='stable').tolist() if value[k] > 0.5]
        sure = [f'<span class="value">{100 * float(value[k]):.0f} %</span>' for k in order]
        said = ', '.join(f'<b>{bdi(names[k])}</b> {text}' for k, text in zip(order, sure, strict=True))
        return said or 'no label', ', '.join(bdi(names[k]) for k in np.flatnonzero(label > 0).tolist()) or 'none'
    both = zip(names, value.tolist(), label.tolist(), strict=True)
    shown = [(f'{bdi(name)} <b>{escape(short(a))}</b>', escape(short(b))) for name, a, b in both]
    return ', '.join(said for said, _ in shown), ', '.join(true for _, true in shown)


