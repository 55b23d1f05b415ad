"""DenseNet (Huang et al. 2017, https://arxiv.org/abs/1608.06993), in two published forms.

torchvision's, for images of 224 pixels: a 7x7 stem with max-pooling; a layer's new channels come *behind*
its input. facebookresearch/mixup-cifar10's, for 32x32 images (`small`): the stem is one 3x3
convolution, and the new channels come *in front*. Both end with BN, ReLU and the global mean.

A stage is a dense block, together with the transition that leads to it: so `stage2` .. begin with halving
the resolution, as in a ResNet, and `stage1` .. `stage4` are the four blocks' outputs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixjax.models.layers import (
    BatchNorm,
    Final,
    Initializer,
    Mark,
    PlainStem,
    PooledStem,
    conv,
    kaiming_in,
    mean_dtype,
    pooled,
    torch_conv,
    unmarked,
    walk,
)
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import settings
from mixjax.models.published import Published

Array = jax.Array


class DenseLayer(nn.Module):
    """A layer of `growth` new channels, conv3x3(relu(BN(conv1x1(relu(BN(h)))))): (B, h, w, C) -> (B, h, w, growth)."""

    growth: int
    kernel_init: Initializer
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> Array:
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn1')(h, train))
        h = conv(4 * self.growth, 1, dtype=self.dtype, init=self.kernel_init, name='conv1')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn2')(h, train))
        return mark(conv(self.growth, 3, dtype=self.dtype, init=self.kernel_init, name='conv2')(h))


class Transition(nn.Module):
    """A transition to half the channels at half the resolution: (B, h, w, C) -> (B, h/2, w/2, C/2)."""

    kernel_init: Initializer
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool) -> Array:
        width = h.shape[-1] // 2
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn')(h, train))
        h = conv(width, 1, dtype=self.dtype, init=self.kernel_init, name='conv')(h)
        return nn.avg_pool(h.astype(mean_dtype(h)), (2, 2), strides=(2, 2)).astype(h.dtype)


class DenseStage(nn.Module):
    """A dense block, after a transition unless it is the first: map -> (map, output of the last convolution)."""

    count: int
    growth: int
    first: bool
    small: bool
    kernel_init: Initializer
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, tap: Tap) -> tuple[Array, Array]:
        if not self.first:
            h = Transition(self.kernel_init, self.dtype, name='transition')(h, train)
        new = h
        for i in range(self.count):
            mark = partial(tap, f'{self.name}.conv') if i == self.count - 1 else unmarked
            new = DenseLayer(self.growth, self.kernel_init, self.dtype, name=f'block{i}')(h, train, mark)
            h = jnp.concatenate([new, h] if self.small else [h, new], axis=-1)
        return h, new


class DenseNet(nn.Module):
    """Dense blocks of `blocks[i]` layers with `growth` new channels each, after a stem of 2 `growth` channels."""

    blocks: tuple[int, ...] = (6, 12, 24, 16)
    growth: int = 32
    small: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        stem, init = (PlainStem, torch_conv) if self.small else (PooledStem, kaiming_in)
        h = stem(2 * self.growth, init, self.dtype, name='stem')(image, train)
        parts = [
            DenseStage(count, self.growth, i == 0, self.small, init, self.dtype, name=f'stage{i + 1}')
            for i, count in enumerate(self.blocks)
        ]
        h, maps = walk(h, parts, train=train, tap=tap)
        return pooled(Final(dtype=self.dtype, name='final')(h, train), maps)


NETWORKS = {
    'densenet121': Published(DenseNet, settings(224, 0.875, 'bilinear'), 'densenet'),
    'densenet121_cifar': Published(partial(DenseNet, small=True), settings(32, 1, 'bilinear'), 'densenet'),
}
