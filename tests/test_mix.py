import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixjax import mix


@settings(max_examples=30, deadline=None)
@given(lam=st.floats(0, 1), shape=st.sampled_from([(3,), (3, 2), (3, 4, 4, 1)]))
def test_blend_is_linear_and_keeps_its_ends(lam, shape):
    a, b = np.random.RandomState(0).randn(2, *shape).astype(np.float32)
    np.testing.assert_allclose(mix.blend(lam, a, b), lam * a + (1 - lam) * b, atol=1e-6)
    np.testing.assert_array_equal(mix.blend(1.0, a, b), a)
    np.testing.assert_array_equal(mix.blend(0.0, a, b), b)


def test_blend_takes_one_lam_for_each_example():
    a, b = jnp.ones((2, 3, 3, 1)), jnp.zeros((2, 3, 3, 1))
    out = mix.blend(jnp.array([0.25, 0.75]), a, b)
    np.testing.assert_array_equal(out[:, 0, 0, 0], [0.25, 0.75])


@pytest.mark.parametrize('groups', [1, 2, 4])
def test_partner_permutes_images_and_labels_alike_within_groups(groups):
    batch = 8
    index = jnp.stack([jax.random.permutation(k, batch // groups) for k in jax.random.split(jax.random.key(1), groups)])
    label = jnp.arange(batch)
    image = jnp.broadcast_to(label[:, None, None, None], (batch, 2, 2, 1))
    swapped = mix.partner(label, index)
    np.testing.assert_array_equal(mix.partner(image, index)[:, 0, 0, 0], swapped)
    np.testing.assert_array_equal(jnp.sort(swapped), label)
    np.testing.assert_array_equal(swapped // (batch // groups), label // (batch // groups))


@pytest.mark.parametrize(('a', 'b'), [(1.0, 1.0), (0.2, 0.2), (4.0, 1.0), (0.5, 1.0), (2.0, 2.0)])
def test_beta_has_the_moments_of_the_beta_distribution(a, b):
    lam = mix.beta(jax.random.key(0), a, b, (20_000,))
    mean, variance = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
    np.testing.assert_allclose(lam.mean(), mean, atol=4 * (variance / 20_000) ** 0.5)
    np.testing.assert_allclose(lam.var(), variance, rtol=0.05)


def test_fold():
    np.testing.assert_allclose(mix.fold(jnp.array([0.2, 0.5, 0.9])), [0.8, 0.5, 0.9])
