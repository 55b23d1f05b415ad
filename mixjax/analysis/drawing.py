"""The picture of an explanation: the photograph, the map over it, and the nearest labelled images.

Fonts that have all scripts do not exist, and Pillow brings one for ASCII only: a common one of the system is taken if
there is one, and a character that it lacks is shown as `?`. What `mixjax predict` prints has all characters.
"""

from __future__ import annotations

import contextlib
import functools
import io
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixjax.analysis.explain import Explanation
from mixjax.analysis.neighbours import Near
from mixjax.report.words import plain

if TYPE_CHECKING:
    from PIL.Image import Image

FONTS = ('DejaVuSans.ttf', 'NotoSans-Regular.ttf', 'LiberationSans-Regular.ttf', 'Arial Unicode.ttf', 'arial.ttf')
MISSING = '\uffff'  # no font has a picture of it
GROUND, INK, SOFT = (255, 255, 255), (27, 29, 32), (89, 95, 102)
MARGIN, GAP = 24, 14
SIDE, SMALL_SIDE = 480, 150  # of the photograph and of the nearest images
TITLE, CAPTION = 22, 14  # sizes of text
LINES = 3  # of a caption, at most


def draw(found: Explanation) -> bytes:
    """Return the picture of an explanation as a PNG file."""
    pictures = [found.photograph] + [found.overlay] * (found.map is not None)
    top = [_sized(pixels, SIDE) for pixels in pictures]
    cards = [_card(one) for one in found.nearest]
    inner = max(_width(top), _width(cards), SIDE)
    parts = [_words(headline(found), TITLE, INK, inner), _row(top)]
    parts += [_words('The nearest labelled images', CAPTION, SOFT, inner), _row(cards)] if cards else []
    whole = _new(inner + 2 * MARGIN, sum(part.height for part in parts) + GAP * (len(parts) - 1) + 2 * MARGIN)
    down = MARGIN
    for part in parts:
        whole.paste(part, (MARGIN, down))
        down += part.height + GAP
    file = io.BytesIO()
    whole.save(file, 'PNG')
    return file.getvalue()


def headline(found: Explanation) -> str:
    """Return the prediction of an explanation in words: `beagle 97.0 %`, or the numbers."""
    if found.map is None:
        return ', '.join(f'{plain(name)} {value:.6g}' for name, value in found.named_values)
    return f'{plain(found.name)} {100 * found.probability:.1f} %'


def _new(width: int, height: int) -> Image:
    from PIL import Image

    return Image.new('RGB', (width, height), GROUND)


def _sized(pixels: np.ndarray, side: int) -> Image:
    """Resize (H, W, C) pixels so that the longer side has a length."""
    from PIL import Image

    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).convert('RGB')
    share = side / max(picture.size)
    size = max(1, round(picture.width * share)), max(1, round(picture.height * share))
    # Pixels of a tiny image are shown as squares.
    return picture.resize(size, Image.Resampling.LANCZOS if share < 2 else Image.Resampling.NEAREST)


def _card(one: Near) -> Image:
    """Return a labelled image with its label and similarity below it."""
    picture = _new(SMALL_SIDE, SMALL_SIDE) if one.image is None else _sized(one.image, SMALL_SIDE)
    below = _words(f'{plain(one.label)} {one.similarity:.2f}', CAPTION, INK, SMALL_SIDE)
    card = _new(SMALL_SIDE, SMALL_SIDE + 6 + below.height)
    card.paste(picture, (0, 0))
    card.paste(below, (0, SMALL_SIDE + 6))
    return card


def _row(pictures: Sequence[Image]) -> Image:
    """Put pictures side by side."""
    row = _new(max(1, _width(pictures)), max(picture.height for picture in pictures))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + GAP
    return row


def _width(pictures: Sequence[Image]) -> int:
    return sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)


def _words(text: str, size: int, colour: tuple[int, int, int], width: int) -> Image:
    """Return text as a picture of a width, on as many lines as it takes but at most a few."""
    from PIL import ImageDraw

    font = _font(size)
    text = ''.join(char if _has(font, char) else '?' for char in text)
    fitting = max(1, int(width / font.getlength('n')))
    lines = textwrap.wrap(text, fitting, max_lines=LINES, placeholder=' ..') or ['']
    picture = _new(width, round(1.35 * size) * len(lines))
    for place, line in enumerate(lines):
        ImageDraw.Draw(picture).text((0, round(1.35 * size) * place), line, fill=colour, font=font)
    return picture


@functools.cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    for name in FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)


@functools.cache
def _has(font: Any, char: str) -> bool:
    """Return whether a font has a picture of a character."""
    one, none = font.getmask(char), font.getmask(MISSING)
    return one.size != none.size or bytes(one) != bytes(none)
