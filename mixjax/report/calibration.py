"""How well probabilities fit what is right, before and after a temperature: a reliability diagram and a table.

`mixjax calibrate` writes `calibration.json`; a search has the same values in `best.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.host.storage import Place
from mixjax.report import svg, tables
from mixjax.report.svg import Series, Text
from mixjax.report.words import bdi

FILE = 'calibration.json'


def read(folder: Place) -> dict[str, Any] | None:
    """Return the contents of a run's `calibration.json`; None if it was not calibrated."""
    path = folder / FILE
    if not storage.is_file(path):
        return None
    try:
        found = untrusted.parse(untrusted.read_regular(path, untrusted.MOST_TEXT))
        if not isinstance(found, dict) or found.get('format') != 1:
            raise ValueError('it is of another format')
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read ({error}); remove it, and calibrate again') from error
    return found


def of_runs(runs: Sequence[tuple[str, dict[str, Any] | None]], prefix: str) -> str:
    """Return the section of a report as HTML; '' if no run was calibrated.

    Args:
      runs: label and calibration of each.
      prefix: of the ids.
    """
    parts = []
    for place, (label, found) in enumerate(runs):
        if found is None:
            continue
        try:
            more = (table(found['test'], 'test images') if 'test' in found else '') + kept(found)
            shown = section(found, str(found['origin']), f'{prefix}-{place}', more)
            parts.append((f'<h4>{bdi(label)}</h4>' if len(runs) > 1 else '') + shown)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f'{FILE} of {label} is damaged ({error}); remove it, and calibrate again') from error
    return ''.join(parts)


def section(one: Mapping[str, Any], of: str, prefix: str = '', more: str = '') -> str:
    """Return a calibration as HTML.

    Args:
      one: temperature, number of examples, and how well probabilities fit before and after it.
      of: what the examples are.
      prefix: of the ids.
      more: HTML below the table.
    """
    words = (
        f'<p>Temperature {one["temperature"]:.3g}: the logits are divided by it, so that 80 % means right in 80 of 100.'
        '</p>'
    )
    if 'threshold' in one:
        words += (
            f'<p>An image whose likeliest class has less than {100 * one["threshold"]:.0f} % is called unknown.</p>'
        )
    return f'{words}<div class="two">{diagram(one, prefix)}<div>{table(one, of)}{more}</div></div>'


def diagram(one: Mapping[str, Any], prefix: str = '') -> str:
    """Return the reliability diagram: the share that is right by the probability, before and after."""
    points = {name: [(100 * a, 100 * b) for a, b, _ in one[name]['bins']] for name in ('before', 'after')}
    if len(points['after']) < 2:
        return ''
    lines = [Series('perfect', 0, (0.0, 100.0), (0.0, 100.0), (0.0, 100.0), (0.0, 100.0))]
    for name, colour in (('before', 2), ('after', 1)):
        if len(points[name]) > 1:
            x, y = (tuple(point[k] for point in points[name]) for k in (0, 1))
            lines.append(Series(name, colour, x, y, y, y))
    text = Text(f'{prefix}calibration-chart', 'Share that is right by the probability that was said', 'See the table.')
    chart = svg.line_chart(lines, text, 'probability (%)', 'right (%)')
    return f'<figure class="plot">{chart}<figcaption>Close to the dashed line is good.</figcaption></figure>'


def table(one: Mapping[str, Any], of: str) -> str:
    """Return calibration error and Brier score, before and after, as a table."""
    rows = [[name, f'{100 * one[name]["error"]:.1f}', f'{one[name]["brier"]:.3f}'] for name in ('before', 'after')]
    head = ['temperature', 'calibration error %', 'Brier score']
    return tables.html_table(f'On {one["examples"]:,} {of}', head, rows, numbers=2)


def kept(found: Mapping[str, Any]) -> str:
    """Return what is right of the surest images, as a table."""
    rows = [[f'{100 * one["kept"]:.0f}', f'{100 * one["right"]:.1f}'] for one in found['kept']]
    return tables.html_table('The surest images', ['kept %', 'right %'], rows, numbers=1)
