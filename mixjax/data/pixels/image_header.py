"""Reads the header of an image file, and refuses files that would take too much work to decode.

Decoders trust a file: a few bytes can make them loop for minutes (empty scans of a JPEG, chunks of a PNG, tiles of a
TIFF, blocks of a GIF) or take any amount of memory. So the parts of a file are counted here first, in one fast pass.
The limits are far above what encoders write.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from mixjax.data.pixels import netpbm

# A few bytes can claim any size. This is Pillow's limit.
MOST_PIXELS = 178_956_970
MOST_PARTS = 1 << 16  # segments, chunks, blocks, strips or tiles of a file
MOST_TEXTS = 256  # compressed texts and profiles of a PNG; each may decompress to 1 MB
MOST_SCANS = 100  # of a JPEG; encoders write about 10
# Scans times pixels, because each scan is a pass over the whole image: 16 passes over the largest image.
MOST_PASSES = 16 * MOST_PIXELS
MOST_RUNS = 1 << 24  # pixels of a run-length encoded BMP, which Pillow unpacks in Python

PNG = b'\x89PNG\r\n\x1a\n'
MARKER = re.compile(rb'\xff[^\x00\xff\xd0-\xd7]')  # matches also the marker that ends the coded data of a scan


class Fault(Exception):
    """Fault of a file; the message is the end of a sentence: 'its PNG header is damaged'."""


class Header(NamedTuple):
    """Header of an image file.

    Attributes:
      kind: Pillow's name of the format.
      height: in pixels.
      width: in pixels.
      components: number of channels of a JPEG; 0 for other formats.
      bits: bits of a channel of a JPEG; 0 for other formats.
      tagged: a JPEG has metadata that may contain the orientation of the camera.
      area: largest number of pixels in memory at once, which tiles can make larger than the image.
    """

    kind: str
    height: int
    width: int
    components: int = 0
    bits: int = 0
    tagged: bool = False
    area: int = 0


def read_header(data: bytes, kinds: tuple[str, ...]) -> Header:
    """Read the header of an image file; raise `Fault` if it has none, or would take too much work.

    Args:
      data: the bytes of the file.
      kinds: names of the formats, for the message.
    """
    readers = {
        'JPEG': ((b'\xff\xd8',), _jpeg), 'PNG': ((PNG,), _png), 'GIF': ((b'GIF87a', b'GIF89a'), _gif),
        'WEBP': ((b'RIFF',), _webp), 'BMP': ((b'BM',), _bmp), 'TIFF': ((b'II', b'MM'), _tiff),
        'PPM': (tuple(b'P%c' % code for code in b'123456fF'), _pnm),
    }  # fmt: skip
    kind = next((kind for kind, (starts, _) in readers.items() if data.startswith(starts)), '')
    if not kind or (kind == 'WEBP' and data[8:12] != b'WEBP'):
        raise Fault(f'it is not a picture ({", ".join(kinds)})')
    try:
        found = readers[kind][1](data)
    except (struct.error, IndexError, ValueError, OverflowError):
        raise Fault(f'its {kind} header is cut short or damaged') from None
    if found.height < 1 or found.width < 1:
        raise Fault('its header says that it has no pixels')
    area = max(found.area, found.height * found.width)
    if area > MOST_PIXELS:
        raise Fault(f'its header claims {found.width} x {found.height} pixels; at most {MOST_PIXELS:,} are decoded')
    return found._replace(area=area)


def _too_many(what: str, most: int) -> Fault:
    return Fault(f'it has more than {most:,} {what}, which no camera or program writes')


# --- JPEG -------------------------------------------------------------------------------------------------------------


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, place of its length) of the parts of a JPEG file, up to its end mark; coded data are skipped."""
    at = 2
    for _ in range(MOST_PARTS):
        found = MARKER.search(data, at)
        if found is None:
            return
        at, mark = found.end(), data[found.end() - 1]
        if mark == 0xD9:
            return
        if mark not in (0x01, 0xD8):  # these stand alone
            yield mark, at
            at += int.from_bytes(data[at : at + 2])
    raise _too_many('JPEG segments', MOST_PARTS)


