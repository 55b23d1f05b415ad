"""`Dataset`: one part of a data set, such as its training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """One part of a data set.

    Attributes:
      name: name of the data set.
      classes: names of the classes, in label order.
      labels: (n,) int32.
      read: rows (k,) int -> their images (k, H, W, C) uint8; threads may share it.
      ids: names of the examples, for messages; empty where they have none.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    ids: Sequence[str] = ()
