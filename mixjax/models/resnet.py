"""ResNets in torchvision's layout (He et al. 2015, https://arxiv.org/abs/1512.03385).

Post-activation blocks: h -> relu(shortcut(h) + BN(conv(.. h))). The stride sits on the 3x3
convolution of a bottleneck ("version 1.5"), which is where torchvision's weights expect it.
"""

from __future__ import annotations

from typing import Any

import jax
from flax import linen as nn

from mixjax.models.layers import BatchNorm, Mark, conv, run, stages
from mixjax.models.net import Tap, no_tap

Array = jax.Array


def shortcut(h: Array, width: int, stride: int, dtype: Any, train: bool) -> Array:
    """The input itself, or a normalised 1x1 convolution of it where the shape changes. Call inside a block."""
    if stride == 1 and h.shape[-1] == width:
        return h
    h = conv(width, 1, stride, dtype=dtype, name='shortcut_conv')(h)
    return BatchNorm(dtype=dtype, name='shortcut_bn')(h, train)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: (B, h, w, C) -> (B, h/stride, w/stride, width)."""

    width: int
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x = shortcut(h, self.width, self.stride, self.dtype, train)
        h = conv(self.width, 3, self.stride, dtype=self.dtype, name='conv1')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn1')(h, train))
        last = mark(conv(self.width, 3, dtype=self.dtype, name='conv2')(h))
        h = BatchNorm(dtype=self.dtype, name='bn2')(last, train)
        return nn.relu(x + h), last


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions: (B, h, w, C) -> (B, h/stride, w/stride, 4 width)."""

    width: int
    stride: int = 1
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x = shortcut(h, 4 * self.width, self.stride, self.dtype, train)
        h = conv(self.width, 1, dtype=self.dtype, name='conv1')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn1')(h, train))
        h = conv(self.width, 3, self.stride, dtype=self.dtype, name='conv2')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn2')(h, train))
        last = mark(conv(4 * self.width, 1, dtype=self.dtype, name='conv3')(h))
        h = BatchNorm(dtype=self.dtype, name='bn3')(last, train)
        return nn.relu(x + h), last


class Stem(nn.Module):
    """7x7 convolution and 3x3 max-pooling, both with stride 2: (B, H, W, C) -> (B, H/4, W/4, 64)."""

    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        h = conv(64, 7, 2, dtype=self.dtype, name='conv')(image)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn')(h, train))
        pad: Any = ((1, 1), (1, 1))  # flax's annotation knows only the padding's names
        return nn.max_pool(h, (3, 3), strides=(2, 2), padding=pad)


class ResNet(nn.Module):
    """Stages of `blocks[i]` blocks of width 64 * 2^i; images of any size, 224 in the papers.

    block: BasicBlock or Bottleneck.
    """

    block: Any
    blocks: tuple[int, ...]
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        h = Stem(self.dtype, name='stem')(image, train)
        return run(h, stages(self.block, self.blocks, 64, self.dtype), train=train, tap=tap)


# name -> (block, blocks in each stage)
TABLE = {'resnet50': (Bottleneck, (3, 4, 6, 3))}
