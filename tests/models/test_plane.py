"""Networks with a bottleneck of two units: what is in them, and that training reaches the layers before it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import models
from mixjax.models import plane
from tests.support.networks import NETWORKS, size


@pytest.mark.parametrize('name', ['glyphnet_plane', 'preactresnet18_plane'])
def test_shapes_parts_and_number_of_parameters(name):
    stages, shape, count = NETWORKS[name]
    net, image = models.build(name), jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda rng, x: net.init(rng, x, {'target': 10}), jax.random.key(0), image)
    assert size(variables['params']) == count
    leaves = jax.tree_util.tree_flatten_with_path(variables['params'])[0]
    groups = {net.group(tuple(key.key for key in path)) for path, _ in leaves}
    assert groups == {'stem', 'final', 'head:target', *(f'stage{i + 1}' for i in range(stages))}
    plain = models.build(name.removesuffix('_plane'))
    whole = jax.eval_shape(lambda rng, x: plain.init(rng, x, {'target': 10}), jax.random.key(0), image)
    d = whole['params']['heads']['target']['kernel'].shape[0]
    assert count - size(whole['params']) == (2 * d + 2) + (2 * 100 + 100) + (100 * d + d)
    out, _ = jax.eval_shape(lambda v, x: net.apply(v, x, train=True), variables, image)
    assert out.maps['plane'].shape == (2, 1, 1, 2) and out.features.shape == (2, d)
    assert out.maps['last'].shape[-1] == d


def test_the_bottleneck_by_hand():
    layer = plane.Plane(middle=3)
    features = jax.random.normal(jax.random.key(1), (5, 4))
    variables = layer.init(jax.random.key(0), features)
    wide, codes = layer.apply(variables, features)
    h = np.asarray(features)
    for name in ('narrow', 'middle', 'wide'):
        part = variables['params'][name]
        h = np.tanh(h @ part['kernel'] + part['bias'])
        if name == 'narrow':
            np.testing.assert_allclose(codes, h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(wide, h, rtol=1e-5, atol=1e-6)
    assert codes.shape == (5, 2) and wide.shape == (5, 4) and np.abs(codes).max() <= 1
    for part in variables['params'].values():  # torch's law
        assert np.abs(part['kernel']).max() <= part['kernel'].shape[0] ** -0.5

    def loss(features):
        return layer.apply(variables, features)[0].sum()

    gradient = jax.grad(loss)(features)
    assert np.isfinite(gradient).all() and np.abs(gradient).min() > 0
