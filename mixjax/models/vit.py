"""Vision transformers (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929), with learned positions.

Names and layers are timm's:

    vit_*_patch16_224 ..      AugReg (https://arxiv.org/abs/2106.10270), DINO, MAE: the class token is pooled
    deit3_*                   DeiT-III (https://arxiv.org/abs/2204.07118): LayerScale, no position of the class token
    vit_*_clip_*              the image tower of CLIP (https://arxiv.org/abs/2103.00020): LayerNorm before the blocks,
                              no bias of the patches; `quickgelu` is the activation of OpenAI's weights
    vit_*_dinov2              DINOv2 (https://arxiv.org/abs/2304.07193): LayerScale, and four registers in `reg4`
                              (https://arxiv.org/abs/2309.16588), whose positions are those of the patches only
    vit_*_siglip_*            the image tower of SigLIP (https://arxiv.org/abs/2303.15343) and SigLIP 2: no class token,
                              pooled by attention; `gap` by the mean

The positions are learned for one grid of patches, and resized for images of other sizes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixjax.models.layers import LayerNorm, conv, mean_dtype, small_normal, torch_bias, torch_conv
from mixjax.models.net import Tap, no_tap
from mixjax.models.preprocessing import CLIP, HALF, IMAGENET, settings
from mixjax.models.published import Published
from mixjax.models.transformer import (
    Final,
    Form,
    Grid,
    grid_of,
    resized,
    stages,
    walk,
    with_prefix,
)

Array = jax.Array
TINY = nn.initializers.normal(1e-6)  # class token and registers


class PatchStem(nn.Module):
    """Patches, their positions, and the tokens in front of them: (B, H, W, C) -> (B, prefix + h w, width).

    width: channels. patch: side of a patch.
    grid: side of the grid of the learned positions, 0 for a network without them.
    cls: whether there is a class token. registers: the number of registers.
    placed: whether class token and registers have positions too.
    norm: eps of a LayerNorm at the end, 0 for none; then the patches have no bias.
    init: the initialiser of the tokens.
    """

    width: int
    patch: int
    grid: int = 0
    cls: bool = True
    registers: int = 0
    placed: bool = True
    norm: float = 0.0
    init: Any = TINY
    dtype: Any = None

    @nn.compact
    def __call__(self, image: Array, grid: Grid) -> Array:
        width, prefix = self.width, self.cls + self.registers
        bias = None if self.norm else torch_bias(self.patch**2 * image.shape[-1])
        patches = conv(
            width, self.patch, self.patch,
            padding='VALID', bias=bias, init=torch_conv, dtype=self.dtype, name='conv',
        )(image)  # fmt: skip
        h = patches.reshape(image.shape[0], -1, width)
        stored, h = h.dtype, h.astype(mean_dtype(h))
        counts = {'cls_token': int(self.cls), 'reg_token': self.registers}
        tokens = [self.param(name, self.init, (1, n, width), jnp.float32) for name, n in counts.items() if n]
        if self.grid:
            before = prefix if self.placed else 0
            positions = self.param('pos_embed', small_normal, (1, before + self.grid**2, width), jnp.float32)
            h = h + resized(positions[:, before:], (self.grid, self.grid), grid)
            if before:
                at = 0
                for i, token in enumerate(tokens):
                    tokens[i] = token + positions[:, at : at + token.shape[1]]
                    at += token.shape[1]
        h = with_prefix(h, *tokens)
        if self.norm:
            h = LayerNorm(self.norm, name='norm')(h)
        return h.astype(stored)


class VisionTransformer(nn.Module):
    """A vision transformer of `depth` blocks: features (B, D).

    patch, grid, cls, registers, placed: see `PatchStem`. spare: see `transformer.grid_of`. pool: see `Final`.
    before: whether a LayerNorm is in front of the blocks too.
    drop_path: rate of stochastic depth at the last block; it grows linearly from 0 with a block's number.
    remat: whether the backward pass computes the blocks' activations again instead of keeping them in memory.
    """

    form: Form
    depth: int
    patch: int
    grid: int
    cls: bool = True
    registers: int = 0
    placed: bool = True
    before: bool = False
    pool: str = 'token'
    spare: int = 0
    dtype: Any = None
    remat: bool = False
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, image: Array, *, train: bool, tap: Tap = no_tap) -> tuple[Array, dict[str, Array]]:
        grid = grid_of(image, self.patch, self.spare)
        norm = self.form.eps if self.before else 0.0
        stem = PatchStem(
            self.form.width, self.patch, self.grid, self.cls, self.registers, self.placed, norm,
            dtype=self.dtype, name='stem',
        )  # fmt: skip
        parts = stages(self.form, self.depth, self.drop_path, self.remat, self.dtype)
        h, maps = walk(stem(image, grid), parts, grid, train=train, tap=tap)
        features, last = Final(self.form, self.pool, self.dtype, name='final')(h, grid)
        return features, {**maps, 'last': last}


# name -> (blocks, form)
SIZES = {
    'test': (6, Form(64, 2, 192)),
    'tiny': (12, Form(192, 3, 768)),
    'small': (12, Form(384, 6, 1536)),
    'medium': (12, Form(512, 8, 2048)),
    'base': (12, Form(768, 12, 3072)),
    'large': (24, Form(1024, 16, 4096)),
    'huge': (32, Form(1280, 16, 5120)),
    'so400m': (27, Form(1152, 16, 4304)),
    'giant': (40, Form(1536, 24, 4096, activation='silu', gate='packed')),
}


def _network(
    size: str, patch: int, side: int, image: tuple[float, tuple], *, eps: float = 1e-6, scale: float = 0.0,
    act: str = '', **fields: Any,
) -> Published:  # fmt: skip
    """Return a network of the family.

    Args:
      size: one of `SIZES`.
      patch: side of a patch.
      side: side of the published image.
      image: the share of a resized image's side that is seen, and the colours.
      eps, scale: see `Form`.
      act: the activation; '' for that of the size.
      fields: of `VisionTransformer`.
    """
    depth, form = SIZES[size]
    form = form._replace(eps=eps, scale=scale, activation=act or form.activation)
    build = partial(VisionTransformer, form, depth, patch, side // patch, **fields)
    return Published(build, settings(side, image[0], 'bicubic', image[1]), 'vit')


def _networks() -> dict[str, Published]:
    """Return all networks by their names in timm."""
    out: dict[str, Published] = {}
    plain = [('small', 32), ('base', 32), ('tiny', 16), ('small', 16), ('base', 16), ('large', 16)]
    for size, patch in plain:
        out[f'vit_{size}_patch{patch}_224'] = _network(size, patch, 224, (0.9, HALF))
        out[f'vit_{size}_patch{patch}_384'] = _network(size, patch, 384, (1.0, HALF))
    out['test_vit'] = _network('test', 16, 160, (0.95, HALF))
    out['vit_base_patch8_224'] = _network('base', 8, 224, (0.9, HALF))
    out['vit_huge_patch14_224'] = _network('huge', 14, 224, (0.9, HALF))

    for size, side in [(size, side) for size in ('small', 'medium', 'base', 'large') for side in (224, 384)]:
        if (size, side) == ('medium', 384):
            continue  # not published
        crop = 1.0 if side == 384 else 0.9
        out[f'deit3_{size}_patch16_{side}'] = _network(size, 16, side, (crop, IMAGENET), scale=1e-6, placed=False)
    out['deit3_huge_patch14_224'] = _network('huge', 14, 224, (0.9, IMAGENET), scale=1e-6, placed=False)

    for size, patch, side, crop in [
        ('base', 32, 224, 0.9), ('base', 16, 224, 0.9), ('large', 14, 224, 1.0), ('large', 14, 336, 1.0),
    ]:  # fmt: skip
        for form, act in (('', 'gelu'), ('quickgelu_', 'quick_gelu')):
            out[f'vit_{size}_patch{patch}_clip_{form}{side}'] = _network(
                size, patch, side, (crop, CLIP), eps=1e-5, act=act, before=True
            )

    for size in ('small', 'base', 'large', 'giant'):
        network = partial(_network, size, 14, 518, (1.0, IMAGENET), scale=1e-5)
        out[f'vit_{size}_patch14_dinov2'] = network()
        out[f'vit_{size}_patch14_reg4_dinov2'] = network(registers=4, placed=False)

    for size, patch, sides, act in [
        ('base', 32, (256,), 'gelu_tanh'), ('base', 16, (224, 256, 384, 512), ''), ('large', 16, (256, 384), ''),
        ('large', 16, (512,), 'gelu_tanh'), ('so400m', 14, (224, 378, 384), ''),
        ('so400m', 16, (256, 384, 512), 'gelu_tanh'),
    ]:  # fmt: skip
        for side in sides:
            network = partial(_network, size, patch, side, act=act, cls=False, spare=side % patch)
            whole = 1.0 if side % patch else 0.9  # only one of them was tuned further, for PaliGemma
            out[f'vit_{size}_patch{patch}_siglip_{side}'] = network(image=(0.9, HALF), pool='map')
            out[f'vit_{size}_patch{patch}_siglip_gap_{side}'] = network(image=(whole, HALF), pool='mean')
    return out


NETWORKS = _networks()
