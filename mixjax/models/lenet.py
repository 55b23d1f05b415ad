"""LeNet for 32x32 images (LeCun et al. 1998), as facebookresearch/mixup-cifar10 has it.

Two 5x5 convolutions, each with ReLU and 2x2 max-pooling, then two linear layers with ReLU. A linear layer of a
whole map is a convolution of the map's size, and LeCun's paper calls the first one so. Thus all layers fit the
stages of the other networks: the convolutions are `stem` and `stage1`, the linear layers `stage2` and
`stage3` with maps of one pixel, (B, 1, 1, 120) and (B, 1, 1, 84). `stage2.conv` and `stage3.conv` are in front of
their ReLU.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from mixjax.models.layers import Dense, conv, pooled, torch_bias, torch_conv, walk
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import settings
from mixjax.models.published import Published

Array = jax.Array


class LeConv(nn.Module):
    """A 5x5 convolution without padding, ReLU and 2x2 max-pooling: map -> (map, output of the convolution)."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, tap: Tap) -> tuple[Array, Array]:
        del train
        bias = torch_bias(25 * h.shape[-1])
        layer = conv(self.width, 5, padding='VALID', bias=bias, init=torch_conv, dtype=self.dtype, name='conv')
        last = layer(h)
        if self.name != 'stem':
            last = tap(f'{self.name}.conv', last)
        return nn.max_pool(nn.relu(last), (2, 2), strides=(2, 2)), last


class LeLinear(nn.Module):
    """A linear layer of the whole map, and ReLU: (B, h, w, C) -> ((B, 1, 1, width), the same before the ReLU)."""

    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, tap: Tap) -> tuple[Array, Array]:
        del train
        flat = h.transpose(0, 3, 1, 2).reshape(h.shape[0], -1)  # torch's order: (C, h, w)
        dense = partial(Dense, dtype=self.dtype, kernel_init=torch_conv, bias_init=torch_bias(flat.shape[-1]))
        last = tap(f'{self.name}.conv', dense(self.width, name='fc')(flat)[:, None, None])
        return nn.relu(last), last


class LeNet(nn.Module):
    """LeNet with features (B, widths[-1]). The size of the first linear layer follows from the images."""

    widths: tuple[int, ...] = (6, 16, 120, 84)
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        first, second, third, fourth = self.widths
        h, _ = LeConv(first, self.dtype, name='stem')(image, train, tap)
        parts = [
            LeConv(second, self.dtype, name='stage1'),
            LeLinear(third, self.dtype, name='stage2'),
            LeLinear(fourth, self.dtype, name='stage3'),
        ]
        return pooled(*walk(h, parts, train=train, tap=tap))


NETWORKS = {'lenet': Published(LeNet, settings(32, 1, 'bilinear'), 'lenet')}
