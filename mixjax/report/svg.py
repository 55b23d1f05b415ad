"""Small charts as inline SVG: lines with bands, and dots in rows.

Colours are classes (`c0` for the baseline, `c1` to `c6` for the others), set by the page's style
sheet, so that a chart follows the reader's light or dark mode. If colours run out, and for the
baseline, the line is dashed; names are beside the lines, so no reading depends on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from mixjax.report.words import escape, isolate

WIDTH, HEIGHT = 400, 270
COLOURS = 6
CHAR = 6.3  # approximate width of one character of the labels
LINE_NAME = 20  # maximum number of characters of `method, kind of batch` beside its line


class Series(NamedTuple):
    """One line. low and high: the edges of the band, equal to mean if there is none.

    colour: 0 for the baseline, else the place of the method among the others, from 1.
    """

    label: str
    colour: int
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


class Dots(NamedTuple):
    """One row of a dot chart: a value for each seed, and their mean."""

    label: str
    colour: int
    seeds: tuple[tuple[int, float], ...]
    mean: float


class Text(NamedTuple):
    """The texts of a chart. id: unique in the page."""

    id: str
    title: str
    desc: str


Marks = Sequence[tuple[float, str]]  # of an axis: (position, label)


class Scale(NamedTuple):
    """A linear map from [low, high] to [start, end]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)


def tick_step(low: float, high: float, count: int = 5) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least a `count`-th of the range."""
    least = (high - low) / count
    power = math.floor(math.log10(least))
    steps = (factor * 10.0**exponent for exponent in (power, power + 1) for factor in (1, 2, 5))
    return next(step for step in steps if step >= least * (1 - 1e-9))


def ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return evenly spaced round values in [low, high], low < high: 2 to `count` + 1 of them (count >= 5)."""
    step = tick_step(low, high, count)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return tuple(round(index * step, decimals) + 0.0 for index in range(first, last + 1))


def tick_text(value: float, step: float) -> str:
    """Return a number with as many decimals as the step needs, and thousands set off."""
    return f'{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}'.replace('-', '\u2212')


def spread_out(places: Sequence[float], gap: float, low: float, high: float) -> tuple[float, ...]:
    """Return the places moved as little as possible so that they keep their order, `gap` apart, in [low, high]."""
    gap = min(gap, (high - low) / max(1, len(places) - 1))
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [min(max(places[index], low), high) for index in order]
    for i in range(1, len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], high - gap * (len(moved) - 1 - i))
    return tuple(moved[order.index(index)] for index in range(len(places)))


def _style(colour: int) -> str:
    """Return the classes of a colour: after the last one they repeat, dashed."""
    if colour == 0:
        return 'c0 dash'
    return f'c{(colour - 1) % COLOURS + 1}' + (' dash' if (colour - 1) // COLOURS % 2 else '')


def shorten(label: str, most: int = 14) -> str:
    return label if len(label) <= most else label[: most - 1] + '\u2026'


def line_name(label: str) -> str:
    """Return the name of a line as it is written beside it; of `method, kind of batch` only the method is cut."""
    method, comma, kind = label.rpartition(', ')
    room = LINE_NAME - len(comma) - len(kind)
    return f'{shorten(method, room)}{comma}{kind}' if comma and room > 3 else shorten(label)


def standalone(chart: str, rules: str) -> str:
    """Return a chart as a separate file, with the style sheet that it needs (`style.of_chart`)."""
    head, _, rest = chart.partition('>')
    space = f'{head} xmlns="http://www.w3.org/2000/svg" width="{1.5 * WIDTH:g}">'  # the height follows from the viewBox
    return f'{space}\n<style>\n{rules}</style>\n{rest.lstrip()}\n'


def frame(text: Text, height: float, parts: Sequence[str]) -> str:
    body = '\n'.join(parts)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-labelledby="{escape(text.id)}-title {escape(text.id)}-desc">'
        f'<title id="{escape(text.id)}-title">{escape(text.title)}</title>'
        f'<desc id="{escape(text.id)}-desc">{escape(text.desc)}</desc>\n{body}\n</svg>'
    )


def x_axis(scale: Scale, top: float, bottom: float, label: str, grid: bool, marks: Marks = ()) -> list[str]:
    step = tick_step(scale.low, scale.high, 5)
    parts = []
    for value, said in marks or [(value, tick_text(value, step)) for value in ticks(scale.low, scale.high, 5)]:
        x = f'{scale(value):.1f}'
        start = top if grid else bottom
        parts.append(f'<line class="rule" x1="{x}" x2="{x}" y1="{start:g}" y2="{bottom + 4:g}"/>')
        parts.append(f'<text class="tick" text-anchor="middle" x="{x}" y="{bottom + 17:g}">{escape(said)}</text>')
    parts.append(f'<text class="axis" text-anchor="end" x="{scale.end:g}" y="{bottom + 33:g}">{escape(label)}</text>')
    return parts


