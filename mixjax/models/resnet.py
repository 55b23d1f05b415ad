"""ResNets with post-activation blocks (He et al. 2015, https://arxiv.org/abs/1512.03385).

A block is h -> relu(shortcut(h) + BN(conv(.. h))). The stride is on the 3x3 convolution of a
bottleneck ("version 1.5"), as torchvision's weights expect.

`TABLE` are torchvision's, for images of any size, 224 in the papers. The same network with a 3x3 stem and
without the max-pooling (`stem=Stem`) is the CIFAR ResNet of facebookresearch/mixup-cifar10.

Two more forms are as timm has them. "D" (He et al. 2018, https://arxiv.org/abs/1812.01187) has three 3x3 convolutions
in the stem (`DeepStem`), and a 2x2 average pooling instead of the stride in a shortcut (`average`). With `squeeze` a
block scales its channels before the sum (Hu et al. 2017, https://arxiv.org/abs/1709.01507).
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
    global_mean,
    kaiming_out,
    mean_dtype,
    run,
    stages,
    torch_bias,
    torch_conv,
)
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import settings
from mixjax.models.published import Published

Array = jax.Array


def shortcut(h: Array, width: int, stride: int, dtype: Any, init: Initializer, average: bool, train: bool) -> Array:
    """Return the input, or a normalised 1x1 convolution of it where the shape changes. Call inside a block.

    Args:
      h: (B, h, w, C).
      width: number of output channels of the block.
      stride: stride of the block.
      dtype: see `models.layers`.
      init: initializer of the kernel.
      average: whether the stride is that of an average pooling in front of the convolution.
      train: whether BN is in train mode.
    """
    if stride == 1 and h.shape[-1] == width:
        return h
    if average and stride != 1:
        h, stride = tile_means(h, stride), 1
    h = conv(width, 1, stride, dtype=dtype, init=init, name='shortcut_conv')(h)
    return BatchNorm(dtype=dtype, name='shortcut_bn')(h, train)


def tile_means(h: Array, side: int) -> Array:
    """Return the means of tiles of `side` x `side` pixels, at the ends of those inside the map: (B, h, w, C).

    A map of 5 pixels becomes one of 3.
    """
    ends: Any = tuple((0, -length % side) for length in h.shape[1:3])  # flax's annotation knows only names of paddings
    wide = h.astype(mean_dtype(h))
    return nn.avg_pool(wide, (side, side), (side, side), ends, count_include_pad=False).astype(h.dtype)


def scaled(h: Array, dtype: Any, init: Initializer) -> Array:
    """Return the map with each channel scaled by what a small network says of all channels' means. Call inside a block.

    Args:
      h: (B, h, w, C).
      dtype: see `models.layers`.
      init: initializer of the kernels.
    """
    width = h.shape[-1]
    inside = max(8, (width // 16 + 4) // 8 * 8)
    s = global_mean(h)[:, None, None]
    s = nn.relu(conv(inside, 1, bias=torch_bias(width), init=init, dtype=dtype, name='se_reduce')(s))
    s = conv(width, 1, bias=torch_bias(inside), init=init, dtype=dtype, name='se_expand')(s)
    # The gradient of the gate is a sum over the map.
    return (nn.sigmoid(s).astype(mean_dtype(s)) * h.astype(mean_dtype(h))).astype(h.dtype)


class BasicBlock(nn.Module):
    """A block of two 3x3 convolutions: (B, h, w, C) -> (B, h/stride, w/stride, width)."""

    width: int
    stride: int = 1
    dtype: Any = None
    kernel_init: Initializer = kaiming_out
    average: bool = False
    squeeze: bool = False

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x = shortcut(h, self.width, self.stride, self.dtype, self.kernel_init, self.average, train)
        h = conv(self.width, 3, self.stride, dtype=self.dtype, init=self.kernel_init, name='conv1')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn1')(h, train))
        last = mark(conv(self.width, 3, dtype=self.dtype, init=self.kernel_init, name='conv2')(h))
        h = BatchNorm(dtype=self.dtype, name='bn2')(last, train)
        h = scaled(h, self.dtype, self.kernel_init) if self.squeeze else h
        return nn.relu(x + h), last


class Bottleneck(nn.Module):
    """A block of 1x1, 3x3, 1x1 convolutions: (B, h, w, C) -> (B, h/stride, w/stride, 4 width)."""

    width: int
    stride: int = 1
    dtype: Any = None
    kernel_init: Initializer = kaiming_out
    average: bool = False
    squeeze: bool = False

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x = shortcut(h, 4 * self.width, self.stride, self.dtype, self.kernel_init, self.average, train)
        h = conv(self.width, 1, dtype=self.dtype, init=self.kernel_init, name='conv1')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn1')(h, train))
        h = conv(self.width, 3, self.stride, dtype=self.dtype, init=self.kernel_init, name='conv2')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn2')(h, train))
        last = mark(conv(4 * self.width, 1, dtype=self.dtype, init=self.kernel_init, name='conv3')(h))
        h = BatchNorm(dtype=self.dtype, name='bn3')(last, train)
        h = scaled(h, self.dtype, self.kernel_init) if self.squeeze else h
        return nn.relu(x + h), last


class DeepStem(nn.Module):
    """Three 3x3 convolutions with BN and ReLU, the first with stride 2, and 3x3 max-pooling with stride 2.

    (B, H, W, C) -> (B, H/4, W/4, width)
    """

    width: int
    kernel_init: Initializer = kaiming_out
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        h = image
        for i, (width, number) in enumerate([(self.width // 2, ''), (self.width // 2, '2'), (self.width, '3')]):
            layer = conv(
                width, 3, 2 if i == 0 else 1, init=self.kernel_init, dtype=self.dtype, name=f'conv{number}'
            )  # fmt: skip
            h = nn.relu(BatchNorm(dtype=self.dtype, name=f'bn{number}')(layer(h), train))
        pad: Any = ((1, 1), (1, 1))
        return nn.max_pool(h, (3, 3), strides=(2, 2), padding=pad)


class ResNet(nn.Module):
    """A network with stages of `blocks[i]` blocks of width `width` 2^i.

    block: BasicBlock or Bottleneck.
    stem: a module of (width, kernel_init, dtype).
    kernel_init: initializer of the kernels.
    average, squeeze: see the module's docstring.
    remat: see `layers.through`.
    """

    block: Any
    blocks: tuple[int, ...]
    dtype: Any = None
    width: int = 64
    stem: Any = PooledStem
    kernel_init: Initializer = kaiming_out
    average: bool = False
    squeeze: bool = False
    remat: bool = False

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        h = self.stem(self.width, self.kernel_init, self.dtype, name='stem')(image, train)
        block = partial(self.block, kernel_init=self.kernel_init, average=self.average, squeeze=self.squeeze)
        return run(h, stages(block, self.blocks, self.width, self.dtype, self.remat), train=train, tap=tap)


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
DEEP = partial(ResNet, stem=DeepStem, average=True)
CUBIC = settings(224, 0.875, 'bicubic')
NETWORKS = {
    **{name: Published(partial(ResNet, block, blocks), IMAGE, 'resnet') for name, (block, blocks) in TABLE.items()},
    'cifar_resnet50': Published(CIFAR, settings(32, 1, 'bilinear'), 'resnet'),
    'resnet26d': Published(partial(DEEP, Bottleneck, (2, 2, 2, 2)), CUBIC, 'resnet'),
    'resnet50d': Published(partial(DEEP, *TABLE['resnet50']), CUBIC, 'resnet'),
    'resnet101d': Published(partial(DEEP, *TABLE['resnet101']), settings(256, 0.95, 'bicubic'), 'resnet'),
    'seresnet50': Published(
        partial(ResNet, *TABLE['resnet50'], squeeze=True), settings(224, 0.95, 'bicubic'), 'resnet'
    ),
}
