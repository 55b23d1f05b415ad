"""Writes tests/fixtures/narrow_*.npz: small torch networks with random weights, and what they say.

    pip install torch==2.13.0 && pip install --no-deps torchvision==0.28.0 timm==1.0.31 transformers
    PYTHONPATH=. python tests/models/make_narrow.py

By hand, once; the tests read the files and need no torch. Each holds every tensor of the state dict (`state/NAME`), an
image (B, H, W, C) and the logits in eval mode and float64. `NARROW` in test_narrow.py are the same networks in ours.
"""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np

from tests.support import with_torch
from tests.support.common import FIXTURES

CLASSES = 5
SIDE = 37  # odd and even maps on the way down, so that the kinds of padding differ
CONTRAST = {'narrow_efficientnet_lite': 8, 'narrow_mobilenetv3': 4}  # so that activations saturate


def resnet(kind: str, counts: tuple[int, ...], width: int) -> Any:
    """torchvision's, with `width` channels in the stem in place of 64."""
    torch, torchvision, _ = with_torch.libraries()
    block = getattr(torchvision.models.resnet, kind)
    model = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES)
    model.inplanes = width
    model.conv1 = torch.nn.Conv2d(3, width, 7, 2, 3, bias=False)
    model.bn1 = torch.nn.BatchNorm2d(width)
    for i, count in enumerate(counts):
        setattr(model, f'layer{i + 1}', model._make_layer(block, width * 2**i, count, 1 if i == 0 else 2))
    model.fc = torch.nn.Linear(width * 8 * block.expansion, CLASSES)
    return model


def transformers_resnet() -> Any:
    import transformers  # pyright: ignore[reportMissingImports]

    config = transformers.ResNetConfig(
        embedding_size=4, hidden_sizes=[16, 32, 64], depths=[2, 1, 1], num_labels=CLASSES
    )
    return transformers.ResNetForImageClassification(config)


def densenet() -> Any:
    _, torchvision, _ = with_torch.libraries()
    return torchvision.models.DenseNet(6, (2, 3, 2, 2), 12, num_classes=CLASSES)


def timm_efficientnet() -> Any:
    """Of three groups, with TensorFlow's padding, eps and swish, as timm makes its `tf_efficientnet_b*`."""
    torch, _, timm = with_torch.libraries()
    from timm.models import _efficientnet_builder as builder  # pyright: ignore[reportMissingImports]

    groups = builder.decode_arch_def(
        [['ds_r1_k3_s1_e1_c8_se0.25'], ['ir_r2_k3_s2_e6_c8_se0.25'], ['ir_r2_k5_s2_e6_c16_se0.25']]
    )
    return timm.models.efficientnet.EfficientNet(
        groups, num_classes=CLASSES, num_features=64, stem_size=8, fix_stem=True, pad_type='same',
        act_layer=torch.nn.SiLU, norm_layer=partial(torch.nn.BatchNorm2d, eps=1e-3),
    )  # fmt: skip


def torchvision_efficientnet() -> Any:
    _, torchvision, _ = with_torch.libraries()
    groups = [
        torchvision.models.efficientnet.MBConvConfig(expand, size, stride, before, width, count)
        for expand, size, stride, before, width, count in [(1, 3, 1, 8, 8, 1), (6, 3, 2, 8, 8, 2), (6, 5, 2, 8, 16, 2)]
    ]
    return torchvision.models.EfficientNet(groups, dropout=0.2, num_classes=CLASSES, last_channel=64)


def timm_lite() -> Any:
    """The first and the last group keep their depth, and stem and top their width, as in `tf_efficientnet_lite1`."""
    torch, _, timm = with_torch.libraries()
    from timm.models import _efficientnet_builder as builder  # pyright: ignore[reportMissingImports]

    words = [['ds_r1_k3_s1_e1_c8'], ['ir_r1_k3_s2_e2_c4'], ['ir_r2_k5_s2_e2_c4']]
    return timm.models.efficientnet.EfficientNet(
        builder.decode_arch_def(words, depth_multiplier=2.0, fix_first_last=True), num_classes=CLASSES, num_features=24,
        stem_size=8, fix_stem=True, pad_type='same', act_layer=torch.nn.ReLU6,
        round_chs_fn=partial(builder.round_channels, multiplier=2.0),
        norm_layer=partial(torch.nn.BatchNorm2d, eps=1e-3),
    )  # fmt: skip


def timm_mobilenet(words: list[list[str]], activation: str, **head: bool) -> Any:
    torch, _, timm = with_torch.libraries()
    from timm.layers import get_act_layer  # pyright: ignore[reportMissingImports]
    from timm.models import _efficientnet_blocks as blocks  # pyright: ignore[reportMissingImports]
    from timm.models import _efficientnet_builder as builder  # pyright: ignore[reportMissingImports]

    squeeze = partial(
        blocks.SqueezeExcite, gate_layer='hard_sigmoid', force_act_layer=torch.nn.ReLU,
        rd_round_fn=builder.round_channels,
    )  # fmt: skip
    return timm.models.mobilenetv3.MobileNetV3(
        builder.decode_arch_def(words), num_classes=CLASSES, stem_size=8, num_features=24, se_layer=squeeze,
        act_layer=get_act_layer(activation), **head,
    )  # fmt: skip


V3 = [
    ['ds_r1_k3_s1_e1_c8_nre'],
    ['ir_r1_k5_s2_e3_c8_se0.25_nre', 'ir_r1_k3_s1_e2.3_c8'],
    ['ir_r1_k5_s2_e3_c16_se0.25'],
    ['cn_r1_k1_s1_c24'],
]
V4 = [
    ['cn_r1_k3_s2_e1_c8', 'cn_r1_k1_s1_e1_c8'],
    ['er_r1_k3_s2_e2_c8'],
    ['uir_r1_a5_k5_s2_e3_c8', 'uir_r1_a0_k3_s1_e2_c8', 'uir_r1_a3_k0_s1_e2_c8', 'uir_r1_a0_k0_s1_e2_c8'],
    ['uir_r1_a3_k0_s2_e2_c16'],
    ['cn_r1_k1_s1_c24'],
]

MAKE = {
    'narrow_resnet_basic': partial(resnet, 'BasicBlock', (2, 1, 1, 1), 4),
    'narrow_resnet_bottleneck': partial(resnet, 'Bottleneck', (2, 1, 1, 1), 3),
    'narrow_resnet_transformers': transformers_resnet,
    'narrow_densenet': densenet,
    'narrow_efficientnet_timm': timm_efficientnet,
    'narrow_efficientnet_torchvision': torchvision_efficientnet,
    'narrow_efficientnet_lite': timm_lite,
    'narrow_mobilenetv3': partial(timm_mobilenet, V3, 'hard_swish'),
    'narrow_mobilenetv4': partial(timm_mobilenet, V4, 'relu', head_bias=False, head_norm=True),
}


def main() -> None:
    warnings.simplefilter('ignore')  # theirs
    for seed, (name, make) in enumerate(MAKE.items()):
        model = make()
        state = with_torch.randomise(model, seed)
        image = np.random.default_rng(100 + seed).standard_normal((2, SIDE, SIDE, 3)).astype(np.float16)
        image *= CONTRAST.get(name, 1)
        logits = with_torch.logits(model, image)
        path = FIXTURES / f'{name}.npz'
        np.savez_compressed(path, image=image, logits=logits, **{f'state/{key}': value for key, value in state.items()})
        print(f'{path.name}: {len(state)} tensors, {path.stat().st_size} bytes')


if __name__ == '__main__':
    main()
