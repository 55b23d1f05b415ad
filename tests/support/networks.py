"""The networks that ship: their stages, the images they are for, and the number of their parameters."""

import jax

IMAGENET, SMALL, DOUBLE = (2, 224, 224, 3), (2, 32, 32, 3), (2, 64, 64, 3)
# name -> (stages, image, parameters with a 10-way head)
NETWORKS = {
    'cifar_resnet50': (4, SMALL, 23_520_842),
    'densenet121': (4, IMAGENET, 6_964_106),
    'densenet121_cifar': (4, SMALL, 6_956_298),
    'glyphnet': (3, (2, 16, 16, 1), 77_754),
    'glyphnet_deep': (3, (2, 16, 16, 1), 68_642),
    'glyphnet_plane': (3, (2, 16, 16, 1), 84_648),
    'lenet': (3, SMALL, 62_006),
    'mobilenetv3_large_100': (7, IMAGENET, 4_214_842),
    'mobilenetv4_conv_medium': (5, (2, 256, 256, 3), 8_447_322),
    'mobilenetv4_conv_small': (5, IMAGENET, 2_505_834),
    'preactresnet18': (4, SMALL, 11_171_274),
    'preactresnet18_plane': (4, SMALL, 11_224_312),
    'preactresnet18_raw': (4, SMALL, 11_171_146),
    'preactresnet18_raw_64': (4, DOUBLE, 11_171_146),
    'preactresnet50_raw': (4, SMALL, 23_509_066),
    'preactresnet50_raw_64': (4, DOUBLE, 23_509_066),
    'resnet18': (4, IMAGENET, 11_181_642),
    'resnet34': (4, IMAGENET, 21_289_802),
    'resnet50': (4, IMAGENET, 23_528_522),
    'resnet101': (4, IMAGENET, 42_520_650),
    'resnet152': (4, IMAGENET, 58_164_298),
    'resnet26d': (4, IMAGENET, 13_985_898),
    'resnet50d': (4, IMAGENET, 23_547_754),
    'resnet101d': (4, (2, 256, 256, 3), 42_539_882),
    'seresnet50': (4, IMAGENET, 26_059_514),
    'resnetv2_50x1_bit': (4, IMAGENET, 23_520_842),
    'resnetv2_101x1_bit': (4, (2, 448, 448, 3), 42_512_970),
    'wrn28_10': (3, SMALL, 36_489_290),
    'wrn28_10_64': (3, DOUBLE, 36_489_290),
}
SIZES = {
    'b0': (224, 4_020_358),
    'b1': (240, 6_525_994),
    'b2': (260, 7_715_084),
    'b3': (300, 10_711_602),
    'b4': (380, 17_566_546),
}
NETWORKS |= {
    f'efficientnet_{scale}{form}': (8, (2, side, side, 3), count)
    for scale, (side, count) in SIZES.items()
    for form in ('', f'_fixed{side}', '_symmetric')
}
CONVNEXTS = {
    'convnext_atto': 3_377_730,
    'convnext_femto': 4_836_634,
    'convnext_pico': 8_537_802,
    'convnext_nano': 14_958_970,
    'convnext_tiny': 27_827_818,
    'convnext_small': 49_462_378,
    'convnext_base': 87_576_714,
    'convnext_large': 196_245_706,
    'convnext_xlarge': 348_168_458,
    'convnextv2_atto': 3_390_610,
    'convnextv2_femto': 4_852_090,
    'convnextv2_pico': 8_558_410,
    'convnextv2_nano': 14_989_210,
    'convnextv2_tiny': 27_874_186,
    'convnextv2_base': 87_703_050,
    'convnextv2_large': 196_435_210,
}
NETWORKS |= {name: (4, IMAGENET, count) for name, count in CONVNEXTS.items()}

