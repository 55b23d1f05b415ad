"""DINOv3's vision transformers (Siméoni et al. 2025, https://arxiv.org/abs/2508.10104): positions by rotation.

A patch in row r of H and column c of W has the coordinates y = 2 (r + 1/2) / H - 1 and x = 2 (c + 1/2) / W - 1. In
every attention, query and key of a patch are turned by the angles 2 pi y / p and 2 pi x / p, one for each period
p = 100^(4 i / d), i < d/4, where d is the number of channels of a head; those of class token and registers are not.
The periods are float32, as timm has them; the authors' code stores them in bfloat16.

The features are timm's, the mean of the patches after the last LayerNorm; the authors take the class token.
`qkvb` networks have biases of query and value.
"""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from mixjax.models.layers import small_normal
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import IMAGENET, settings
from mixjax.models.published import Published
from mixjax.models.transformer import Final, Form, Grid, Rotation, grid_of, stages, walk
from mixjax.models.vit import PatchStem

Array = jax.Array
TEMPERATURE = 100.0
REGISTERS = 4


@cache
def rotation(grid: Grid, head: int) -> Rotation:
    """Return sine and cosine of the angles of each patch: two of (rows x columns, head / 2).

    Args:
      grid: rows and columns of patches.
      head: channels of a head, a multiple of 4.
    """
    periods = (TEMPERATURE ** (4 * np.arange(head // 4) / head)).astype(np.float32).astype(np.float64)
    # In float32, as they are published.
    sides = [(np.arange(n, dtype=np.float32) + np.float32(0.5)) / np.float32(n) for n in grid]
    places = np.stack(np.meshgrid(*sides, indexing='ij'), axis=-1) * np.float32(2) - np.float32(1)
    angles = 2 * math.pi * places.reshape(-1, 2, 1).astype(np.float64) / periods
    angles = angles.reshape(len(angles), head // 2)
    return np.sin(angles), np.cos(angles)


class DinoV3(nn.Module):
    """A vision transformer with rotated queries and keys: features (B, D).

    patch: side of a patch. pool: 'mean' of the patches, or 'token' for the class token.
    drop_path: rate of stochastic depth at the last block; it grows linearly from 0 with a block's number.
    remat: whether the backward pass computes the blocks' activations again instead of keeping them in memory.
    """

    form: Form
    depth: int
    patch: int = 16
    pool: str = 'mean'
    dtype: Any = None
    remat: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        grid = grid_of(image, self.patch)
        turn = rotation(grid, self.form.width // self.form.heads)
        stem = PatchStem(
            self.form.width, self.patch, registers=REGISTERS, init=small_normal, dtype=self.dtype, name='stem'
        )  # fmt: skip
        parts = stages(self.form, self.depth, self.drop_path, self.remat, self.dtype)
        h, maps = walk(stem(image, grid), parts, grid, train=train, tap=tap, rotation=turn)
        features, last = Final(self.form, self.pool, self.dtype, name='final')(h, grid)
        return features, {**maps, 'last': last}


FORM = Form(384, 6, 1536, eps=1e-5, scale=1e-5, bias='')
# name -> (blocks, form)
SIZES = {
    'small': (12, FORM),
    'small_plus': (12, FORM._replace(activation='silu', gate='split')),
    'base': (12, FORM._replace(width=768, heads=12, hidden=3072)),
    'large': (24, FORM._replace(width=1024, heads=16, hidden=4096)),
}
IMAGE = settings(256, 1.0, 'bicubic', IMAGENET)
NETWORKS = {
    f'vit_{size}_patch16_dinov3{ending}': Published(partial(DinoV3, form._replace(bias=bias), depth), IMAGE, 'vit')
    for size, (depth, form) in SIZES.items()
    for ending, bias in {'': '', '_qkvb': 'q, v'}.items()
}