def y_axis(scale: Scale, left: float, right: float, label: str) -> list[str]:
    step = tick_step(scale.low, scale.high)
    parts = [f'<text class="axis" x="0" y="12">{escape(label)}</text>']
    for value in ticks(scale.low, scale.high):
        y = scale(value)
        parts.append(f'<line class="rule" x1="{left:g}" x2="{right:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="tick" text-anchor="end" x="{left - 6:g}" y="{y + 3.8:.1f}">{tick_text(value, step)}</text>'
        )
    return parts


def _range(values: Sequence[float], pad: float = 0.0) -> tuple[float, float]:
    """Return the smallest and largest value, never equal, with `pad` of the range added at both ends."""
    low, high = min(values), max(values)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-300):
        margin = abs(low) / 10 or 1.0
        return low - margin, high + margin
    return low - pad * (high - low), high + pad * (high - low)


def _line(series: Series, x: Scale, y: Scale) -> list[str]:
    """Draw the band, the line and, for a line of one point, a dot."""
    across = [f'{x(value):.1f}' for value in series.x]
    middle = [f'{a} {y(value):.1f}' for a, value in zip(across, series.mean, strict=True)]
    parts = [f'<g class="{_style(series.colour)}"><title>{escape(series.label)}</title>']
    if series.low != series.high:
        upper = [f'{a} {y(value):.1f}' for a, value in zip(across, series.high, strict=True)]
        lower = [f'{a} {y(value):.1f}' for a, value in zip(across, series.low, strict=True)]
        parts.append(f'<path class="band" d="M{"L".join(upper + lower[::-1])}Z"/>')
    parts.append(f'<path class="line" d="M{"L".join(middle)}"/>')
    if len(middle) == 1:
        place = middle[0].split()
        parts.append(f'<circle class="dot" cx="{place[0]}" cy="{place[1]}" r="3"/>')
    return [*parts, '</g>']


def line_chart(series: Sequence[Series], text: Text, x_label: str, y_label: str, marks: Marks = ()) -> str:
    """Draw lines with bands, each named at its end; at least one series, none of them empty.

    Args:
      series: the lines.
      text: the texts of the chart.
      x_label, y_label: names of the axes.
      marks: (position, label) on the x axis, in place of round numbers.
    """
    names = [line_name(one.label) for one in series]
    right = WIDTH - 27 - CHAR * max(map(len, names))
    low, high = _range([value for one in series for value in (*one.low, *one.high)], 0.03)
    step = tick_step(low, high)
    left = 12 + CHAR * max(len(tick_text(value, step)) for value in ticks(low, high))
    top, bottom = 26, HEIGHT - 40
    x = Scale(*_range([value for one in series for value in one.x]), left, right)
    y = Scale(low, high, bottom, top)
    parts = [*y_axis(y, left, right, y_label), *x_axis(x, top, bottom, x_label, False, marks)]
    for one in series:
        parts += _line(one, x, y)
    ends = [y(one.mean[-1]) for one in series]
    for one, name, end, place in zip(series, names, ends, spread_out(ends, 14, top, bottom), strict=True):
        start = x(one.x[-1])
        parts.append(
            f'<g class="{_style(one.colour)}">'
            f'<path class="lead" d="M{start + 2:.1f} {end:.1f}L{right + 12:.1f} {place:.1f}"/>'
            f'<circle class="end" cx="{right + 13:.1f}" cy="{place:.1f}" r="3"/>'
            f'<text class="name" x="{right + 20:.1f}" y="{place + 4:.1f}">{escape(name)}</text></g>'
        )
    return frame(text, HEIGHT, parts)


def dot_chart(rows: Sequence[Dots], text: Text, x_label: str, reference: float | None = None) -> str:
    """Draw a row for each method: a dot for each seed, a bar at the mean; a dashed line at `reference`.

    Args:
      rows: the rows, from top to bottom.
      text: the texts of the chart.
      x_label: name of the x axis.
      reference: position of the dashed line; None for none.
    """
    names = [shorten(row.label) for row in rows]
    left, right, top, pitch = 10 + CHAR * max(map(len, names)), WIDTH - 12, 8, 28
    bottom = top + pitch * len(rows)
    x = Scale(*_range([value for row in rows for _, value in row.seeds], 0.05), left, right)
    parts = x_axis(x, top, bottom, x_label, grid=True)
    if reference is not None:
        place = f'{x(reference):.1f}'
        parts.append(f'<line class="reference" x1="{place}" x2="{place}" y1="{top}" y2="{bottom}"/>')
    for index, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = top + pitch * (index + 0.5)
        parts.append(f'<g class="{_style(row.colour)}"><text class="name" x="0" y="{y + 4:g}">{escape(name)}</text>')
        for seed, value in row.seeds:
            note = escape(f'{isolate(row.label)}, seed {seed}: {value:.2f}')
            parts.append(f'<circle class="dot" cx="{x(value):.1f}" cy="{y:g}" r="4.5"><title>{note}</title></circle>')
        parts.append(f'<path class="mean" d="M{x(row.mean):.1f} {y - 9:g}v18"/></g>')
    return frame(text, bottom + 40, parts)