# Vision transformers: their sides, and the parameters with a 10-way head.
VITS = {
    'deit3_base_patch16_224': 85_824_010,
    'deit3_huge_patch14_224': 630_858_250,
    'deit3_large_patch16_224': 303_360_010,
    'deit3_medium_patch16_224': 38_341_642,
    'deit3_small_patch16_224': 21_678_346,
    'vit_base_patch14_dinov2': 86_587_402,
    'vit_base_patch14_reg4_dinov2': 86_589_706,
    'vit_base_patch16_224': 85_806_346,
    'vit_base_patch16_clip_224': 85_807_114,
    'vit_base_patch16_dinov3': 85_648_906,
    'vit_base_patch16_dinov3_qkvb': 85_667_338,
    'vit_base_patch16_siglip_224': 92_891_914,
    'vit_base_patch16_siglip_gap_224': 85_804_810,
    'vit_base_patch32_224': 87_462_922,
    'vit_base_patch32_clip_224': 87_463_690,
    'vit_base_patch32_siglip_256': 94_560_010,
    'vit_base_patch32_siglip_gap_256': 87_472_906,
    'vit_base_patch8_224': 85_815_562,
    'vit_giant_patch14_dinov2': 1_136_494_602,
    'vit_giant_patch14_reg4_dinov2': 1_136_499_210,
    'vit_huge_patch14_224': 630_777_610,
    'vit_large_patch14_clip_224': 303_190_026,
    'vit_large_patch14_dinov2': 304_377_866,
    'vit_large_patch14_reg4_dinov2': 304_380_938,
    'vit_large_patch16_224': 303_311_882,
    'vit_large_patch16_dinov3': 303_089_674,
    'vit_large_patch16_dinov3_qkvb': 303_138_826,
    'vit_large_patch16_siglip_256': 315_966_474,
    'vit_large_patch16_siglip_gap_256': 303_371_274,
    'vit_small_patch14_dinov2': 22_060_042,
    'vit_small_patch14_reg4_dinov2': 22_061_194,
    'vit_small_patch16_224': 21_669_514,
    'vit_small_patch16_dinov3': 21_590_794,
    'vit_small_patch16_dinov3_qkvb': 21_600_010,
    'vit_small_patch32_224': 22_497_802,
    'vit_small_plus_patch16_dinov3': 28_687_114,
    'vit_small_plus_patch16_dinov3_qkvb': 28_696_330,
    'vit_so400m_patch14_siglip_224': 427_692_234,
    'vit_so400m_patch14_siglip_gap_224': 412_453_882,
    'vit_so400m_patch16_siglip_256': 427_899_594,
    'vit_so400m_patch16_siglip_gap_256': 412_661_242,
    'vit_tiny_patch16_224': 5_526_346,
}
NETWORKS |= {
    name: (4, (2, side, side, 3), count)
    for name, count in VITS.items()
    for side in [518 if name.endswith('dinov2') else 256 if 'dinov3' in name else int(name.rpartition('_')[2])]
}
NETWORKS['test_vit'] = 4, (2, 160, 160, 3), 306_890
# Those that are another one of these for larger images or with another activation: name -> the other one.
ALIKE = {
    **{f'vit_{size}_patch{patch}_384': f'vit_{size}_patch{patch}_224'
       for patch, sizes in {32: ('small', 'base'), 16: ('tiny', 'small', 'base', 'large')}.items() for size in sizes},
    **{f'deit3_{size}_patch16_384': f'deit3_{size}_patch16_224' for size in ('small', 'base', 'large')},
    **{f'vit_{size}_patch{patch}_clip_{form}': f'vit_{size}_patch{patch}_clip_224'
       for size, patch, forms in [
           ('base', 32, ['quickgelu_224']), ('base', 16, ['quickgelu_224']),
           ('large', 14, ['336', 'quickgelu_224', 'quickgelu_336']),
       ] for form in forms},
    **{f'vit_{size}_patch{patch}_siglip_{pool}{side}': f'vit_{size}_patch{patch}_siglip_{pool}{first}'
       for size, patch, first, sides in [
           ('base', 16, 224, (256, 384, 512)), ('large', 16, 256, (384, 512)), ('so400m', 14, 224, (378, 384)),
           ('so400m', 16, 256, (384, 512)),
       ] for side in sides for pool in ('', 'gap_')},
}  # fmt: skip
NETWORKS |= {
    name: (4, (2, side, side, 3), VITS[other])
    for name, other in ALIKE.items()
    for side in [int(name.rpartition('_')[2])]
}


def is_vit(name):
    return name.startswith(('vit_', 'deit3_', 'test_vit'))
LITE = {
    'lite0': (224, 3_383_818),
    'lite0_symmetric': (224, 3_383_818),
    'lite1': (240, 4_148_490),
    'lite2': (260, 4_823_882),
    'lite3': (300, 6_928_906),
    'lite4': (380, 11_738_378),
}
NETWORKS |= {f'efficientnet_{scale}': (8, (2, side, side, 3), count) for scale, (side, count) in LITE.items()}


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
