from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mixjax.errors import UserError
from mixjax.models.layers import (
    BatchNorm,
    Dense,
    Final,
    LayerNorm,
    PlainStem,
    conv,
    global_mean,
    kaiming_in,
    kaiming_out,
    small_normal,
    torch_bias,
    torch_conv,
)

RNG = np.random.default_rng(0)


def batch_norm(x, *, train, dtype=None, stats=None, params=None, **fields):
    c = x.shape[-1]
    variables = {
        'params': params or {'scale': jnp.ones(c), 'bias': jnp.zeros(c)},
        'batch_stats': stats or {'mean': jnp.zeros(c), 'var': jnp.ones(c)},
    }
    y, new = BatchNorm(dtype=dtype, **fields).apply(variables, x, train, mutable=['batch_stats'])
    return y, new['batch_stats']


def numbers(c):
    """Scale, bias, running mean and variance, none of them trivial."""
    params = {'scale': RNG.uniform(0.5, 2, c), 'bias': RNG.standard_normal(c)}
    return params, {'mean': RNG.standard_normal(c), 'var': RNG.uniform(0.5, 2, c)}


def test_batch_norm_in_train_mode_is_the_formula_in_float64():
    x, (params, stats) = RNG.standard_normal((3, 2, 5, 4)) * 3 + 7, numbers(4)
    mean, var, n = x.mean((0, 1, 2)), x.var((0, 1, 2)), 30
    with jax.enable_x64(True):
        tree = jax.tree.map(jnp.asarray, (params, stats))
        y, new = batch_norm(jnp.asarray(x), train=True, params=tree[0], stats=tree[1], momentum=0.7, eps=1e-3)
    assert y.dtype == new['mean'].dtype == new['var'].dtype == np.float64
    want = (x - mean) / np.sqrt(var + 1e-3) * params['scale'] + params['bias']
    np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(new['mean'], 0.7 * stats['mean'] + 0.3 * mean, rtol=1e-12)
    np.testing.assert_allclose(new['var'], 0.7 * stats['var'] + 0.3 * var * n / (n - 1), rtol=1e-12)


