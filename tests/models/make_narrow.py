"""Writes tests/fixtures/narrow_*.npz: small torch networks with random weights, and what they say.

    pip install torch==2.13.0 && pip install --no-deps torchvision==0.28.0 timm==1.0.31 transformers
    PYTHONPATH=. python tests/models/make_narrow.py [NAME ..]

By hand, once; the tests read the files and need no torch. Each holds every tensor of the state dict (`state/NAME`), an
image (B, H, W, C) and the logits in eval mode and float64; of a network without a
classifier, its features. `NARROW` in tests/support/narrow.py are the same networks in ours.
"""

from __future__ import annotations

import sys
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


def convnext(grn: bool) -> Any:
    """timm's: the first version with linear layers, as from tiny upwards, the second with 1x1 convolutions."""
    _, _, timm = with_torch.libraries()
    return timm.models.convnext.ConvNeXt(
        depths=(2, 1, 1, 1), dims=(4, 8, 8, 12), num_classes=CLASSES, use_grn=grn, conv_mlp=grn,
        ls_init_value=None if grn else 1e-6,
    )  # fmt: skip


def timm_resnet() -> Any:
    """timm's with a deep stem, averages in the shortcuts, and squeeze-excite."""
    _, _, timm = with_torch.libraries()
    resnet = timm.models.resnet
    return resnet.ResNet(
        resnet.Bottleneck, (1, 1, 1, 1), num_classes=CLASSES, channels=(2, 4, 8, 16), stem_width=1, stem_type='deep',
        avg_down=True, block_args={'attn_layer': 'se'},
    )  # fmt: skip


def bit() -> Any:
    """timm's, of two stages and with four groups in a normalisation."""
    _, _, timm = with_torch.libraries()
    resnetv2 = timm.models.resnetv2
    return resnetv2.ResNetV2(
        (2, 1), (32, 64), num_classes=CLASSES, stem_chs=8, stem_type='fixed',
        norm_layer=partial(resnetv2.GroupNormAct, num_groups=4), conv_layer=partial(resnetv2.StdConv2d, eps=1e-8),
    )  # fmt: skip


def vit(**options: Any) -> Any:
    """timm's, 8 channels wide, with 5 x 5 positions of patches of 8 pixels for images of 40."""
    _, _, timm = with_torch.libraries()
    given = {'img_size': 40, 'patch_size': 8, 'embed_dim': 8, 'depth': 5, 'num_heads': 2, 'mlp_ratio': 2}
    return timm.models.vision_transformer.VisionTransformer(**{**given, 'num_classes': CLASSES, **options})


def clip() -> Any:
    torch, _, _ = with_torch.libraries()
    norm = partial(torch.nn.LayerNorm, eps=1e-5)
    return vit(pre_norm=True, norm_layer=norm, act_layer='quick_gelu')


def dinov2_giant() -> Any:
    """With registers, LayerScale and the packed SwiGLU, and no classifier."""
    _, _, timm = with_torch.libraries()
    silu = timm.layers.get_act_layer('silu')
    return vit(
        num_classes=0, init_values=1e-5, reg_tokens=4, no_embed_class=True, mlp_layer=timm.layers.SwiGLUPacked,
        act_layer=silu, mlp_ratio=3,
    )  # fmt: skip


def dinov3() -> Any:
    """With the split SwiGLU, and biases of query and value."""
    torch, _, timm = with_torch.libraries()
    return timm.models.eva.Eva(
        img_size=40, patch_size=8, embed_dim=8, depth=4, num_heads=2, num_classes=CLASSES, qkv_bias=True, mlp_ratio=2,
        init_values=1e-5, rope_type='dinov3', rope_temperature=100, rope_rotate_half=True, use_rot_pos_emb=True,
        use_abs_pos_emb=False, num_reg_tokens=4, use_fc_norm=False, dynamic_img_size=True, swiglu_mlp=True,
        swiglu_align_to=8, norm_layer=partial(torch.nn.LayerNorm, eps=1e-5),
    )  # fmt: skip


# Sides of the images of the networks that need whole patches.
PATCHED = ('narrow_vit', 'narrow_clip', 'narrow_deit3', 'narrow_dinov2', 'narrow_dinov3', 'narrow_siglip')
SIDES = {name: 40 for name in PATCHED}
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
    'narrow_convnext': partial(convnext, False),
    'narrow_convnextv2': partial(convnext, True),
    'narrow_resnet_timm': timm_resnet,
    'narrow_bit': bit,
    'narrow_vit': vit,
    'narrow_clip': clip,
    'narrow_deit3': partial(vit, init_values=1e-6, no_embed_class=True),
    'narrow_dinov2': dinov2_giant,
    'narrow_dinov3': dinov3,
    'narrow_siglip': partial(vit, num_classes=0, class_token=False, global_pool='map', act_layer='gelu_tanh'),
    'narrow_efficientnet_lite': timm_lite,
    'narrow_mobilenetv3': partial(timm_mobilenet, V3, 'hard_swish'),
    'narrow_mobilenetv4': partial(timm_mobilenet, V4, 'relu', head_bias=False, head_norm=True),
}


def main() -> None:
    warnings.simplefilter('ignore')  # theirs
    wanted = sys.argv[1:] or MAKE
    for seed, (name, make) in enumerate(MAKE.items()):
        if name not in wanted:
            continue
        model = make()
        state = with_torch.randomise(model, seed)
        side = SIDES.get(name, SIDE)
        image = np.random.default_rng(100 + seed).standard_normal((2, side, side, 3)).astype(np.float16)
        logits = with_torch.logits(model, image)
        path = FIXTURES / f'{name}.npz'
        np.savez_compressed(path, image=image, logits=logits, **{f'state/{key}': value for key, value in state.items()})
        print(f'{path.name}: {len(state)} tensors, {path.stat().st_size} bytes')


if __name__ == '__main__':
    main()
