"""How a network was published: its builder, the images that its weights expect, and its family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import linen as nn

Builder = Callable[..., nn.Module]


class Published(NamedTuple):
    """A published network.

    build: builder(dtype=..) of the backbone.
    image: image settings, as `preprocessing.settings` returns them.
    family: name of the family, by which `configs/folder.py` picks optimiser and rates.
    """

    build: Builder
    image: Mapping[str, Any]
    family: str