def test_batch_norm_in_eval_mode_reads_the_running_statistics_and_leaves_them():
    x, (params, stats) = RNG.standard_normal((2, 3, 3, 4)), numbers(4)
    with jax.enable_x64(True):
        tree = jax.tree.map(jnp.asarray, (params, stats))
        y, new = batch_norm(jnp.asarray(x), train=False, params=tree[0], stats=tree[1])
    want = (x - stats['mean']) / np.sqrt(stats['var'] + 1e-5) * params['scale'] + params['bias']
    np.testing.assert_allclose(y, want, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(new['mean'], stats['mean'])
    np.testing.assert_array_equal(new['var'], stats['var'])


def test_batch_norm_starts_at_the_identity_with_momentum_point_nine():
    x = jnp.asarray(RNG.standard_normal((4, 3)), jnp.float32)
    variables = BatchNorm().init(jax.random.key(0), x, True)
    want = {'scale': np.ones(3), 'bias': np.zeros(3), 'mean': np.zeros(3), 'var': np.ones(3)}
    assert set(variables['params']) | set(variables['batch_stats']) == set(want)
    for name, value in {**variables['params'], **variables['batch_stats']}.items():
        np.testing.assert_array_equal(value, want[name])
    _, new = batch_norm(x, train=True)
    np.testing.assert_allclose(new['mean'], 0.1 * x.mean(0), rtol=1e-5)


def test_batch_norm_takes_bfloat16_means_in_float32():
    x = jnp.asarray(RNG.standard_normal((64, 8, 8, 2)) + 3, jnp.bfloat16)
    y, new = batch_norm(x, train=True, dtype=jnp.bfloat16, momentum=0.0)
    exact = np.asarray(x, np.float64)
    assert y.dtype == jnp.bfloat16 and new['mean'].dtype == new['var'].dtype == jnp.float32
    np.testing.assert_allclose(new['mean'], exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(new['var'], exact.var((0, 1, 2), ddof=1), rtol=1e-4)


@pytest.mark.parametrize('layer', [conv(2, 1, bias=nn.initializers.zeros, name='c'), Dense(2)])
def test_biases_in_bfloat16_have_gradients_summed_in_float32(layer):
    layer = layer.clone(dtype=jnp.bfloat16)
    x = jnp.ones((4, 32, 32, 1))
    made = layer.init(jax.random.key(0), x)
    assert layer.apply(made, x).dtype == jnp.bfloat16
    found = jax.jit(jax.grad(lambda made: layer.apply(made, x).astype(jnp.float32).sum()))(made)
    np.testing.assert_array_equal(found['params']['bias'], x.size)  # 256 where the sum is taken in bfloat16


def test_batch_norm_keeps_the_type_of_its_statistics():
    with jax.enable_x64(True):
        stats = {'mean': jnp.zeros(2, jnp.float32), 'var': jnp.ones(2, jnp.float32)}
        y, new = batch_norm(jnp.asarray(RNG.standard_normal((4, 2))), train=True, stats=stats)
    assert y.dtype == np.float64 and new['mean'].dtype == new['var'].dtype == np.float32


def test_batch_norm_of_a_large_constant_is_finite():
    x = jnp.broadcast_to(jnp.linspace(100, 1000, 256, dtype=jnp.float32), (7, 3, 3, 256))
    y, new = batch_norm(x, train=True, momentum=0.0)
    assert np.isfinite(y).all() and (np.asarray(new['var']) >= 0).all()


def test_batch_norm_refuses_a_single_value_per_channel():
    with pytest.raises(UserError, match='larger batch'):
        batch_norm(jnp.ones((1, 1, 1, 3)), train=True)


@pytest.mark.parametrize(('size', 'stride'), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize('side', [6, 7])
def test_conv_pads_the_same_on_both_sides(size, stride, side):
    x, kernel = RNG.standard_normal((2, side, side, 3)), RNG.standard_normal((size, size, 3, 4))
    with jax.enable_x64(True):
        y = conv(4, size, stride, name='conv').apply({'params': {'kernel': jnp.asarray(kernel)}}, jnp.asarray(x))
    padded = np.pad(x, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))[:, ::stride, ::stride]
    np.testing.assert_allclose(y, np.einsum('bhwcij,ijco->bhwo', windows, kernel), rtol=1e-10, atol=1e-10)


def test_conv_has_a_kernel_and_no_bias():
    params = conv(8, 3, name='conv').init(jax.random.key(0), jnp.ones((1, 4, 4, 2)))['params']
    assert jax.tree.map(jnp.shape, params) == {'kernel': (3, 3, 2, 8)}


def test_conv_adds_its_bias_and_takes_flaxs_padding():
    x, params = RNG.standard_normal((1, 5, 6, 2)), {'kernel': RNG.standard_normal((3, 3, 2, 4)), 'bias': np.arange(4.0)}
    layer = conv(4, 3, padding='VALID', bias=torch_bias(18), name='conv')
    with jax.enable_x64(True):
        y = layer.apply({'params': jax.tree.map(jnp.asarray, params)}, jnp.asarray(x))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
    want = np.einsum('bhwcij,ijco->bhwo', windows, params['kernel']) + params['bias']
    np.testing.assert_allclose(y, want, rtol=1e-10, atol=1e-10)


def test_conv_in_as_many_groups_as_channels_is_depthwise():
    x, kernel = RNG.standard_normal((2, 7, 7, 3)), RNG.standard_normal((3, 3, 1, 3))
    with jax.enable_x64(True):
        y = conv(3, 3, 2, feature_group_count=3, name='conv').apply(
            {'params': {'kernel': jnp.asarray(kernel)}}, jnp.asarray(x)
        )
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_allclose(y, np.einsum('bhwcij,ijc->bhwc', windows, kernel[:, :, 0]), rtol=1e-10, atol=1e-10)


def test_torch_bias_has_the_bound_of_the_kernels_fan_in():
    bias = np.asarray(torch_bias(9 * 16)(jax.random.key(0), (5000,)))
    assert 0.99 / 12 < np.abs(bias).max() <= 1 / 12
    np.testing.assert_allclose(bias.std(), 1 / 12 / 3**0.5, rtol=0.03)


def test_a_stem_has_a_stride_and_a_bias_if_asked():
    image = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    for stride, bias in [(1, False), (2, True)]:
        stem = PlainStem(5, stride=stride, bias=bias)
        y, variables = jax.eval_shape(lambda x, s=stem: s.init_with_output(jax.random.key(0), x, False), image)
        assert y.shape == (2, 8 // stride, 8 // stride, 5)
        assert variables['params']['conv'].keys() == ({'kernel', 'bias'} if bias else {'kernel'})


def test_what_follows_the_last_stage_is_normalised_and_cut_off_below_zero():
    x = jnp.asarray(RNG.standard_normal((4, 3, 3, 2)) * 2 + 1, jnp.float32)
    final = Final(momentum=0.1)
    variables = final.init(jax.random.key(0), x, False)
    y, new = final.apply(variables, x, True, mutable=['batch_stats'])
    exact = np.asarray(x, np.float64)
    z = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-5)
    np.testing.assert_allclose(y, np.maximum(z, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(new['batch_stats']['bn']['mean'], 0.9 * exact.mean((0, 1, 2)), rtol=1e-5)


def test_torch_conv_is_uniform_with_the_bound_of_fan_in():
    kernel = np.asarray(torch_conv(jax.random.key(0), (3, 3, 64, 100)))
    bound = (9 * 64) ** -0.5
    assert 0.999 * bound < np.abs(kernel).max() <= bound
    np.testing.assert_allclose(kernel.std(), bound / 3**0.5, rtol=0.01)


def test_kaiming_out_is_normal_with_the_variance_of_fan_out():
    kernel = np.asarray(kaiming_out(jax.random.key(0), (3, 3, 100, 64)))
    std = (2 / (9 * 64)) ** 0.5
    np.testing.assert_allclose(kernel.std(), std, rtol=0.01)
    np.testing.assert_allclose((np.abs(kernel) > 2 * std).mean(), 0.0455, rtol=0.1)  # not truncated


def test_kaiming_in_is_normal_with_the_variance_of_fan_in():
    kernel = np.asarray(kaiming_in(jax.random.key(0), (3, 3, 64, 100)))
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 64)) ** 0.5, rtol=0.01)


def test_global_mean_of_bfloat16_is_float32():
    h = jnp.asarray(RNG.standard_normal((2, 16, 16, 3)) + 5, jnp.bfloat16)
    mean = global_mean(h)
    assert mean.dtype == jnp.float32
    np.testing.assert_allclose(mean, np.asarray(h, np.float64).mean((1, 2)), rtol=1e-6)


def test_layer_norm_is_the_formula_in_float64():
    x, scale, bias = RNG.standard_normal((2, 3, 5)) * 3 + 7, RNG.uniform(0.5, 2, 5), RNG.standard_normal(5)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, {'scale': scale, 'bias': bias})
        y = LayerNorm(eps=1e-3).apply({'params': params}, jnp.asarray(x))
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    assert y.dtype == np.float64
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-3) * scale + bias, rtol=1e-12, atol=1e-12)


