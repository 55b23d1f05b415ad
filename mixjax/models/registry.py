"""The networks by name, and `build`. A new family is a file with a table `NETWORKS`, and its name in `FAMILIES`."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from mixjax.errors import UserError, nearest, user_code
from mixjax.models import (
    bit,
    convnext,
    densenet,
    dinov3,
    efficientnet,
    glyphnet,
    lenet,
    mobilenet,
    preact,
    resnet,
    vit,
    wideresnet,
)
from mixjax.models.initializers import LAWS
from mixjax.models.net import Net, from_linen
from mixjax.models.preprocessing import settings
from mixjax.models.published import Builder, Published

FAMILIES = (bit, convnext, densenet, dinov3, efficientnet, glyphnet, lenet, mobilenet, preact, resnet, vit, wideresnet)
NETWORKS: dict[str, Published] = {name: published for family in FAMILIES for name, published in family.NETWORKS.items()}
BACKBONES: dict[str, Builder] = {name: published.build for name, published in NETWORKS.items()}

SHIPPED = frozenset(BACKBONES)  # the others were registered by a module of the user's

# 'float32' is the type of the parameters: nothing is cast, and float64 variables give a float64 network.
DTYPES = {'float32': None, 'bfloat16': jnp.bfloat16}


def names() -> list[str]:
    """Return the names that `build` knows."""
    return sorted(BACKBONES)


def unknown(name: str) -> str:
    """Return the error message for a name that `build` does not know."""
    return (
        f'unknown network {name[:80]!r}{nearest(name, BACKBONES)}; `mixjax train --list` prints all {len(names())}; '
        'if it is your own, import the module that registers it (the commands have --import=MODULE)'
    )


def image_settings(name: str) -> dict[str, Any]:
    """Return the image settings that a network was published with; those of a user's own network are ImageNet's."""
    return dict(NETWORKS[name].image if name in NETWORKS else settings(224, 0.875, 'bilinear'))


def family(name: str) -> str:
    """Return the family of a network, such as 'resnet' or 'vit'; '' for a user's own."""
    return NETWORKS[name].family if name in NETWORKS else ''


def takes_weights_of(name: str, other: str) -> bool:
    """Return whether a network takes the weights of another one by their shapes and meaning.

    A network for one image size (`_fixed380`) has the weights of the one for any; and OpenAI's weights of CLIP, whose
    activation is QuickGELU, are named as those of others are.
    """
    return other in (name, name.partition('_fixed')[0], name.replace('_clip_quickgelu_', '_clip_'))


def build(name: str, *, dtype: str = 'float32', init: str = '', remat: bool = False, drop_path: float = -1.0) -> Net:
    """Build the network called `name`; parameters, statistics, features and logits are float32 or wider.

    Args:
      name: one of `names()`.
      dtype: the type in which the trunk computes and stores its maps, 'float32' or 'bfloat16'.
      init: the initializer of a fresh network, one of `initializers.LAWS`; '' is the published one.
      remat: whether the backward pass computes the blocks' activations again instead of keeping them in memory.
      drop_path: rate of stochastic depth at the last block; -1 for the published one.
    """
    if name not in BACKBONES:
        raise UserError(unknown(name))
    if dtype not in DTYPES:
        raise UserError(f'unknown dtype {dtype!r} for a network{nearest(dtype, DTYPES)}; choose {" or ".join(DTYPES)}')
    if init and init not in LAWS:
        raise UserError(f"unknown init {init!r} for a network{nearest(init, LAWS)}; choose '' or {', '.join(LAWS)}")
    with user_code(f'network {name}: the builder', BACKBONES[name]):
        backbone = BACKBONES[name](dtype=DTYPES[dtype])
    if not isinstance(backbone, nn.Module):
        raise UserError(f'network {name}: the builder must return a flax.linen.Module, not {type(backbone).__name__}')
    options = {**({'remat': True} if remat else {}), **({'drop_path': drop_path} if drop_path >= 0 else {})}
    for option in options:
        if not hasattr(backbone, option):
            able = ', '.join(other for other in names() if hasattr(BACKBONES[other](), option))
            raise UserError(f'network {name} has no setting {option!r}; these networks have it: {able}')
    return from_linen(backbone.clone(**options) if options else backbone, init)
