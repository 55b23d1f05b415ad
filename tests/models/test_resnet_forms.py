"""The layers of timm's forms of ResNet and of BiT."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import models
from mixjax.models.bit import BitStem, GroupNorm, standardised
from mixjax.models.resnet import tile_means

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('side', [4, 5])
def test_tiles_at_the_end_are_means_of_what_is_inside(side):
    x = RNG.standard_normal((2, side, 4, 3))
    want = np.stack([x[:, i : i + 2].mean(1) for i in range(0, side, 2)], 1)
    want = np.stack([want[:, :, :2].mean(2), want[:, :, 2:].mean(2)], 2)
    with jax.enable_x64(True):
        said = tile_means(jnp.asarray(x), 2)
    assert said.shape == (2, (side + 1) // 2, 2, 3)
    np.testing.assert_allclose(said, want, rtol=1e-12)


def test_kernels_are_standardised_for_each_output_channel():
    kernel = RNG.standard_normal((3, 3, 4, 5)) * 7 + 2
    with jax.enable_x64(True):
        _, said, _ = standardised(jnp.zeros(1), jnp.asarray(kernel), None, dtype=None)
    mean, var = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
    np.testing.assert_allclose(said, (kernel - mean) / np.sqrt(var + 1e-8), rtol=1e-12, atol=1e-12)


def test_group_norm_is_the_formula_in_float64():
    x, scale, bias = RNG.standard_normal((2, 3, 5, 6)) + 4, RNG.uniform(0.5, 2, 6), RNG.standard_normal(6)
    groups = x.reshape(2, 3, 5, 2, 3)
    mean, var = groups.mean((1, 2, 4), keepdims=True), groups.var((1, 2, 4), keepdims=True)
    want = np.maximum(((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape) * scale + bias, 0)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, {'scale': scale, 'bias': bias})
        said = GroupNorm(groups=2).apply({'params': params}, jnp.asarray(x))
    np.testing.assert_allclose(said, want, rtol=1e-12, atol=1e-12)


def test_bits_pooling_sees_zeros_around_the_map():
    """Along the edges nothing is below zero, inside most of it is."""
    image = jnp.asarray(RNG.standard_normal((1, 64, 64, 3)), jnp.float32)
    params = BitStem(64).init(jax.random.key(0), image)
    said = np.asarray(BitStem(64).apply(params, image - 50 * jnp.sign(image)))
    assert said.shape == (1, 16, 16, 64)
    assert said[:, 0].min() >= 0 and said[:, :, 0].min() >= 0
    assert said[:, 1:, 1:].min() < 0


def test_the_families_of_the_new_names():
    assert {models.family(name) for name in ('resnet26d', 'seresnet50', 'resnetv2_50x1_bit')} == {'resnet'}
    assert models.family('convnextv2_tiny') == 'convnext'
    assert models.NETWORKS['resnetv2_101x1_bit'].image['crop'] == 448
    assert models.NETWORKS['convnext_tiny'].image == {
        **{'resize': 235, 'crop': 224, 'interpolation': 'bicubic'},
        **{'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)},
    }
