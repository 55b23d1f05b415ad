"""Images that need no download: printed letters (shipped) and scikit-learn's handwritten digits.

Both are `(image, label, classes)`: image (n, 16, 16, 1) uint8, white ink on black; label (n,) int32; classes, the
names in the order of the labels.
"""

from __future__ import annotations

import gzip
import importlib.util
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mixjax.errors import UserError

SIDE = 16
Images = tuple[np.ndarray, np.ndarray, tuple[str, ...]]


def glyphs() -> Images:
    """Return about 160 classes of printed letters, one image for each font, sorted by class (`render_glyphs.py`)."""
    with resources.files('mixjax.data.datasets').joinpath('glyphs.npz').open('rb') as file, np.load(file) as arrays:
        classes = tuple(str(name) for name in arrays['classes'])
        return arrays['image'][..., None], arrays['label'].astype(np.int32), classes


def digits() -> Images:
    """Return the 1,797 handwritten digits, in scikit-learn's order, enlarged from 8x8 to 16x16."""
    table = _digits()
    data, label = table[:, :-1], table[:, -1]
    small = data.reshape(-1, 8, 8) * (255 / 16)
    image = np.rint(enlarge(small, SIDE)).astype(np.uint8)
    return image[..., None], label.astype(np.int32), tuple(str(k) for k in range(10))


def _digits() -> np.ndarray:
    """Return a row for each digit: 64 pixels from 0 to 16, and the label."""
    found = importlib.util.find_spec('sklearn')
    if found is None or found.origin is None:
        raise UserError('the digits come with scikit-learn: pip install scikit-learn')
    # Importing it takes a second, for one file.
    path = Path(found.origin).parent / 'datasets' / 'data' / 'digits.csv.gz'
    if path.exists():
        with gzip.open(path, 'rt') as file:
            return np.loadtxt(file, delimiter=',')
    from sklearn.datasets import load_digits

    known: Any = load_digits(return_X_y=True)
    return np.column_stack(known)


def enlarge(image: np.ndarray, side: int) -> np.ndarray:
    """Enlarge images bilinearly, with pixel centres aligned and edges repeated.

    Args:
      image: (n, s, s).
      side: the new side, a multiple of s.

    Returns:
      (n, side, side)
    """
    small = image.shape[-1]
    at = np.clip((np.arange(side) + 0.5) * small / side - 0.5, 0, small - 1)
    weight = np.maximum(1 - np.abs(at[:, None] - np.arange(small)), 0)
    return weight @ image @ weight.T
