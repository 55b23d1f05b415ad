"""EfficientNet-B0 to B4 (Tan & Le 2019, https://arxiv.org/abs/1905.11946), and EfficientNet-Lite0 to Lite4.

    block: h -> swish BN conv1x1 (expand) -> swish BN depthwise conv -> squeeze-excite -> BN conv1x1 (project)

plus the block's input where the shape stays, after drop-connect. Every network is B0 made `width` times as wide
and `depth` times as deep, with the published rounding. BN has eps 1e-3 and moves its statistics by 0.01.

The Lite networks (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) are for devices that
compute with integers: no squeeze-excite, ReLU6 in place of swish, and the two factors leave the ends as they are: the
width of the first and the last convolution, and the depth of the first and the last group.

`padding` has three published forms:

    'same'       TensorFlow's, on the map as it is: the originals, and what timm calls `tf_efficientnet_b4`
    380          TensorFlow's for a map of 380 pixels, at every layer, for any input: the PyTorch package that
                 SMILE's experiments use. A stride of 2 pads (0, 1) or (1, 2); at 380 pixels the maps of
                 its third stage have side 47 instead of 48. On maps of even sides it equals 'same'
    'symmetric'  torch's, with BN's eps 1e-5 and step 0.1: torchvision's, and timm's without `tf_`

`stage1` .. `stage7` are the groups of blocks. `stage8` is the last 1x1 convolution with its BN and activation: the
map that is pooled, and `stage7` the one that SMILE compares in its experiments with this network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixjax.models import layers
from mixjax.models.layers import Mark, global_mean, mean_dtype, pooled, unmarked, walk
from mixjax.models.net import Tap, dropout_off, no_tap
from mixjax.models.preprocessing import HALF, settings
from mixjax.models.published import Published

Array = jax.Array
Padding = str | int
Activation = Callable[[Array], Array]


class Group(NamedTuple):
    """`repeats` blocks of B0, the first with the stride; `expand` times as wide inside, kernels `size` x `size`."""

    expand: int
    width: int
    repeats: int
    stride: int
    size: int


B0 = (
    Group(1, 16, 1, 1, 3),
    Group(6, 24, 2, 2, 3),
    Group(6, 40, 2, 2, 5),
    Group(6, 80, 3, 2, 3),
    Group(6, 112, 3, 1, 5),
    Group(6, 192, 4, 2, 5),
    Group(6, 320, 1, 1, 3),
)


class Scale(NamedTuple):
    """A network of the family.

    width, depth: factors on B0's.
    side: side of the image.
    dropout: rate of the dropout in front of the classifier.
    crop: the share of a resized image's side that is seen.
    """

    width: float
    depth: float
    side: int
    dropout: float
    crop: float


SCALES = {
    'b0': Scale(1.0, 1.0, 224, 0.2, 0.875),
    'b1': Scale(1.0, 1.1, 240, 0.2, 0.882),
    'b2': Scale(1.1, 1.2, 260, 0.3, 0.89),
    'b3': Scale(1.2, 1.4, 300, 0.3, 0.904),
    'b4': Scale(1.4, 1.8, 380, 0.4, 0.922),
}
# Sides as in timm; Google names 280 and 300 for the last two.
LITE = {
    'lite0': Scale(1.0, 1.0, 224, 0.2, 0.875),
    'lite1': Scale(1.0, 1.1, 240, 0.2, 0.882),
    'lite2': Scale(1.1, 1.2, 260, 0.3, 0.89),
    'lite3': Scale(1.2, 1.4, 300, 0.3, 0.904),
    'lite4': Scale(1.4, 1.8, 380, 0.3, 0.92),
}
LINEAR = ('lite3', 'lite4')  # their images are resized bilinearly, all others' bicubically


def widened(width: int, factor: float) -> int:
    """Return `width` times the factor, rounded to the nearest multiple of 8 but never 10% below."""
    exact = width * factor
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def zeros(padding: Padding, size: int, stride: int) -> Any:
    """Return the padding argument of flax's convolution; the module's docstring explains `padding`.

    Args:
      padding: 'same', 'symmetric', or the side of the image for which TensorFlow's padding is fixed.
      size: side of the kernel.
      stride: stride of the convolution.
    """
    if padding == 'same':
        return 'SAME'
    if padding == 'symmetric':
        return [((size - 1) // 2,) * 2] * 2
    side = int(padding)
    total = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
    return [(total // 2, total - total // 2)] * 2


def depthwise_out(rng: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Draw a depthwise kernel (k, k, 1, C) from the published N(0, 2/fan_out), where fan_out is k k."""
    return jax.random.normal(rng, shape, dtype) * (2 / math.prod(shape[:2])) ** 0.5


