"""PreActResNets for small images (He et al. 2016, https://arxiv.org/abs/1603.05027), in two published forms.

facebookresearch/mixup-cifar10, which LaMix's experiments inherit: the stem has a BN and ReLU; a
block without a convolution in its shortcut adds the *normalised* input relu(BN(h)), not h.

vikasverma1077/manifold_mixup and snu-mllab/PuzzleMix (`raw`): the stem is a convolution alone, and such a
block adds h itself, as in the paper. For Tiny-ImageNet's 64x64 images the stem has stride 2.

In both nothing follows the last block before the pooling; their 4x4 average pooling of the 4x4 map is the
global mean, which also takes other sizes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from mixjax.models import layers, plane
from mixjax.models.layers import BatchNorm, Mark, PlainStem, Stem, run, stages, torch_conv
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import settings
from mixjax.models.published import Published

Array = jax.Array
conv = partial(layers.conv, init=torch_conv)


def preactivate(h: Array, width: int, stride: int, raw: bool, dtype: Any, train: bool) -> tuple[Array, Array]:
    """Return the shortcut of a block, and a = relu(BN(h)) for its convolutions. Call inside a block.

    Where the shape changes the shortcut is a 1x1 convolution of a; elsewhere a, or h itself if `raw`.

    Args:
      h: (B, h, w, C).
      width: number of output channels of the block.
      stride: stride of the block.
      raw: whether the shortcut adds h itself.
      dtype: see `models.layers`.
      train: whether BN is in train mode.
    """
    a = nn.relu(BatchNorm(dtype=dtype, name='bn1')(h, train))
    if stride != 1 or h.shape[-1] != width:
        return conv(width, 1, stride, dtype=dtype, name='shortcut_conv')(a), a
    return (h if raw else a), a


class PreActBlock(nn.Module):
    """A block shortcut + conv(relu(BN(conv(a)))), a = relu(BN(h)): (B, h, w, C) -> (B, h/stride, w/stride, width)."""

    width: int
    stride: int = 1
    dtype: Any = None
    raw: bool = False

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x, h = preactivate(h, self.width, self.stride, self.raw, self.dtype, train)
        h = conv(self.width, 3, self.stride, dtype=self.dtype, name='conv1')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn2')(h, train))
        last = mark(conv(self.width, 3, dtype=self.dtype, name='conv2')(h))
        return x + last, last


class PreActBottleneck(nn.Module):
    """The same block of 1x1, 3x3 and 1x1 convolutions: (B, h, w, C) -> (B, h/stride, w/stride, 4 width)."""

    width: int
    stride: int = 1
    dtype: Any = None
    raw: bool = False

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x, h = preactivate(h, 4 * self.width, self.stride, self.raw, self.dtype, train)
        h = conv(self.width, 1, dtype=self.dtype, name='conv1')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn2')(h, train))
        h = conv(self.width, 3, self.stride, dtype=self.dtype, name='conv2')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn3')(h, train))
        last = mark(conv(4 * self.width, 1, dtype=self.dtype, name='conv3')(h))
        return x + last, last


class PreActResNet(nn.Module):
    """A network with stages of `blocks[i]` blocks of width `width` * 2^i, the first at the stem's resolution.

    stride: stride of the stem in the `raw` form.
    plane: whether a bottleneck of two units follows the pooling (`models.plane`).
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    dtype: Any = None
    raw: bool = False
    block: Any = PreActBlock
    stride: int = 1
    plane: bool = False

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        stem = partial(PlainStem, stride=self.stride) if self.raw else Stem
        h = stem(self.width, torch_conv, self.dtype, name='stem')(image, train)
        block = partial(self.block, raw=self.raw)
        found = run(h, stages(block, self.blocks, self.width, self.dtype), train=train, tap=tap)
        return plane.behind(*found) if self.plane else found


SMALL, TINY = settings(32, 1, 'bilinear'), settings(64, 1, 'bilinear')
PLAIN18 = partial(PreActResNet, (2, 2, 2, 2))
RAW18 = partial(PreActResNet, (2, 2, 2, 2), raw=True)
RAW50 = partial(PreActResNet, (3, 4, 6, 3), raw=True, block=PreActBottleneck)
# `_64` is for 64x64 images: the stem has stride 2. `_plane` has a bottleneck of two units, for plots (models/plane.py).
NETWORKS = {
    'preactresnet18': Published(PLAIN18, SMALL, 'preactresnet'),
    'preactresnet18_plane': Published(partial(PLAIN18, plane=True), SMALL, 'preactresnet'),
    'preactresnet18_raw': Published(RAW18, SMALL, 'preactresnet'),
    'preactresnet18_raw_64': Published(partial(RAW18, stride=2), TINY, 'preactresnet'),
    'preactresnet50_raw': Published(RAW50, SMALL, 'preactresnet'),
    'preactresnet50_raw_64': Published(partial(RAW50, stride=2), TINY, 'preactresnet'),
}
