"""From the bytes of a photograph to pixels: decode, and bring to one size as the papers' pipelines do.

JPEG is decoded by OpenCV, which gives the pixels of Pillow in less time; everything else by Pillow. The
size is Pillow's antialiased one, with the rounding of torchvision's `Resize` and `CenterCrop`, because that
is what the pretrained networks and the published numbers were made with.

A picture that cannot be read whole raises `Unreadable`; nobody ever trains on black or grey pixels that
stand for it. What no decoder can tell: JPEG has no checksum, so bytes that changed in the middle of a file
and still make a picture go unseen.
"""

from __future__ import annotations

import io
import math
from typing import Any, NamedTuple

import numpy as np

from mixjax.data import resample
from mixjax.errors import require

FITS = ('short', 'squash')
# Of Pillow's filters: how far they reach, in source pixels at scale 1.
REACH = {'nearest': 0.0, 'bilinear': 1.0, 'bicubic': 2.0, 'lanczos': 3.0}
# What Pillow may be asked to open: EPS would start another program, and nobody keeps photographs in it.
FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'PPM')
SUFFIXES = ('.jpg', '.jpeg', '.png', '.gif', '.webp', '.bmp', '.tif', '.tiff', '.ppm', '.pgm')  # of their files
# A few bytes can claim any size, and memory is taken before the lie is noticed. Pillow's own limit.
MOST_PIXELS = 178_956_970
END = b'\xff\xd9'  # of a JPEG
GREY = 128  # what libjpeg puts where a picture has no data


class Unreadable(Exception):
    """Why bytes are not a picture, as the end of a sentence: 'it is empty'. The caller knows the file's name."""


class Rule(NamedTuple):
    """How stored photographs become images of one size.

    side: of the square; 0 keeps the stored size.
    fit: 'short': the shorter side becomes `side`, and the square in the middle is kept; 'squash': both sides do.
    interpolation: a filter of Pillow (`REACH`), antialiased but for 'nearest'.
    upright: turn by the EXIF tag of the camera. The papers' pipelines do not.
    channels: 3 (RGB) or 1 (grey, 0.299 R + 0.587 G + 0.114 B as Pillow rounds it).
    """

    side: int = 256
    fit: str = 'short'
    interpolation: str = 'bilinear'
    upright: bool = False
    channels: int = 3


def check(rule: Rule) -> Rule:
    """The rule, if it can be followed."""
    require(rule.side >= 0, f'the side of stored images must be at least 0, not {rule.side}')
    require(rule.fit in FITS, f'fit must be one of {", ".join(FITS)}, not {rule.fit!r}')
    require(rule.interpolation in REACH, f'interpolation must be one of {", ".join(REACH)}, not {rule.interpolation!r}')
    require(rule.channels in (1, 3), f'images have 1 or 3 channels, not {rule.channels}')
    return rule


def read(data: bytes, rule: Rule) -> np.ndarray:
    """Bytes of a picture -> (side, side, channels) uint8."""
    return fit(decode(data, channels=rule.channels, upright=rule.upright), rule)


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(data: bytes, *, channels: int = 3, upright: bool = False) -> np.ndarray:
    """Bytes of a picture -> (H, W, channels) uint8, as Pillow's `convert('RGB')` and then `convert('L')` give it.

    The content decides the format, not the name of the file. Of an animation the first frame is taken;
    transparency is dropped, and the colour that was stored under it shows; of 16 bits the upper 8 are kept.
    """
    if not data:
        raise Unreadable('it is empty')
    image = _jpeg(data, channels) if data.startswith(b'\xff\xd8') else None
    turn = 1
    if image is None:
        image, turn = _by_pillow(data, channels, upright)
    elif upright and b'Exif\0\0' in data[: 1 << 17]:  # the tag is in one of the first segments, of 64 kB at most
        turn = _orientation(data)
    return np.ascontiguousarray(_turned(image, turn))


def _jpeg(data: bytes, channels: int) -> np.ndarray | None:
    """(H, W, channels) of a grey or colour JPEG; None for one that is neither (CMYK), which OpenCV would convert
    with other numbers than Pillow."""
    import cv2

    height, width, components = _frame(data)
    _check_size(height, width)
    if components not in (1, 3):
        return None
    colour = cv2.IMREAD_GRAYSCALE if components == 1 else cv2.IMREAD_COLOR_RGB
    flags = colour | cv2.IMREAD_IGNORE_ORIENTATION

    def opencv(data: bytes) -> np.ndarray:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            image = None
        if image is None:  # OpenCV's way to report a fault
            raise Unreadable('its JPEG data are cut short or damaged')
        return image

    image = opencv(data)
    if (image[-1, -1] == GREY).all():
        # Perhaps a part is missing and libjpeg filled up with grey. A decoder that still wants data uses what is put
        # before the end mark, and gives other pixels; one that has its picture ignores it.
        end = data.rfind(END) if END in data else len(data)
        if not np.array_equal(opencv(data[:end] + b'\x5a' * 4096 + (data[end:] or END)), image):
            raise Unreadable('its JPEG data end before the picture does')
    if components == 1:
        image = image[..., None]
        return image if channels == 1 else np.repeat(image, 3, axis=2)
    return grey(image) if channels == 1 else image


def _frame(data: bytes) -> tuple[int, int, int]:
    """(height, width, components) from the header of a JPEG file."""
    at = 2
    while (at := data.find(b'\xff', at)) >= 0 and at + 9 < len(data):
        mark = data[at + 1]
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):  # tables share the range of frame headers
            return int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9]), data[at + 9]
        if mark in (0xD9, 0xDA):  # end, or pixels without a frame
            break
        if mark == 0xFF:  # a fill byte
            at += 1
        elif mark <= 0x01 or 0xD0 <= mark <= 0xD8:  # marks that stand alone
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    raise Unreadable('its JPEG header is cut short or damaged')


