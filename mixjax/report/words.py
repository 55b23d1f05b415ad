"""Numbers and text of the report: percent, signs, spreads, and escaping."""

from __future__ import annotations

import html
import math
import re
import unicodedata

from mixjax.host.terminal import BIDI

PLAIN, TYPESET = '+-', '\u00b1'
FIRST_STRONG, POP = '\u2068', '\u2069'  # begin and end of a text with a separate direction
_BIDI = re.compile(f'[{BIDI}]')
_ISOLATED = re.compile(f'{FIRST_STRONG}([^{BIDI}]*){POP}')


def percent(fraction: float) -> str:
    """Return a fraction in percent: `0.88412` -> `88.41`."""
    return f'{100 * fraction:.2f}'


def points(fraction: float, typeset: bool = False) -> str:
    """Return a difference of two accuracies in percentage points, always signed: `0.0321` -> `+3.21`."""
    text = f'{round(100 * fraction, 2) + 0.0:+.2f}'  # + 0.0 makes minus zero a plain zero
    return text.replace('-', '\u2212') if typeset else text


def spread(text: str, fraction: float | None, mark: str = PLAIN, width: int = 0) -> str:
    """Return `text +- spread`, the spread padded to `width`; one seed has no spread, and shows none."""
    return text if fraction is None else f'{text} {mark} {percent(fraction).rjust(width)}'


def short(value: float | None) -> str:
    """Return a measure with four digits, `0.03127 -> 0.03127`, `12345.6 -> 12346`; `-` if it is not known."""
    if value is None:
        return '-'
    return f'{value:.0f}' if 1e4 <= abs(value) < 1e15 else f'{value:.4g}'


def short_spread(value: float | None, std: float | None, mark: str = PLAIN) -> str:
    """Return `mean +- deviation` of a measure; one seed has no deviation, and shows none."""
    return short(value) if value is None or std is None else f'{short(value)} {mark} {std:.2g}'


def number(value: float) -> str:
    """Return a count with thousands set off, `1767` -> `1,767`; other numbers in their shortest form."""
    return f'{value:,}' if isinstance(value, int) else f'{value:g}'


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: `1 seed`, `3 seeds`, `2 classes`."""
    return f'{number(n)} {noun if n == 1 else plural or noun + "s"}'


def isolate(text: str) -> str:
    """Return a name for use in a sentence: right-to-left text does not reorder the words around it."""
    if not any(unicodedata.bidirectional(char) in ('R', 'AL', 'AN') for char in text):
        return text
    return f'{FIRST_STRONG}{_BIDI.sub("?", text)}{POP}'


def plain(text: str) -> str:
    """Return text that cannot move the cursor: non-printable characters become `?`, marks of `isolate` go."""
    return ''.join(char if char.isprintable() else '?' for char in _ISOLATED.sub(r'\1', text))


def cell(text: str) -> str:
    """Return text for a cell of a CSV file that a spreadsheet reads as text, and not as a formula."""
    shown = plain(text)
    return f"'{shown}" if shown.lstrip()[:1] in ('=', '+', '-', '@', '\uff1d', '\uff0b', '\uff0d', '\uff20') else shown


def escape(text: object) -> str:
    """Return text for HTML, in content and in quoted attributes, without control characters and lone surrogates.

    Characters that reorder the text around them are removed, except the pairs of `isolate`, which do not affect it.
    """
    shown = str(text).encode('utf-8', 'replace').decode('utf-8')
    shown = ''.join('?' if unicodedata.category(char) == 'Cc' and char not in '\n\t' else char for char in shown)
    parts = _ISOLATED.split(shown)  # the text between the pairs, then the text in one, and so on
    parts = [_BIDI.sub('?', part) if i % 2 == 0 else f'{FIRST_STRONG}{part}{POP}' for i, part in enumerate(parts)]
    return html.escape(''.join(parts), quote=True)


def bdi(text: object) -> str:
    """Return a name as HTML content, isolated from the text and the numbers around it."""
    return f'<bdi>{escape(text)}</bdi>'


def markdown(text: str) -> str:
    """Return text for one cell of a Markdown table, without any markup."""
    return ''.join('\\' + char if char in '\\`*_{}[]()<>#|~!' else char for char in plain(text))


def t95(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t: half of a 95 % interval, in standard errors.

    From 5 degrees of freedom on it is the Cornish-Fisher series, exact to 0.02.
    """
    if freedom <= 4:
        return {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}[freedom]
    z = 1.959964
    series = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return series + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)


def mean_std(values: list[float]) -> tuple[float, float | None]:
    """Return mean and sample standard deviation (n - 1); no deviation for one value."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
