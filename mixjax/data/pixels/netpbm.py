"""A decoder of PBM, PGM, PPM and PFM files.

Pillow decodes most of them value by value in Python: a minute for a large image, and longer for a small file of
comments. This decodes all values at once, and gives the same bytes.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np

SPACE = b' \t\n\v\f\r'
# Possessive, so that no text makes it backtrack.
HEADER = re.compile(rb'P([1-6fF])(?:[ \t\n\v\f\r]|#[^\r\n]*+[\r\n])++(\d{1,10})'
                    rb'(?:[ \t\n\v\f\r]|#[^\r\n]*+[\r\n])++(\d{1,10})')  # fmt: skip
RANGE = re.compile(rb'(?:[ \t\n\v\f\r]|#[^\r\n]*+[\r\n])++([-+.0-9eE]{1,32})[ \t\n\v\f\r]')
COMMENT = re.compile(rb'#[^\r\n]*+')
BLOCK = 1 << 18  # bytes of text that are parsed at once


class Header(NamedTuple):
    """Header of a file.

    Attributes:
      kind: the character after `P`.
      height: in pixels.
      width: in pixels.
      most: the largest value; for a PFM its scale.
      start: position of the values in the file.
    """

    kind: str
    height: int
    width: int
    most: float
    start: int

    @property
    def channels(self) -> int:
        return 3 if self.kind in '36F' else 1


def header(data: bytes) -> Header:
    """Parse the header of a file; raise `ValueError` if it is malformed."""
    found = HEADER.match(data)
    if found is None:
        raise ValueError('its header is cut short or damaged')
    kind = found[1].decode()
    width, height = int(found[2]), int(found[3])
    if kind in '14':
        if data[found.end() : found.end() + 1] not in tuple(bytes([byte]) for byte in SPACE):
            raise ValueError('its header is cut short or damaged')
        return Header(kind, height, width, 1, found.end() + 1)
    limit = RANGE.match(data, found.end())
    if limit is None:
        raise ValueError('its header is cut short or damaged')
    most = float(limit[1])
    if kind in 'fF':
        if not math.isfinite(most) or not most:
            raise ValueError('its scale is not a number')
    elif not limit[1].isdigit() or not 0 < most < 65536:
        raise ValueError('its largest value is not between 1 and 65,535')
    return Header(kind, height, width, most, limit.end())


def values(data: bytes) -> np.ndarray:
    """Decode the values, (H, W, C): uint8 or uint16 up to `Header.most`, float32 for a PFM; 1 is white in a PBM."""
    about = header(data)
    height, width, channels = about.height, about.width, about.channels
    if about.kind == '1':
        return _digits(data, about)
    if about.kind == '4':
        row = -(-width // 8)
        packed = np.frombuffer(_part(data, about.start, row * height), np.uint8).reshape(height, row)
        return (1 - np.unpackbits(packed, axis=1, count=width))[..., None]
    if about.kind in '23':
        out = np.empty(height * width * channels, np.uint16 if about.most > 255 else np.uint8)
        _numbers(data, about.start, out, int(about.most))
        return out.reshape(height, width, channels)
    dtype = np.dtype('<f4' if about.most < 0 else '>f4') if about.kind in 'fF' else None
    dtype = dtype or np.dtype('>u2' if about.most > 255 else 'u1')
    raw = _part(data, about.start, height * width * channels * dtype.itemsize)
    out = np.frombuffer(raw, dtype).reshape(height, width, channels)
    return out[::-1] if about.kind in 'fF' else out  # a PFM begins with its last row


def table(about: Header) -> np.ndarray:
    """Return the byte of each value, (65536,) or (256,) uint8, as Pillow rounds it; of 16-bit grey the upper 8 bits."""
    most = int(about.most)
    if most > 255 and about.channels == 1:
        found = [min(65535, round(value / most * 65535)) >> 8 for value in range(most + 1)]
    else:
        found = [min(255, round(value / most * 255)) for value in range(most + 1)]
    out = np.full(65536 if most > 255 else 256, 255, np.uint8)
    out[: most + 1] = found
    return out


def _part(data: bytes, start: int, count: int) -> memoryview:
    part = memoryview(data)[start : start + count]
    if len(part) < count:
        raise ValueError(f'its data end after {len(part):,} of {count:,} bytes')
    return part


def _digits(data: bytes, about: Header) -> np.ndarray:
    """Decode the values of a plain bitmap, whose digits need no blanks between them."""
    digits = COMMENT.sub(b'', memoryview(data)[about.start :]).translate(None, SPACE)
    part = np.frombuffer(_part(digits, 0, about.height * about.width), np.uint8)
    if ((part != 48) & (part != 49)).any():
        raise ValueError('its values are not 0 and 1')
    return (49 - part).reshape(about.height, about.width, 1)


def _numbers(text: bytes, at: int, out: np.ndarray, most: int) -> None:
    """Fill `out` with the first numbers of a text, from a place on."""
    if b'#' in text:
        text, at = COMMENT.sub(b'', memoryview(text)[at:]), 0
    filled = 0
    while filled < len(out):
        end = at + BLOCK
        if end < len(text):
            blanks = [text.rfind(byte, at, end) for byte in SPACE]
            end = max(blanks) + 1
            if not end:
                raise ValueError('a value is longer than any number')
        if at >= len(text):
            raise ValueError(f'its data end after {filled:,} of {len(out):,} values')
        found = _parsed(text[at:end])
        at = end
        take = found[: len(out) - filled]
        if (take > most).any():
            raise ValueError(f'a value is larger than {most}')
        out[filled : filled + len(take)] = take
        filled += len(take)


def _parsed(text: bytes) -> np.ndarray:
    """Parse a text of digits and blanks."""
    codes = np.frombuffer(text, np.uint8)
    digit = (codes >= 48) & (codes <= 57)
    if not (digit | np.isin(codes, np.frombuffer(SPACE, np.uint8))).all():
        raise ValueError('its values are not numbers')
    places = np.flatnonzero(digit)
    if not len(places):
        return np.empty(0, np.int64)
    first = np.diff(places, prepend=-2) != 1  # first digits of numbers
    number = np.cumsum(first) - 1
    last = np.append(places[np.flatnonzero(first)[1:] - 1], places[-1])
    power = last[number] - places
    if power.max() > 9:
        raise ValueError('a value is longer than any number')
    return np.bincount(number, (codes[places] - 48.0) * 10.0**power).astype(np.int64)
