"""The names of ConvNeXt's tensors in timm, transformers, torchvision and its authors' repository.

Ours are `stem/conv`, `stem/norm`, `stage1/block0/{conv_dw, norm, fc1, grn, fc2, gamma}`,
`stage2/downsample/{norm, conv}` and `final`. Some shapes differ: timm's small networks have 1x1 convolutions for fc1
and fc2, the authors and transformers keep the vectors of the response normalisation as (1, 1, 1, C), and torchvision
LayerScale as (C, 1, 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from mixjax.models.convnext import ConvNeXt
from mixjax.models.weights.dialect import Dialect, Tensors, by_blocks

STAGES = range(2, 10)


def _top(stem: str, stem_norm: str, down: Callable[[int], str], norm: str, head: str) -> dict[str, str]:
    """Return the names outside of the blocks; `down` gives the place of a stage's downsampling."""
    places = {
        f'stage{s}/downsample/{layer}': f'{down(s)}.{i}' for s in STAGES for i, layer in enumerate(('norm', 'conv'))
    }
    return {'stem/conv': stem, 'stem/norm': stem_norm, **places, 'final': norm, 'head': head}


def _each(
    tensors: Tensors, endings: tuple[str, ...], change: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the tensors, with a change to those whose name has one of the endings."""
    return {name: change(value) if name.endswith(endings) else value for name, value in tensors.items()}


def _flat(value: np.ndarray) -> np.ndarray:
    """Return (1, 1, 1, C) or (C, 1, 1) as (C,), and anything else as it is."""
    return value.reshape(-1) if value.ndim > 1 and value.size == max(value.shape) else value


def _linear(value: np.ndarray) -> np.ndarray:
    """Return the kernel of a 1x1 convolution, (N, C, 1, 1), as (N, C), and anything else as it is."""
    return value[:, :, 0, 0] if value.ndim == 4 and value.shape[2:] == (1, 1) else value


def _renamed(tensors: Tensors, names: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the tensors with the endings of their names replaced."""
    out = {}
    for name, value in tensors.items():
        old = next((ending for ending in names if name.endswith(ending)), '')
        out[name.removesuffix(old) + names.get(old, '')] = value
    return out


def _timm(backbone: ConvNeXt) -> Dialect:
    inside = {'fc1': 'mlp.fc1', 'fc2': 'mlp.fc2', 'grn': 'mlp.grn'}
    top = _top('stem.0', 'stem.1', lambda s: f'stages.{s - 1}.downsample', 'head.norm', 'head.fc')
    matrices = ('.mlp.fc1.weight', '.mlp.fc2.weight')

    def layer(stage: int, block: int, name: str) -> str:
        return f'stages.{stage - 1}.blocks.{block}.{inside.get(name, name)}'

    def read(tensors: Tensors) -> Tensors:
        here = _each(tensors, matrices, _linear)
        if backbone.grn and 'stem.1.weight' in here and not here.keys() & {'head.fc.weight', 'head.norm.weight'}:
            # What V2 learned without labels (`.fcmae`) ends before the pooling: its last norm begins at the identity.
            width = backbone.widths[-1]
            here |= {'head.norm.weight': np.ones(width, np.float32), 'head.norm.bias': np.zeros(width, np.float32)}
        return here

    def write(tensors: Tensors) -> Tensors:
        return _each(tensors, matrices, lambda value: value[:, :, None, None]) if backbone.conv_mlp else tensors

    return by_blocks(top, layer, read, write)


def _transformers(backbone: ConvNeXt) -> Dialect:
    base = 'convnextv2' if backbone.grn else 'convnext'
    stages = f'{base}.encoder.stages'
    inside = {
        'conv_dw': 'dwconv',
        'norm': 'layernorm',
        'fc1': 'pwconv1',
        'fc2': 'pwconv2',
        'gamma': 'layer_scale_parameter',
    }
    top = _top(
        f'{base}.embeddings.patch_embeddings',
        f'{base}.embeddings.layernorm',
        lambda s: f'{stages}.{s - 1}.downsampling_layer',
        f'{base}.layernorm',
        'classifier',
    )
    vectors = ('.grn.weight', '.grn.bias')

    def layer(stage: int, block: int, name: str) -> str:
        return f'{stages}.{stage - 1}.layers.{block}.{inside.get(name, name)}'

    def read(tensors: Tensors) -> Tensors:
        return _each(tensors, vectors, _flat)

    def write(tensors: Tensors) -> Tensors:
        return _each(tensors, vectors, lambda value: value[None, None, None])

    return by_blocks(top, layer, read, write)


def _facebook() -> Dialect:
    inside = {'conv_dw': 'dwconv', 'fc1': 'pwconv1', 'fc2': 'pwconv2'}
    top = _top(
        'downsample_layers.0.0', 'downsample_layers.0.1', lambda s: f'downsample_layers.{s - 1}', 'norm', 'head'
    )  # fmt: skip
    vectors = {'.grn.gamma': '.grn.weight', '.grn.beta': '.grn.bias'}

    def layer(stage: int, block: int, name: str) -> str:
        return f'stages.{stage - 1}.{block}.{inside.get(name, name)}'

    def read(tensors: Tensors) -> Tensors:
        return _renamed(_each(tensors, tuple(vectors), _flat), vectors)

    def write(tensors: Tensors) -> Tensors:
        back = {ours: theirs for theirs, ours in vectors.items()}
        return _renamed(_each(tensors, tuple(back), lambda value: value[None, None, None]), back)

    return by_blocks(top, layer, read, write)


def _torchvision() -> Dialect:
    inside = {'conv_dw': 'block.0', 'norm': 'block.2', 'fc1': 'block.3', 'fc2': 'block.5', 'gamma': 'layer_scale'}
    # Between two stages there is a place for the downsampling.
    top = _top('features.0.0', 'features.0.1', lambda s: f'features.{2 * s - 2}', 'classifier.0', 'classifier.2')

    def layer(stage: int, block: int, name: str) -> str:
        return f'features.{2 * stage - 1}.{block}.{inside[name]}'

    def read(tensors: Tensors) -> Tensors:
        return _each(tensors, ('.layer_scale',), _flat)

    def write(tensors: Tensors) -> Tensors:
        return _each(tensors, ('.layer_scale',), lambda value: value[:, None, None])

    return by_blocks(top, layer, read, write)


def names(backbone: ConvNeXt) -> dict[str, Dialect]:
    """Return {name: dialect} of a ConvNeXt; torchvision has none of the second version."""
    out = {'timm': _timm(backbone), 'transformers': _transformers(backbone), 'facebook': _facebook()}
    return out if backbone.grn else {**out, 'torchvision': _torchvision()}