def _jpeg(data: bytes) -> Header:
    tagged, frame = False, (0, 0, 0, 0)
    for mark, at in _segments(data):
        if mark == 0xE1 and data[at + 2 : at + 6] in (b'Exif', b'http'):  # EXIF, XMP
            tagged = True
        elif 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):  # tables share the range of frame headers
            frame = struct.unpack_from('>BHHB', data, at + 2)
        elif mark == 0xDA:
            break
    else:
        raise ValueError
    bits, height, width, components = frame
    if not bits:  # coded data without a frame
        raise ValueError
    allowed = min(MOST_SCANS, MOST_PASSES // max(min(height * width, MOST_PIXELS), 1))
    # Coded data contain no marker. Thumbnails and data after the image may, so only a suspicious file is parsed.
    scans = 0
    for mark, _ in _segments(data) if data.count(b'\xff\xda') > allowed else ():
        scans += mark == 0xDA
        if scans > allowed:
            raise _too_many('scans', allowed)
    # Coded data are padded to blocks of up to 32 x 32.
    return Header('JPEG', height, width, components, bits, tagged, (height + 31) * (width + 31))


# --- PNG, GIF ---------------------------------------------------------------------------------------------------------


def _png(data: bytes) -> Header:
    if data[12:16] != b'IHDR':
        raise ValueError
    width, height = struct.unpack_from('>II', data, 16)
    at, texts = 8, 0
    for _ in range(MOST_PARTS):
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from('>I4s', data, at)
        texts += kind in (b'iCCP', b'zTXt', b'iTXt')
        if kind == b'IEND':
            break
        at += 12 + length
    else:
        raise _too_many('PNG chunks', MOST_PARTS)
    if texts > MOST_TEXTS:
        raise _too_many('PNG texts', MOST_TEXTS)
    return Header('PNG', height, width)


def _gif(data: bytes) -> Header:
    """Read the header of a GIF; the size is that of the screen, or of the first frame if that is larger."""
    width, height, flags = struct.unpack_from('<HHB', data, 6)
    at = 13 + (3 << (flags & 7) + 1 if flags & 128 else 0)
    blocks = iter(range(MOST_PARTS))
    for _ in blocks:
        kind = data[at]
        if kind == 0x2C:
            left, top, across, down = struct.unpack_from('<HHHH', data, at + 1)
            return Header('GIF', max(height, top + down), max(width, left + across))
        if kind == 0x3B:
            raise ValueError
        at += 2 if kind == 0x21 else 1
        while kind == 0x21 and data[at] and next(blocks, None) is not None:
            at += 1 + data[at]
        at += kind == 0x21
    raise _too_many('GIF blocks', MOST_PARTS)


# --- WEBP, BMP --------------------------------------------------------------------------------------------------------


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b'VP8 ':
        width, height = (size & 0x3FFF for size in struct.unpack_from('<HH', data, 26))
    elif kind == b'VP8L':
        (bits,) = struct.unpack_from('<I', data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b'VP8X':
        width, height = (int.from_bytes(data[at : at + 3], 'little') + 1 for at in (24, 27))
    else:
        raise ValueError
    return Header('WEBP', height, width)


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from('<I', data, 14)
    if size == 12:
        width, height = struct.unpack_from('<HH', data, 18)
        return Header('BMP', height, width)
    width, height = struct.unpack_from('<Ii', data, 18)
    (compression,) = struct.unpack_from('<I', data, 30)
    if compression in (1, 2) and width * abs(height) > MOST_RUNS:
        raise Fault(f'it is a run-length encoded BMP of more than {MOST_RUNS:,} pixels; save it as PNG')
    return Header('BMP', abs(height), width)


# --- TIFF, PNM --------------------------------------------------------------------------------------------------------

SIZES = {1: 1, 3: 2, 4: 4, 16: 8}  # bytes of the TIFF types of unsigned integers
CODES = {1: 'B', 2: 'H', 4: 'I', 8: 'Q'}


def _tiff(data: bytes) -> Header:
    order = '<' if data[:2] == b'II' else '>'
    large = data[2:4] in (b'\x2b\0', b'\0\x2b')
    if not large and data[2:4] not in (b'\x2a\0', b'\0\x2a'):
        raise ValueError
    entry, inside = ('HHQ8s', 8) if large else ('HHI4s', 4)
    (at,) = struct.unpack_from(order + ('Q' if large else 'I'), data, 8 if large else 4)
    (count,) = struct.unpack_from(order + ('Q' if large else 'H'), data, at)
    if count > MOST_PARTS:
        raise _too_many('TIFF tags', MOST_PARTS)
    at += 8 if large else 2
    found: dict[int, int] = {}
    for place in range(at, at + count * struct.calcsize(order + entry), struct.calcsize(order + entry)):
        tag, kind, values, held = struct.unpack_from(order + entry, data, place)
        if tag in (273, 324) and values > MOST_PARTS:
            raise _too_many('TIFF strips or tiles', MOST_PARTS)
        size = SIZES.get(kind, 0)
        if values == 1 and 0 < size <= inside:
            found.setdefault(tag, struct.unpack_from(order + CODES[size], held)[0])
    height, width = found.get(257, 0), found.get(256, 0)
    # Tiles are unpacked whole, even where they extend beyond the image.
    return Header('TIFF', height, width, area=found.get(322, 0) * found.get(323, 0))


def _pnm(data: bytes) -> Header:
    about = netpbm.header(data)
    return Header('PPM', about.height, about.width)
