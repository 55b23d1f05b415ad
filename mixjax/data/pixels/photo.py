"""Decodes photographs, and resizes them to one size as the pipelines of the papers do.

JPEG is decoded by OpenCV, which gives the pixels of Pillow in less time; PBM to PFM by `netpbm`; everything else by
Pillow. Resizing is Pillow's antialiased one, with the rounding of torchvision's `Resize` and `CenterCrop`, because the
pretrained networks and the published numbers were made with these.

A picture that cannot be read whole raises `Unreadable`; it is never replaced by black or grey pixels. One kind of
damage cannot be detected: JPEG has no checksum, so bytes that changed in the middle of a file and still give a picture
go unnoticed. Too little memory raises `OutOfMemory`, which is not a property of the file.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixjax.data.pixels import image_header, memory, netpbm, resample
from mixjax.data.pixels.image_header import Header
from mixjax.data.pixels.memory import OutOfMemory
from mixjax.errors import require
from mixjax.host import untrusted

FITS = ('short', 'squash')
# Radius of Pillow's filters, in source pixels at scale 1.
REACH = {'nearest': 0.0, 'bilinear': 1.0, 'bicubic': 2.0, 'lanczos': 3.0}
# Formats that are opened. EPS is not among them: it would start another program, and is not a format for photographs.
FORMATS = ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'PPM')
# Suffixes of their files.
SUFFIXES = (
    '.jpg', '.jpeg', '.png', '.gif', '.webp', '.bmp', '.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm', '.pfm',
)  # fmt: skip
MOST_BYTES = 1 << 30  # of an image file
END = b'\xff\xd9'  # of a JPEG
GREY = 128  # libjpeg's value for missing data

# Bytes for decoding in all threads of the process together. An image takes its file, and at most PIXEL bytes a pixel:
# for the decoder, the pixels, and a copy of them while they are turned or resized.
MEMORY = memory.Budget(5 << 29)
PIXEL = {'TIFF': 16, 'WEBP': 20}  # measured
PIXEL_OF_OTHERS = 12
ASIDE = 1 << 26  # bytes that decoders take for any size
STRIP = 1 << 20  # pixels that are converted at once
STEPS = 1 << 22  # pixels of a row; longer ones are not summed one by one


class Unreadable(Exception):
    """Error for bytes that are not a picture; the message is the end of a sentence: 'it is empty'.

    The caller adds the name of the file.
    """


class _Failed(Unreadable):
    """Failure of a decoder, perhaps for lack of memory."""


class Rule(NamedTuple):
    """Rule for the size and colours of images from photographs.

    Attributes:
      side: side of the square; 0 keeps the stored size.
      fit: 'short' resizes the shorter side to `side` and keeps the square in the middle; 'squash' resizes both sides.
      interpolation: a filter of Pillow (`REACH`), antialiased except for 'nearest'.
      upright: turn by the EXIF tag of the camera. The papers' pipelines do not.
      channels: 3 (RGB) or 1 (grey, 0.299 R + 0.587 G + 0.114 B as Pillow rounds it).
    """

    side: int = 256
    fit: str = 'short'
    interpolation: str = 'bilinear'
    upright: bool = False
    channels: int = 3


def check(rule: Rule) -> Rule:
    """Return the rule, or raise a `UserError` for an impossible value."""
    require(rule.side >= 0, f'the side of stored images must be at least 0, not {rule.side}')
    require(rule.fit in FITS, f'fit must be one of {", ".join(FITS)}, not {rule.fit!r}')
    require(rule.interpolation in REACH, f'interpolation must be one of {", ".join(REACH)}, not {rule.interpolation!r}')
    require(rule.channels in (1, 3), f'images have 1 or 3 channels, not {rule.channels}')
    return rule


def file_bytes(path: str | Path) -> bytes:
    """Read an image file; raise `OSError` if it cannot be opened or is not a regular file."""
    try:
        return untrusted.read_regular(path, MOST_BYTES)
    except ValueError as error:
        raise Unreadable(str(error)) from None
    except MemoryError:
        raise OutOfMemory(f'there is too little memory to read {path}; close other programs') from None


def read(data: bytes, rule: Rule, *, banner: int = 0) -> np.ndarray:
    """Decode and resize a picture.

    Args:
      data: the bytes of the file.
      rule: the size and colours.
      banner: rows at its bottom that are not part of it.

    Returns:
      (side, side, channels) uint8
    """

    def work(about: Header) -> np.ndarray:
        image = _decoded(data, about, rule.channels, rule.upright)
        return fit(image[: len(image) - banner], rule)

    return _within_memory(data, work, rule)


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(data: bytes, *, channels: int = 3, upright: bool = False) -> np.ndarray:
    """Decode a picture, with the pixels of Pillow's `convert('RGB')` and then `convert('L')`.

    The content determines the format, not the name of the file. Of an animation the first frame is taken; transparency
    is dropped, and the colour that was stored under it shows. Values of other types become bytes by the range of their
    type: the upper 8 of 16 bits are kept, and floats are from 0 to 1. An image that would lose all of its contrast by
    that is refused.

    Args:
      data: the bytes of the file.
      channels: 3 or 1.
      upright: turn by the EXIF tag of the camera.

    Returns:
      (H, W, channels) uint8
    """
    return _within_memory(data, lambda about: _decoded(data, about, channels, upright), None)


def of_picture(picture: Any, *, channels: int = 3, upright: bool = False) -> np.ndarray:
    """An image of Pillow -> (H, W, channels) uint8, as `decode` gives it from the image's file."""
    floats = picture.mode == 'F' and picture.format != 'TIFF'
    deep = ('float', 32, False) if floats else _deep(picture)
    turn = _tag(picture) if upright else 1
    image = _of_deep(_Rows(picture), *deep, channels) if deep else _converted(picture.copy(), channels)
    return _turned(image, turn)


