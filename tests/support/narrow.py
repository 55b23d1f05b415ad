"""Networks of each family, made narrow; `tests/models/make_narrow.py` writes torch's numbers of the same ones."""

from flax import linen as nn

from mixjax.models.bit import BitResNet
from mixjax.models.convnext import ConvNeXt
from mixjax.models.densenet import DenseNet
from mixjax.models.dinov3 import DinoV3
from mixjax.models.efficientnet import EfficientNet, Group
from mixjax.models.mobilenet import SWISH, V3, V4, fused, inverted, plain, separable, universal
from mixjax.models.resnet import BasicBlock, Bottleneck, DeepStem, ResNet
from mixjax.models.transformer import Form
from mixjax.models.vit import VisionTransformer

GROUPS = (Group(1, 8, 1, 1, 3), Group(6, 8, 2, 2, 3), Group(6, 16, 2, 2, 5))
FORM = Form(8, 2, 16)
GATED = FORM._replace(activation='silu', scale=1e-5)
SMALL = (
    (separable(8, 3),),
    (inverted(8, 5, 2, 3, squeeze=True), inverted(8, 3, 1, 2.3, **SWISH)),
    (inverted(16, 5, 2, 3, squeeze=True, **SWISH),),
    (plain(24, 1, **SWISH),),
)
EVERY_KIND = (
    (plain(8, 3, 2), plain(8, 1)),
    (fused(8, 3, 2, 2),),
    (universal(5, 5, 8, 3, 2), universal(0, 3, 8, 2), universal(3, 0, 8, 2), universal(0, 0, 8, 2)),
    (universal(3, 0, 16, 2, 2),),
    (plain(24, 1),),
)
# file -> (the network in ours, the dialect of the file)
NARROW = {
    'narrow_resnet_basic': (ResNet(BasicBlock, (2, 1, 1, 1), width=4), 'torchvision'),
    'narrow_resnet_bottleneck': (ResNet(Bottleneck, (2, 1, 1, 1), width=3), 'torchvision'),
    'narrow_resnet_transformers': (ResNet(Bottleneck, (2, 1, 1), width=4), 'transformers'),
    'narrow_densenet': (DenseNet((2, 3, 2, 2), growth=6), 'torchvision'),
    'narrow_efficientnet_timm': (EfficientNet(groups=GROUPS, stem=8, top=64), 'timm'),
    'narrow_efficientnet_torchvision': (
        EfficientNet(groups=GROUPS, stem=8, top=64, padding='symmetric'),
        'torchvision',
    ),
    'narrow_convnext': (ConvNeXt((2, 1, 1, 1), (4, 8, 8, 12)), 'timm'),
    'narrow_convnextv2': (ConvNeXt((2, 1, 1, 1), (4, 8, 8, 12), grn=True, conv_mlp=True), 'timm'),
    'narrow_resnet_timm': (
        ResNet(Bottleneck, (1, 1, 1, 1), width=2, stem=DeepStem, average=True, squeeze=True),
        'timm',
    ),
    'narrow_bit': (BitResNet((2, 1), width=8, groups=4), 'timm'),
    'narrow_vit': (VisionTransformer(FORM, 5, 8, 5), 'timm'),
    'narrow_clip': (
        VisionTransformer(FORM._replace(activation='quick_gelu', eps=1e-5), 5, 8, 5, before=True),
        'timm',
    ),
    'narrow_deit3': (VisionTransformer(FORM._replace(scale=1e-6), 5, 8, 5, placed=False), 'timm'),
    'narrow_dinov2': (
        VisionTransformer(GATED._replace(gate='packed', hidden=12), 5, 8, 5, registers=4, placed=False),
        'timm',
    ),
    'narrow_dinov3': (DinoV3(GATED._replace(gate='split', eps=1e-5, bias='q, v'), 4, 8), 'timm'),
    'narrow_siglip': (
        VisionTransformer(FORM._replace(activation='gelu_tanh'), 5, 8, 5, cls=False, pool='map'),
        'timm',
    ),
    'narrow_efficientnet_lite': (
        EfficientNet(
            2.0, 2.0, groups=(Group(1, 8, 1, 1, 3), Group(2, 4, 1, 2, 3), Group(2, 4, 2, 2, 5)), stem=8, top=24,
            activation=nn.relu6, squeeze=False, scaled_ends=False,
        ),
        'timm',
    ),
    'narrow_mobilenetv3': (V3(SMALL, stem=8, top=24), 'timm'),
    'narrow_mobilenetv4': (V4(EVERY_KIND, stem=8, top=24), 'timm'),
}  # fmt: skip
