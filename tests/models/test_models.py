"""What holds for every network that `build` knows; only glyphnet is compiled, the others are traced."""

from __future__ import annotations

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import models
from mixjax.errors import UserError
from tests.common import assert_trees_equal

# name -> (stages, image, parameters with a 10-way head)
NETWORKS = {
    'glyphnet': (3, (2, 16, 16, 1), 77_754),
    'preactresnet18': (4, (2, 32, 32, 3), 11_171_274),
    'preactresnet18_raw': (4, (2, 32, 32, 3), 11_171_146),
    'resnet50': (4, (2, 64, 64, 3), 23_528_522),
}
HEADS = {'target': 10, 'source': 7}


def traced(name, dtype='float32', heads=HEADS, **kwargs):
    """Net, abstract variables and abstract image."""
    net, image = models.build(name, dtype=dtype), jax.ShapeDtypeStruct(NETWORKS[name][1], jnp.float32)
    return net, jax.eval_shape(lambda rng, x: net.init(rng, x, heads), jax.random.key(0), image), image


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


def test_the_table_is_the_one_that_is_tested():
    assert models.names() == sorted(NETWORKS)


@pytest.mark.parametrize('name', NETWORKS)
def test_number_of_parameters(name):
    _, variables, _ = traced(name, heads={'target': 10})
    assert size(variables['params']) == NETWORKS[name][2]


def test_resnet50_has_torchvisions_number_of_parameters():
    _, variables, _ = traced('resnet50', heads={'source': 1000})
    assert size(variables['params']) == 25_557_032
    assert size(variables['batch_stats']) == 53_120  # torchvision's running means and variances; not in its count
    assert len(jax.tree.leaves(variables)) == 320 - 53  # its state dict also counts batches, once a BN layer


@pytest.mark.parametrize('name', NETWORKS)
def test_every_parameter_belongs_to_a_part(name):
    net, variables, _ = traced(name)
    stages = {f'stage{i + 1}' for i in range(NETWORKS[name][0])}
    leaves = jax.tree_util.tree_flatten_with_path(variables['params'])[0]
    groups = [net.group(tuple(key.key for key in path)) for path, _ in leaves]
    assert set(groups) == {'stem', 'head:target', 'head:source', *stages}
    assert groups.count('head:target') == 2
    plain = {'stem'} if name == 'preactresnet18_raw' else set()  # a stem without BatchNorm
    assert set(variables['batch_stats']['backbone']) == {'stem', *stages} - plain


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('name', NETWORKS)
def test_taps_and_maps(name, train):
    net, variables, image = traced(name)
    stages = [f'stage{i + 1}' for i in range(NETWORKS[name][0])]
    seen = []

    def tap(where, hidden):
        seen.append((where, hidden.shape))
        return hidden

    out, state = jax.eval_shape(lambda v, x: net.apply(v, x, train=train, tap=tap), variables, image)
    assert [where for where, _ in seen] == ['input', 'stem', *(w for s in stages for w in (f'{s}.conv', s))]
    shapes = dict(seen)
    assert set(out.maps) == {'last', *stages, *(f'{stage}.conv' for stage in stages)}
    for stage in stages:
        assert out.maps[stage].shape == out.maps[f'{stage}.conv'].shape == shapes[stage]
    assert out.maps['last'].shape == out.maps[stages[-1]].shape
    assert out.features.shape == (2, out.maps['last'].shape[-1])
    assert {head: logits.shape for head, logits in out.logits.items()} == {'target': (2, 10), 'source': (2, 7)}
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, {'batch_stats': variables['batch_stats']})


@pytest.mark.parametrize('name', NETWORKS)
def test_bfloat16_is_only_inside(name):
    net, variables, image = traced(name, 'bfloat16')

    def loss(params, stats, x):
        out, state = net.apply({'params': params, 'batch_stats': stats}, x, train=True)
        return out.logits['target'].sum(), (out, state)

    arguments = variables['params'], variables['batch_stats'], image
    grad, (out, state) = jax.eval_shape(jax.grad(loss, has_aux=True), *arguments)
    assert dtypes(variables) == dtypes(grad) == dtypes(state) == {'float32'}
    assert dtypes((out.logits, out.features)) == {'float32'}
    assert dtypes(out.maps) == {'bfloat16'}


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
    with pytest.raises(UserError, match="unknown dtype 'bf16'.*; choose float32 or bfloat16"):
        models.build('glyphnet', dtype='bf16')


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
