"""A dialect: the names of a network's tensors in another library; `layer_names.py` has the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Keys = tuple[str, ...]
STEM: Keys = ('backbone', 'stem', 'conv')  # every network that others have begins with this convolution
Tensors = Mapping[str, np.ndarray]


def unchanged(tensors: Tensors) -> Tensors:
    """Return the tensors as they are."""
    return tensors


class Dialect(NamedTuple):
    """The names of a network's tensors in another library.

    layer: returns the name of a layer: ('backbone', 'stage1', 'block0', 'conv1') -> 'layer1.0.conv1', and
        ('heads', 'source') -> 'fc'. A parameter that is no kernel, scale or bias, such as a class token, is a layer of
        its own: ('backbone', 'stem', 'cls_token') -> 'cls_token', in the same layout here and there.
    read: turns a file's tensors into those that `layer` names, where they are cut otherwise: a file's query, key and
        value become one matrix. What it does not know stays as it is.
    write: the inverse of `read`.
    """

    layer: Callable[[Keys], str]
    read: Callable[[Tensors], Tensors] = unchanged
    write: Callable[[Tensors], Tensors] = unchanged


def by_blocks(
    top: Mapping[str, str], layer: Callable[[int, int, str], str], read: Callable[[Tensors], Tensors] = unchanged,
    write: Callable[[Tensors], Tensors] = unchanged,
) -> Dialect:  # fmt: skip
    """Make a dialect from names outside of the blocks, and a function for those inside.

    Args:
      top: {'stem/conv': name, ..}, with `head` for the classifier.
      layer: maps (stage, block, 'attn/qkv') to a name. Stages count from 1, blocks from 0, as in our names.
      read, write: see `Dialect`.
    """

    def translate(keys: Keys) -> str:
        if keys[0] == 'heads':
            return top['head']
        path = '/'.join(keys[1:])
        if path in top:
            return top[path]
        stage, block, *name = keys[1:]
        return layer(int(stage.removeprefix('stage')), int(block.removeprefix('block')), '/'.join(name))

    return Dialect(translate, read, write)