def _within_memory(data: bytes, work: Callable[[Header], np.ndarray], rule: Rule | None) -> np.ndarray:
    """Return `work(header)`, computed while this thread holds its share of `MEMORY`.

    Decoders report a lack of memory as damage. So a failure is tried once more when no other thread decodes; if it
    fails again, the file is damaged, provided that the memory can be allocated.

    Args:
      data: the bytes of the file.
      work: the computation.
      rule: the rule by which `work` resizes; None if it does not.
    """
    if not data:
        raise Unreadable('it is empty')
    try:
        about = image_header.read_header(data, FORMATS)
    except image_header.Fault as fault:
        raise Unreadable(str(fault)) from None
    need = 2 * len(data) + about.area * PIXEL.get(about.kind, PIXEL_OF_OTHERS)
    if rule is not None and rule.side:
        need += 72 * (about.height + about.width)  # the weights of the widest filter
        need += 4 * rule.side * about.height * (rule.fit == 'squash')  # after the first of two passes
    size = f'{about.width} x {about.height} pixels'
    if need > MEMORY.total:
        most = MEMORY.total / 1e9
        raise Unreadable(f'it has {size}, which take {need / 1e9:.1f} GB to read, and an image may take {most:.1f}')
    try:
        with MEMORY.hold(need):
            return work(about)
    except (_Failed, MemoryError):
        pass
    with MEMORY.hold(MEMORY.total):
        try:
            return work(about)
        except (_Failed, MemoryError) as error:
            memory.require(need + ASIDE, f'an image of {size}')
            if isinstance(error, MemoryError):
                raise OutOfMemory(f'there was too little memory for an image of {size}; close other programs') from None
            raise


def _decoded(data: bytes, about: Header, channels: int, upright: bool) -> np.ndarray:
    if about.kind == 'JPEG' and about.components in (1, 3):
        image = _jpeg(data, about, channels)
        turn = _orientation(data) if upright and about.tagged else 1
    elif about.kind == 'PPM':
        image, turn = _pnm(data, channels), 1
    else:
        image, turn = _by_pillow(data, about.kind, channels, upright)
    return np.ascontiguousarray(_turned(image, turn))