def test_layer_norm_keeps_its_digits_where_the_mean_is_large():
    x = RNG.standard_normal((4, 64))
    params = {'scale': jnp.ones(64), 'bias': jnp.zeros(64)}
    near, far = (LayerNorm().apply({'params': params}, jnp.asarray(x + add, jnp.float32)) for add in (0, 4096))
    np.testing.assert_allclose(far, near, atol=2e-3)  # 4096 has steps of 2^-11; in one pass the error is near 1


def test_layer_norm_in_bfloat16_is_computed_in_float32():
    x = jnp.asarray(RNG.standard_normal((4, 64)) + 8, jnp.bfloat16)
    params = {'scale': jnp.ones(64), 'bias': jnp.zeros(64)}
    y = LayerNorm(dtype=jnp.bfloat16).apply({'params': params}, x)
    exact = np.asarray(x, np.float64)
    want = (exact - exact.mean(-1, keepdims=True)) / exact.std(-1, keepdims=True)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=2**-8, atol=1e-4)
    assert LayerNorm().apply({'params': params}, x).dtype == jnp.float32  # without a type, that of the parameters


def test_small_normal_has_deviation_two_hundredths():
    draws = small_normal(jax.random.key(0), (64, 256))
    np.testing.assert_allclose(draws.std(), 0.02, rtol=0.02)
    assert np.abs(draws.mean()) < 1e-3 and np.abs(draws).max() > 0.06
