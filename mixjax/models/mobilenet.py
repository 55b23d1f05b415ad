"""MobileNetV3-Large (https://arxiv.org/abs/1905.02244) and MobileNetV4 (https://arxiv.org/abs/2404.10518).

Both pad as torch does, and are timm's. A block is

    h -> [BN start] -> [act BN expand] -> [act BN depthwise] -> [squeeze-excite] -> BN conv1x1 (project)

plus its input where the shape stays. Not every kind has what is in brackets:

    separable   only the depthwise convolution
    inverted    a 1x1 expansion and the depthwise convolution: MobileNetV2's inverted bottleneck
    fused       an expansion with larger kernels, and no depthwise convolution
    universal   MobileNetV4's: an inverted bottleneck with one more depthwise convolution, `start`, without activation.
                Both depthwise convolutions are optional, and the stride is on the later one
    plain       no such block: a convolution, BN and activation; its input is not added

The last group is a plain 1x1 convolution, whose map is pooled. What follows the pooling is `final`: a 1x1 convolution,
BN in V4, and activation. Its outputs are the features, so they are not the mean of the map `last`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from flax import linen as nn

from mixjax.models import layers
from mixjax.models.efficientnet import Activation, depthwise_out, excited, rematerialised, shortened, widened
from mixjax.models.layers import Mark, global_mean, unmarked, walk
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import settings
from mixjax.models.published import Published

Array = jax.Array


class Block(NamedTuple):
    """One block of the table.

    kind: one of the docstring's.
    width: channels of its output.
    size: side of the kernel: of the depthwise convolution (0 for none), of the expansion of a fused block, of a plain
      convolution.
    stride: that of the block.
    expand: width inside / width of the input; the product is rounded as all widths are.
    start: side of the kernel of `start`; 0 for none.
    squeeze: whether it has squeeze-excite.
    activation: of the whole block.
    """

    kind: str
    width: int
    size: int
    stride: int = 1
    expand: float = 1.0
    start: int = 0
    squeeze: bool = False
    activation: Activation = nn.relu


separable = partial(Block, 'separable')
inverted = partial(Block, 'inverted')
plain = partial(Block, 'plain')
fused = partial(Block, 'fused')


def universal(start: int, size: int, width: int, expand: float, stride: int = 1) -> Block:
    """Return a universal block: the sides of its two kernels, its width, its expansion, its stride."""
    return Block('universal', width, size, stride, expand, start)


SWISH: dict[str, Any] = {'activation': nn.hard_swish}
Stages = tuple[tuple[Block, ...], ...]
LARGE: Stages = (
    (separable(16, 3),),
    (inverted(24, 3, 2, 4), inverted(24, 3, 1, 3)),
    (inverted(40, 5, 2, 3, squeeze=True), *[inverted(40, 5, 1, 3, squeeze=True)] * 2),
    (
        inverted(80, 3, 2, 6, **SWISH),
        inverted(80, 3, 1, 2.5, **SWISH),
        *[inverted(80, 3, 1, 2.3, **SWISH)] * 2,
    ),
    tuple([inverted(112, 3, 1, 6, squeeze=True, **SWISH)] * 2),
    (inverted(160, 5, 2, 6, squeeze=True, **SWISH), *[inverted(160, 5, 1, 6, squeeze=True, **SWISH)] * 2),
    (plain(960, 1, **SWISH),),
)
SMALL: Stages = (
    (plain(32, 3, 2), plain(32, 1)),
    (plain(96, 3, 2), plain(64, 1)),
    (universal(5, 5, 96, 3, 2), *[universal(0, 3, 96, 2)] * 4, universal(3, 0, 96, 4)),
    (
        universal(3, 3, 128, 6, 2),
        universal(5, 5, 128, 4),
        universal(0, 5, 128, 4),
        universal(0, 5, 128, 3),
        *[universal(0, 3, 128, 4)] * 2,
    ),
    (plain(960, 1),),
)
MEDIUM: Stages = (
    (fused(48, 3, 2, 4),),
    (universal(3, 5, 80, 4, 2), universal(3, 3, 80, 2)),
    (
        universal(3, 5, 160, 6, 2),
        *[universal(3, 3, 160, 4)] * 2,
        universal(3, 5, 160, 4),
        universal(3, 3, 160, 4),
        universal(3, 0, 160, 4),
        universal(0, 0, 160, 2),
        universal(3, 0, 160, 4),
    ),
    (
        universal(5, 5, 256, 6, 2),
        universal(5, 5, 256, 4),
        *[universal(3, 5, 256, 4)] * 2,
        universal(0, 0, 256, 4),
        universal(3, 0, 256, 4),
        universal(3, 5, 256, 2),
        universal(5, 5, 256, 4),
        *[universal(0, 0, 256, 4)] * 2,
        universal(5, 0, 256, 2),
    ),
    (plain(960, 1),),
)


class Bottleneck(nn.Module):
    """The block of the module's docstring: (B, h, w, C) -> (B, h/stride, w/stride, width).

    drop: the rate at which an example's block is left out, so that only its input passes.
    """

    block: Block
    drop: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        kind, width, size, stride, expand, start, squeeze, activation = self.block
        x, inside = h, widened(h.shape[-1], expand)
        conv = partial(layers.conv, dtype=self.dtype)

        def norm(name: str, h: Array) -> Array:
            return layers.BatchNorm(dtype=self.dtype, name=name)(h, train)

        def depthwise(name: str, h: Array, size: int, stride: int) -> Array:
            channels = h.shape[-1]
            return conv(channels, size, stride, feature_group_count=channels, init=depthwise_out, name=name)(h)

        if start:
            h = norm('start_bn', depthwise('start_conv', h, start, 1 if size else stride))
        if kind == 'fused':
            h = activation(norm('expand_bn', conv(inside, size, stride, name='expand_conv')(h)))
        elif kind != 'separable':
            h = activation(norm('expand_bn', conv(inside, 1, name='expand_conv')(h)))
        if size and kind != 'fused':
            h = activation(norm('depthwise_bn', depthwise('depthwise_conv', h, size, stride)))
        if squeeze:
            h = excited(h, widened(inside, 0.25), nn.relu, nn.hard_sigmoid, self.dtype)
        last = mark(conv(width, 1, name='project_conv')(h))
        h = norm('project_bn', last)
        if stride == 1 and x.shape[-1] == width:
            h = x + shortened(h, self.drop, train, self)
        return h, last


class Plain(nn.Module):
    """A convolution, BN and activation: (B, h, w, C) -> (B, h/stride, w/stride, width). `drop` has no meaning here."""

    block: Block
    drop: float = 0.0
    dtype: Any = None

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        width, size, stride = self.block[1:4]
        last = mark(layers.conv(width, size, stride, dtype=self.dtype, name='conv')(h))
        return self.block.activation(layers.BatchNorm(dtype=self.dtype, name='bn')(last, train)), last


class MobileStage(nn.Module):
    """A group of blocks: map -> (map, output of the last convolution).

    drops: the rate of each block.
    """

    blocks: tuple[Block, ...]
    drops: tuple[float, ...]
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, h: Array, train: bool, tap: Tap) -> tuple[Array, Array]:
        last = h
        for i, (block, drop) in enumerate(zip(self.blocks, self.drops, strict=True)):
            mark = partial(tap, f'{self.name}.conv') if i == len(self.blocks) - 1 else unmarked
            made = rematerialised(Plain if block.kind == 'plain' else Bottleneck, self.remat, train)
            h, last = made(block, drop, self.dtype, name=f'block{i}')(h, train, mark)
        return h, last


class MobileStem(nn.Module):
    """A 3x3 convolution with stride 2, BN and activation: (B, H, W, C) -> (B, H/2, W/2, width)."""

    width: int
    activation: Activation
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        h = layers.conv(self.width, 3, 2, dtype=self.dtype, name='conv')(image)
        return self.activation(layers.BatchNorm(dtype=self.dtype, name='bn')(h, train))


class Top(nn.Module):
    """The layers after the pooling, in float32 or wider: (B, C) -> (B, width).

    norm: whether BN follows the convolution, which has a bias without it.
    """

    width: int
    activation: Activation
    norm: bool

    @nn.compact
    def __call__(self, pooled: Array, train: bool) -> Array:
        bias = None if self.norm else nn.initializers.zeros
        h = layers.conv(self.width, 1, bias=bias, name='conv')(pooled[:, None, None])
        if self.norm:
            h = layers.BatchNorm(name='bn')(h, train)
        return self.activation(h)[:, 0, 0]


class MobileNet(nn.Module):
    """A MobileNet: `stages` of the table, features (B, top).

    stem: channels of the first convolution. top: of the layers after the pooling.
    activation: that of stem and top.
    norm: whether the top has BN.
    dropout: the rate in front of the classifiers (applied by `Network`).
    drop_path: the rate of stochastic depth at the last block; it grows linearly from 0 with a block's number.
    remat: whether the backward pass computes the blocks' activations again.
    """

    stages: Stages
    stem: int
    activation: Activation
    norm: bool
    top: int = 1280
    dropout: float = 0.2
    drop_path: float = 0.0
    remat: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        total, before = sum(map(len, self.stages)), 0
        parts = []
        for i, blocks in enumerate(self.stages):
            drops = tuple(self.drop_path * (before + j) / total for j in range(len(blocks)))
            parts.append(MobileStage(blocks, drops, self.dtype, self.remat, name=f'stage{i + 1}'))
            before += len(blocks)
        stem = MobileStem(self.stem, self.activation, self.dtype, name='stem')
        h, maps = walk(stem(image, train), parts, train=train, tap=tap)
        features = Top(self.top, self.activation, self.norm, name='final')(global_mean(h), train)
        return features, {**maps, 'last': h}


V3: Callable[..., MobileNet] = partial(MobileNet, stem=16, activation=nn.hard_swish, norm=False)
V4: Callable[..., MobileNet] = partial(MobileNet, stem=32, activation=nn.relu, norm=True)
NETWORKS = {
    'mobilenetv3_large_100': Published(partial(V3, LARGE), settings(224, 0.875, 'bicubic'), 'mobilenet'),
    'mobilenetv4_conv_small': Published(partial(V4, SMALL), settings(224, 0.875, 'bicubic'), 'mobilenet'),
    'mobilenetv4_conv_medium': Published(partial(V4, MEDIUM), settings(256, 0.95, 'bicubic'), 'mobilenet'),
}
