"""ConvNeXt (Liu et al. 2022, https://arxiv.org/abs/2201.03545) and V2 (Woo et al. 2023, https://arxiv.org/abs/2301.00808).

    block: h -> h + gamma * fc2(GELU(fc1(LN(depthwise 7x7 conv(h)))))

with an inner width four times the block's and the exact GELU. V2 has no LayerScale `gamma`, and normalises the
responses between GELU and fc2 (`ResponseNorm`). The stem is a 4x4 convolution with stride 4 and LayerNorm; each later
stage begins with LayerNorm and a 2x2 convolution with stride 2, its `downsample`.

The last map is pooled first and normalised then: features = LN(mean(last)).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixjax.models import layers
from mixjax.models.layers import (
    Dense,
    LayerNorm,
    Mark,
    drop_rates,
    global_mean,
    mean_dtype,
    small_normal,
    unmarked,
    walk,
)
from mixjax.models.net import Tap, dropout_off, no_tap
from mixjax.models.preprocessing import settings
from mixjax.models.published import Published

Array = jax.Array
conv = partial(layers.conv, bias=nn.initializers.zeros, init=small_normal)
NO_PADDING = ((0, 0), (0, 0))


def gelu(h: Array) -> Array:
    """Return the exact GELU, h times the normal distribution function, computed in float32 or wider."""
    return nn.gelu(h.astype(mean_dtype(h)), approximate=False).astype(h.dtype)


class ResponseNorm(nn.Module):
    """V2's global response normalisation: (B, h, w, C) -> the same shape.

    y = h + scale * h * n / (mean of n over the channels + eps) + bias, where n are the L2 norms of each channel's map.
    """

    eps: float = 1e-6

    @nn.compact
    def __call__(self, h: Array) -> Array:
        scale = self.param('scale', nn.initializers.zeros, h.shape[-1:], jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, h.shape[-1:], jnp.float32)
        wide = h.astype(mean_dtype(h, scale))
        squares = jnp.sum(wide * wide, axis=(1, 2), keepdims=True)
        # A channel that is zero everywhere has norm 0, at which the root has no derivative; torch takes 0 there too.
        norms = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), 0.0)
        responses = norms / (jnp.mean(norms, axis=-1, keepdims=True) + self.eps)
        return (wide + scale * (wide * responses) + bias).astype(jnp.result_type(h))


class Block(nn.Module):
    """The block of the module's docstring: (B, h, w, C) -> (the same shape, the output of fc2).

    grn: whether it is V2's.
    scale: initial value of V1's `gamma`.
    drop: the rate at which an example's block is left out, so that only its input passes.
    """

    grn: bool
    scale: float
    drop: float
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x, width = h, h.shape[-1]
        dense = partial(Dense, kernel_init=small_normal, dtype=self.dtype)
        h = conv(width, 7, feature_group_count=width, dtype=self.dtype, name='conv_dw')(h)
        h = LayerNorm(dtype=self.dtype, name='norm')(h)
        h = gelu(dense(4 * width, name='fc1')(h))
        if self.grn:
            h = ResponseNorm(name='grn')(h)
        h = last = mark(dense(width, name='fc2')(h))
        if not self.grn:
            gamma = self.param('gamma', nn.initializers.constant(self.scale), (width,), jnp.float32)
            # The gradient of gamma is a sum over batch and map.
            h = (gamma * h.astype(mean_dtype(h, gamma))).astype(self.dtype or jnp.result_type(h, gamma))
        whole = nn.Dropout(self.drop, broadcast_dims=(1, 2, 3), deterministic=dropout_off(self, train), name='drop')
        return x + whole(h), last


class Downsample(nn.Module):
    """LayerNorm and a 2x2 convolution with stride 2: (B, h, w, C) -> (B, h // 2, w // 2, width)."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array) -> Array:
        h = LayerNorm(dtype=self.dtype, name='norm')(h)
        return conv(self.width, 2, 2, padding=NO_PADDING, dtype=self.dtype, name='conv')(h)


class ConvNeXtStage(nn.Module):
    """One block for each rate in `drops`, after a downsampling if `down`: map -> (map, output of the last fc2)."""

    width: int
    drops: tuple[float, ...]
    down: bool
    grn: bool
    scale: float
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, tap: Tap) -> tuple[Array, Array]:
        if self.down:
            h = Downsample(self.width, self.dtype, name='downsample')(h)
        last = h
        for i, drop in enumerate(self.drops):
            mark = partial(tap, f'{self.name}.conv') if i == len(self.drops) - 1 else unmarked
            block = Block(self.grn, self.scale, drop, self.dtype, name=f'block{i}')
            h, last = layers.through(block, h, train=train, mark=mark, remat=self.remat)
        return h, last


