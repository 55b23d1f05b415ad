"""PreActResNet-18 for 32x32 images (He et al. 2016, https://arxiv.org/abs/1603.05027), in two published forms.

facebookresearch/mixup-cifar10, which LaMix's experiments inherit: the stem has its own BN and ReLU; a
block without a convolution in its shortcut adds the *normalised* input relu(BN(h)), not h.

vikasverma1077/manifold_mixup and snu-mllab/PuzzleMix (`raw`): the stem is a convolution alone, and such a
block adds h itself, as in the paper.

In both nothing follows the last block before the pooling; their 4x4 average pooling of the 4x4 map is the
global mean, which also takes other sizes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from mixjax.models import layers
from mixjax.models.layers import BatchNorm, Mark, PlainStem, Stem, run, stages, torch_conv
from mixjax.models.net import Tap, no_tap

Array = jax.Array
conv = partial(layers.conv, init=torch_conv)


class PreActBlock(nn.Module):
    """a = relu(BN(h)); shortcut(a) + conv(relu(BN(conv(a)))): (B, h, w, C) -> (B, h/stride, w/stride, width).

    raw: where the shortcut is no convolution, it is h and not a.
    """

    width: int
    stride: int = 1
    dtype: Any = None
    raw: bool = False

    @nn.compact
    def __call__(self, h: Array, train: bool, mark: Mark) -> tuple[Array, Array]:
        x, h = h, nn.relu(BatchNorm(dtype=self.dtype, name='bn1')(h, train))
        if not self.raw:
            x = h
        if self.stride != 1 or h.shape[-1] != self.width:
            x = conv(self.width, 1, self.stride, dtype=self.dtype, name='shortcut_conv')(h)
        h = conv(self.width, 3, self.stride, dtype=self.dtype, name='conv1')(h)
        h = nn.relu(BatchNorm(dtype=self.dtype, name='bn2')(h, train))
        last = mark(conv(self.width, 3, dtype=self.dtype, name='conv2')(h))
        return x + last, last


class PreActResNet(nn.Module):
    """Stages of `blocks[i]` blocks of width `width` * 2^i, the first at full resolution."""

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    width: int = 64
    dtype: Any = None
    raw: bool = False

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        stem = PlainStem if self.raw else Stem
        h = stem(self.width, torch_conv, self.dtype, name='stem')(image, train)
        block = partial(PreActBlock, raw=self.raw)
        return run(h, stages(block, self.blocks, self.width, self.dtype), train=train, tap=tap)
