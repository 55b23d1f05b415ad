"""The names of vision transformers in other libraries: timm, Facebook's DINOv2, Hugging Face's transformers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import accumulate

import numpy as np

from mixjax.models import transformer
from mixjax.models.vit import VisionTransformer
from mixjax.models.weights.dialect import Dialect, Tensors, by_blocks

Rewrite = Callable[[Tensors], Tensors]

TIMM = {
    'stem/conv': 'patch_embed.proj',
    'stem/cls_token': 'cls_token',
    'stem/reg_token': 'reg_token',
    'stem/pos_embed': 'pos_embed',
    'stem/norm': 'norm_pre',
    'final/norm': 'norm',
    'head': 'head',
}
POOL = ('latent', 'q', 'kv', 'proj', 'norm', 'mlp/fc1', 'mlp/fc2')
TIMM |= {f'final/pool/{layer}': f'attn_pool.{layer.replace("/", ".")}' for layer in POOL}


def numbered(depth: int, name: Callable[[int, str], str]) -> Callable[[int, int, str], str]:
    """Return a function for `by_blocks` from one that counts the blocks through all stages.

    Args:
      depth: number of blocks.
      name: maps (block, 'attn/qkv') to a name.
    """
    first = list(accumulate(transformer.counts(depth), initial=0))
    return lambda stage, block, layer: name(first[stage - 1] + block, layer)


def timm_block(block: int, layer: str) -> str:
    """Return timm's name of a layer in a block."""
    return f'blocks.{block}.{layer.replace("/", ".")}'


def on_grid(tensors: Tensors, name: str, before: int, side: int) -> Tensors:
    """Return the tensors with the positions on the network's grid, where the file has them for another square one.

    Args:
      tensors: those of the file.
      name: name of the positions, (1, before + side side, D).
      before: number of positions in front of the patches'.
      side: side of the network's grid.
    """
    positions = np.asarray(tensors.get(name, ()))
    if positions.ndim != 3:
        return tensors
    theirs = math.isqrt(max(positions.shape[1] - before, 0))
    if theirs in (0, side) or theirs**2 + before != positions.shape[1]:
        return tensors
    wide = positions.astype(np.result_type(positions.dtype, np.float32) if positions.dtype.kind == 'f' else np.float32)
    matrix = transformer.resize_matrix(theirs, side)
    grid = np.einsum('ai,bj,ijd->abd', matrix, matrix, wide[0, before:].reshape(theirs, theirs, -1), optimize=True)
    new = np.concatenate([wide[0, :before], grid.reshape(side**2, -1).astype(wide.dtype)])
    return {**tensors, name: new[None]}


def without_projection(tensors: Tensors) -> Tensors:
    """Return the tensors without the projection into CLIP's space of texts and images, which is no classifier.

    timm keeps it as `head`. It has no bias, so timm's is exactly zero, which that of a trained classifier never is.
    """
    bias = np.asarray(tensors.get('head.bias', 1))
    if bias.ndim != 1 or np.any(bias):
        return tensors
    return {name: tensor for name, tensor in tensors.items() if name not in ('head.weight', 'head.bias')}


def _timm(backbone: VisionTransformer) -> Dialect:
    before = (backbone.cls + backbone.registers) * backbone.placed

    def read(tensors: Tensors) -> Tensors:
        if backbone.before:
            tensors = without_projection(tensors)
        return on_grid(tensors, 'pos_embed', before, backbone.grid)

    return by_blocks(TIMM, numbered(backbone.depth, timm_block), read)


def dialects(backbone: VisionTransformer) -> dict[str, Dialect]:
    """Return {name: dialect} of a vision transformer."""
    return {'timm': _timm(backbone)}