def _jpeg(data: bytes, about: Header, channels: int) -> np.ndarray:
    """Decode a grey or colour JPEG by OpenCV: (H, W, channels).

    CMYK is left to Pillow, since OpenCV converts it with different numbers.
    """
    import cv2

    if about.bits != 8:
        raise Unreadable(f'it is a JPEG of {about.bits} bits, which is not decoded; save it with 8, or as PNG or TIFF')
    colour = cv2.IMREAD_GRAYSCALE if about.components == 1 else cv2.IMREAD_COLOR_RGB
    flags = colour | cv2.IMREAD_IGNORE_ORIENTATION

    def opencv(data: bytes) -> np.ndarray:
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            image = None
        if image is None:  # OpenCV reports errors, and a lack of memory, this way
            raise _Failed('its JPEG data are cut short or damaged')
        return image

    image = opencv(data)
    if (image[-1, -1] == GREY).all():
        # Perhaps a part is missing and libjpeg padded with grey. A decoder that needs more data uses bytes that are
        # inserted before the end mark, and gives other pixels; one that has its picture ignores them.
        end = data.rfind(END) if END in data else len(data)
        if not np.array_equal(opencv(data[:end] + b'\x5a' * 4096 + (data[end:] or END)), image):
            raise Unreadable('its JPEG data end before the picture does')
    if about.components == 1:
        image = image[..., None]
        return image if channels == 1 else np.repeat(image, 3, axis=2)
    return grey(image) if channels == 1 else image


def _pnm(data: bytes, channels: int) -> np.ndarray:
    try:
        about, values = netpbm.header(data), netpbm.values(data)
    except ValueError as error:
        raise Unreadable(f'it is cut short or damaged ({error})') from None
    if about.kind in 'fF':
        if abs(about.most) != 1:
            raise Unreadable(f'its floats have a scale of {abs(about.most):g}; only 1 is read: save it as 8 or 16 bit')
        image = _of_floats(values)
    elif about.kind in '14':
        image = values * np.uint8(255)
    elif about.most == 255:
        image = values
    else:
        table = netpbm.table(about)
        image = _as_bytes(values, lambda some: table[some])
    if image.shape[2] == channels:
        return image
    return grey(image) if channels == 1 else np.repeat(image, 3, axis=2)


def _by_pillow(data: bytes, kind: str, channels: int, upright: bool) -> tuple[np.ndarray, int]:
    """Decode by Pillow: (H, W, channels), and the EXIF orientation by which it must still be turned."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as picture:
            asked = _tag(picture) if kind == 'TIFF' else 1
            deep = _deep(picture)
            picture.load()
            # Pillow turns TIFF files while it loads them, and removes the tag.
            left = _tag(picture) if upright or kind == 'TIFF' else 1
            image = _of_deep(_Rows(picture), *deep, channels) if deep else _converted(picture, channels)
    except (Unreadable, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _Failed(f'it is a {kind} of a kind that is not decoded, or damaged; save it as PNG') from None
    except Exception as error:  # decoders raise many types on malformed data
        raise _Failed(f'it is cut short or damaged ({error})') from None
    if upright:
        return image, left
    return image, _BACK[asked] if left == 1 else 1


def _converted(picture: Any, channels: int) -> np.ndarray:
    """Convert an image of Pillow to (H, W, channels), some rows at a time, since a conversion makes several copies."""
    picture.info.pop('transparency', None)  # convert() would warn that RGB has no transparency
    if picture.mode == 'LAB':
        raise Unreadable('its colours are L*a*b*, which are not decoded; save it as RGB')
    out = np.empty((picture.height, picture.width, channels), np.uint8)
    for rows in _strips(out):
        strip = picture.crop((0, rows.start, picture.width, rows.stop))
        strip = (strip.convert('LA') if strip.mode == 'La' else strip).convert('RGB')
        out[rows] = np.asarray(strip.convert('L'))[..., None] if channels == 1 else np.asarray(strip)
    return out


def _strips(image: np.ndarray | _Rows) -> Iterator[slice]:
    """Yield slices of the rows, of `STRIP` pixels or one row."""
    height, width = image.shape[:2]
    step = max(STRIP // width, 1)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def grey(image: np.ndarray) -> np.ndarray:
    """Convert to grey, (H, W, 3) -> (H, W, 1): ITU-R 601, in Pillow's integers."""
    from PIL import Image

    out = np.empty((*image.shape[:2], 1), np.uint8)
    for rows in _strips(image):
        out[rows, :, 0] = np.asarray(Image.fromarray(image[rows]).convert('L'))
    return out


# --- other types than bytes -------------------------------------------------------------------------------------------


