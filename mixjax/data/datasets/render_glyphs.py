"""Draw the printed letters of the embedded benchmark: `python mixjax/data/datasets/render_glyphs.py [--out PATH]`.

Latin, Greek and Cyrillic letters, no digits, one 16x16 grey image for each letter and font, from the
fonts that come with matplotlib. The result is shipped as `mixjax/data/datasets/glyphs.npz`, because rendering
differs a little between versions of the font library. The file holds::

    image    (n, 16, 16) uint8, white ink on black, sorted by class, then by font
    label    (n,) int16, position in `classes`
    font     (n,) int16, position in `fonts`
    classes  (c,) str, 'a', 'A', 'alpha', 'Gamma', 'ze', .. (upper case: capitalised)
    fonts    (f,) str, the font files

Many letters look the same once they are scaled to one box (A, Alpha and the Cyrillic A; c and C). Two classes that
cannot be distinguished would make pairs of classes meaningless, so they are merged into one class: `similarity` and
`group` decide which, and `--duplicates` prints the merged classes.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import unicodedata
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import UserError

SIDE = 16
# In the middle of a gap: no two groups join between 0.70 and 0.72.
THRESHOLD = 0.71
_EM = 160  # pixels: large enough that the font's hinting is far below one pixel of the result
_DEFAULT = Path(__file__).with_name('glyphs.npz')

# Lower-case letters and their names; upper case follows from `str.upper`. The first of several look-alikes, in the
# order of the alphabets, gives the class its name.
_LATIN = [*zip('abcdefghijklmnopqrstuvwxyz', 'abcdefghijklmnopqrstuvwxyz', strict=True)] + [
    ('æ', 'ae'), ('œ', 'oe'), ('ø', 'oslash'), ('þ', 'thorn'), ('ß', 'sharp_s'), ('ð', 'eth'), ('ł', 'lslash'),
    ('ŋ', 'eng'), ('ħ', 'hbar'), ('ŧ', 'tbar'),
]  # fmt: skip
# Latin letters of the phonetic alphabet: lower case only, since their capitals are letters of other alphabets.
_PHONETIC = [
    ('ə', 'schwa'), ('ɔ', 'open_o'), ('ʃ', 'esh'), ('ʒ', 'ezh'), ('ɣ', 'latin_gamma'), ('ɐ', 'turned_a'),
    ('ɥ', 'turned_h'), ('ɹ', 'turned_r'), ('ʎ', 'turned_y'), ('ʞ', 'turned_k'), ('ʇ', 'turned_t'), ('ɤ', 'rams_horn'),
    ('ʊ', 'horseshoe'), ('ɮ', 'lezh'), ('ʁ', 'inverted_r'), ('ɘ', 'reversed_e'), ('ɷ', 'closed_omega'),
    ('ɞ', 'closed_e'), ('ƛ', 'barred_lambda'), ('ʔ', 'glottal'), ('ʕ', 'reversed_glottal'), ('ʘ', 'bullseye'),
    ('ɟ', 'barred_j'), ('ɱ', 'hooked_m'), ('ɲ', 'hooked_n'), ('ɕ', 'curled_c'), ('ʑ', 'curled_z'), ('ʂ', 'hooked_s'),
    ('ɖ', 'tailed_d'), ('ɓ', 'hooked_b'), ('ɠ', 'hooked_g'), ('ƙ', 'hooked_k'), ('ƕ', 'hwair'), ('ʧ', 'tesh'),
]  # fmt: skip
# Unicode's names, except for the rarer ones and GREEK SMALL LETTER LAMDA.
_RARE = {'λ': 'lambda', 'ς': 'final_sigma', 'ϙ': 'archaic_koppa'}
_GREEK = [
    (char, _RARE.get(char, unicodedata.name(char).split()[-1].lower())) for char in 'αβγδεζηθικλμνξοπρςστυφχψωϝϟϙϛϡ'
]
_CYRILLIC = [
    ('а', 'a_cyrillic'), ('б', 'be'), ('в', 've'), ('г', 'ghe'), ('д', 'de'), ('е', 'ie'), ('ж', 'zhe'), ('з', 'ze'),
    ('и', 'i_cyrillic'), ('й', 'short_i'), ('к', 'ka'), ('л', 'el'), ('м', 'em'), ('н', 'en'), ('о', 'o_cyrillic'),
    ('п', 'pe'), ('р', 'er'), ('с', 'es'), ('т', 'te'), ('у', 'u_cyrillic'), ('ф', 'ef'), ('х', 'ha'), ('ц', 'tse'),
    ('ч', 'che'), ('ш', 'sha'), ('щ', 'shcha'), ('ъ', 'hard_sign'), ('ы', 'yeru'), ('ь', 'soft_sign'),
    ('э', 'e_cyrillic'), ('ю', 'yu'), ('я', 'ya'), ('є', 'ukrainian_ie'), ('ґ', 'upturned_ghe'), ('ђ', 'dje'),
    ('љ', 'lje'), ('њ', 'nje'), ('ћ', 'tshe'), ('џ', 'dzhe'), ('ѣ', 'yat'), ('ѳ', 'fita'), ('ѵ', 'izhitsa'),
    ('ѫ', 'big_yus'),
]  # fmt: skip

_STYLES = ('', '-Bold', '-Oblique', '-BoldOblique')
_ITALICS = ('', '-Bold', '-Italic', '-BoldItalic')
# Fonts of all three alphabets, then Computer Modern, which has the ASCII letters at their usual places.
_FONTS = [
    *(f'DejaVuSans{style}' for style in _STYLES),
    *(f'DejaVuSansMono{style}' for style in _STYLES),
    *(f'DejaVuSerif{style}' for style in _ITALICS),
    *(f'STIXGeneral{style}' for style in ('', 'Bol', 'Italic', 'BolIta')),
]
_ASCII_FONTS = ['cmr10', 'cmb10', 'cmss10', 'cmtt10', 'cmti10', 'cmmi10']
_MIN_FONTS = 8  # a letter that fewer fonts have is left out


class Drawing(NamedTuple):
    """Letters drawn in fonts: `image[k]` is letter `label[k]` in font `font[k]`.

    Attributes:
      image: (n, 16, 16) uint8.
      label: (n,) int.
      font: (n,) int.
      classes: names of the classes.
      fonts: names of the fonts.
    """

    image: np.ndarray
    label: np.ndarray
    font: np.ndarray
    classes: list[str]
    fonts: list[str]


def letters() -> list[tuple[str, str]]:
    """Return (name, character) of all letters: Latin, Greek, Cyrillic; in each the lower-case letters first."""
    found: list[tuple[str, str]] = []
    for alphabet in (_LATIN, _PHONETIC, _GREEK, _CYRILLIC):
        found += [(name, char) for char, name in alphabet]
        for char, name in alphabet:
            # Final sigma shares the capital of sigma; the capital of sharp s is two letters.
            if alphabet is not _PHONETIC and name not in ('final_sigma', 'sharp_s'):
                found.append((name[0].upper() + name[1:], char.upper()))
    return found


def fit(bitmap: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Scale the bounding box of the ink to an image, centred, with its longer side filling the image.

    Every pixel of the result is the mean of the area that it covers.

    Args:
      bitmap: (h, w), grey in 0..255.
      side: side of the result.

    Returns:
      (side, side) uint8
    """
    ink = bitmap > 64
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    if not rows.size:
        raise ValueError('there is no ink in this bitmap')
    extent = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1

    def cover(first: int, last: int, length: int) -> np.ndarray:
        """Return (side, length), the share of each source pixel in each new one."""
        edges = (first + last + 1 - extent) / 2 + extent / side * np.arange(side + 1)
        pixel = np.arange(length)
        overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        return np.maximum(overlap, 0) * side / extent

    down = cover(rows[0], rows[-1], bitmap.shape[0])
    across = cover(columns[0], columns[-1], bitmap.shape[1])
    return np.rint(down @ bitmap.astype(np.float64) @ across.T).clip(0, 255).astype(np.uint8)


