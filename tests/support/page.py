"""A page, its charts and its pictures, as other parsers see them."""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ElementTree
import zlib
from html.parser import HTMLParser
from typing import NamedTuple

import numpy as np

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


def parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def decode(data: bytes) -> np.ndarray:
    """8-bit grey or RGB PNG -> (H, W, C), with every checksum looked at."""
    assert data[:8] == b'\x89PNG\r\n\x1a\n'
    chunks, place = {}, 8
    while place < len(data):
        (size,) = struct.unpack('>I', data[place : place + 4])
        kind, body = data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        assert struct.unpack('>I', data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + body)
        chunks[kind], place = body, place + 12 + size
    assert list(chunks) == [b'IHDR', b'IDAT', b'IEND']
    width, height, depth, colour, *rest = struct.unpack('>IIBBBBB', chunks[b'IHDR'])
    assert (depth, rest) == (8, [0, 0, 0])
    channels = {0: 1, 2: 3}[colour]
    rows = np.frombuffer(zlib.decompress(chunks[b'IDAT']), np.uint8).reshape(height, 1 + width * channels)
    out = np.zeros((height, width, channels), np.uint8)
    for y, row in enumerate(rows):
        line = row[1:].reshape(width, channels)
        if row[0] == 1:
            line = np.cumsum(line, axis=0, dtype=np.uint8)
        elif row[0] == 2:
            line = line + (out[y - 1] if y else 0)
        else:
            assert row[0] == 0
        out[y] = line
    return out
