"""Image files byte by byte, of kinds that Pillow does not write."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def tiff(
    values: np.ndarray, *, order: str = '<', photometric: int | None = None, orientation: int | None = None,
    tile: int = 0, planar: bool = False, deflate: bool = False, bits: int | None = None, pages: int = 1,
    tags: dict[int, tuple[int, ...]] | None = None,
) -> bytes:  # fmt: skip
    """A TIFF of (H, W) or (H, W, C) values, in one strip (of one plane) or in tiles of that side.

    bits: of a value, where they are packed more tightly than in the array (1, 2, 4 or 12).
    """
    values = values if values.ndim == 3 else values[..., None]
    height, width, channels = values.shape
    kind = {'u': 1, 'i': 2, 'f': 3}[values.dtype.kind]
    stored = values.astype(values.dtype.newbyteorder(order))
    planes = [stored[..., k : k + 1] for k in range(channels)] if planar else [stored]
    parts = []
    for plane in planes:
        if not tile:
            parts.append(packed(plane, bits))
            continue
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                square = np.zeros((tile, tile, plane.shape[2]), plane.dtype)
                some = plane[top : top + tile, left : left + tile]
                square[: some.shape[0], : some.shape[1]] = some
                parts.append(packed(square, bits))
    parts = [zlib.compress(part) if deflate else part for part in parts]
    found = {
        256: (width,), 257: (height,), 258: (bits or 8 * values.itemsize,) * channels, 259: (8 if deflate else 1,),
        262: ((2 if channels == 3 else 1) if photometric is None else photometric,), 277: (channels,),
        284: (2 if planar else 1,), 339: (kind,) * channels,
    }  # fmt: skip
    found |= {322: (tile,), 323: (tile,)} if tile else {278: (height,)}
    if orientation is not None:
        found[274] = (orientation,)
    found |= tags or {}
    out = bytearray((b'II*\0' if order == '<' else b'MM\0*') + bytes(4))
    link = 4
    for _ in range(pages):
        places = []
        for part in parts:
            places.append(len(out))
            out += part + bytes(len(part) % 2)
        here = found | {324 if tile else 273: tuple(places), 325 if tile else 279: tuple(map(len, parts))}
        data = {}
        for tag, numbers in here.items():
            code = 'I' if tag in (273, 279, 324, 325) else 'H'
            data[tag] = (4 if code == 'I' else 3, len(numbers), struct.pack(f'{order}{len(numbers)}{code}', *numbers))
        entries = b''
        for tag, (form, count, raw) in sorted(data.items()):
            if len(raw) > 4:
                place = len(out)
                out += raw + bytes(len(raw) % 2)
                raw = struct.pack(f'{order}I', place)
            entries += struct.pack(f'{order}HHI', tag, form, count) + raw.ljust(4, b'\0')
        out[link : link + 4] = struct.pack(f'{order}I', len(out))
        out += struct.pack(f'{order}H', len(data)) + entries
        link = len(out)
        out += bytes(4)
    return bytes(out)


def packed(values: np.ndarray, bits: int | None) -> bytes:
    """Rows of values, each row in whole bytes."""
    if bits is None:
        return values.tobytes()
    planes = values.reshape(len(values), -1, 1).astype('>u2').view(np.uint8).reshape(len(values), -1, 2)
    return np.packbits(np.unpackbits(planes, axis=2)[..., 16 - bits :].reshape(len(values), -1), axis=1).tobytes()


def png(values: np.ndarray, bits: int = 8, colour: int | None = None, before: bytes = b'', after: bytes = b'') -> bytes:
    """A PNG of (H, W) or (H, W, C) values. before, after: chunks around its data."""
    values = values if values.ndim == 3 else values[..., None]
    height, width, channels = values.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels] if colour is None else colour
    rows = np.frombuffer(packed(values, bits), np.uint8).reshape(height, -1)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    header = struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0)
    body = chunk(b'IHDR', header) + before + chunk(b'IDAT', data) + after + chunk(b'IEND', b'')
    return b'\x89PNG\r\n\x1a\n' + body


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def pnm(kind: str, values: np.ndarray, most: str = '', comment: str = '') -> bytes:
    """A PBM, PGM, PPM or PFM; kind: the character after P."""
    height, width = values.shape[:2]
    head = f'P{kind}\n{comment}{width} {height}\n'.encode() + (f'{most}\n'.encode() if most else b'')
    if kind in '123':
        return head + b'\n'.join(b' '.join(str(v).encode() for v in row.ravel()) for row in values) + b'\n'
    if kind == '4':
        return head + np.packbits(values, axis=1).tobytes()
    if kind in 'fF':
        return head + values[::-1].astype('<f4' if most.startswith('-') else '>f4').tobytes()
    return head + values.astype('>u2' if int(most) > 255 else np.uint8).tobytes()


def exif(orientation: int) -> bytes:
    """The body of an EXIF block that says how the camera was held."""
    return b'II*\0\x08\0\0\0\x01\0' + struct.pack('<HHIHH', 0x0112, 3, 1, orientation, 0) + bytes(4)
