"""Folders of handwritten digits, as a user would have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from mixjax.data.datasets import embedded


def write_digits(root: Path, per_class: int, classes: int = 4, first: int = 0) -> Path:
    """Write images of some digits into a folder for each; `first` is the place of the first one in its class."""
    image, label, names = embedded.digits()
    for k in range(classes):
        for n, row in enumerate(np.flatnonzero(label == k)[first : first + per_class]):
            place = root / names[k] / f'{n}.png'
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[row, ..., 0]).save(place)
    return root
