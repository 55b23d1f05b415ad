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
