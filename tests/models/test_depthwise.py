"""Depthwise convolutions by shifts, as CPUs compute them, are XLA's, and so are their gradients."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mixjax.models import depthwise

CASES = [
    (9, 7, 3, 3, (1, 1), ((1, 1), (1, 1))),
    (8, 8, 3, 3, (2, 2), ((1, 1), (1, 1))),
    (9, 11, 3, 3, (2, 2), ((0, 1), (0, 1))),  # TensorFlow's padding
    (12, 9, 5, 5, (2, 2), ((2, 2), (2, 2))),
    (7, 7, 7, 7, (1, 1), ((3, 3), (3, 3))),
    (10, 8, 5, 3, (1, 2), ((1, 2), (0, 1))),
    (6, 6, 3, 3, (1, 1), ((0, 0), (0, 0))),
    (10, 10, 3, 3, (3, 2), ((2, 0), (1, 1))),
    (2, 2, 3, 3, (2, 2), ((1, 1), (1, 1))),  # smaller than the kernel
]


def given(high, wide, rows, columns, dtype=jnp.float64):
    keys = jax.random.split(jax.random.key(0), 2)
    return (
        jax.random.normal(keys[0], (2, high, wide, 5), dtype), jax.random.normal(keys[1], (rows, columns, 1, 5), dtype)
    )  # fmt: skip


@pytest.mark.parametrize(('high', 'wide', 'rows', 'columns', 'strides', 'pads'), CASES)
def test_values_and_gradients_are_those_of_xla(high, wide, rows, columns, strides, pads):
    with jax.enable_x64(True):
        x, kernel = given(high, wide, rows, columns)

        def loss(function, x, kernel):
            return jnp.sum(jnp.sin(function(x, kernel)))

        ours = partial(depthwise.convolve, strides=strides, pads=pads)
        xla = partial(
            lax.conv_general_dilated, window_strides=strides, padding=pads, dimension_numbers=depthwise.NUMBERS,
            feature_group_count=5,
        )  # fmt: skip
        np.testing.assert_allclose(jax.jit(ours)(x, kernel), xla(x, kernel), rtol=1e-12, atol=1e-12)
        mine, theirs = (jax.jit(jax.grad(partial(loss, one), (0, 1)))(x, kernel) for one in (ours, xla))
        for one, other in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


def test_the_program_of_a_cpu_has_no_grouped_convolution_and_that_of_a_tpu_has():
    x, kernel = given(8, 8, 3, 3, jnp.float32)
    ours = partial(depthwise.convolve, strides=(1, 1), pads=((1, 1), (1, 1)))
    traced = jax.jit(jax.grad(lambda x, k: ours(x, k).sum(), (0, 1))).trace(x, kernel)
    assert 'stablehlo.convolution' not in traced.lower().as_text()
    assert 'stablehlo.convolution' in traced.lower(lowering_platforms=('tpu',)).as_text()


def test_half_precision_is_summed_in_single():
    x, kernel = jnp.ones((1, 40, 40, 1), jnp.bfloat16), jnp.ones((33, 33, 1, 1), jnp.bfloat16)
    out = depthwise.convolve(x, kernel, (1, 1), ((0, 0), (0, 0)))
    assert out.dtype == jnp.bfloat16 and float(out[0, 0, 0, 0]) == 33 * 33 - 1  # 1,089 rounded; a sum in it ends at 256


def test_it_works_under_vmap_and_twice_differentiated():
    with jax.enable_x64(True):
        x, kernel = given(6, 6, 3, 3)
        ours = partial(depthwise.convolve, strides=(1, 1), pads=((1, 1), (1, 1)))
        many = jax.vmap(ours)(jnp.stack([x, 2 * x]), jnp.stack([kernel, kernel]))
        np.testing.assert_allclose(many[1], 2 * many[0], rtol=1e-12)

        def penalty(x):
            return jnp.sum(jax.grad(lambda x: jnp.sum(ours(x, kernel) ** 3))(x) ** 2)

        slope = jax.grad(penalty)(x)
        step = 1e-6 * jnp.ones_like(x)
        np.testing.assert_allclose(jnp.sum(slope * step), (penalty(x + step) - penalty(x - step)) / 2, rtol=1e-5)


def test_other_convolutions_are_left_to_xla():
    x = jnp.ones((1, 6, 6, 4))
    grouped = depthwise.general(
        x, jnp.ones((3, 3, 2, 4)), (1, 1), ((1, 1), (1, 1)), dimension_numbers=depthwise.NUMBERS, feature_group_count=2
    )
    dilated = depthwise.general(
        x, jnp.ones((3, 3, 1, 4)), (1, 1), ((2, 2), (2, 2)), rhs_dilation=(2, 2), dimension_numbers=depthwise.NUMBERS,
        feature_group_count=4,
    )  # fmt: skip
    assert grouped[0, 2, 2, 0] == 18 and dilated[0, 2, 2, 0] == 9 and dilated.shape == x.shape
