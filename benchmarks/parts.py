"""The results of a part of the suite, as data and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.timing import Spread, Verdict


class Table(NamedTuple):
    """A table of results. columns: names. rows: of text. about: a sentence or two on how it was measured."""

    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Part(NamedTuple):
    """The results of a part. title: its title. numbers: the results as data."""

    title: str
    tables: list[Table]
    verdicts: list[Verdict]
    numbers: dict[str, Any]


def plain(part: Part) -> dict[str, Any]:
    """Return a part as JSON has it."""
    return {
        'title': part.title,
        'tables': [table._asdict() for table in part.tables],
        'verdicts': [one._asdict() for one in part.verdicts],
        'numbers': part.numbers,
    }


def table(found: dict[str, Any]) -> str:
    """Return a table of `plain` in Markdown: the first column is text, the others are numbers."""
    columns, rows = found['columns'], found['rows']
    lines = [f'| {" | ".join(columns)} |', f'| {" | ".join(["---", *["--:"] * (len(columns) - 1)])} |']
    lines += [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([f'### {found["title"]}', '', *([found['about'], ''] if found['about'] else []), *lines])


def verdicts(found: Sequence[dict[str, Any]]) -> str:
    """Return verdicts of `plain` in Markdown: missed ones first, those that could not be judged last."""
    order = {'missed': 0, 'holds': 1}
    lines = ['| target | found (quartiles) | verdict |', '| --- | --- | --- |']
    for one in sorted(found, key=lambda one: order.get(one['verdict'], 2)):
        why = f': {one["why"]}' if one['why'] else ''
        lines.append(f'| {one["what"]} | {one["found"]} | {one["verdict"]}{why} |')
    return '\n'.join(lines)


def ms(found: Spread) -> str:
    return f'{1000 * found.median:.1f}'


def seconds(found: Spread) -> str:
    return f'{found.median:.2f} ({found.low:.2f} to {found.high:.2f})'


def times(found: Spread) -> str:
    return f'{found.median:.2f} ({found.low:.2f} to {found.high:.2f})'


def mib(count: float) -> str:
    return f'{count / 2**20:.1f}'