def excited(h: Array, width: int, inner: Activation, gate: Activation, dtype: Any) -> Array:
    """Return a map with each channel times a gate, which depends on the means of all. Call inside a block.

    Args:
      h: the map, (B, h, w, C).
      width: channels between the two layers that make the gates.
      inner, gate: the activations after these layers.
      dtype: see `layers`.
    """
    conv = partial(layers.conv, size=1, bias=nn.initializers.zeros, dtype=dtype)
    s = inner(conv(width, name='se_reduce')(global_mean(h)[:, None, None]))
    s = conv(h.shape[-1], name='se_expand')(s)
    # The gradient of the gate is a sum over the map.
    return (gate(s).astype(mean_dtype(s)) * h.astype(mean_dtype(h))).astype(h.dtype)


def shortened(branch: Array, rate: float, train: bool, block: nn.Module) -> Array:
    """Return a block's branch with whole examples left out at this rate, in train mode with a key.

    Args:
      branch: what is added to the block's input, (B, h, w, C).
      rate: the share of examples that become 0; the others are divided by 1 - rate.
      train: whether the network is in train mode.
      block: the module that calls.
    """
    off = dropout_off(block, train)
    return nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=off, name='drop')(branch)


def rematerialised(block: type[nn.Module], remat: bool, train: bool) -> Any:
    """Return the class of a block whose activations the backward pass computes again, if `remat` and `train` say so.

    Args:
      block: class of a block called with (h, train, mark).
      remat: the network's setting.
      train: whether the network is in train mode.
    """
    return nn.remat(block, static_argnums=(2, 3)) if remat and train else block