def _check_size(height: int, width: int) -> None:
    if not height or not width:
        raise Unreadable('its header says that it has no pixels')
    if height * width > MOST_PIXELS:
        raise Unreadable(f'its header claims {width} x {height} pixels; at most {MOST_PIXELS:,} are decoded')


def _by_pillow(data: bytes, channels: int, upright: bool) -> tuple[np.ndarray, int]:
    """(H, W, channels) as stored, and the EXIF orientation if it is asked for."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_size(picture.height, picture.width)
            turn = _tag(picture) if upright else 1
            picture.load()
            if picture.mode.startswith('I'):  # 16 bits a pixel; Pillow would clip them to 255
                image = (np.asarray(picture).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)[..., None]
                return (image if channels == 1 else np.repeat(image, 3, axis=2)), turn
            picture.info.pop('transparency', None)  # convert() would warn that RGB has none
            image = np.asarray(picture.convert('RGB'))
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable(f'it is not a picture ({", ".join(FORMATS)})') from None
    except Exception as error:  # bytes of a stranger: decoders fail on them in every way there is
        raise Unreadable(f'it is cut short or damaged ({error})') from None
    return (grey(image) if channels == 1 else image), turn


def grey(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W, 1): ITU-R 601, in Pillow's integers."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).convert('L'))[..., None]


def _orientation(data: bytes) -> int:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=('JPEG',)) as picture:
            return _tag(picture)
    except Exception:  # the pixels are good; only what a camera wrote beside them is not
        return 1


def _tag(picture: Any) -> int:
    """The EXIF orientation, 1 to 8; 1, upright, where there is none that makes sense."""
    try:
        turn = picture.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return turn if turn in range(1, 9) else 1


def _turned(image: np.ndarray, turn: int) -> np.ndarray:
    """The image as it was seen, by the EXIF orientation."""
    if turn >= 5:  # 5 to 8 have rows and columns exchanged
        image = image.swapaxes(0, 1)
    # What 1 to 8 mirror after that: up and down, left and right.
    down = turn in (3, 4, 7, 8)
    right = turn in (2, 3, 6, 7)
    return image[:: -1 if down else 1, :: -1 if right else 1]


# --- one size ---------------------------------------------------------------------------------------------------------


def fit(image: np.ndarray, rule: Rule) -> np.ndarray:
    """(H, W, C) uint8 -> (side, side, C): torchvision's Resize(side), CenterCrop(side), or Resize((side, side)).

    Only the square is computed: the same as cropping afterwards, but for the last bits of the weights
    (one value in a thousand differs, by 1).
    """
    if not rule.side:
        return image
    height, width, side = *image.shape[:2], rule.side
    rows, columns = _span(height, min(height, width), rule), _span(width, min(height, width), rule)
    if rows.length == height and columns.length == width:
        return image[rows.first : rows.first + side, columns.first : columns.first + side]
    if rule.interpolation == 'nearest':
        return image[_nearest(height, rows, side)[:, None], _nearest(width, columns, side)]
    fast = resample.bilinear(image, rows, columns, side) if rule.interpolation == 'bilinear' else None
    return _resample(image, rows, columns, rule) if fast is None else fast


class _Span(NamedTuple):
    """One axis: `length` after resizing, and the first of the `side` pixels that are kept."""

    length: int
    first: int


def _span(size: int, short: int, rule: Rule) -> _Span:
    if rule.fit == 'squash':
        return _Span(rule.side, 0)
    length = rule.side if size == short else int(rule.side * size / short)
    return _Span(length, int(round((length - rule.side) / 2.0)))  # Python's rounding: half to even, as torchvision


def _nearest(size: int, span: _Span, side: int) -> np.ndarray:
    """(side,) source pixels; summed up step by step, as Pillow does, because that decides at exact halves."""
    step = size / span.length
    at = np.cumsum(np.concatenate([[step * 0.5], np.full(span.first + side - 1, step)]))
    return at[span.first :].astype(np.int64)


def _resample(image: np.ndarray, rows: _Span, columns: _Span, rule: Rule) -> np.ndarray:
    from PIL import Image

    (top, bottom), (left, right) = (
        (span.first * size / span.length, (span.first + rule.side) * size / span.length)
        for span, size in ((rows, image.shape[0]), (columns, image.shape[1]))
    )
    # Pillow copies what it is given: give it only what the filter can reach.
    reach = [1 + REACH[rule.interpolation] * max(1.0, edge / rule.side) for edge in (bottom - top, right - left)]
    row, column = max(math.floor(top - reach[0]), 0), max(math.floor(left - reach[1]), 0)
    part = image[row : math.ceil(bottom + reach[0]), column : math.ceil(right + reach[1])]
    picture = Image.fromarray(part[..., 0] if part.shape[2] == 1 else part)
    how = Image.Resampling[rule.interpolation.upper()]
    # Along the rows first, as published: since 13 Pillow goes the other way where the height shrinks more, which moves
    # values by up to 3.
    box = (left - column, 0, min(right - column, part.shape[1]), part.shape[0])
    picture = picture.resize((rule.side, part.shape[0]), how, box=box)
    out = np.asarray(
        picture.resize((rule.side, rule.side), how, box=(0, top - row, rule.side, min(bottom - row, part.shape[0])))
    )
    return out[..., None] if image.shape[2] == 1 else out