def _deep(picture: Any) -> tuple[str, int, bool] | None:
    """Return (type, bits, whether 0 is white) of an image of Pillow whose values are not bytes; None if they are.

    Pillow keeps such values unchanged, regardless of their type and of the value of white, and clips them to 255 when
    it converts them.
    """
    mode = picture.mode
    if picture.format != 'TIFF':
        return ('unsigned', 16, False) if mode.startswith('I') else None
    bits, kind = picture.tag_v2.get(258, (1,))[0], picture.tag_v2.get(339, (1,))[0]
    raw = picture.info.get('compression') == 'raw'
    if raw and bits > 8 and picture.tag_v2.get(284, 1) == 2 and len(picture.getbands()) > 1:
        raise Unreadable(f'its colours are in planes of {bits} bits, which Pillow mistakes for bytes: save it as PNG')
    white = picture.tag_v2.get(262, 0) == 0
    if (
        not raw and picture.tag_v2.prefix == b'MM' and mode in ('F', 'I')
    ):  # libtiff has swapped their bytes, and Pillow does it again
        raise Unreadable(
            f'its {bits}-bit values are compressed and begin with the highest byte, which is not decoded: save it '
            'without compression'
        )
    if mode == 'F':
        return 'float', bits, white
    if mode.startswith('I') or (mode == 'L' and kind == 2):
        return ('signed' if kind == 2 else 'unsigned'), bits, white and mode != 'L'
    return None


class _Rows:
    """Rows of an image of Pillow as arrays, without a second copy of the whole image."""

    def __init__(self, picture: Any) -> None:
        self._picture = picture
        self.shape = (picture.height, picture.width)

    def __getitem__(self, rows: slice) -> np.ndarray:
        return np.asarray(self._picture.crop((0, rows.start, self.shape[1], rows.stop)))


def _of_deep(values: _Rows, kind: str, bits: int, white: bool, channels: int) -> np.ndarray:
    """Convert values to bytes by the range of their type: (H, W) -> (H, W, channels) uint8.

    Args:
      values: (H, W).
      kind: 'float', 'signed' or 'unsigned'.
      bits: number of bits of a value.
      white: 0 is white.
      channels: 3 or 1.
    """
    if kind == 'float':
        image = _of_floats(values)
    else:
        # Pillow stores 32 unsigned bits as int32, and 8 signed ones as uint8.
        middle, mask = (1 << bits - 1 if kind == 'signed' else 0), (1 << bits) - 1
        shift = bits - 8
        image = _as_bytes(values, lambda some: ((some.astype(np.int64) + middle & mask) >> shift).astype(np.uint8))
    if white:
        np.subtract(255, image, out=image)
    return image[..., None] if channels == 1 else np.repeat(image[..., None], 3, axis=2)


def _of_floats(values: np.ndarray | _Rows) -> np.ndarray:
    """Convert floats from 0 to 1 to bytes."""
    low, high = _range(values)
    if not 0 <= low <= high <= 1:  # also true for NaN
        raise Unreadable(
            f'its values are floats from {low:g} to {high:g}, and only 0 to 1 have a meaning: divide them by their '
            'largest, or save it as 8 or 16 bit'
        )
    return _as_bytes(values, lambda some: np.floor(some.astype(np.float64) * 255 + 0.5).astype(np.uint8))


