"""WRN-28-10 (Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146) as snu-mllab/PuzzleMix has it.

Pre-activation blocks, 16 channels in the stem and 160, 320, 640 in the stages. As in that code, every
convolution has a bias; the stride is on the second convolution of a block; the final BN
moves its statistics by 0.9 towards the batch's (torch's momentum 0.9, here 0.1). Its 8x8 average pooling of
the 8x8 map is the global mean. Dropout, off in its experiments, is left out.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from mixjax.models import layers
from mixjax.models.layers import BatchNorm, Final, Mark, PlainStem, pooled, stages, torch_bias, torch_conv, walk
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import settings
from mixjax.models.published import Published

Array = jax.Array


def conv(h: Array, width: int, size: int, stride: int = 1, *, dtype: Any, name: str) -> Array:
    """Apply a convolution with a bias, both initialized as in torch."""
    bias = torch_bias(size * size * h.shape[-1])
    return layers.conv(width, size, stride, bias=bias, dtype=dtype, init=torch_conv, name=name)(h)


class WideBlock(nn.Module):
    """A block shortcut(h) + conv(relu(BN(conv(relu(BN(h)))))): (B, h, w, C) -> (B, h/stride, w/stride, width)."""

    width: int
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x = h
        if self.stride != 1 or h.shape[-1] != self.width:
            x = conv(h, self.width, 1, self.stride, dtype=self.dtype, name='shortcut_conv')
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn1')(h, train))
        h = conv(h, self.width, 3, dtype=self.dtype, name='conv1')
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn2')(h, train))
        last = mark(conv(h, self.width, 3, self.stride, dtype=self.dtype, name='conv2'))
        return x + last, last


class WideResNet(nn.Module):
    """A network of three stages of `blocks` blocks of width 16 `widen`, 32 `widen`, 64 `widen`; features (B, 64 widen).

    stride: the stem's, 2 for 64x64 images.
    """

    blocks: int = 4
    widen: int = 10
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        h = PlainStem(16, torch_conv, self.dtype, self.stride, bias=True, name='stem')(image, train)
        parts = stages(WideBlock, (self.blocks,) * 3, 16 * self.widen, self.dtype)
        h, maps = walk(h, parts, train=train, tap=tap)
        return pooled(Final(momentum=0.1, dtype=self.dtype, name='final')(h, train), maps)


# `_64` is for 64x64 images: the stem has stride 2.
NETWORKS = {
    'wrn28_10': Published(WideResNet, settings(32, 1, 'bilinear'), 'wideresnet'),
    'wrn28_10_64': Published(partial(WideResNet, stride=2), settings(64, 1, 'bilinear'), 'wideresnet'),
}
