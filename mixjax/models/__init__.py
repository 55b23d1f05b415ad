"""The networks, by name: `build('resnet50')` is a `Net`. A new family is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from mixjax.errors import UserError, nearest
from mixjax.models import resnet
from mixjax.models.glyphnet import GlyphNet
from mixjax.models.net import Net, from_linen
from mixjax.models.preact import PreActResNet

# name -> builder(dtype=..) of a backbone
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    'glyphnet': GlyphNet,
    'preactresnet18': partial(PreActResNet, (2, 2, 2, 2)),
    'preactresnet18_raw': partial(PreActResNet, (2, 2, 2, 2), raw=True),  # manifold mixup's and PuzzleMix's
    **{name: partial(resnet.ResNet, block, blocks) for name, (block, blocks) in resnet.TABLE.items()},
}

# 'float32' is the type of the parameters: nothing is cast, and float64 variables give a float64 network.
DTYPES = {'float32': None, 'bfloat16': jnp.bfloat16}


def names() -> list[str]:
    """The names that `build` knows."""
    return sorted(BACKBONES)


def build(name: str, *, dtype: str = 'float32') -> Net:
    """The network called `name`; parameters, statistics, features and logits are float32 at least.

    dtype: what the trunk computes and stores its maps in, 'float32' or 'bfloat16'.
    """
    if name not in BACKBONES:
        raise UserError(f'unknown network {name!r}{nearest(name, BACKBONES)}; the networks are {", ".join(names())}')
    if dtype not in DTYPES:
        raise UserError(f'unknown dtype {dtype!r} for a network{nearest(dtype, DTYPES)}; choose {" or ".join(DTYPES)}')
    return from_linen(BACKBONES[name](dtype=DTYPES[dtype]))
