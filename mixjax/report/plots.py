"""More small charts as inline SVG, for measurements: bars, histograms in rows, clouds of points.

As in `svg`, colours are classes of the page's style sheet, and no reading depends on colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mixjax.report.svg import CHAR, COLOURS, HEIGHT, WIDTH, Scale, Text, frame, shorten, x_axis, y_axis
from mixjax.report.words import escape, isolate


class Bars(NamedTuple):
    """One bar of each group. colour: from 1."""

    label: str
    colour: int
    values: tuple[float, ...]


class Cloud(NamedTuple):
    """Points of one class. colour: from 1."""

    label: str
    colour: int
    x: tuple[float, ...]
    y: tuple[float, ...]


class Words(NamedTuple):
    """The labels of the axes."""

    x: str
    y: str


def bar_chart(bars: Sequence[Bars], names: Sequence[str], text: Text, y_label: str) -> str:
    """Draw groups of bars from 0, a group for each name with a bar of each of `bars`; their labels are above.

    Args:
      bars: the bars of each group.
      names: names of the groups.
      text: the texts of the chart.
      y_label: name of the y axis.
    """
    left, right, top, bottom = 12 + CHAR * 4, WIDTH - 6, 44, HEIGHT - 28
    y = Scale(0.0, max(max(value for one in bars for value in one.values), 1e-9), bottom, top)
    parts = y_axis(y, left, right, y_label)
    pitch = (right - left) / len(names)
    width = 0.8 * pitch / len(bars)
    for place, name in enumerate(names):
        middle = left + pitch * (place + 0.5)
        at = f'x="{middle:.1f}" y="{bottom + 17:g}"'
        parts.append(f'<text class="tick" text-anchor="middle" {at}>{escape(name)}</text>')
    for index, one in enumerate(bars):
        parts.append(f'<g class="c{(one.colour - 1) % COLOURS + 1}"><title>{escape(one.label)}</title>')
        at = left + 110 * index
        parts.append(f'<path class="bar" d="M{at:g} 22h9v9h-9Z"/><text class="name" x="{at + 14:g}" y="31">')
        parts[-1] += f'{escape(shorten(one.label))}</text>'
        for place, value in enumerate(one.values):
            x = left + pitch * (place + 0.1) + width * index
            note = f'<title>{escape(f"{isolate(one.label)}, {isolate(names[place])}: {value:.3f}")}</title>'
            shape = f'M{x:.1f} {bottom:g}h{width - 1:.1f}V{y(value):.1f}h{1 - width:.1f}Z'
            parts.append(f'<path class="bar" d="{shape}">{note}</path>')
        parts.append('</g>')
    return frame(text, HEIGHT, parts)


def strips(rows: Sequence[tuple[str, Sequence[float]]], ends: tuple[float, float], text: Text, labels: Words) -> str:
    """Draw a histogram in each row, the first on top: darker cells have more values.

    Args:
      rows: (label, values) of each row.
      ends: range of the values.
      text: the texts of the chart.
      labels: the labels of the axes.
    """
    left, right, top = 14 + CHAR * max(len(name) for name, _ in rows), WIDTH - 12, 22
    height = max(9.0, min(22.0, 190 / len(rows)))
    bottom = top + height * len(rows)
    x = Scale(*ends, left, right)
    most = max(max(values) for _, values in rows) or 1.0
    parts = x_axis(x, top, bottom, labels.x, grid=False)
    parts.append(f'<text class="axis" x="0" y="12">{escape(labels.y)}</text>')
    for index, (name, values) in enumerate(rows):
        y, width = top + height * index, (right - left) / len(values)
        at = f'x="{left - 6:g}" y="{y + height - 2:.1f}"'
        parts.append(f'<text class="tick" text-anchor="end" {at}>{escape(name)}</text>')
        parts += [
            f'<path class="cell" opacity="{(value / most) ** 0.5:.2f}" d="M{left + width * k:.1f} {y:.1f}'
            f'h{width:.2f}v{height - 1:.1f}h-{width:.2f}Z"/>'
            for k, value in enumerate(values)
            if value > 0
        ]
    return frame(text, bottom + 40, parts)


def scatter(clouds: Sequence[Cloud], text: Text, limit: float = 1.05) -> str:
    """Draw points in a square from -limit to limit, each cloud named at its middle."""
    x, y = Scale(-limit, limit, 40, 300), Scale(-limit, limit, 270, 10)
    parts = [*x_axis(x, 10, 270, 'first unit', grid=True), *y_axis(y, 40, 300, '')[1:]]
    for one in clouds:
        places = zip(one.x, one.y, strict=True)
        points = ''.join(f'<circle class="point" cx="{x(a):.1f}" cy="{y(b):.1f}" r="2.2"/>' for a, b in places)
        parts.append(f'<g class="c{(one.colour - 1) % COLOURS + 1}"><title>{escape(one.label)}</title>{points}</g>')
    for one in clouds:
        a, b = x(sum(one.x) / len(one.x)), y(sum(one.y) / len(one.y))
        name = escape(shorten(one.label))
        parts.append(f'<text class="over" text-anchor="middle" x="{a:.1f}" y="{b + 4:.1f}">{name}</text>')
    return frame(text, 310, parts)
