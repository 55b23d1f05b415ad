from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import models
from mixjax.models import initializers
from mixjax.models.lenet import LeNet
from mixjax.models.net import from_linen
from tests.support.common import assert_trees_equal

# A convolution, a depthwise one, a linear layer, a normalisation, and a classifier.
TREE = {
    'backbone': {
        'conv1': {'kernel': jnp.full((3, 3, 64, 128), 9.0), 'bias': jnp.full(128, 9.0)},
        'conv2': {'kernel': jnp.full((3, 3, 64, 128), 9.0)},
        'deep': {'kernel': jnp.full((5, 5, 1, 2000), 9.0)},
        'fc': {'kernel': jnp.full((256, 300), 9.0), 'bias': jnp.full(300, 9.0)},
        'bn': {'scale': jnp.full(7, 9.0), 'bias': jnp.full(7, 9.0)},
    },
    'heads': {'target': {'kernel': jnp.full((256, 300), 9.0), 'bias': jnp.full(300, 9.0)}},
}
CONV = 9 * 64


@pytest.fixture(scope='module')
def trees():
    return {law: initializers.draw(law, jax.random.key(0), TREE) for law in initializers.LAWS}


def spread(x, std, rtol=0.02):
    np.testing.assert_allclose(np.asarray(x).std(), std, rtol=rtol)
    np.testing.assert_allclose(np.asarray(x).mean(), 0, atol=5 * std / x.size**0.5)


def test_torch_is_uniform_in_one_over_sqrt_fan_in(trees):
    tree = trees['torch']
    for leaves, fan_in in [
        (tree['backbone']['conv1'], CONV), (tree['backbone']['fc'], 256), (tree['backbone']['deep'], 25),
        (tree['heads']['target'], 256),
    ]:  # fmt: skip
        bound = fan_in**-0.5
        for leaf in leaves.values():
            assert 0.95 * bound < np.abs(leaf).max() <= bound
            spread(leaf, bound / 3**0.5, rtol=0.15 if leaf.ndim == 1 else 0.02)


def test_kaiming_is_normal_in_two_over_fan_out_and_leaves_linear_layers_torchs(trees):
    backbone, head = trees['kaiming']['backbone'], trees['kaiming']['heads']['target']
    std = (2 / (9 * 128)) ** 0.5
    spread(backbone['conv1']['kernel'], std)
    spread(backbone['deep']['kernel'], (2 / (25 * 2000)) ** 0.5)  # all channels count, as in torch
    assert np.abs(backbone['conv1']['kernel']).max() > 3.5 * std  # not cut off
    np.testing.assert_array_equal(backbone['conv1']['bias'], 0)
    for leaves, fan_in in [(backbone['fc'], 256), (head, 256)]:
        for leaf in leaves.values():
            assert 0.95 * fan_in**-0.5 < np.abs(leaf).max() <= fan_in**-0.5


def test_flax_is_lecuns_normal_cut_off_and_without_biases(trees):
    backbone, head = trees['flax']['backbone'], trees['flax']['heads']['target']
    for leaves, fan_in in [(backbone['conv1'], CONV), (backbone['deep'], 25), (backbone['fc'], 256), (head, 256)]:
        std = fan_in**-0.5
        spread(leaves['kernel'], std)
        assert np.abs(leaves['kernel']).max() <= 2 * std / 0.8796 * 1.001  # which is the cut-off normal's deviation
        assert 'bias' not in leaves or not np.any(leaves['bias'])


def test_initializer_changes_kernels_and_biases_only(trees):
    for tree in trees.values():
        assert jax.tree.map(jnp.shape, tree) == jax.tree.map(jnp.shape, TREE)
        assert_trees_equal(tree['backbone']['bn'], TREE['backbone']['bn'])
        for name in ('conv1', 'conv2', 'deep', 'fc'):
            assert not any(np.any(leaf == 9) for leaf in tree['backbone'][name].values())
    assert initializers.draw('', jax.random.key(0), TREE) is TREE


def test_each_layer_has_its_own_draw_and_keeps_it_whatever_is_beside_it(trees):
    backbone = trees['torch']['backbone']
    assert not np.array_equal(backbone['conv1']['kernel'], backbone['conv2']['kernel'])
    assert not np.array_equal(backbone['fc']['kernel'][0], backbone['fc']['bias'])
    alone = {'backbone': {'conv1': TREE['backbone']['conv1']}}
    again = initializers.draw('torch', jax.random.key(0), alone)['backbone']['conv1']
    assert_trees_equal(again, backbone['conv1'])
    other = initializers.draw('torch', jax.random.key(1), alone)['backbone']['conv1']
    assert not np.array_equal(other['kernel'], again['kernel'])


def test_initializer_keeps_dtypes():
    with jax.enable_x64(True):
        tree = {'conv': {'kernel': jnp.zeros((3, 3, 2, 5))}}
        for law in initializers.LAWS:
            drawn = initializers.draw(law, jax.random.key(0), tree)
            assert {leaf.dtype for leaf in jax.tree.leaves(drawn)} == {np.dtype('float64')}


def test_a_network_and_its_new_heads_are_drawn_by_the_law_that_it_was_built_with(monkeypatch):
    monkeypatch.setitem(initializers.LAWS, 'ones', lambda rng, leaf, kernel: jnp.ones_like(leaf))
    image = jnp.zeros((1, 16, 16, 3))
    net = from_linen(LeNet((2, 3, 5, 4)), 'ones')
    params = jax.jit(lambda rng: net.init(rng, image, {'target': 3, 'source': 2}))(jax.random.key(0))['params']
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(params)) and len(jax.tree.leaves(params)) == 12
    zeros = jax.tree.map(jnp.zeros_like, params)
    new = net.redraw(jax.random.key(1), zeros, 'target')
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(new['heads']['target']))
    assert_trees_equal({**new, 'heads': {**new['heads'], 'target': zeros['heads']['target']}}, zeros)


def test_heads_are_redrawn_by_torchs_default_initializer():
    params = {'heads': {'target': TREE['heads']['target']}}
    for law, std in [('', (3 * 256) ** -0.5), ('flax', 256**-0.5)]:
        new = from_linen(LeNet(), law).redraw(jax.random.key(1), params, 'target')['heads']['target']
        spread(new['kernel'], std)
        assert np.any(new['bias']) == (law == '')


@pytest.mark.parametrize(
    ('name', 'law'), [('resnet18', 'fan_out'), ('cifar_resnet50', 'torch'), ('densenet121', 'fan_in')]
)
def test_default_initializer_is_the_authors(name, law):
    """torchvision's ResNets draw by fan_out and its DenseNets by fan_in; the CIFAR networks by torch's default."""
    net = from_linen(models.BACKBONES[name]().clone(blocks=(1,)))
    image = jnp.zeros((1, 32, 32, 3))

    @jax.jit  # which draws only what is returned
    def draw(rng):
        return net.init(rng, image, {'target': 2})['params']['backbone']['stage1']['block0']['conv2']['kernel']

    kernel = draw(jax.random.key(0))
    kh, kw, fan_in, fan_out = kernel.shape
    std = {'fan_out': 2 / (kh * kw * fan_out), 'fan_in': 2 / (kh * kw * fan_in), 'torch': 1 / (3 * kh * kw * fan_in)}[
        law
    ]
    spread(kernel, std**0.5)
    assert (np.abs(kernel).max() <= (kh * kw * fan_in) ** -0.5) == (law == 'torch')