class PatchStem(nn.Module):
    """A 4x4 convolution with stride 4 and LayerNorm: (B, H, W, C) -> (B, H // 4, W // 4, width)."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array) -> Array:
        h = conv(self.width, 4, 4, padding=NO_PADDING, dtype=self.dtype, name='conv')(image)
        return LayerNorm(dtype=self.dtype, name='norm')(h)


class ConvNeXt(nn.Module):
    """A ConvNeXt: stage i has `blocks[i]` blocks of width `widths[i]`; features (B, widths[-1]).

    grn: whether it is V2.
    conv_mlp: whether timm's files hold fc1 and fc2 as 1x1 convolutions; here they are linear layers in any case.
    scale: initial value of V1's LayerScale.
    drop_path: rate of stochastic depth at the last block; it grows linearly from 0 at the first.
    remat: see `layers.through`.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    grn: bool = False
    conv_mlp: bool = False
    scale: float = 1e-6
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        h = PatchStem(self.widths[0], self.dtype, name='stem')(image)
        parts = [
            ConvNeXtStage(width, drops, i > 0, self.grn, self.scale, self.remat, self.dtype, name=f'stage{i + 1}')
            for i, (width, drops) in enumerate(zip(self.widths, drop_rates(self.drop_path, self.blocks), strict=True))
        ]
        h, maps = walk(h, parts, train=train, tap=tap)
        return LayerNorm(name='final')(global_mean(h)), {**maps, 'last': h}


class Size(NamedTuple):
    """A size of both versions.

    blocks: number of blocks of each stage.
    width: width of the first stage; each later one is twice as wide.
    conv_mlp: see `ConvNeXt`.
    """

    blocks: tuple[int, ...]
    width: int
    conv_mlp: bool = False


SIZES = {
    'atto': Size((2, 2, 6, 2), 40, True),
    'femto': Size((2, 2, 6, 2), 48, True),
    'pico': Size((2, 2, 6, 2), 64, True),
    'nano': Size((2, 2, 8, 2), 80, True),
    'tiny': Size((3, 3, 9, 3), 96),
    'small': Size((3, 3, 27, 3), 96),
    'base': Size((3, 3, 27, 3), 128),
    'large': Size((3, 3, 27, 3), 192),
    'xlarge': Size((3, 3, 27, 3), 256),
}
CROPS = {'convnext_nano': 0.95, 'convnext_tiny': 0.95, 'convnext_small': 0.95}  # of ImageNet-12k; the others' is 0.875
NEVER_IN_V2 = ('small', 'xlarge')


def _networks() -> dict[str, Published]:
    """Return both versions of every size that has published weights."""
    out: dict[str, Published] = {}
    for version in ('convnext', 'convnextv2'):
        for name, (blocks, width, conv_mlp) in SIZES.items():
            if version == 'convnextv2' and name in NEVER_IN_V2:
                continue
            widths = tuple(width * 2**i for i in range(4))
            build = partial(ConvNeXt, blocks, widths, version == 'convnextv2', conv_mlp)
            image = settings(224, CROPS.get(f'{version}_{name}', 0.875), 'bicubic')
            out[f'{version}_{name}'] = Published(build, image, 'convnext')
    return out


NETWORKS = _networks()
