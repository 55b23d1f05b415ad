"""The charts of docs/results.md: results of a table of the digits along one axis, as an SVG file beside the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mixjax.report import style, svg
from mixjax.report.words import mean_std
from reproduction.claims import Cell, Measure, PerSeed, paired


class Point(NamedTuple):
    """A point of a chart. x: its place on the axis. mark: its label. lines: {name of the line: cell}."""

    x: float
    mark: str
    lines: Mapping[str, Cell]


class Chart(NamedTuple):
    """Lines of accuracy, or of its difference to the line `base`, paired over seeds."""

    table: str
    title: str
    x_label: str
    points: Sequence[Point]
    base: str = ''


ORDER = ('finetune', 'label_smoothing', 'mixup', 'cutmix', 'smile', 'xmixup', 'lamix', 'cotrain')
# Numbers of images, or of classes for each target class with all their images; 16 times ten are all.
SOURCES = {
    **{f'xmixup_images{n}': f'{n}' for n in (20, 60)},
    'xmixup': '1\u00d7',
    **{f'xmixup_rounds{n}': f'{n}\u00d7' for n in (2, 4, 8, 16)},
}
MIXED_IN = (
    'Points of accuracy above fine-tuning, by how many source images are mixed in (2\u00d7: those of two source '
    'classes for each target class)'
)
ALPHAS = tuple(2.0**k for k in range(-3, 7))
TENTHS = tuple(k / 10 for k in range(1, 10))
FINETUNE: Cell = ('order', '3', 'finetune')


def _numbered(table: str, labels: str, name: str, values: Sequence[float], **others: str) -> list[Point]:
    """Return a point for each value of a number, which ends a method's name; `others` are lines of one method."""
    same: dict[str, Cell] = {line: (table, labels, method) for line, method in others.items()}
    line = name.partition('_')[0]
    return [Point(v, f'{v:g}', {line: (table, labels, f'{name}{v:g}'), **same}) for v in values]


CHARTS = (
    Chart(
        *('order', 'Points of accuracy above fine-tuning, by labels per class', 'labels per class'),
        [
            Point(
                math.log(int(labels)), labels, {name.removeprefix('label_'): ('order', labels, name) for name in ORDER}
            )
            for labels in ('3', '5', '10', '20', '50')
        ],
        'finetune',
    ),
    Chart(
        *('xmixup_fig3', MIXED_IN, 'source images'),
        [
            Point(place, mark, {'xmixup': ('xmixup_fig3', '3', name), 'finetune': FINETUNE})
            for place, (name, mark) in enumerate(SOURCES.items())
        ],
        'finetune',
    ),
    Chart(
        *('xmixup_fig4', 'Accuracy by alpha, 3 labels per class', 'alpha'),
        [p._replace(x=math.log2(p.x)) for p in _numbered('xmixup_fig4', '3', 'xmixup_alpha', ALPHAS)],
    ),
    Chart(
        *('lamix_fig4', 'Accuracy by beta, 100 labels per class', 'beta'),
        _numbered('lamix_fig4', '100', 'lamix_beta', TENTHS),
    ),
    Chart(
        *('lamix_fig6', 'Accuracy by label smoothing, beside LaMix, 100 labels per class', 'smoothing'),
        _numbered('lamix_fig6', '100', 'smoothing', TENTHS, lamix='lamix'),
    ),
)


def estimate(values: PerSeed | None, base: PerSeed | None) -> tuple[float, float] | None:
    """Return mean and standard error in percent, of the values or of their differences to the base; None if not run."""
    if not values:
        return None
    if base is not None:
        mean, stderr, n, _ = paired(values, base)
        return (100 * mean, 100 * stderr) if n else None
    mean, std = mean_std([100 * value for value in values.values()])
    return mean, (std or 0.0) / math.sqrt(len(values))


def lines_of(chart: Chart, measure: Measure) -> list[svg.Series]:
    """Return the lines of a chart, as far as their runs exist; the base is a line at zero."""
    names = list(dict.fromkeys(name for point in chart.points for name in point.lines))
    found = []
    for colour, name in enumerate(sorted(names, key=lambda name: name != chart.base), 0 if chart.base else 1):
        places = []
        for point in chart.points:
            base = measure(point.lines[chart.base], 'accuracy') or {} if chart.base else None
            values = base if name == chart.base else measure(point.lines[name], 'accuracy')
            at = estimate(values, base)
            if at is not None:
                places.append((point.x, *at))
        if places:
            x, mean, err = zip(*places, strict=True)
            low, high = ([m + sign * e for m, e in zip(mean, err, strict=True)] for sign in (-1, 1))
            found.append(svg.Series(name, colour, x, mean, tuple(low), tuple(high)))
    return found


def drawn(chart: Chart, measure: Measure) -> tuple[str, str] | None:
    """Return the SVG file of a chart, and its description in words; None if there is nothing to show yet."""
    lines = lines_of(chart, measure)
    if not any(line.colour or not chart.base for line in lines):
        return None
    ends = ', '.join(f'{line.label} {line.mean[-1]:.1f}' for line in lines)
    text = svg.Text(chart.table, chart.title, f'Bands: standard errors over seeds. At the right end: {ends}.')
    y_label = f'points above {chart.base}' if chart.base else 'accuracy %'
    marks = [(point.x, point.mark) for point in chart.points]
    drawing = svg.standalone(svg.line_chart(lines, text, chart.x_label, y_label, marks), style.of_chart())
    return drawing, f'{chart.title}. {text.desc}'
