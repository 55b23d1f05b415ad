"""Filters of the rows of a long table: check boxes, usable by keyboard, and a style sheet that hides the rest.

There is no script: `:has()` reads the boxes. A browser without it shows all rows and no boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mixjax.report.words import bdi, count, escape


class Kind(NamedTuple):
    """One kind of boxes. name: a letter, unique. title: the heading. values: {value: number of rows with it}."""

    name: str
    title: str
    values: Mapping[str, int]

    @property
    def shown(self) -> bool:
        """True if there is a choice of values."""
        return len(self.values) > 1

    def place(self, value: str) -> int:
        return list(self.values).index(value)


def form(kinds: Sequence[Kind], noun: str) -> str:
    """Return the boxes; '' if there is nothing to choose.

    Args:
      kinds: the kinds of boxes.
      noun: the name of a row.
    """
    parts = [_boxes(kind, noun) for kind in kinds if kind.shown]
    if not parts:
        return ''
    # The hidden button keeps Enter in a box from loading the page again.
    off = '<button type="submit" disabled hidden></button>'
    reset = '<button type="reset">Show all</button>'
    return f'<form class="filters" aria-label="Show only">{off}{"".join(parts)}<p>{reset}</p></form>'


def _boxes(kind: Kind, noun: str) -> str:
    items = ''.join(
        f'<label><input type="checkbox" id="{kind.name}{place}" class="of-{kind.name}"> {bdi(value)} '
        f'<span class="note" title="{count(many, noun)}">{many}</span></label>'
        for place, (value, many) in enumerate(kind.values.items())
    )
    return f'<fieldset><legend>{escape(kind.title)}</legend><div class="boxes">{items}</div></fieldset>'


def classes(kinds: Sequence[Kind], values: Mapping[str, str]) -> str:
    """Return the classes of an element that has one value of some kinds, {name of the kind: value}."""
    return ' '.join(f'is-{kind.name}{kind.place(values[kind.name])}' for kind in kinds if kind.name in values)


def sheet(kinds: Sequence[Kind], several: Mapping[str, tuple[str, Iterable[str]]]) -> str:
    """Return the rules: if boxes of a kind are ticked, elements with other values are hidden.

    Args:
      kinds: the kinds of boxes.
      several: {class of elements that have several values of a kind: (name of the kind, its values)}.
    """
    known = {kind.name: kind for kind in kinds if kind.shown}
    rules = [
        _hide(kind, [place], f'.is-{kind.name}{place}') for kind in known.values() for place in range(len(kind.values))
    ]
    for name, (of, values) in several.items():
        if of in known:
            rules.append(_hide(known[of], sorted(map(known[of].place, values)), f'.{name}'))
    hidden = '@supports not selector(:has(*)) { .filters, .shown { display: none; } }'
    return '\n'.join([*rules, hidden]) if known else ''


def _hide(kind: Kind, places: Sequence[int], what: str) -> str:
    """Return the rule that hides an element if some box of a kind is ticked, and none of these."""
    own = ', '.join(f'#{kind.name}{place}:checked' for place in places)
    return f'body:has(.of-{kind.name}:checked):not(:has({own})) {what} {{ display: none; }}'
