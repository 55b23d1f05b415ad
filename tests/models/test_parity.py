"""Networks against torch: forward, gradients and running statistics, without any weight file.

The fixtures were computed by the authors' own code (their array `reference`), with parameters that
`torch_names.fill` makes again from the entries' names. In float64, where two right programs agree to 1e-9.
"""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mixjax import models
from mixjax.models.weights import tensor_names
from tests.support import torch_names
from tests.support.common import assert_trees_equal, fixture
from tests.support.parity import FILES, train

pytestmark = pytest.mark.parity

# What a fixture says of inner maps -> where ours is: a name in `Out.maps`, or a module's path.
BOTTLENECKS = {
    'layer1_2_conv3': 'stage1.conv',
    'layer2_3_conv3': 'stage2.conv',
    'layer3_5_conv3': 'stage3.conv',
    'layer4_2_conv3': 'stage4.conv',
    'layer4': 'last',
}
MAPS = {
    'model_tv_resnet50_96': BOTTLENECKS,
    'model_tv_resnet50_224': BOTTLENECKS,
    'model_efficientnet_b4_224': {
        '_blocks_0': 'backbone/stage1/block0',
        '_blocks_5': 'stage2',
        '_blocks_15': 'stage4',
        '_blocks_31': 'stage7',
    },
}
TOLERANCE = 1e-9


def assert_close(ours, theirs, tolerance=TOLERANCE):
    """max |a - b| <= tolerance * max(1, max |b|): 1e-9 is six orders above what two float64 programs differ by."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape and ours.dtype == np.float64
    assert np.abs(ours - theirs).max() <= tolerance * max(1.0, np.abs(theirs).max())


def flat(tree):
    return {tuple(key.key for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def evaluate(net, variables, image):
    """Eval mode: (out, model_state, every module's output by its path)."""
    modules = {}

    def record(call, args, kwargs, context):
        result = call(*args, **kwargs)
        modules['/'.join(context.module.path)] = result[0] if isinstance(result, tuple) else result
        return result

    with nn.intercept_methods(record):
        out, state = net.apply(variables, image, train=False)
    return out, state, {path: h for path, h in modules.items() if isinstance(h, jax.Array)}


@pytest.fixture(scope='module', params=FILES)
def case(request):
    """What torch said (`want`) and what our network says in eval and in train mode."""
    name, dialect = FILES[request.param]
    want = fixture(request.param)
    state = torch_names.fill(want)
    net = models.build(name)
    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.asarray, torch_names.variables(name, want, state))
        image, label = jnp.asarray(torch_names.image(want)), jnp.asarray(want['train_labels'])
        params, stats = variables['params'], {key: tree for key, tree in variables.items() if key != 'params'}
        out, same, modules = jax.device_get(jax.jit(lambda v, x: evaluate(net, v, x))(variables, image))
        # Both modes in float64 take what torch took: neither dropout nor drop-connect, for there is no key.
        trained = jax.device_get(jax.jit(lambda p, s, x, y: train(net, p, s, x, y))(params, stats, image, label))
    (loss, (logits, features, new)), grad = trained
    return SimpleNamespace(
        file=request.param, name=name, dialect=dialect, net=net, want=want, state=state,
        variables=jax.device_get(variables), image=np.asarray(image), stats=jax.device_get(stats),
        out=out, same=same, modules=modules, loss=loss, logits=logits, features=features, new=new, grad=grad,
    )  # fmt: skip


def test_fill_makes_the_parameters_that_torch_was_given(case):
    for name, want in zip(case.want['param_names'], case.want['param_checks'], strict=True):
        np.testing.assert_allclose(torch_names.checks(case.state[name]), want, rtol=1e-12, atol=1e-10, err_msg=name)
    nchw = case.image.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(torch_names.checks(nchw), case.want['input_checks'], rtol=1e-12)


def test_the_dialect_gives_every_tensor_back(case):
    back = tensor_names.to_torch(case.name, case.variables, case.dialect)
    assert back.keys() == case.state.keys()
    for name, value in case.state.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_eval_mode(case):
    out, want = case.out, case.want
    assert_close(out.logits['source'], want['eval_logits'])
    assert_close(out.features[:, :16], want['eval_features_first16'])
    assert_close(out.features.mean(1), want['eval_features_mean'])
    assert_close(np.linalg.norm(out.features, axis=1), want['eval_features_norm'])
    assert_trees_equal(case.same, case.stats)


def test_maps(case):
    theirs = {key[9:-11] for key in case.want if key.startswith('eval_map_') and key.endswith('_shape_nhwc')}
    places = MAPS.get(case.file, {})
    assert theirs == places.keys()
    for name, place in places.items():
        value = case.out.maps.get(place, case.modules.get(place))
        numbers = {
            key: case.want[f'eval_map_{name}_{key}'] for key in ('shape_nhwc', 'sum_sqsum', 'corner8', 'last_corner8')
        }
        assert value.shape == tuple(numbers['shape_nhwc'])
        assert_close(np.stack([value.sum(), (value * value).sum()]), numbers['sum_sqsum'])
        assert_close(value[:, 0, 0, :8], numbers['corner8'])
        assert_close(value[:, -1, -1, -8:], numbers['last_corner8'])


def test_train_mode(case):
    assert_close(case.loss, case.want['train_ce_mean'])
    assert_close(case.logits, case.want['train_logits'])
    assert_close(case.features[:, :16], case.want['train_features_first16'])


def test_gradients(case):
    want = case.want
    grads = tensor_names.to_torch(case.name, {'params': case.grad}, case.dialect)
    assert grads.keys() == set(want['train_grad_names'])
    for name, norm in zip(want['train_grad_names'], want['train_grad_norms'], strict=True):
        # The gradient of a bias in front of a BN is zero but for rounding.
        np.testing.assert_allclose(np.linalg.norm(grads[name]), norm, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
    first = grads[f'{want["first_conv"]}.weight']
    assert_close(np.linalg.norm(first), want['train_grad_first_conv_norm'])
    assert_close(first[0].transpose(1, 2, 0), want['train_grad_first_conv_out0_hwi'])
    assert_close(grads[f'{want["last_linear"]}.bias'], want['train_grad_last_bias'])


def test_running_statistics(case):
    want = case.want
    stats = tensor_names.to_torch(case.name, case.new, case.dialect)
    names = want.get('bn_names', ())
    assert stats.keys() == {f'{name}.running_{key}' for name in names for key in ('mean', 'var')}
    for key in ('mean', 'var') if len(names) else ():
        of = [stats[f'{name}.running_{key}'] for name in names]
        assert_close(np.stack([value.mean() for value in of]), want[f'bn_new_running_{key}_avg'])
        assert_close(stats[f'{want["bn_first_name"]}.running_{key}'], want[f'bn_first_running_{key}'])
        assert_close(stats[f'{want["bn_last_name"]}.running_{key}'], want[f'bn_last_running_{key}'])


def test_eps_and_momentum_of_each_normalisation(case):
    found = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, models.layers.BatchNorm):
            name = tensor_names.dialects(case.name)[case.dialect].layer(context.module.path)
            found[name] = (context.module.eps, 1 - context.module.momentum)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda v, x: case.net.apply(v, x, train=True), case.variables, case.image)
    names = [str(name) for name in case.want.get('bn_names', ())]
    assert found.keys() == set(names)
    if names:
        values = np.array([found[name] for name in names])
        np.testing.assert_allclose(
            values, np.stack([case.want['bn_eps'], case.want['bn_momentum_torch']], 1), rtol=1e-12
        )