def draw() -> Drawing:
    """Draw all letters in all fonts that have them, look-alikes included."""
    try:
        import matplotlib
        from matplotlib.ft2font import FT2Font
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise UserError('drawing the letters needs matplotlib: pip install "mixjax[report]"') from None
    folder = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf')
    table = letters()
    rows: list[tuple[int, int, np.ndarray]] = []
    for f, name in enumerate(_FONTS + _ASCII_FONTS):
        path = os.path.join(folder, f'{name}.ttf')
        has = FT2Font(path).get_charmap()
        font = ImageFont.truetype(path, _EM)
        for k, (_, char) in enumerate(table):
            if ord(char) not in has or (name in _ASCII_FONTS and not char.isascii()):
                continue
            page = Image.new('L', (3 * _EM, 3 * _EM))
            ImageDraw.Draw(page).text((_EM, _EM), char, font=font, fill=255)
            rows.append((k, f, fit(np.asarray(page))))
    rows.sort(key=lambda row: row[:2])
    label, font_index = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    image = np.stack([row[2] for row in rows])
    drawing = Drawing(image, label, font_index, [name for name, _ in table], _FONTS + _ASCII_FONTS)
    return keep(drawing, np.flatnonzero(np.bincount(label) >= _MIN_FONTS))


def keep(drawing: Drawing, classes: np.ndarray) -> Drawing:
    """Keep only these classes (positions, ascending), renumbered."""
    chosen = np.isin(drawing.label, classes)
    label = np.searchsorted(classes, drawing.label[chosen])
    names = [drawing.classes[k] for k in classes]
    return Drawing(drawing.image[chosen], label, drawing.font[chosen], names, drawing.fonts)


