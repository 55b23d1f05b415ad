"""ResNets with post-activation blocks (He et al. 2015, https://arxiv.org/abs/1512.03385).

A block is h -> relu(shortcut(h) + BN(conv(.. h))). The stride is on the 3x3 convolution of a
bottleneck ("version 1.5"), as torchvision's weights expect.

`TABLE` are torchvision's, for images of any size, 224 in the papers. The same network with a 3x3 stem and
without the max-pooling (`stem=Stem`) is the CIFAR ResNet of facebookresearch/mixup-cifar10.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from mixjax.models.layers import (
    BatchNorm,
    Initializer,
    Mark,
    PooledStem,
    Stem,
    conv,
    kaiming_out,
    run,
    stages,
    torch_conv,
)
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import settings
from mixjax.models.published import Published

Array = jax.Array


def shortcut(h: Array, width: int, stride: int, dtype: Any, init: Initializer, train: bool) -> Array:
    """Return the input, or a normalised 1x1 convolution of it where the shape changes. Call inside a block."""
    if stride == 1 and h.shape[-1] == width:
        return h
    h = conv(width, 1, stride, dtype=dtype, init=init, name='shortcut_conv')(h)
    return BatchNorm(dtype=dtype, name='shortcut_bn')(h, train)


class BasicBlock(nn.Module):
    """A block of two 3x3 convolutions: (B, h, w, C) -> (B, h/stride, w/stride, width)."""

    width: int
    stride: int = 1
    dtype: Any = None
    kernel_init: Initializer = kaiming_out

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x = shortcut(h, self.width, self.stride, self.dtype, self.kernel_init, train)
        h = conv(self.width, 3, self.stride, dtype=self.dtype, init=self.kernel_init, name='conv1')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn1')(h, train))
        last = mark(conv(self.width, 3, dtype=self.dtype, init=self.kernel_init, name='conv2')(h))
        h = BatchNorm(dtype=self.dtype, name='bn2')(last, train)
        return nn.relu(x + h), last


class Bottleneck(nn.Module):
    """A block of 1x1, 3x3, 1x1 convolutions: (B, h, w, C) -> (B, h/stride, w/stride, 4 width)."""

    width: int
    stride: int = 1
    dtype: Any = None
    kernel_init: Initializer = kaiming_out

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x = shortcut(h, 4 * self.width, self.stride, self.dtype, self.kernel_init, train)
        h = conv(self.width, 1, dtype=self.dtype, init=self.kernel_init, name='conv1')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn1')(h, train))
        h = conv(self.width, 3, self.stride, dtype=self.dtype, init=self.kernel_init, name='conv2')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn2')(h, train))
        last = mark(conv(4 * self.width, 1, dtype=self.dtype, init=self.kernel_init, name='conv3')(h))
        h = BatchNorm(dtype=self.dtype, name='bn3')(last, train)
        return nn.relu(x + h), last


class ResNet(nn.Module):
    """A network with stages of `blocks[i]` blocks of width `width` 2^i.

    block: BasicBlock or Bottleneck.
    stem: a module of (width, kernel_init, dtype).
    kernel_init: initializer of the kernels.
    """

    block: Any
    blocks: tuple[int, ...]
    dtype: Any = None
    width: int = 64
    stem: Any = PooledStem
    kernel_init: Initializer = kaiming_out

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        h = self.stem(self.width, self.kernel_init, self.dtype, name='stem')(image, train)
        block = partial(self.block, kernel_init=self.kernel_init)
        return run(h, stages(block, self.blocks, self.width, self.dtype), train=train, tap=tap)


# torchvision's: name -> (block, blocks in each stage)
TABLE = {
    'resnet18': (BasicBlock, (2, 2, 2, 2)),
    'resnet34': (BasicBlock, (3, 4, 6, 3)),
    'resnet50': (Bottleneck, (3, 4, 6, 3)),
    'resnet101': (Bottleneck, (3, 4, 23, 3)),
    'resnet152': (Bottleneck, (3, 8, 36, 3)),
}

IMAGE = settings(224, 0.875, 'bilinear')
CIFAR = partial(ResNet, *TABLE['resnet50'], stem=Stem, kernel_init=torch_conv)
NETWORKS = {
    **{name: Published(partial(ResNet, block, blocks), IMAGE, 'resnet') for name, (block, blocks) in TABLE.items()},
    'cifar_resnet50': Published(CIFAR, settings(32, 1, 'bilinear'), 'resnet'),
}
