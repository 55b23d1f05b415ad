"""A page as a parser sees it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import NamedTuple

VOID = {'meta', 'img', 'link', 'br', 'hr', 'input'}
SELF_CLOSING = {'line', 'path', 'circle'}


class Tag(NamedTuple):
    name: str
    attributes: dict[str, str | None]
    path: tuple[str, ...]


class Page(HTMLParser):
    """Every tag and every text; that each tag is closed in order is asserted on the way."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[Tag] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(Tag(tag, dict(attrs), tuple(self.open)))
        assert len(dict(attrs)) == len(attrs), f'an attribute is given twice: {tag} {attrs}'
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in SELF_CLOSING
        self.tags.append(Tag(tag, dict(attrs), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.open[-1] if self.open else '', data.strip()))

    def named(self, name: str) -> list[Tag]:
        return [tag for tag in self.tags if tag.name == name]

    def text(self) -> str:
        return ' '.join(' '.join(text for where, text in self.texts if where != 'style').split())