def similarity(image: np.ndarray, label: np.ndarray, font: np.ndarray) -> np.ndarray:
    """Return the similarity of each pair of classes, the mean over the fonts that have both; 0 if none has.

    In one font: 1 - max over all 2x2 windows of the mean ink (0..1) that one image has and the other lacks within one
    pixel around; the worse of the two directions. A missing stroke counts fully even if it is short (E and F, O and
    Theta), a slightly different proportion does not (c and C).

    Args:
      image: (n, 16, 16) uint8.
      label: (n,) int.
      font: (n,) int.

    Returns:
      (c, c) in 0..1
    """
    count = int(label.max()) + 1
    total, shared = np.zeros((count, count)), np.zeros((count, count))
    for f in np.unique(font):
        here = font == f
        ink = image[here] / 255.0
        padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
        h, w = ink.shape[1:]
        near = np.max([padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)
        lacks = np.stack([_largest_window(np.maximum(one - near, 0)) for one in ink])
        both = np.ix_(label[here], label[here])
        total[both] += 1 - np.maximum(lacks, lacks.T)
        shared[both] += 1
    return total / np.maximum(shared, 1)


def _largest_window(image: np.ndarray) -> np.ndarray:
    """Return the largest mean of a 2x2 window of each image: (n, h, w) -> (n,)."""
    sums = image[:, 1:, 1:] + image[:, 1:, :-1] + image[:, :-1, 1:] + image[:, :-1, :-1]
    return sums.max((1, 2)) / 4


def group(similar: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Group similar classes: (c, c) -> (c,), for each class the first class of its group.

    Groups are the connected components of the pairs above the threshold. So no two first classes are above the
    threshold.

    Args:
      similar: (c, c), see `similarity`.
      threshold: pairs above it are joined.
    """
    first = np.arange(len(similar))
    for a, b in np.argwhere(np.triu(similar > threshold, 1)):
        low, high = sorted((first[a], first[b]))
        first[first == high] = low
    return first


def write(drawing: Drawing, path: str | Path) -> None:
    """Write the file. The same arrays give the same bytes, since the members of the archive have no time stamp."""
    arrays: dict[str, Any] = {
        'image': drawing.image,
        'label': drawing.label.astype(np.int16),
        'font': drawing.font.astype(np.int16),
        'classes': np.array(drawing.classes),
        'fonts': np.array(drawing.fonts),
    }
    with zipfile.ZipFile(path, 'w') as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f'{name}.npy', date_time=(1980, 1, 1, 0, 0, 0))
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, allow_pickle=False)
            archive.writestr(member, buffer.getvalue(), zipfile.ZIP_DEFLATED, 9)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description='Draw the printed letters of the embedded benchmark.')
    parser.add_argument('--out', type=Path, default=_DEFAULT, help='where to write (default: the packaged file)')
    parser.add_argument('--duplicates', action='store_true', help='only print which class took in which look-alikes')
    options = parser.parse_args(argv)
    try:
        drawing = draw()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    similar = similarity(drawing.image, drawing.label, drawing.font)
    first = group(similar)
    kept = np.unique(first)
    if options.duplicates:
        for k in kept:
            others = [j for j in np.flatnonzero(first == k) if j != k]
            if others:
                print(drawing.classes[k], *(f'{drawing.classes[j]}({similar[k, j]:.2f})' for j in others))
        return 0
    result = keep(drawing, kept)
    write(result, options.out)
    print(f'{options.out}: {len(result.classes)} classes, {len(result.image)} images')
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
