"""Names that others use. That tensors also arrive in the right place: test_narrow.py, test_parity.py, test_torch.py."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mixjax import models
from mixjax.errors import UserError
from mixjax.models.lenet import LeNet
from mixjax.models.net import from_linen
from mixjax.models.weights import tensor_names
from mixjax.models.wideresnet import WideResNet
from tests.support.common import SHIPPED, assert_trees_equal
from tests.support.filled import filled
from tests.support.networks import ALIKE, NETWORKS, is_vit

# A few names of each dialect, as published files spell them.
SPELLED = {
    ('resnet50', 'torchvision'): {
        'stem/conv': 'conv1',
        'stem/bn': 'bn1',
        'stage1/block0/shortcut_conv': 'layer1.0.downsample.0',
        'stage1/block0/shortcut_bn': 'layer1.0.downsample.1',
        'stage4/block2/conv3': 'layer4.2.conv3',
        'stage3/block5/bn2': 'layer3.5.bn2',
        'head': 'fc',
    },
    ('resnet50', 'transformers'): {
        'stem/conv': 'resnet.embedder.embedder.convolution',
        'stem/bn': 'resnet.embedder.embedder.normalization',
        'stage1/block0/shortcut_conv': 'resnet.encoder.stages.0.layers.0.shortcut.convolution',
        'stage1/block0/shortcut_bn': 'resnet.encoder.stages.0.layers.0.shortcut.normalization',
        'stage4/block2/conv3': 'resnet.encoder.stages.3.layers.2.layer.2.convolution',
        'stage3/block5/bn2': 'resnet.encoder.stages.2.layers.5.layer.1.normalization',
        'head': 'classifier.1',
    },
    ('cifar_resnet50', 'cifar'): {'stage1/block0/shortcut_bn': 'layer1.0.shortcut.1', 'head': 'linear'},
    ('preactresnet18', 'cifar'): {'stem/bn': 'bn1', 'stage2/block0/shortcut_conv': 'layer2.0.shortcut.0'},
    ('wrn28_10', 'cifar'): {'stem/conv': 'conv1', 'final/bn': 'bn1', 'stage3/block3/conv2': 'layer3.3.conv2'},
    ('lenet', 'cifar'): {'stage1/conv': 'conv2', 'stage3/fc': 'fc2', 'head': 'fc3'},
    ('densenet121', 'torchvision'): {
        'stem/bn': 'features.norm0',
        'stage1/block0/bn1': 'features.denseblock1.denselayer1.norm1',
        'stage4/block15/conv2': 'features.denseblock4.denselayer16.conv2',
        'stage2/transition/bn': 'features.transition1.norm',
        'stage4/transition/conv': 'features.transition3.conv',
        'final/bn': 'features.norm5',
        'head': 'classifier',
    },
    ('densenet121', 'torchvision, old'): {
        'stage1/block0/bn1': 'features.denseblock1.denselayer1.norm.1',
        'stage4/block15/conv2': 'features.denseblock4.denselayer16.conv.2',
        'stage2/transition/bn': 'features.transition1.norm',
    },
    ('densenet121_cifar', 'cifar'): {
        'stage2/block0/bn2': 'dense2.0.bn2',
        'stage2/transition/conv': 'trans1.conv',
        'final/bn': 'bn',
    },
    ('efficientnet_b4', 'timm'): {
        'stem/conv': 'conv_stem',
        'stage1/block1/depthwise_conv': 'blocks.0.1.conv_dw',
        'stage1/block1/project_conv': 'blocks.0.1.conv_pw',
        'stage1/block1/project_bn': 'blocks.0.1.bn2',
        'stage2/block0/expand_conv': 'blocks.1.0.conv_pw',
        'stage7/block1/se_reduce': 'blocks.6.1.se.conv_reduce',
        'stage7/block1/project_bn': 'blocks.6.1.bn3',
        'stage8/conv': 'conv_head',
        'stage8/bn': 'bn2',
        'head': 'classifier',
    },
    ('efficientnet_b4_fixed380', "SMILE's efficientnet"): {
        'stem/bn': '_bn0',
        'stage1/block0/depthwise_conv': '_blocks.0._depthwise_conv',
        'stage2/block0/expand_bn': '_blocks.2._bn0',
        'stage7/block1/project_conv': '_blocks.31._project_conv',
        'stage8/bn': '_bn1',
        'head': 'fc',
    },
    ('efficientnet_b0', 'efficientnet_pytorch'): {'stage7/block0/se_expand': '_blocks.15._se_expand', 'head': '_fc'},
    ('efficientnet_lite0', 'efficientnet_pytorch'): {
        'stem/bn': '_bn0',
        'stage2/block1/expand_conv': '_blocks.2._expand_conv',
        'stage8/conv': '_conv_head',
        'head': '_fc',
    },
    ('efficientnet_lite0_symmetric', 'timm'): {'stage1/block0/project_bn': 'blocks.0.0.bn2', 'stage8/bn': 'bn2'},
    ('mobilenetv3_large_100', 'timm'): {
        'stem/conv': 'conv_stem',
        'stage1/block0/depthwise_conv': 'blocks.0.0.conv_dw',
        'stage1/block0/project_conv': 'blocks.0.0.conv_pw',
        'stage3/block2/se_reduce': 'blocks.2.2.se.conv_reduce',
        'stage6/block0/project_bn': 'blocks.5.0.bn3',
        'stage7/block0/conv': 'blocks.6.0.conv',
        'final/conv': 'conv_head',
        'head': 'classifier',
    },
    ('mobilenetv4_conv_medium', 'timm'): {
        'stage1/block0/expand_conv': 'blocks.0.0.conv_exp',
        'stage1/block0/project_bn': 'blocks.0.0.bn2',
        'stage2/block0/start_conv': 'blocks.1.0.dw_start.conv',
        'stage2/block0/depthwise_bn': 'blocks.1.0.dw_mid.bn',
        'stage4/block10/project_conv': 'blocks.3.10.pw_proj.conv',
        'final/bn': 'norm_head',
    },
    ('efficientnet_b4_symmetric', 'torchvision'): {
        'stem/conv': 'features.0.0',
        'stage1/block0/depthwise_conv': 'features.1.0.block.0.0',
        'stage1/block0/se_reduce': 'features.1.0.block.1.fc1',
        'stage1/block0/project_bn': 'features.1.0.block.2.1',
        'stage2/block3/expand_bn': 'features.2.3.block.0.1',
        'stage2/block3/se_expand': 'features.2.3.block.2.fc2',
        'stage2/block3/project_conv': 'features.2.3.block.3.0',
        'stage8/conv': 'features.8.0',
        'head': 'classifier.1',
    },
    ('deit3_small_patch16_224', 'timm'): {
        'stem/conv': 'patch_embed.proj',
        'stem/cls_token': 'cls_token',
        'stage2/block0/attn/qkv': 'blocks.3.attn.qkv',
        'stage4/block2/ls2/gamma': 'blocks.11.ls2.gamma',
        'final/norm': 'norm',
        'head': 'head',
    },
    ('vit_so400m_patch14_siglip_224', 'timm'): {
        'stem/pos_embed': 'pos_embed',
        'stage2/block0/mlp/fc1': 'blocks.7.mlp.fc1',
        'stage4/block5/norm2': 'blocks.26.norm2',
        'final/pool/latent': 'attn_pool.latent',
        'final/pool/mlp/fc2': 'attn_pool.mlp.fc2',
    },
    ('vit_base_patch16_224', 'transformers'): {
        'stem/conv': 'vit.embeddings.patch_embeddings.projection',
        'stage1/block0/attn/proj': 'vit.encoder.layer.0.attention.output.dense',
        'stage4/block2/mlp/fc2': 'vit.encoder.layer.11.output.dense',
        'final/norm': 'vit.layernorm',
        'head': 'classifier',
    },
    ('vit_base_patch16_siglip_224', 'transformers'): {
        'stem/conv': 'vision_model.embeddings.patch_embedding',
        'stage4/block2/attn/proj': 'vision_model.encoder.layers.11.self_attn.out_proj',
        'final/pool/latent': 'vision_model.head.probe',
    },
    ('vit_base_patch16_clip_quickgelu_224', 'timm'): {'stem/norm': 'norm_pre'},
    ('vit_base_patch16_clip_quickgelu_224', 'transformers'): {'stem/norm': 'vision_model.pre_layrnorm'},
    ('vit_giant_patch14_reg4_dinov2', 'dinov2'): {
        'stem/reg_token': 'register_tokens',
        'stage4/block9/mlp/fc1': 'blocks.39.mlp.w12',
        'stage1/block0/ls1/gamma': 'blocks.0.ls1.gamma',
    },
    ('vit_giant_patch14_reg4_dinov2', 'transformers'): {
        'stem/reg_token': 'embeddings.register_tokens',
        'stage4/block9/mlp/fc1': 'encoder.layer.39.mlp.weights_in',
        'stage1/block0/ls1/gamma': 'encoder.layer.0.layer_scale1.lambda1',
    },
    ('vit_small_plus_patch16_dinov3_qkvb', 'timm'): {
        'stem/reg_token': 'reg_token',
        'stage1/block2/attn/q_bias': 'blocks.2.attn.q_bias',
        'stage1/block2/ls1/gamma': 'blocks.2.gamma_1',
        'stage4/block2/mlp/fc1_g': 'blocks.11.mlp.fc1_g',
    },
    ('vit_small_plus_patch16_dinov3_qkvb', 'dinov3'): {
        'stem/reg_token': 'storage_tokens',
        'stage1/block2/ls1/gamma': 'blocks.2.ls1.gamma',
        'stage4/block2/mlp/fc1_g': 'blocks.11.mlp.w1',
    },
    ('vit_small_plus_patch16_dinov3_qkvb', 'transformers'): {
        'stem/reg_token': 'embeddings.register_tokens',
        'stage1/block2/attn/v_bias': 'layer.2.attention.v_proj.bias',
        'stage4/block2/mlp/fc1_g': 'layer.11.mlp.gate_proj',
    },
    ('convnext_tiny', 'timm'): {
        'stem/conv': 'stem.0',
        'stem/norm': 'stem.1',
        'stage1/block2/gamma': 'stages.0.blocks.2.gamma',
        'stage2/downsample/norm': 'stages.1.downsample.0',
        'stage2/downsample/conv': 'stages.1.downsample.1',
        'stage3/block8/conv_dw': 'stages.2.blocks.8.conv_dw',
        'stage4/block0/fc2': 'stages.3.blocks.0.mlp.fc2',
        'final': 'head.norm',
        'head': 'head.fc',
    },
    ('convnext_tiny', 'transformers'): {
        'stem/conv': 'convnext.embeddings.patch_embeddings',
        'stem/norm': 'convnext.embeddings.layernorm',
        'stage1/block2/gamma': 'convnext.encoder.stages.0.layers.2.layer_scale_parameter',
        'stage2/downsample/norm': 'convnext.encoder.stages.1.downsampling_layer.0',
        'stage3/block8/norm': 'convnext.encoder.stages.2.layers.8.layernorm',
        'stage4/block0/fc2': 'convnext.encoder.stages.3.layers.0.pwconv2',
        'final': 'convnext.layernorm',
        'head': 'classifier',
    },
    ('convnext_tiny', 'facebook'): {
        'stem/conv': 'downsample_layers.0.0',
        'stem/norm': 'downsample_layers.0.1',
        'stage1/block2/gamma': 'stages.0.2.gamma',
        'stage2/downsample/conv': 'downsample_layers.1.1',
        'stage3/block8/conv_dw': 'stages.2.8.dwconv',
        'stage4/block0/fc1': 'stages.3.0.pwconv1',
        'final': 'norm',
        'head': 'head',
    },
    ('convnext_tiny', 'torchvision'): {
        'stem/conv': 'features.0.0',
        'stem/norm': 'features.0.1',
        'stage1/block2/gamma': 'features.1.2.layer_scale',
        'stage2/downsample/conv': 'features.2.1',
        'stage3/block8/conv_dw': 'features.5.8.block.0',
        'stage4/block0/fc1': 'features.7.0.block.3',
        'final': 'classifier.0',
        'head': 'classifier.2',
    },
    ('convnextv2_atto', 'timm'): {'stage2/block1/grn': 'stages.1.blocks.1.mlp.grn'},
    ('convnextv2_atto', 'transformers'): {'stage2/block1/grn': 'convnextv2.encoder.stages.1.layers.1.grn'},
    ('convnextv2_atto', 'facebook'): {'stage2/block1/grn': 'stages.1.1.grn'},
    ('resnet50d', 'timm'): {
        'stem/conv': 'conv1.0',
        'stem/bn': 'conv1.1',
        'stem/conv2': 'conv1.3',
        'stem/bn2': 'conv1.4',
        'stem/conv3': 'conv1.6',
        'stem/bn3': 'bn1',
        'stage1/block0/shortcut_conv': 'layer1.0.downsample.1',
        'stage4/block0/shortcut_bn': 'layer4.0.downsample.2',
        'stage4/block2/conv3': 'layer4.2.conv3',
        'head': 'fc',
    },
    ('seresnet50', 'timm'): {
        'stem/bn': 'bn1',
        'stage1/block0/shortcut_bn': 'layer1.0.downsample.1',
        'stage4/block2/se_reduce': 'layer4.2.se.fc1',
        'stage4/block2/se_expand': 'layer4.2.se.fc2',
    },
    ('resnetv2_50x1_bit', 'timm'): {
        'stem/conv': 'stem.conv',
        'stage1/block0/shortcut_conv': 'stages.0.blocks.0.downsample.conv',
        'stage3/block5/norm2': 'stages.2.blocks.5.norm2',
        'stage4/block2/conv3': 'stages.3.blocks.2.conv3',
        'final/norm': 'norm',
        'head': 'head.fc',
    },
}
# Of several depths the shallowest and the deepest are enough.
BETWEEN = (
    'resnet34', 'resnet101', 'resnet101d', *(f'efficientnet_{kind}{i}' for kind in ('b', 'lite') for i in (1, 2, 3)),
    'convnext_femto', 'convnext_pico', 'convnext_nano', 'convnext_small', 'convnext_base', 'convnext_large',
    'convnextv2_femto', 'convnextv2_pico', 'convnextv2_nano', 'convnextv2_base', *ALIKE,
)  # fmt: skip
ALL = [(name, dialect) for name in models.names() for dialect in tensor_names.dialects(name)]


@pytest.mark.parametrize(('name', 'dialect'), SPELLED)
def test_names_are_spelled_as_in_published_files(name, dialect):
    translate = tensor_names.dialects(name)[dialect]
    for ours, theirs in SPELLED[name, dialect].items():
        keys = ('heads', 'source') if ours == 'head' else ('backbone', *ours.split('/'))
        assert translate.layer(keys) == theirs


def test_every_dialect_is_spelled_once():
    kinds = {frozenset(tensor_names.dialects(name)) for name, _ in SPELLED}
    assert {frozenset(tensor_names.dialects(name)) for name, _ in ALL} == kinds
    assert {dialect for _, dialect in ALL} == {dialect for _, dialect in SPELLED}
    ours = ['glyphnet', 'glyphnet_deep', 'glyphnet_plane', 'preactresnet18_plane']
    assert [name for name in SHIPPED if not tensor_names.dialects(name)] == ours


@cache
def shapes(name):
    plain = name.removesuffix('_64').removesuffix('_symmetric').split('_fixed')[0]
    if plain != name:
        return shapes(plain)  # the same tree
    image = jax.ShapeDtypeStruct(NETWORKS[name][1] if is_vit(name) else (2, 32, 32, 3), jnp.float32)
    net = models.build(name)
    return jax.eval_shape(lambda rng, x: net.init(rng, x, {'source': 9}), jax.random.key(0), image)


@pytest.mark.parametrize(('name', 'dialect'), [case for case in ALL if case[0] not in BETWEEN])
def test_every_tensor_has_a_name_of_its_own(name, dialect):
    leaves = jax.tree_util.tree_leaves_with_path(shapes(name))
    translate = tensor_names.dialects(name)[dialect]
    names = {tensor_names._name(translate, tuple(key.key for key in path)) for path, _ in leaves}
    assert len(names) == len(leaves)


# --- the way through a file, on small networks ------------------------------------------------------------------------


@pytest.fixture(scope='module', params=['lenet', 'wrn'])
def small(request):
    backbone = {'lenet': LeNet((2, 3, 5, 4)), 'wrn': WideResNet(blocks=1, widen=1)}[request.param]
    net, image = from_linen(backbone), jnp.zeros((2, 16, 16, 3))
    variables = jax.device_get(filled(lambda: net.init(jax.random.key(0), image, {'source': 6})))
    return backbone, variables, tensor_names.to_torch(backbone, variables, 'cifar')


def test_kernels_are_transposed(small):
    backbone, variables, tensors = small
    if isinstance(backbone, LeNet):
        fc = variables['params']['backbone']['stage2']['fc']['kernel']
        np.testing.assert_array_equal(tensors['fc1.weight'], fc.T)
        assert tensors['fc3.weight'].shape == (6, 4)
    kernel = variables['params']['backbone']['stem']['conv']['kernel']  # HWIO
    np.testing.assert_array_equal(tensors['conv1.weight'], np.einsum('hwio->oihw', kernel))


def test_from_torch_is_the_inverse_and_makes_contiguous_arrays_of_the_wanted_type(small):
    backbone, variables, tensors = small
    back = tensor_names.from_torch(backbone, tensors, variables)
    assert_trees_equal(back, variables)
    assert all(leaf.flags.c_contiguous for leaf in jax.tree.leaves(back))
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        narrow = {name: value.astype(dtype) for name, value in tensors.items()}
        read = tensor_names.from_torch(backbone, narrow, variables)
        assert {leaf.dtype for leaf in jax.tree.leaves(read)} == {np.dtype('float32')}
        for a, b in zip(jax.tree.leaves(read), jax.tree.leaves(variables), strict=True):
            np.testing.assert_array_equal(a, b.astype(dtype).astype(np.float32))


def test_num_batches_tracked_is_dropped(small):
    backbone, variables, tensors = small
    counted = {**tensors, 'bn1.num_batches_tracked': np.asarray(7), 'num_batches_tracked': np.asarray(7)}
    assert_trees_equal(tensor_names.from_torch(backbone, counted, variables), variables)


def test_another_head_can_be_the_classifier(small):
    backbone, variables, tensors = small
    heads = {
        'target': jax.tree.map(lambda x: -x, variables['params']['heads']['source']),
        **variables['params']['heads'],
    }
    both = {**variables, 'params': {**variables['params'], 'heads': heads}}
    assert {name: value.tolist() for name, value in tensor_names.to_torch(backbone, both, 'cifar').items()} == {
        name: value.tolist() for name, value in tensors.items()
    }
    other = tensor_names.to_torch(backbone, both, 'cifar', head='target')
    layer = 'fc3' if isinstance(backbone, LeNet) else 'linear'
    assert {name for name in tensors if not np.array_equal(tensors[name], other[name])} == {
        f'{layer}.weight',
        f'{layer}.bias',
    }


def test_an_unknown_dialect_or_head_is_refused(small):
    backbone, variables, _ = small
    with pytest.raises(UserError, match="dialect must be one of cifar, not 'timm'"):
        tensor_names.to_torch(backbone, variables, 'timm')
    with pytest.raises(UserError, match="head must be one of the network, not 'target'"):
        tensor_names.to_torch(backbone, variables, 'cifar', head='target')


def test_the_width_of_the_classifier_is_the_files_own(small):
    backbone, _, tensors = small
    assert tensor_names.classes_in(backbone, tensors) == 6


@pytest.mark.parametrize(
    ('name', 'tensors', 'said'),
    [
        ('resnet50', {'head.weight': np.zeros((3, 2))}, 'no classifier of a resnet50 .*fc.weight, classifier.1.weight'),
        ('resnet50', {'fc.weight': np.zeros(())}, 'no classifier of a resnet50'),
        ('glyphnet', {'fc.weight': np.zeros((3, 2))}, 'a glyphnet has no names but ours'),
        (
            'efficientnet_b4',
            {'features.0.0.weight': 0, 'classifier.1.weight': 0},
            "names of torchvision, which fit the network 'efficientnet_b4_symmetric'",
        ),
        ('efficientnet_b2_fixed260', {'features.0.0.weight': 0}, "fit the network 'efficientnet_b2_symmetric'"),
        ('efficientnet_b1_symmetric', {'_conv_stem.weight': 0}, "fit the network 'efficientnet_b1'"),
    ],
)
def test_a_file_without_a_known_classifier_is_refused(name, tensors, said):
    with pytest.raises(UserError, match=said):
        tensor_names.classes_in(name, tensors)


def test_a_file_of_another_network_is_refused():
    wanted = shapes('resnet18')
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes('resnet34'))
    leaves = tensor_names.to_torch('resnet34', zeros, 'torchvision')
    with pytest.raises(UserError) as error:
        tensor_names.from_torch('resnet18', leaves, wanted)
    said = str(error.value)
    assert said.startswith('the tensors do not fit a resnet18 in the names of torchvision:')
    assert 'layer1.2.bn1.bias has no place in the network' in said and said.endswith('and 60 more')
    with pytest.raises(UserError, match="fit the network 'efficientnet_b0_symmetric'"):
        tensor_names.from_torch('efficientnet_b0', {'features.0.0.weight': np.zeros(1)}, shapes('efficientnet_b0'))
