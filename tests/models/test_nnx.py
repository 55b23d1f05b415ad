"""`Net` belongs to no library: here it holds a flax NNX module, and the rest of mixjax cannot tell."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mixjax.models.net import Net, Out, bind, group, no_tap, redraw, torch_linear

HEADS = {'target': 3, 'source': 5}


class Layer(nnx.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, width_in, width, stride, rngs):
        self.conv = nnx.Conv(width_in, width, (3, 3), strides=stride, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)

    def __call__(self, h, train):
        return nnx.relu(self.bn(self.conv(h), use_running_average=not train))


class Backbone(nnx.Module):
    def __init__(self, channels, rngs):
        self.stem = Layer(channels, 4, 1, rngs)
        self.stage1 = Layer(4, 6, 2, rngs)


class Small(nnx.Module):
    def __init__(self, channels, heads, rngs):
        def law(rng, shape, dtype):
            return torch_linear(rng, 6, shape, dtype)

        def linear(width):
            return nnx.Linear(6, width, kernel_init=law, bias_init=law, rngs=rngs)

        self.backbone = Backbone(channels, rngs)
        self.heads = nnx.Dict({name: linear(width) for name, width in heads.items()})

    def __call__(self, image, train, tap):
        stem = tap('stem', self.backbone.stem(tap('input', image), train))
        stage1 = tap('stage1', self.backbone.stage1(stem, train))
        features = stage1.mean((1, 2))
        logits = {name: head(features) for name, head in self.heads.items()}
        return Out(logits, features, {'stage1': stage1, 'last': stage1})


def from_nnx(make) -> Net:
    """A `Net` of `make(channels, heads, rngs)`: an NNX module with children `backbone` and `heads`."""

    def init(rng, image, heads):
        _, params, stats = nnx.split(make(image.shape[-1], heads, nnx.Rngs(params=rng)), nnx.Param, nnx.BatchStat)
        return {'params': nnx.to_pure_dict(params), 'batch_stats': nnx.to_pure_dict(stats)}

    def apply(variables, image, *, train, tap=no_tap, rng=None):
        del rng
        heads = {name: head['bias'].shape[0] for name, head in variables['params']['heads'].items()}
        abstract = nnx.eval_shape(lambda: make(image.shape[-1], heads, nnx.Rngs(0)))
        graph, *states = nnx.split(abstract, nnx.Param, nnx.BatchStat)
        for state, values in zip(states, (variables['params'], variables['batch_stats']), strict=True):
            nnx.replace_by_pure_dict(state, values)
        module = nnx.merge(graph, *states)
        out = module(image, train, tap)
        return out, {'batch_stats': nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))}

    return Net(init=init, apply=apply, group=group, redraw=redraw)


@pytest.fixture(scope='module')
def setting():
    net = from_nnx(Small)
    image = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    return net, jax.jit(lambda rng: net.init(rng, image, HEADS))(jax.random.key(0)), image


def test_variables_follow_the_one_layout(setting):
    _, variables, _ = setting
    layer = {'bn': {'scale', 'bias'}, 'conv': {'kernel'}}
    assert set(variables) == {'params', 'batch_stats'}
    assert set(variables['params']) == {'backbone', 'heads'} and set(variables['batch_stats']) == {'backbone'}
    for part in ('stem', 'stage1'):
        assert {name: set(tree) for name, tree in variables['params']['backbone'][part].items()} == layer
        assert set(variables['batch_stats']['backbone'][part]['bn']) == {'mean', 'var'}
    shapes = jax.tree.map(jnp.shape, variables['params']['heads'])
    assert shapes == {name: {'kernel': (6, width), 'bias': (width,)} for name, width in HEADS.items()}
    assert all(type(leaf).__name__ == 'ArrayImpl' for leaf in jax.tree.leaves(variables))


def test_group_names_every_parameter(setting):
    net, variables, _ = setting
    leaves = jax.tree_util.tree_flatten_with_path(variables['params'])[0]
    groups = {net.group(tuple(key.key for key in path)) for path, _ in leaves}
    assert groups == {'stem', 'stage1', 'head:target', 'head:source'}


def test_eval_mode_keeps_the_state_and_train_mode_changes_all_of_it(setting):
    net, variables, image = setting
    out, same = net.apply(variables, image, train=False)
    trained, new = jax.jit(lambda v, x: net.apply(v, x, train=True))(variables, image)
    assert jax.tree.map(jnp.shape, out.logits) == {'target': (4, 3), 'source': (4, 5)}
    assert (
        jax.tree.structure(same)
        == jax.tree.structure(new)
        == jax.tree.structure({'batch_stats': variables['batch_stats']})
    )
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, same['batch_stats'], variables['batch_stats'])))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, new['batch_stats'], variables['batch_stats'])))
    assert not np.allclose(out.features, trained.features)
    # Nothing leaked into the module between calls: the old variables still say the same.
    again, _ = net.apply(variables, image, train=False)
    np.testing.assert_array_equal(again.features, out.features)


def test_jit_and_grad_train_it(setting):
    net, variables, image = setting
    label = jnp.arange(4) % 3

    def loss(params, state):
        out, state = net.apply({'params': params, **state}, image, train=True)
        logits = jax.nn.log_softmax(out.logits['target'])
        return -jnp.take_along_axis(logits, label[:, None], 1).mean(), state

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    params, state = variables['params'], {'batch_stats': variables['batch_stats']}
    losses = []
    for _ in range(30):
        (value, state), grad = step(params, state)
        params = jax.tree.map(lambda p, g: p - 0.3 * g, params, grad)
        losses.append(float(value))
    assert losses[-1] < 0.7 * losses[0]
    norms = jax.tree.map(lambda g: float(jnp.abs(g).max()), grad)
    assert all(norm == 0 for norm in jax.tree.leaves(norms['heads']['source']))
    assert all(norm > 0 for norm in jax.tree.leaves({**norms['backbone'], 'head': norms['heads']['target']}))


def test_redraw_changes_one_head_only(setting):
    net, variables, image = setting
    params = net.redraw(jax.random.key(7), variables['params'], 'target')
    equal = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), params, variables['params'])
    assert equal['heads'] == {'target': {'kernel': False, 'bias': False}, 'source': {'kernel': True, 'bias': True}}
    assert all(jax.tree.leaves(equal['backbone']))
    assert np.abs(params['heads']['target']['kernel']).max() <= 6**-0.5
    before, _ = net.apply(variables, image, train=False)
    after, _ = net.apply({**variables, 'params': params}, image, train=False)
    np.testing.assert_array_equal(after.logits['source'], before.logits['source'])
    assert not np.allclose(after.logits['target'], before.logits['target'])


def test_taps_see_and_replace_every_activation(setting):
    net, variables, image = setting
    seen = []

    def tap(name, hidden):
        seen.append(name)
        return 0 * hidden if name == 'stage1' else hidden

    out, _ = net.apply(variables, image, train=False, tap=tap)
    assert seen == ['input', 'stem', 'stage1']
    np.testing.assert_array_equal(out.features, 0)


def test_bind_works_as_with_any_other_net(setting):
    net, variables, image = setting
    bound = bind(net, variables, jax.random.key(3))
    out, _ = bound.apply(variables, image, train=False)
    assert bound.pretrained() is variables
    np.testing.assert_array_equal(bound.source(image).logits['source'], out.logits['source'])
