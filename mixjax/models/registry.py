"""The networks by name, and `build`. A new family is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from flax import linen as nn

from mixjax.errors import UserError, nearest, user_code
from mixjax.models import efficientnet, layers, resnet
from mixjax.models.densenet import DenseNet
from mixjax.models.glyphnet import GlyphNet
from mixjax.models.initializers import LAWS
from mixjax.models.lenet import LeNet
from mixjax.models.net import Net, from_linen
from mixjax.models.preact import PreActBottleneck, PreActResNet
from mixjax.models.wideresnet import WideResNet

Builder = Callable[..., nn.Module]
RAW18 = partial(PreActResNet, (2, 2, 2, 2), raw=True)  # manifold mixup's and PuzzleMix's, like the next one
RAW50 = partial(PreActResNet, (3, 4, 6, 3), raw=True, block=PreActBottleneck)
CIFAR = {'stem': layers.Stem, 'kernel_init': layers.torch_conv}


def _efficientnets() -> dict[str, Builder]:
    """Return the EfficientNets in three forms: TensorFlow's, for one image size, and with torch's padding."""
    out: dict[str, Builder] = {}
    for name, scale in efficientnet.SCALES.items():
        build = partial(efficientnet.EfficientNet, scale.width, scale.depth, scale.dropout)
        out[f'efficientnet_{name}'] = build
        out[f'efficientnet_{name}_fixed{scale.side}'] = partial(build, padding=scale.side)
        out[f'efficientnet_{name}_symmetric'] = partial(build, padding='symmetric')
    return out


# name -> builder(dtype=..) of a backbone. `_64` is for 64x64 images: the stem has stride 2. `_plane` has a bottleneck
# of two units, for plots (models/plane.py).
BACKBONES: dict[str, Builder] = {
    'cifar_resnet50': partial(resnet.ResNet, *resnet.TABLE['resnet50'], **CIFAR),
    'densenet121': DenseNet,
    'densenet121_cifar': partial(DenseNet, small=True),
    'glyphnet': GlyphNet,
    'glyphnet_deep': partial(GlyphNet, width=8, blocks=3),
    'glyphnet_plane': partial(GlyphNet, plane=True),
    'lenet': LeNet,
    'preactresnet18': partial(PreActResNet, (2, 2, 2, 2)),
    'preactresnet18_plane': partial(PreActResNet, (2, 2, 2, 2), plane=True),
    'preactresnet18_raw': RAW18,
    'preactresnet18_raw_64': partial(RAW18, stride=2),
    'preactresnet50_raw': RAW50,
    'preactresnet50_raw_64': partial(RAW50, stride=2),
    'wrn28_10': WideResNet,
    'wrn28_10_64': partial(WideResNet, stride=2),
    **{name: partial(resnet.ResNet, block, blocks) for name, (block, blocks) in resnet.TABLE.items()},
    **_efficientnets(),
}

SHIPPED = frozenset(BACKBONES)  # the others were registered by a module of the user's

# 'float32' is the type of the parameters: nothing is cast, and float64 variables give a float64 network.
DTYPES = {'float32': None, 'bfloat16': jnp.bfloat16}


def names() -> list[str]:
    """Return the names that `build` knows."""
    return sorted(BACKBONES)


def unknown(name: str) -> str:
    """Return the error message for a name that `build` does not know."""
    return (
        f'unknown network {name[:80]!r}{nearest(name, BACKBONES)}; the networks are {", ".join(names())}; if it is '
        'your own, import the module that registers it (the commands have --import=MODULE)'
    )


def build(name: str, *, dtype: str = 'float32', init: str = '') -> Net:
    """Build the network called `name`; parameters, statistics, features and logits are float32 or wider.

    Args:
      name: one of `names()`.
      dtype: the type in which the trunk computes and stores its maps, 'float32' or 'bfloat16'.
      init: the initializer of a fresh network, one of `initializers.LAWS`; '' is the published one.
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
    return from_linen(backbone, init)
