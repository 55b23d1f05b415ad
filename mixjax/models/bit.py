"""BiT's ResNets (Kolesnikov et al. 2019, https://arxiv.org/abs/1912.11370), which timm calls `resnetv2_50x1_bit`.

    block: h -> shortcut + conv1x1(a(conv3x3(a(conv1x1(a(h)))))), a = relu(GroupNorm(.))

The shortcut is h, or a 1x1 convolution of a(h) where the shape changes. There is no BatchNorm, and every kernel is
standardised before it is applied, over all that leads to one output channel. The stem's max-pooling sees zeros around
the map, which negative pixels are no match for; other ResNets pool what is inside only.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixjax.models import layers
from mixjax.models.layers import Mark, kaiming_out, mean_dtype, pooled, stages, walk, wide_bias
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import HALF, settings
from mixjax.models.published import Published

Array = jax.Array


def standardised(inputs: Array, kernel: Array, bias: Array | None, *, dtype: Any) -> tuple[Array, Array, Array | None]:
    """Cast as `wide_bias` does, after the kernel got mean 0 and variance 1 over the inputs of each output channel."""
    k = kernel.astype(mean_dtype(kernel))
    k = k - jnp.mean(k, axis=(0, 1, 2))
    k = k * jax.lax.rsqrt(jnp.mean(k * k, axis=(0, 1, 2)) + 1e-8)
    return wide_bias(inputs, k, bias, dtype=dtype)


class StdConv(layers.Conv):
    """A convolution with a standardised kernel."""

    promote_dtype: Any = standardised


def conv(width: int, size: int, stride: int = 1, **options: Any) -> StdConv:
    """Make a convolution without bias: (B, h, w, C) -> (B, h', w', width); `options` as in `layers.conv`."""
    pad = ((size // 2, size // 2),) * 2
    return StdConv(
        width, (size, size), strides=stride, padding=pad, use_bias=False, kernel_init=kaiming_out, **options
    )  # fmt: skip


class GroupNorm(nn.Module):
    """Group normalisation and ReLU: (B, h, w, C) -> the same shape.

    relu((x - mean) / sqrt(var + eps) * scale + bias), with mean and variance of each example and group of C / groups
    adjacent channels.
    """

    groups: int = 32
    eps: float = 1e-5
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param('scale', nn.initializers.ones, x.shape[-1:], jnp.float32)
        bias = self.param('bias', nn.initializers.zeros, x.shape[-1:], jnp.float32)
        h = x.astype(mean_dtype(x, scale)).reshape(*x.shape[:-1], self.groups, -1)
        h = h - jnp.mean(h, axis=(1, 2, 4), keepdims=True)
        h = h * jax.lax.rsqrt(jnp.mean(h * h, axis=(1, 2, 4), keepdims=True) + self.eps)
        y = h.reshape(x.shape) * scale + bias
        return nn.relu(y.astype(self.dtype or jnp.result_type(x, scale)))


class BitBlock(nn.Module):
    """The block of the module's docstring: (B, h, w, C) -> (B, h/stride, w/stride, 4 width)."""

    width: int
    stride: int = 1
    groups: int = 32
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        del train
        norm = partial(GroupNorm, self.groups, dtype=self.dtype)
        x, a = h, norm(name='norm1')(h)
        if self.stride != 1 or h.shape[-1] != 4 * self.width:
            x = conv(4 * self.width, 1, self.stride, dtype=self.dtype, name='shortcut_conv')(a)
        h = conv(self.width, 1, dtype=self.dtype, name='conv1')(a)
        h = conv(self.width, 3, self.stride, dtype=self.dtype, name='conv2')(norm(name='norm2')(h))
        last = mark(conv(4 * self.width, 1, dtype=self.dtype, name='conv3')(norm(name='norm3')(h)))
        return x + last, last


class BitStem(nn.Module):
    """A 7x7 convolution with stride 2, and 3x3 max-pooling with stride 2: (B, H, W, C) -> (B, H/4, W/4, width)."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array) -> Array:
        h = conv(self.width, 7, 2, dtype=self.dtype, name='conv')(image)
        return nn.max_pool(jnp.pad(h, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), strides=(2, 2))


class BitFinal(nn.Module):
    """The GroupNorm and ReLU after the last stage: (B, h, w, C) -> the same shape."""

    groups: int
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array) -> Array:
        return GroupNorm(self.groups, dtype=self.dtype, name='norm')(h)


class BitResNet(nn.Module):
    """A network with stages of `blocks[i]` blocks of inner width `width` 2^i; features (B, 4 width 2^3).

    groups: of the normalisations.
    remat: see `layers.through`.
    """

    blocks: tuple[int, ...]
    width: int = 64
    groups: int = 32
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        h = BitStem(self.width, self.dtype, name='stem')(image)
        parts = stages(partial(BitBlock, groups=self.groups), self.blocks, self.width, self.dtype, self.remat)
        h, maps = walk(h, parts, train=train, tap=tap)
        return pooled(BitFinal(self.groups, self.dtype, name='final')(h), maps)


NETWORKS = {
    'resnetv2_50x1_bit': Published(
        partial(BitResNet, (3, 4, 6, 3)), settings(224, 0.875, 'bicubic', HALF), 'resnet'
    ),
    'resnetv2_101x1_bit': Published(
        partial(BitResNet, (3, 4, 23, 3)), settings(448, 1.0, 'bilinear', HALF), 'resnet'
    ),
}  # fmt: skip
