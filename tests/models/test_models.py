"""What holds for every network that `build` knows; only glyphnet is compiled, the others are traced."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import models
from mixjax.errors import UserError
from tests.support import trace
from tests.support.common import SHIPPED, assert_trees_equal
from tests.support.filled import filled
from tests.support.networks import ALIKE, NETWORKS, is_vit, size

# Those that differ from another one in more than one field: the others need no tracing of their own.
ONE_FIELD = ('_64', '_symmetric', '_plane')
DISTINCT = [name for name in NETWORKS if not name.endswith(ONE_FIELD) and '_fixed' not in name and name not in ALIKE]
HEADS = {'target': 10, 'source': 7}

# Parameters with 1000 classes as torchvision and timm publish them, and the entries of their state dicts.
PUBLISHED = {
    'resnet18': (11_689_512, 122),
    'resnet34': (21_797_672, 218),
    'resnet50': (25_557_032, 320),
    'resnet101': (44_549_160, 626),
    'resnet152': (60_192_808, 932),
    'densenet121': (7_978_856, 727),
    'efficientnet_b0': (5_288_548, 360),
    'efficientnet_b1': (7_794_184, 508),
    'efficientnet_b2': (9_109_994, 508),
    'efficientnet_b3': (12_233_232, 574),
    'efficientnet_b4': (19_341_616, 706),
    'vit_tiny_patch16_224': (5_717_416, 152),
    'vit_small_patch16_224': (22_050_664, 152),
    'vit_base_patch16_224': (86_567_656, 152),
    'vit_large_patch16_224': (304_326_632, 296),
    'deit3_small_patch16_224': (22_059_496, 176),
    'convnext_atto': (3_695_520, 128),
    'convnext_tiny': (28_589_128, 182),
    'convnext_xlarge': (350_196_968, 344),
    'convnextv2_nano': (15_623_800, 160),
    'convnextv2_large': (197_956_840, 380),
    'resnet26d': (16_014_408, 188),
    'resnet50d': (25_576_264, 332),
    'resnet101d': (44_568_392, 638),
    'seresnet50': (28_088_024, 384),
    'resnetv2_50x1_bit': (25_549_352, 153),
    'resnetv2_101x1_bit': (44_541_480, 306),
    'efficientnet_lite0': (4_652_008, 296),
    'efficientnet_lite1': (5_416_680, 386),
    'efficientnet_lite2': (6_092_072, 386),
    'efficientnet_lite3': (8_197_096, 440),
    'efficientnet_lite4': (13_006_568, 548),
    'mobilenetv3_large_100': (5_483_032, 312),
    'mobilenetv4_conv_small': (3_774_024, 278),
    'mobilenetv4_conv_medium': (9_715_512, 464),
}


@cache
def shapes(name, image=None):
    """Abstract variables."""
    net, image = models.build(name), jax.ShapeDtypeStruct(image or NETWORKS[name][1], jnp.float32)
    return jax.eval_shape(lambda rng, x: net.init(rng, x, HEADS), jax.random.key(0), image)


def traced(name, dtype='float32', image=None):
    """Net, abstract variables and abstract image."""
    of = image if name == 'lenet' else None  # its first linear layer is as large as its images' maps
    shape = image or NETWORKS[name][1]
    return models.build(name, dtype=dtype), shapes(name, image=of), jax.ShapeDtypeStruct(shape, jnp.float32)


def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


def test_every_shipped_network_is_tested():
    assert sorted(NETWORKS) == SHIPPED
    assert PUBLISHED.keys() <= set(DISTINCT) and set(FAMILIES) <= set(DISTINCT)


@pytest.mark.parametrize('name', sorted(NETWORKS.keys() - DISTINCT - ALIKE.keys()))
def test_the_other_forms_differ_in_one_field(name):
    plain = name.removesuffix('_64').removesuffix('_symmetric').removesuffix('_plane').split('_fixed')[0]
    one, other = models.BACKBONES[name](), models.BACKBONES[plain]()
    field = 'stride' if name.endswith('_64') else 'plane' if name.endswith('_plane') else 'padding'
    value = {'stride': 2, 'plane': True, 'padding': NETWORKS[name][1][1] if '_fixed' in name else 'symmetric'}[field]
    assert plain in DISTINCT and getattr(one, field) == value
    assert one == other.clone(**{field: value}) != other


def test_vision_transformers_for_other_images_differ_in_the_grid_and_the_activation():
    for name, plain in ALIKE.items():
        one, other = models.BACKBONES[name](), models.BACKBONES[plain]()
        assert one == other.clone(
            grid=NETWORKS[name][1][1] // one.patch, form=other.form._replace(activation=one.form.activation),
            spare=one.spare,
        )  # fmt: skip
        assert one != other and plain in DISTINCT
        assert (one.form.activation == 'quick_gelu') == ('quickgelu' in name)
        assert one.spare == (
            6 if name.endswith('patch14_siglip_384') or 'siglip_gap_384' in name and one.patch == 14 else 0
        )


@pytest.mark.parametrize('name', DISTINCT)
def test_number_of_parameters(name):
    params = shapes(name)['params']
    params = {'backbone': params['backbone'], 'heads': {'target': params['heads']['target']}}
    assert size(params) == NETWORKS[name][2]
    assert dtypes(params) == {'float32'}


@pytest.mark.parametrize('name', PUBLISHED)
def test_the_published_number_of_parameters_and_tensors(name):
    params, stats = shapes(name)['params'], shapes(name).get('batch_stats', {})
    features = params['heads']['target']['kernel'].shape[0]
    count, tensors = PUBLISHED[name]
    assert size(params['backbone']) + 1000 * (features + 1) == count
    norms = len(jax.tree.leaves(stats)) // 2  # a state dict also counts the batches of each normalisation
    assert len(jax.tree.leaves(params['backbone'])) + 2 + 3 * norms == tensors


LAST = ('densenet', 'wrn', 'convnext', 'resnetv2', 'mobilenet')  # they have layers behind the last stage


@pytest.mark.parametrize('name', DISTINCT)
def test_every_parameter_belongs_to_a_part(name):
    net, variables = models.build(name), shapes(name)
    stages = {f'stage{i + 1}' for i in range(NETWORKS[name][0])}
    last = {'final'} if name.startswith(LAST) or is_vit(name) else set()
    leaves = jax.tree_util.tree_flatten_with_path(variables['params'])[0]
    groups = [net.group(tuple(key.key for key in path)) for path, _ in leaves]
    assert set(groups) == {'stem', 'head:target', 'head:source', *stages, *last}
    assert groups.count('head:target') == groups.count('head:source') == 2
    moving = variables.get('batch_stats', {}).get('backbone', {})
    still = name == 'lenet' or name.startswith(('convnext', 'resnetv2')) or is_vit(name)  # without BatchNorm
    assert bool(moving) != still
    assert set(moving) <= {'stem', *stages, *last}


# Of several depths the shallowest and the deepest are enough.
TRACED = (  # of the vision transformers
    'vit_tiny_patch16_224', 'deit3_small_patch16_224', 'vit_base_patch32_clip_224', 'vit_small_patch14_dinov2',
    'vit_small_patch14_reg4_dinov2', 'vit_base_patch32_siglip_256', 'vit_base_patch32_siglip_gap_256',
    'vit_so400m_patch14_siglip_224', 'vit_small_plus_patch16_dinov3_qkvb',
)  # fmt: skip
BETWEEN = (
    'b1', 'b2', 'b3', 'lite1', 'lite2', 'lite3', 'femto', 'pico', 'nano', '_tiny', '_small', '_base', '_large',
    'resnet34', 'resnet101',
)  # fmt: skip
ENDS = [
    name
    for name in DISTINCT
    if (name in TRACED if is_vit(name) else name.startswith('mobilenet') or not name.endswith(BETWEEN))
]


@pytest.mark.parametrize('name', ENDS)
def test_taps_and_maps(name):
    net, variables, image = traced(name)
    stages = [f'stage{i + 1}' for i in range(NETWORKS[name][0])]
    seen = []

    def tap(where, hidden):
        seen.append((where, hidden.shape))
        return hidden

    out, state = jax.eval_shape(lambda v, x: net.apply(v, x, train=True, tap=tap), variables, image)
    assert [where for where, _ in seen] == ['input', 'stem', *(w for s in stages for w in (f'{s}.conv', s))]
    shapes = dict(seen)
    assert set(out.maps) == {'last', *stages, *(f'{stage}.conv' for stage in stages)}
    for stage in stages:
        inner = out.maps[f'{stage}.conv'].shape
        if is_vit(name):  # taps have the sequence of tokens, maps the patches
            batch, n, width = shapes[stage]
            rows, columns = out.maps[stage].shape[1:3]
            assert out.maps[stage].shape == inner == (batch, rows, columns, width)
            assert shapes[f'{stage}.conv'] == shapes[stage] == shapes['stem']
            prefix = 0 if 'siglip' in name else 5 if 'dinov3' in name or 'reg4' in name else 1
            assert n == prefix + rows * columns and rows == NETWORKS[name][1][1] // models.BACKBONES[name]().patch
            continue
        assert out.maps[stage].shape == shapes[stage] and inner == shapes[f'{stage}.conv']
        if name.startswith('densenet'):  # a stage's last convolution gives only the newest channels
            assert (*inner[:3], 32) == (*shapes[stage][:3], inner[3])
        elif name != 'lenet':  # whose convolutions are pooled
            assert inner == shapes[stage]
    assert out.maps['last'].shape == out.maps[stages[-1]].shape
    # A MobileNet has a layer between the pooling and the classifier.
    assert out.features.shape == (2, 1280 if name.startswith('mobilenet') else out.maps['last'].shape[-1])
    assert {head: logits.shape for head, logits in out.logits.items()} == {'target': (2, 10), 'source': (2, 7)}
    assert jax.tree.map(jnp.shape, state) == {
        key: jax.tree.map(jnp.shape, tree) for key, tree in variables.items() if key != 'params'
    }


@pytest.mark.parametrize('name', ['glyphnet', 'lenet', 'wrn28_10', 'efficientnet_b0'])
def test_eval_mode_calls_the_same_taps_and_returns_the_same_state(name):
    net, variables, image = traced(name)
    taps = {train: [] for train in (False, True)}
    for train, seen in taps.items():
        out, state = jax.eval_shape(
            lambda v, x, t=train, s=seen: net.apply(v, x, train=t, tap=lambda where, h: s.append(where) or h),
            variables,
            image,
        )
    assert taps[False] == taps[True]
    assert jax.tree.structure(state) == jax.tree.structure({k: tree for k, tree in variables.items() if k != 'params'})


SIDES = {
    'resnet50': (32, 64, 96, 75),
    'densenet121': (32, 96),
    'densenet121_cifar': (64,),
    'efficientnet_b0': (32, 64, 96, 75),
    'convnext_atto': (32, 96, 75),
    'resnet26d': (32, 75),
    'resnetv2_50x1_bit': (32, 75),
    'mobilenetv3_large_100': (32, 75),
    'mobilenetv4_conv_medium': (32, 75),
    'cifar_resnet50': (28, 64),
    'preactresnet18': (28, 64),
    'preactresnet50_raw_64': (32, 224),
    'wrn28_10': (28, 64),
    'lenet': (28, 64),
    'vit_small_patch14_reg4_dinov2': (28, 224),
    'vit_small_patch16_dinov3': (32, 224),
    'vit_base_patch32_siglip_256': (32, 224),
}


@pytest.mark.parametrize(('name', 'side'), [(name, side) for name, sides in SIDES.items() for side in sides])
def test_images_of_other_sizes(name, side):
    net, variables, image = traced(name, image=(2, side, side, 3))
    out, _ = jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, image)
    assert out.logits['target'].shape == (2, 10)
    assert min(out.maps['last'].shape) > 0


def test_the_64_form_sees_what_the_plain_form_sees_at_half_the_size():
    for name in ('preactresnet18_raw', 'preactresnet50_raw', 'wrn28_10'):
        net, variables, image = traced(f'{name}_64')
        out, _ = jax.eval_shape(lambda v, x, n=net: n.apply(v, x, train=False), variables, image)
        assert out.maps['stage1'].shape[1:3] == (32, 32)


# One of each family.
FAMILIES = [
    'convnext_atto', 'convnextv2_atto', 'densenet121_cifar', 'efficientnet_b0', 'efficientnet_lite0', 'glyphnet',
    'lenet', 'mobilenetv3_large_100', 'mobilenetv4_conv_small', 'preactresnet50_raw', 'resnet18', 'resnet26d',
    'resnetv2_50x1_bit', 'seresnet50', 'wrn28_10', 'vit_base_patch32_clip_224', 'vit_small_patch14_reg4_dinov2',
    'vit_base_patch32_siglip_256', 'vit_small_plus_patch16_dinov3_qkvb',
]  # fmt: skip


@pytest.mark.parametrize('name', FAMILIES)
def test_bfloat16_is_only_inside(name):
    net, variables, image = traced(name, 'bfloat16')
    params, state = variables['params'], {key: tree for key, tree in variables.items() if key != 'params'}
    out, new = jax.eval_shape(lambda p, s, x: net.apply({'params': p, **s}, x, train=True), params, state, image)
    assert dtypes(variables) == {'float32'} and dtypes(new) == dtypes(state)
    assert dtypes((out.logits, out.features)) == {'float32'}
    assert dtypes(out.maps) == {'bfloat16'}


@pytest.mark.parametrize('name', FAMILIES)
def test_gradients_and_all_sums_of_a_bfloat16_network_are_float32(name):
    net, variables, image = traced(name, 'bfloat16')
    params, state = variables['params'], {key: tree for key, tree in variables.items() if key != 'params'}

    def loss(params, state, x):
        return net.apply({'params': params, **state}, x, train=True)[0].logits['target'].sum()

    jaxpr = jax.make_jaxpr(jax.grad(loss))(params, state, image)
    assert dtypes(jaxpr.out_avals) == {'float32'}
    narrow = trace.primitives_of(jaxpr, jnp.bfloat16)
    assert 'conv_general_dilated' in narrow and not narrow & trace.WIDE


@pytest.fixture(scope='module')
def glyphs():
    """GlyphNet in both types, a function that draws variables for both, and images of two patterns."""
    stripes = jnp.broadcast_to(jnp.arange(16) % 2, (16, 16)).astype(jnp.float32)
    image = jnp.stack([stripes, stripes.T] * 4)[..., None]
    image += 0.1 * jax.random.normal(jax.random.key(1), image.shape)
    nets = {dtype: models.build('glyphnet', dtype=dtype) for dtype in ('float32', 'bfloat16')}
    return nets, jax.jit(lambda rng: nets['float32'].init(rng, image, {'target': 5})), image


def test_bfloat16_is_near_float32(glyphs):
    nets, init, image = glyphs
    variables = init(jax.random.key(0))
    outs = {
        dtype: jax.jit(lambda v, x, n=net: n.apply(v, x, train=True))(variables, image) for dtype, net in nets.items()
    }
    (exact, state), (near, near_state) = outs['float32'], outs['bfloat16']
    for a, b in [(exact.logits, near.logits), (exact.features, near.features), (state, near_state)]:
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            assert 0 < np.abs(x - y).max() < 0.03 * np.abs(x).max() + 1e-3


def test_a_tap_replaces_what_follows(glyphs):
    nets, init, image = glyphs
    net, variables = nets['float32'], init(jax.random.key(0))

    def features(where):
        out, _ = net.apply(variables, image, train=False, tap=lambda name, h: 0 * h if name == where else h)
        return out

    plain, last = features('nowhere'), features('stage3')
    np.testing.assert_allclose(plain.features, plain.maps['last'].mean((1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(last.features, 0)
    np.testing.assert_array_equal(last.maps['stage3'], 0)
    np.testing.assert_array_equal(last.maps['stage2'], plain.maps['stage2'])
    for where in ('input', 'stem', 'stage1', 'stage2'):
        spread = np.ptp(features(where).features, axis=0)
        np.testing.assert_allclose(spread, 0, atol=1e-6)
    assert np.ptp(plain.features, axis=0).max() > 1e-3

    # A tap on a convolution's output is as good as taking its kernels away.
    kernel = variables['params']['backbone']['stage2']['block0']['conv2']['kernel']
    silent = jax.tree.map(lambda x: 0 * x if x is kernel else x, variables)
    expected, _ = net.apply(silent, image, train=False)
    np.testing.assert_allclose(features('stage2.conv').features, expected.features, rtol=1e-6)
    np.testing.assert_array_equal(features('stage2.conv').maps['stage2.conv'], 0)


def test_eval_and_train_mode_differ_only_in_the_statistics(glyphs):
    nets, init, image = glyphs
    net, variables = nets['float32'], init(jax.random.key(0))
    frozen, same = net.apply(variables, image, train=False)
    trained, new = net.apply(variables, image, train=True)
    assert all(a is b for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(variables['batch_stats']), strict=True))
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), new['batch_stats'], variables['batch_stats'])
    assert min(jax.tree.leaves(moved)) > 0
    assert np.abs(frozen.logits['target'] - trained.logits['target']).max() > 1e-3


def test_different_keys_draw_different_networks(glyphs):
    _, init, _ = glyphs
    first, again, other = (init(jax.random.key(seed)) for seed in (0, 0, 1))
    assert_trees_equal(first, again)
    kernels = [tree['params']['backbone']['stage1']['block0'] for tree in (first, other)]
    assert not np.array_equal(kernels[0]['conv1']['kernel'], kernels[1]['conv1']['kernel'])
    assert not np.array_equal(kernels[0]['conv1']['kernel'], kernels[0]['conv2']['kernel'])


def test_glyphnet_learns_two_patterns(glyphs):
    nets, init, image = glyphs
    label = jnp.arange(8) % 2

    def loss(params, state):
        out, state = nets['float32'].apply({'params': params, **state}, image, train=True)
        logits = jax.nn.log_softmax(out.logits['target'])
        return -jnp.take_along_axis(logits, label[:, None], 1).mean(), state

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    variables, losses = init(jax.random.key(0)), []
    params, state = variables['params'], {'batch_stats': variables['batch_stats']}
    for _ in range(20):
        (value, state), grad = step(params, state)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grad)
        losses.append(float(value))
    assert losses[-1] < 0.2 * losses[0]


def test_unknown_names_are_told_with_the_nearest_one():
    with pytest.raises(UserError, match="unknown network 'resnet5'; did you mean 'resnet50'"):
        models.build('resnet5')
    with pytest.raises(UserError, match="unknown network 'effcientnet-b4'; did you mean 'efficientnet_b4'"):
        models.build('effcientnet-b4')
    with pytest.raises(UserError, match="unknown init 'kaimin' for a network; did you mean 'kaiming'"):
        models.build('glyphnet', init='kaimin')
    with pytest.raises(UserError, match="unknown dtype 'bf16'.*; choose float32 or bfloat16"):
        models.build('glyphnet', dtype='bf16')


SMALLER = [name for name in DISTINCT if not is_vit(name) or name in TRACED and 'so400m' not in name]


@pytest.mark.slow
@pytest.mark.parametrize('name', SMALLER)
def test_bfloat16_is_near_float32_in_every_network(name):
    """In eval mode: a sum of L rounding errors of 2^-9 each is about one hundredth at most."""
    side = 16 if name == 'glyphnet' else 4 * models.BACKBONES[name]().patch if is_vit(name) else 32
    image = jax.random.normal(jax.random.key(1), (4, side, side, NETWORKS[name][1][-1]))
    nets = {dtype: models.build(name, dtype=dtype) for dtype in ('float32', 'bfloat16')}
    variables = filled(lambda: nets['float32'].init(jax.random.key(0), image, {'target': 5}))
    exact, near = (
        jax.jit(lambda v, x, n=net: n.apply(v, x, train=False)[0].features)(variables, image) for net in nets.values()
    )
    error = jnp.linalg.norm(near - exact) / jnp.linalg.norm(exact)
    assert 0 < error < 0.03, error


def test_importing_the_models_loads_nothing_beyond_jax_and_flax():
    code = (
        'import sys, jax, flax.linen\n'
        'before = set(sys.modules)\n'
        'import mixjax.models\n'
        'new = {name.partition(".")[0] for name in set(sys.modules) - before}\n'
        'print(sorted(new - sys.stdlib_module_names))'
    )
    result = subprocess.run([sys.executable, '-c', code], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "['mixjax']"
