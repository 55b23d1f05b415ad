"""MobileNets and the Lite networks: what their tables say, and the settings that change no number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mixjax import models
from mixjax.models.efficientnet import EfficientNet, Group
from mixjax.models.mobilenet import LARGE, SWISH, V3, V4, MobileNet, inverted, plain, separable, universal
from mixjax.models.net import from_linen
from tests.support.filled import filled

NARROW = {
    'efficientnet': EfficientNet(groups=(Group(1, 8, 1, 1, 3), Group(2, 8, 2, 2, 3)), stem=8, top=16, dropout=0.0),
    'mobilenetv3': V3(
        ((separable(8, 3),), (inverted(8, 3, 2, 2, squeeze=True, **SWISH), inverted(8, 3, 1, 2)), (plain(16, 1),)),
        stem=8, top=16, dropout=0.0,
    ),
    'mobilenetv4': V4(((plain(8, 3, 2),), (universal(3, 3, 8, 2), universal(0, 3, 8, 2))), stem=8, top=16, dropout=0.0),
}  # fmt: skip


def test_the_factors_of_the_lite_networks_leave_the_ends_as_they_are():
    lite4 = models.BACKBONES['efficientnet_lite4']()
    assert isinstance(lite4, EfficientNet)
    assert lite4.blocks == (1, 4, 4, 6, 6, 8, 1)
    net = models.build('efficientnet_lite4')
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), {}))['params']['backbone']
    assert shapes['stem']['conv']['kernel'].shape[-1] == 32
    assert shapes['stage7']['block0']['project_conv']['kernel'].shape[-1] == 448  # widths of the groups do grow
    assert shapes['stage8']['conv']['kernel'].shape[-1] == 1280
    assert not [name for name in shapes['stage3']['block0'] if name.startswith('se_')]


def test_a_mobilenets_features_follow_the_pooling():
    net, image = from_linen(NARROW['mobilenetv4']), jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    variables = filled(lambda: net.init(jax.random.key(0), image, {'target': 3}))
    out, _ = jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, image)
    final, moving = variables['params']['backbone']['final'], variables['batch_stats']['backbone']['final']['bn']
    h = out.maps['last'].mean((1, 2)) @ final['conv']['kernel'][0, 0]
    h = (h - moving['mean']) / jnp.sqrt(moving['var'] + 1e-5) * final['bn']['scale'] + final['bn']['bias']
    np.testing.assert_allclose(out.features, nn.relu(h), rtol=1e-4, atol=1e-5)
    head = variables['params']['heads']['target']
    np.testing.assert_allclose(out.logits['target'], out.features @ head['kernel'] + head['bias'], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', NARROW)
def test_computing_activations_again_changes_no_number(name):
    """Neither outputs, gradients, statistics nor taps, with stochastic depth and without."""
    image, label = jax.random.normal(jax.random.key(0), (6, 16, 16, 3)), jnp.arange(6) % 3
    plain_net = from_linen(NARROW[name].clone(drop_path=0.6))
    variables = filled(lambda: plain_net.init(jax.random.key(0), image, {'target': 3}))
    state = {'batch_stats': variables['batch_stats']}

    def results(remat):
        net, seen = from_linen(NARROW[name].clone(drop_path=0.6, remat=remat)), []

        def tap(where, h):
            seen.append(where)
            return h * 1.5 if where == 'stage2.conv' else h

        def loss(params, image):
            out, new = net.apply({'params': params, **state}, image, train=True, tap=tap, rng=jax.random.key(3))
            logits = jax.nn.log_softmax(out.logits['target'])
            return -jnp.take_along_axis(logits, label[:, None], 1).mean(), (new, out)

        traced = jax.jit(jax.value_and_grad(loss, has_aux=True)).trace(variables['params'], image)
        return traced.lower().compile()(variables['params'], image), str(traced.jaxpr), seen

    (want, without, taps), (found, again, same_taps) = results(False), results(True)
    assert 'prevent_cse' in again and 'prevent_cse' not in without
    assert taps == same_taps and 'stage2.conv' in taps
    assert jax.tree.structure(want) == jax.tree.structure(found)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_stochastic_depth_grows_linearly_and_is_off_by_default():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)

    def rates(net):
        variables = jax.eval_shape(lambda x: net.init(jax.random.key(0), x, {'target': 2}), image)
        found = {}

        def record(call, args, kwargs, context):
            if isinstance(context.module, nn.Dropout):
                found['/'.join(context.module.path)] = context.module.rate
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, image)
        assert found.pop('dropout') == 0.2
        return found

    name = 'mobilenetv3_large_100'
    assert set(rates(models.build(name)).values()) == {0.0}
    # Of 16 blocks those that keep the shape; the first block keeps it too, at rate 0.
    kept = {'1/0': 0, '2/1': 2, '3/1': 4, '3/2': 5, '4/1': 7, '4/2': 8, '4/3': 9, '5/1': 11, '6/1': 13, '6/2': 14}
    want = {f'backbone/stage{place[0]}/block{place[2]}/drop': 0.32 * i / 16 for place, i in kept.items()}
    assert sum(map(len, LARGE)) == 16
    assert rates(models.build(name, drop_path=0.32)) == pytest.approx(want)


def test_the_settings_are_those_of_build():
    for name in ('efficientnet_b0', 'efficientnet_lite0', 'mobilenetv4_conv_medium'):
        backbone = models.BACKBONES[name]()
        assert isinstance(backbone, EfficientNet | MobileNet) and not backbone.remat
        models.build(name, remat=True, drop_path=0.1)
    assert (
        models.family('efficientnet_lite2') == 'efficientnet' and models.family('mobilenetv3_large_100') == 'mobilenet'
    )
    image = models.image_settings('efficientnet_lite4')
    assert (image['interpolation'], image['resize'], image['crop']) == ('bilinear', 413, 380)
