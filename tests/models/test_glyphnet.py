from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax.models.glyphnet import GlyphNet
from mixjax.models.net import from_linen
from mixjax.models.resnet import BasicBlock


def same(h):
    return h


def convolve(x, kernel, stride):
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.einsum('bhwcij,ijco->bhwo', windows, kernel)


def normalise(x, params, stats):
    return (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5) * params['scale'] + params['bias']


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize(('width', 'stride'), [(3, 1), (5, 1), (3, 2), (6, 2)])
def test_basic_block_is_the_formula(width, stride):
    """relu(shortcut + BN(conv(relu(BN(conv(h)))))); a shortcut is projected only where the shape changes."""
    rng = np.random.default_rng(0)
    h = rng.standard_normal((2, 8, 8, 3))
    block = BasicBlock(width, stride)
    shapes = jax.eval_shape(lambda: block.init(jax.random.key(0), jnp.zeros(h.shape), False, same))
    values = jax.tree.map(lambda leaf: rng.uniform(0.3, 1, leaf.shape) * rng.choice([-1, 1], leaf.shape), shapes)
    params, stats = values['params'], jax.tree.map(np.abs, values['batch_stats'])
    with jax.enable_x64(True):
        y, last = block.apply(
            jax.tree.map(jnp.asarray, {'params': params, 'batch_stats': stats}), jnp.asarray(h), False, same
        )
    projected = (width, stride) != (3, 1)
    assert ('shortcut_conv' in params) is ('shortcut_bn' in params) is projected
    x = h
    if projected:
        x = convolve(h, params['shortcut_conv']['kernel'], stride)
        x = normalise(x, params['shortcut_bn'], stats['shortcut_bn'])
    z = relu(normalise(convolve(h, params['conv1']['kernel'], stride), params['bn1'], stats['bn1']))
    z = convolve(z, params['conv2']['kernel'], 1)
    np.testing.assert_allclose(last, z, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(y, relu(x + normalise(z, params['bn2'], stats['bn2'])), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(('width', 'blocks', 'side', 'channels'), [(24, 1, 16, 1), (8, 2, 16, 1), (6, 3, 28, 3)])
def test_width_blocks_and_image_size_are_free(width, blocks, side, channels):
    net = from_linen(GlyphNet(width, blocks))
    image = jax.ShapeDtypeStruct((2, side, side, channels), jnp.float32)
    variables = jax.eval_shape(lambda rng, x: net.init(rng, x, {'target': 3}), jax.random.key(0), image)
    out, _ = jax.eval_shape(lambda v, x: net.apply(v, x, train=True), variables, image)
    shapes = {name: out.maps[name].shape for name in ('stage1', 'stage2', 'stage3')}
    assert shapes == {f'stage{i + 1}': (2, side // 2**i, side // 2**i, width * 2**i) for i in range(3)}
    assert out.features.shape == (2, 4 * width)
    for stage in shapes:
        assert set(variables['params']['backbone'][stage]) == {f'block{i}' for i in range(blocks)}
