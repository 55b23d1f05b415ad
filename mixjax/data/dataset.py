"""One part of a data set, such as its training images, as a value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """One part of a data set.

    classes: names in label order. labels: (n,) int32.
    read(rows): (k,) int -> (k, H, W, C) uint8, the images of those rows; threads may share it.
    ids: names of the examples, for messages; empty where they have none.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    ids: Sequence[str] = ()
