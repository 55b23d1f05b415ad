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


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
