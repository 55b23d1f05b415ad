"""The names of each network's layers in torch code: the tables for `tensor_names.py`, found by `of`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate

import numpy as np
from flax import linen as nn

from mixjax.models.bit import BitResNet
from mixjax.models.convnext import ConvNeXt
from mixjax.models.densenet import DenseNet
from mixjax.models.dinov3 import DinoV3
from mixjax.models.efficientnet import EfficientNet
from mixjax.models.lenet import LeNet
from mixjax.models.mobilenet import MobileNet
from mixjax.models.preact import PreActResNet
from mixjax.models.resnet import DeepStem, ResNet
from mixjax.models.vit import VisionTransformer
from mixjax.models.weights import convnext_names, mobilenet_names, vit_names
from mixjax.models.weights.dialect import Dialect, Tensors, by_blocks
from mixjax.models.wideresnet import WideResNet


def _residual(shortcut: str, top: Mapping[str, str]) -> Dialect:
    """Return the dialect of `layer1.0.conv1` and `layer1.0.<shortcut>.0`."""
    renamed = {'shortcut_conv': f'{shortcut}.0', 'shortcut_bn': f'{shortcut}.1'}
    return by_blocks(top, lambda stage, block, layer: f'layer{stage}.{block}.{renamed.get(layer, layer)}')


def _transformers(stage: int, block: int, layer: str) -> str:
    """Return a name in Hugging Face's ResNet, which counts from 0: `conv1` of a block is `layer.0.convolution`."""
    kind = 'normalization' if 'bn' in layer else 'convolution'
    place = 'shortcut' if layer.startswith('shortcut') else f'layer.{int(layer[-1]) - 1}'
    return f'resnet.encoder.stages.{stage - 1}.layers.{block}.{place}.{kind}'


CIFAR = {'stem/conv': 'conv1', 'stem/bn': 'bn1', 'final/bn': 'bn1', 'head': 'linear'}
RESNET = {
    'torchvision': _residual('downsample', {'stem/conv': 'conv1', 'stem/bn': 'bn1', 'head': 'fc'}),
    'transformers': by_blocks(
        {
            'stem/conv': 'resnet.embedder.embedder.convolution',
            'stem/bn': 'resnet.embedder.embedder.normalization',
            'head': 'classifier.1',
        },
        _transformers,
    ),
    'cifar': _residual('shortcut', CIFAR),
}


def _resnet(backbone: ResNet) -> dict[str, Dialect]:
    """Return the dialects of a ResNet; only timm has the forms that differ from torchvision's."""
    if backbone.stem is not DeepStem and not backbone.average and not backbone.squeeze:
        return RESNET
    # timm's `bn1` is the last normalisation of the stem, and the pooling of a shortcut takes a place in its list.
    deep = {'conv': '0', 'bn': '1', 'conv2': '3', 'bn2': '4', 'conv3': '6'}
    stem = {f'stem/{ours}': f'conv1.{place}' for ours, place in deep.items()} | {'stem/bn3': 'bn1'}
    inside = {'se_reduce': 'se.fc1', 'se_expand': 'se.fc2'}
    inside |= {f'shortcut_{kind}': f'downsample.{i + backbone.average}' for i, kind in enumerate(('conv', 'bn'))}
    top = stem if backbone.stem is DeepStem else {'stem/conv': 'conv1', 'stem/bn': 'bn1'}
    return {
        'timm': by_blocks(
            {**top, 'head': 'fc'}, lambda stage, block, name: f'layer{stage}.{block}.{inside.get(name, name)}'
        )
    }


def _bit() -> Dialect:
    """Return timm's dialect of a BiT, whose classifier is a 1x1 convolution."""
    head = 'head.fc.weight'

    def layer(stage: int, block: int, name: str) -> str:
        return f'stages.{stage - 1}.blocks.{block}.{"downsample.conv" if name == "shortcut_conv" else name}'

    def read(tensors: Tensors) -> Tensors:
        square = np.shape(tensors.get(head, ()))[2:] == (1, 1)
        return {**tensors, head: tensors[head][:, :, 0, 0]} if square else tensors

    def write(tensors: Tensors) -> Tensors:
        return {**tensors, head: tensors[head][:, :, None, None]} if head in tensors else tensors

    return by_blocks({'stem/conv': 'stem.conv', 'final/norm': 'norm', 'head': 'head.fc'}, layer, read, write)


def _dense(top: Mapping[str, str], transition: str, layer: Callable[[int, int, str], str]) -> Dialect:
    """Return a DenseNet's dialect. Our transitions belong to the stage after them, others' to the one before."""
    names = {f'stage{i + 1}/transition': f'{transition}{i}' for i in range(1, 10)}
    norm = 'norm' if transition.startswith('features') else 'bn'
    ends = {'bn': norm, 'conv': 'conv'}
    between = {f'{ours}/{end}': f'{name}.{their}' for ours, name in names.items() for end, their in ends.items()}
    return by_blocks({**top, **between}, layer)


def _densenet(dot: str) -> Dialect:
    """Return torchvision's dialect; its published files of 2017 have a dot in `norm.1`."""
    top = {
        'stem/conv': 'features.conv0',
        'stem/bn': 'features.norm0',
        'final/bn': 'features.norm5',
        'head': 'classifier',
    }

    def layer(stage: int, block: int, name: str) -> str:
        kind = name[:-1].replace('bn', 'norm')
        return f'features.denseblock{stage}.denselayer{block + 1}.{kind}{dot}{name[-1]}'

    return _dense(top, 'features.transition', layer)


