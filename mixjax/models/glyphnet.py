"""GlyphNet: a small ResNet for the embedded benchmark's 16x16 grey images.

Three stages of post-activation blocks at full, half and quarter resolution; with the default width
of 16 it has 77,754 parameters (ten classes) and trains in seconds on a laptop.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import linen as nn

from mixjax.models import plane
from mixjax.models.layers import Stem, run, stages
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import settings
from mixjax.models.published import Published
from mixjax.models.resnet import BasicBlock

Array = jax.Array


class GlyphNet(nn.Module):
    """Three stages of `blocks` blocks, of width `width`, 2 `width`, 4 `width`; features (B, 4 width).

    plane: whether a bottleneck of two units follows the pooling (`models.plane`).
    """

    width: int = 16
    blocks: int = 1
    dtype: Any = None
    plane: bool = False

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        h = Stem(self.width, dtype=self.dtype, name='stem')(image, train)
        found = run(h, stages(BasicBlock, (self.blocks,) * 3, self.width, self.dtype), train=train, tap=tap)
        return plane.behind(*found) if self.plane else found


IMAGE = settings(16, 1, 'bilinear', ((0.0,), (1.0,)))
# `_plane` has a bottleneck of two units, for plots (models/plane.py).
NETWORKS = {
    'glyphnet': Published(GlyphNet, IMAGE, 'glyphnet'),
    'glyphnet_deep': Published(partial(GlyphNet, width=8, blocks=3), IMAGE, 'glyphnet'),
    'glyphnet_plane': Published(partial(GlyphNet, plane=True), IMAGE, 'glyphnet'),
}
