"""The names of a MobileNet's layers in timm."""

from __future__ import annotations

from collections.abc import Callable

from mixjax.models.mobilenet import MobileNet

TOP = {
    'stem/conv': 'conv_stem',
    'stem/bn': 'bn1',
    'final/conv': 'conv_head',
    'final/bn': 'norm_head',
    'head': 'classifier',
}
UNIVERSAL = {'start': 'dw_start', 'expand': 'pw_exp', 'depthwise': 'dw_mid', 'project': 'pw_proj'}
# Kind of block -> {our layer: timm's}.
LAYERS = {
    'plain': {'conv': 'conv', 'bn': 'bn1'},
    'separable': {
        'depthwise_conv': 'conv_dw',
        'depthwise_bn': 'bn1',
        'project_conv': 'conv_pw',
        'project_bn': 'bn2',
    },
    'inverted': {
        'expand_conv': 'conv_pw',
        'expand_bn': 'bn1',
        'depthwise_conv': 'conv_dw',
        'depthwise_bn': 'bn2',
        'project_conv': 'conv_pwl',
        'project_bn': 'bn3',
    },
    'fused': {'expand_conv': 'conv_exp', 'expand_bn': 'bn1', 'project_conv': 'conv_pwl', 'project_bn': 'bn2'},
    'universal': {
        f'{ours}_{layer}': f'{theirs}.{layer}' for ours, theirs in UNIVERSAL.items() for layer in ('conv', 'bn')
    },
}
SQUEEZE = {'se_reduce': 'se.conv_reduce', 'se_expand': 'se.conv_expand'}


def timm(backbone: MobileNet) -> Callable[[int, int, str], str]:
    """Return the function that names a layer of a block: (stage, block, our name) -> timm's."""

    def layer(stage: int, block: int, name: str) -> str:
        kind = backbone.stages[stage - 1][block].kind
        return f'blocks.{stage - 1}.{block}.{(LAYERS[kind] | SQUEEZE)[name]}'

    return layer