DENSENET = {'torchvision': _densenet(''), 'torchvision, old': _densenet('.')}
DENSENET_CIFAR = {
    'cifar': _dense(
        {'stem/conv': 'conv1', 'final/bn': 'bn', 'head': 'linear'},
        'trans',
        lambda stage, block, name: f'dense{stage}.{block}.{name}',
    )
}
LENET = {
    'cifar': by_blocks(
        {'stem/conv': 'conv1', 'stage1/conv': 'conv2', 'stage2/fc': 'fc1', 'stage3/fc': 'fc2', 'head': 'fc3'},
        lambda stage, block, name: name,
    )
}

# The layers of an EfficientNet's block: ours, and others' in blocks with an expansion and in those without.
TIMM = {
    'expand_conv': 'conv_pw',
    'expand_bn': 'bn1',
    'depthwise_conv': 'conv_dw',
    'depthwise_bn': 'bn2',
    'se_reduce': 'se.conv_reduce',
    'se_expand': 'se.conv_expand',
    'project_conv': 'conv_pwl',
    'project_bn': 'bn3',
}
TIMM_PLAIN = {**TIMM, 'depthwise_bn': 'bn1', 'project_conv': 'conv_pw', 'project_bn': 'bn2'}
TORCHVISION = {
    'expand_conv': '0.0',
    'expand_bn': '0.1',
    'depthwise_conv': '1.0',
    'depthwise_bn': '1.1',
    'se_reduce': '2.fc1',
    'se_expand': '2.fc2',
    'project_conv': '3.0',
    'project_bn': '3.1',
}
TORCHVISION_PLAIN = {ours: f'{int(name[0]) - 1}{name[1:]}' for ours, name in TORCHVISION.items()}
PYTORCH = {
    'expand_conv': '_expand_conv',
    'expand_bn': '_bn0',
    'depthwise_conv': '_depthwise_conv',
    'depthwise_bn': '_bn1',
    'se_reduce': '_se_reduce',
    'se_expand': '_se_expand',
    'project_conv': '_project_conv',
    'project_bn': '_bn2',
}


def _efficientnet(backbone: EfficientNet) -> dict[str, Dialect]:
    """Return the dialects of an EfficientNet: timm's names are the same for both paddings, the others are separate."""
    last = len(backbone.groups) + 1
    plain = [group.expand == 1 for group in backbone.groups]

    def ends(stem: str, stem_bn: str, conv: str, bn: str, head: str) -> dict[str, str]:
        return {'stem/conv': stem, 'stem/bn': stem_bn, f'stage{last}/conv': conv, f'stage{last}/bn': bn, 'head': head}

    def timm(stage: int, block: int, name: str) -> str:
        return f'blocks.{stage - 1}.{block}.{(TIMM_PLAIN if plain[stage - 1] else TIMM)[name]}'

    def torchvision(stage: int, block: int, name: str) -> str:
        return f'features.{stage}.{block}.block.{(TORCHVISION_PLAIN if plain[stage - 1] else TORCHVISION)[name]}'

    first = list(accumulate(backbone.blocks, initial=0))  # first block of each stage, counted through all of them

    def pytorch(stage: int, block: int, name: str) -> str:
        return f'_blocks.{first[stage - 1] + block}.{PYTORCH[name]}'

    out = {'timm': by_blocks(ends('conv_stem', 'bn1', 'conv_head', 'bn2', 'classifier'), timm)}
    if not backbone.squeeze:  # the Lite networks
        lite = by_blocks(ends('_conv_stem', '_bn0', '_conv_head', '_bn1', '_fc'), pytorch)
        return out if backbone.padding == 'symmetric' else {**out, 'efficientnet_pytorch': lite}
    if backbone.padding == 'symmetric':
        top = ends('features.0.0', 'features.0.1', f'features.{last}.0', f'features.{last}.1', 'classifier.1')
        return {**out, 'torchvision': by_blocks(top, torchvision)}
    for dialect, head in {'efficientnet_pytorch': '_fc', "SMILE's efficientnet": 'fc'}.items():
        out[dialect] = by_blocks(ends('_conv_stem', '_bn0', '_conv_head', '_bn1', head), pytorch)
    return out


def of(backbone: nn.Module) -> dict[str, Dialect]:
    """Return {name: dialect} of a backbone; empty if nobody else has such a network."""
    if isinstance(backbone, EfficientNet):
        return _efficientnet(backbone)
    if isinstance(backbone, VisionTransformer):
        return vit_names.of_vit(backbone)
    if isinstance(backbone, DinoV3):
        return vit_names.of_dinov3(backbone)
    if isinstance(backbone, MobileNet):
        return {'timm': by_blocks(mobilenet_names.TOP, mobilenet_names.timm(backbone))}
    if isinstance(backbone, DenseNet):
        return DENSENET_CIFAR if backbone.small else DENSENET
    if isinstance(backbone, ConvNeXt):
        return convnext_names.names(backbone)
    if type(backbone) is ResNet:
        return _resnet(backbone)
    if getattr(backbone, 'plane', False):
        return {}
    if isinstance(backbone, PreActResNet | WideResNet):
        return {'cifar': RESNET['cifar']}
    return {BitResNet: {'timm': _bit()}, LeNet: LENET}.get(type(backbone), {})