def _as_bytes(values: np.ndarray | _Rows, convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Convert values to bytes; refuse an image that becomes uniform, as 8-bit values stored in 32 bits would."""
    out = np.empty(values.shape, np.uint8)
    for rows in _strips(out):
        out[rows] = convert(values[rows])
    if out.min() == out.max():
        low, high = _range(values)
        if low < high:
            raise Unreadable(
                f'its values go from {low:,.10g} to {high:,.10g}, which is a tiny part of the range of their type: '
                'spread them over it, or save it as 8 bit'
            )
    return out


def _range(values: np.ndarray | _Rows) -> tuple[float, float]:
    """Return the smallest and the largest value; NaN if there is one."""
    ends = [(some.min(), some.max()) for some in (values[rows] for rows in _strips(values))]
    low, high = np.array(ends, np.float64).T
    return float(low.min()), float(high.max())


# --- orientation ------------------------------------------------------------------------------------------------------


def _orientation(data: bytes) -> int:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=('JPEG',)) as picture:
            return _tag(picture)
    except Exception:  # the pixels are valid; only the metadata are not
        return 1


def _tag(picture: Any) -> int:
    """Return the EXIF orientation, 1 to 8; 1, upright, if there is no valid one."""
    try:
        turn = picture.getexif().get(0x0112, 1)
    except Exception:
        return 1
    return turn if turn in range(1, 9) else 1


_BACK = (1, 1, 2, 3, 4, 5, 8, 7, 6)  # the orientation that undoes each one


def _turned(image: np.ndarray, turn: int) -> np.ndarray:
    """Turn an image upright by the EXIF orientation."""
    if turn >= 5:  # 5 to 8 have rows and columns exchanged
        image = image.swapaxes(0, 1)
    # The flips of 1 to 8 after that: up and down, left and right.
    down = turn in (3, 4, 7, 8)
    right = turn in (2, 3, 6, 7)
    return image[:: -1 if down else 1, :: -1 if right else 1]


# --- resizing ---------------------------------------------------------------------------------------------------------


def fit(image: np.ndarray, rule: Rule) -> np.ndarray:
    """Resize an image as torchvision's Resize(side), CenterCrop(side), or Resize((side, side)).

    Only the square is computed: the same as cropping afterwards, except for the last bits of the weights
    (one value in a thousand differs, by 1).

    Args:
      image: (H, W, C) uint8.
      rule: the rule.

    Returns:
      (side, side, C) uint8
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
    return _resample(image, rule) if fast is None else fast


def fit_box(height: int, width: int, rule: Rule) -> tuple[float, float, float, float]:
    """Return the top, left, bottom and right of the part of an image that `fit` keeps, in its pixels."""
    if not rule.side:
        return 0.0, 0.0, float(height), float(width)
    short = min(height, width)
    spans = [(size, _span(size, short, rule)) for size in (height, width)]
    top, left = (span.first * size / span.length for size, span in spans)
    bottom, right = ((span.first + rule.side) * size / span.length for size, span in spans)
    return top, left, bottom, right


class _Span(NamedTuple):
    """Resizing of one axis: its `length` after resizing, and the first of the `side` pixels that are kept."""

    length: int
    first: int


def _span(size: int, short: int, rule: Rule) -> _Span:
    if rule.fit == 'squash':
        return _Span(rule.side, 0)
    length = rule.side if size == short else int(rule.side * size / short)
    return _Span(length, int(round((length - rule.side) / 2.0)))  # Python's rounding: half to even, as torchvision


def _nearest(size: int, span: _Span, side: int) -> np.ndarray:
    """Return the source pixels, (side,), summed step by step as in Pillow, since that decides at exact halves."""
    step = size / span.length
    if span.first > STEPS:  # a strip that is too long for Pillow
        return ((span.first + np.arange(side) + 0.5) * step).astype(np.int64)
    at = np.cumsum(np.concatenate([[step * 0.5], np.full(span.first + side - 1, step)]))
    return at[span.first :].astype(np.int64)


def _resample(image: np.ndarray, rule: Rule) -> np.ndarray:
    from PIL import Image

    top, left, bottom, right = fit_box(image.shape[0], image.shape[1], rule)
    # Pillow copies its input, so it gets only the part that the filter can reach.
    reach = [1 + REACH[rule.interpolation] * max(1.0, edge / rule.side) for edge in (bottom - top, right - left)]
    row, column = max(math.floor(top - reach[0]), 0), max(math.floor(left - reach[1]), 0)
    part = image[row : math.ceil(bottom + reach[0]), column : math.ceil(right + reach[1])]
    picture = Image.fromarray(part[..., 0] if part.shape[2] == 1 else part)
    how = Image.Resampling[rule.interpolation.upper()]
    # Along the rows first, as in the published pipelines: Pillow 13 begins with the columns if the height shrinks more,
    # which changes values by up to 3.
    box = (left - column, 0, min(right - column, part.shape[1]), part.shape[0])
    picture = picture.resize((rule.side, part.shape[0]), how, box=box)
    out = np.asarray(
        picture.resize((rule.side, rule.side), how, box=(0, top - row, rule.side, min(bottom - row, part.shape[0])))
    )
    return out[..., None] if image.shape[2] == 1 else out