class MBConv(nn.Module):
    """The block of the module's docstring: (B, h, w, C) -> (B, h/stride, w/stride, width).

    drop: the rate at which drop-connect leaves an example's block out, so that only its input passes.
    squeeze: whether it has squeeze-excite.
    """

    expand: int
    width: int
    stride: int
    size: int
    drop: float
    padding: Padding
    norm: Any
    dtype: Any = None
    activation: Activation = nn.swish
    squeeze: bool = True

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x, inside = h, h.shape[-1] * self.expand
        conv = partial(layers.conv, dtype=self.dtype)
        if self.expand != 1:
            h = conv(inside, 1, name='expand_conv')(h)
            h = self.activation(self.norm(name='expand_bn')(h, train))
        padding = zeros(self.padding, self.size, self.stride)
        h = conv(
            inside, self.size, self.stride,
            padding=padding, feature_group_count=inside, init=depthwise_out, name='depthwise_conv',
        )(h)  # fmt: skip
        h = self.activation(self.norm(name='depthwise_bn')(h, train))
        if self.squeeze:
            h = excited(h, max(1, x.shape[-1] // 4), self.activation, nn.sigmoid, self.dtype)
        last = mark(conv(self.width, 1, name='project_conv')(h))
        h = self.norm(name='project_bn')(last, train)
        if self.stride == 1 and x.shape[-1] == self.width:
            h = x + shortened(h, self.drop, train, self)
        return h, last


class MBStage(nn.Module):
    """A group of blocks, one for each rate in `drops`: map -> (map, output of the last convolution).

    block: makes an `MBConv` of (expand, width, stride, size, drop).
    """

    group: Group
    drops: tuple[float, ...]
    block: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, h: Array, train: bool, tap: Tap) -> tuple[Array, Array]:
        expand, width, _, stride, size = self.group
        last = h
        for i, drop in enumerate(self.drops):
            mark = partial(tap, f'{self.name}.conv') if i == len(self.drops) - 1 else unmarked
            step = stride if i == 0 else 1
            h, last = self.block(expand, width, step, size, drop, name=f'block{i}')(h, train, mark)
        return h, last


class ConvStage(nn.Module):
    """A 1x1 convolution, BN and activation: map -> (map, output of the convolution)."""

    width: int
    norm: Any
    dtype: Any = None
    activation: Activation = nn.swish

    @nn.compact
    def __call__(self, h: Array, train: bool, tap: Tap) -> tuple[Array, Array]:
        last = tap(f'{self.name}.conv', layers.conv(self.width, 1, dtype=self.dtype, name='conv')(h))
        return self.activation(self.norm(name='bn')(last, train)), last


class MBStem(nn.Module):
    """A 3x3 convolution with stride 2, BN and activation: (B, H, W, C) -> (B, H/2, W/2, width)."""

    width: int
    padding: Padding
    norm: Any
    dtype: Any = None
    activation: Activation = nn.swish

    @nn.compact
    def __call__(self, image: Array, train: bool) -> Array:
        layer = layers.conv(self.width, 3, 2, padding=zeros(self.padding, 3, 2), dtype=self.dtype, name='conv')
        return self.activation(self.norm(name='bn')(layer(image), train))


class EfficientNet(nn.Module):
    """An EfficientNet: B0's `groups` times `width` and `depth`; features (B, 1280 width).

    dropout: the rate in front of the classifiers (applied by `Network`).
    drop_path: the rate of drop-connect at the last block; it grows linearly from 0 with a block's number.
    stem, top: channels of B0's first and last convolution.
    activation: that of the stem, the blocks and the top.
    squeeze: whether the blocks have squeeze-excite.
    scaled_ends: whether the factors also apply to the width of stem and top, and to the depth of the first and the
      last group.
    remat: whether the backward pass computes the blocks' activations again.
    """

    width: float = 1.0
    depth: float = 1.0
    dropout: float = 0.2
    padding: Padding = 'same'
    drop_path: float = 0.2
    groups: tuple[Group, ...] = B0
    stem: int = 32
    top: int = 1280
    dtype: Any = None
    activation: Activation = nn.swish
    squeeze: bool = True
    scaled_ends: bool = True
    remat: bool = False

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of blocks of each stage."""
        ends = () if self.scaled_ends else (0, len(self.groups) - 1)
        factors = [1.0 if i in ends else self.depth for i in range(len(self.groups))]
        return tuple(math.ceil(factor * group.repeats) for factor, group in zip(factors, self.groups, strict=True))

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        eps, momentum = (1e-5, 0.9) if self.padding == 'symmetric' else (1e-3, 0.99)
        norm = partial(layers.BatchNorm, momentum, eps, self.dtype)
        block = partial(
            rematerialised(MBConv, self.remat, train),
            padding=self.padding, norm=norm, dtype=self.dtype, activation=self.activation, squeeze=self.squeeze,
        )  # fmt: skip
        total, before = sum(self.blocks), 0
        parts: list[Any] = []
        for group, count in zip(self.groups, self.blocks, strict=True):
            drops = tuple(self.drop_path * (before + i) / total for i in range(count))
            group = group._replace(width=widened(group.width, self.width))
            parts.append(MBStage(group, drops, block, name=f'stage{len(parts) + 1}'))
            before += count
        factor = self.width if self.scaled_ends else 1.0
        top = widened(self.top, factor)
        parts.append(ConvStage(top, norm, self.dtype, self.activation, name=f'stage{len(parts) + 1}'))
        stem = MBStem(widened(self.stem, factor), self.padding, norm, self.dtype, self.activation, name='stem')
        return pooled(*walk(stem(image, train), parts, train=train, tap=tap))


def _networks() -> dict[str, Published]:
    """Return the networks in three forms: TensorFlow's, for one image size, and with torch's padding."""
    out: dict[str, Published] = {}
    for name, scale in SCALES.items():
        build = partial(EfficientNet, scale.width, scale.depth, scale.dropout)
        image = settings(scale.side, scale.crop, 'bicubic')
        out[f'efficientnet_{name}'] = Published(build, image, 'efficientnet')
        fixed = partial(build, padding=scale.side)
        out[f'efficientnet_{name}_fixed{scale.side}'] = Published(fixed, image, 'efficientnet')
        out[f'efficientnet_{name}_symmetric'] = Published(partial(build, padding='symmetric'), image, 'efficientnet')
    return out


def _lite() -> dict[str, Published]:
    """Return the Lite networks with TensorFlow's padding, and the only one that was trained with torch's."""
    out: dict[str, Published] = {}
    for name, scale in LITE.items():
        build = partial(
            EfficientNet, scale.width, scale.depth, scale.dropout,
            activation=nn.relu6, squeeze=False, scaled_ends=False,
        )  # fmt: skip
        image = settings(scale.side, scale.crop, 'bilinear' if name in LINEAR else 'bicubic', HALF)
        out[f'efficientnet_{name}'] = Published(build, image, 'efficientnet')
        if name == 'lite0':
            image = settings(scale.side, scale.crop, 'bicubic')
            symmetric = partial(build, padding='symmetric')
            out[f'efficientnet_{name}_symmetric'] = Published(symmetric, image, 'efficientnet')
    return out


NETWORKS = {**_networks(), **_lite()}
