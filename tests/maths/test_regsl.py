"""RegSL: the projection, the penalties, self-labelling, and the method made of them."""

from __future__ import annotations

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixjax import losses, models
from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.maths import regsl
from mixjax.method import Aux, Ctx, Data, Part, Prepared, Run
from mixjax.models import net as net_lib
from mixjax.models.net import Net, Out
from tests.support.common import Tiny, assert_trees_equal, fixture
from tests.support.toy import opened, settings, walk
from tests.support.variants import VARIANTS

parts, project, penalty = (partial(one, group=net_lib.group) for one in (regsl.parts, regsl.project, regsl.penalty))
NORMS = {'frobenius': 'frob', 'row': 'infop'}


# --- the authors' numbers ---------------------------------------------------------------------------------------------


def our_path(name):
    """`feature_extractor__layer2__0__down__weight` is params/backbone/stage2/block0/shortcut_conv/kernel."""
    *module, leaf = name.split('__')
    leaf = {'running_mean': 'mean', 'running_var': 'var'}.get(leaf, leaf)
    if leaf == 'weight':
        leaf = 'scale' if 'bn' in module[-1] else 'kernel'
    top = 'batch_stats' if leaf in ('mean', 'var') else 'params'
    if module == ['pred_head']:
        return top, 'heads', 'target', leaf
    layer = {'down': 'shortcut_conv', 'bn1': 'bn', 'conv1': 'conv'}.get(module[-1])
    if stage := re.fullmatch(r'layer(\d)', module[1]):
        return top, 'backbone', f'stage{stage[1]}', f'block{module[2]}', layer, leaf
    return top, 'backbone', 'stem', layer, leaf


def tree(f, prefix, dtype='float64'):
    """The fixture's state as our variables."""
    out = {}
    for name, value in f.items():
        if name.startswith(prefix + '__'):
            *keys, leaf = our_path(name.removeprefix(prefix + '__'))
            node = out
            for key in keys:
                node = node.setdefault(key, {})
            node[leaf] = jnp.asarray(value, dtype)
    return out


def close(a, b, **tolerance):
    chex.assert_trees_all_close(a, b, **{'rtol': 1e-7, **tolerance})


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('dtype', ['float64', 'float32'])
def test_the_projection_equals_the_released_code(norm, dtype):
    f = fixture('regsl')
    with jax.enable_x64(dtype == 'float64'):
        start, before = tree(f, 'init', dtype), tree(f, 'before', dtype)
        expected = tree(f, f'after_{NORMS[norm]}', dtype)['params']
        numbers = (float(f[f'distance_{NORMS[norm]}']), float(f['head_distance']), float(f['scale_factor']))
        radius = parts(before['params'], *numbers)
        trees = before['params'], start['params'], before['batch_stats'], start['batch_stats']
        found = jax.jit(lambda *trees: project(*trees, radius, norm))(*trees)
        close(found, expected, rtol=0, atol=1e-12 if dtype == 'float64' else 1e-6)
        assert {x.dtype for x in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
        moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), found, before['params'])
        assert not any(jax.tree.leaves(moved['backbone']['stem'])) and any(jax.tree.leaves(moved['backbone']))


@pytest.mark.parity
@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('dtype', ['float64', 'float32'])
def test_the_penalty_equals_the_released_code(norm, dtype):
    f = fixture('regsl')
    with jax.enable_x64(dtype == 'float64'):
        start, before = tree(f, 'init', dtype)['params'], tree(f, 'before', dtype)['params']
        trunk, head = f['penalty_lambda'].tolist()
        weight = parts(before, trunk, head, float(f['scale_factor']))
        rtol = 1e-12 if dtype == 'float64' else 1e-5
        found = penalty(before, start, weight, norm)
        names = ['stage1', 'stage2', 'stage3', 'stage4', 'head:target']
        assert set(found) == set(names)
        groups = np.array([found[name] for name in names])
        np.testing.assert_allclose(groups, f[f'penalty_{NORMS[norm]}_per_group'], rtol=rtol)
        np.testing.assert_allclose(groups.sum(), f[f'penalty_{NORMS[norm]}_total'], rtol=rtol)
        grad = jax.grad(lambda p: sum(penalty(p, start, weight, norm).values()))(before)
        if norm == 'frobenius':
            close(grad, tree(f, 'penalty_frob_grad', dtype)['params'], rtol=0, atol=1e-12 if rtol < 1e-6 else 1e-5)
        at_start = jax.grad(lambda p: sum(penalty(p, start, weight, norm).values()))(start)
        assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(at_start))


@pytest.mark.parity
@pytest.mark.parametrize('dtype', ['float64', 'float32'])
def test_self_labelling_equals_the_released_code(dtype):
    f = fixture('regsl')
    rtol, atol = (1e-12, 1e-12) if dtype == 'float64' else (1e-5, 1e-5)
    with jax.enable_x64(dtype == 'float64'):
        stored, index = jnp.asarray(f['sl_stored_labels']), jnp.asarray(f['sl_index'])

        def loss(logits):
            per_example = losses.cross_entropy(logits, stored[index])
            weights = regsl.adaptive_weights(per_example, float(f['sl_temp']))
            return (weights * per_example).sum(), (per_example, weights)

        logits = jnp.asarray(f['sl_logits'], dtype)
        (value, (per_example, weights)), grad = jax.value_and_grad(loss, has_aux=True)(logits)
        np.testing.assert_allclose(per_example, f['sl_ce'], rtol=rtol, atol=atol)
        np.testing.assert_allclose(weights, f['sl_weights'], rtol=rtol, atol=atol)
        np.testing.assert_allclose(value, f['sl_loss'], rtol=rtol)
        np.testing.assert_allclose(grad, f['sl_grad'], atol=atol)

        after = regsl.correct(stored, index, logits, float(f['sl_threshold']))
        np.testing.assert_array_equal(after, f['sl_labels_after'])
        changed = np.asarray(index)[np.asarray(after != stored)[np.asarray(index)]]
        np.testing.assert_array_equal(changed, f['sl_changed_index'])
        epochs = jnp.arange(1, 31)
        found = regsl.temperature(epochs, float(f['sl_temp']), int(f['sl_adaptive_epoch']))
        np.testing.assert_allclose(found, f['sl_temp_used_in_epoch_1_to_30'], rtol=1e-12 if rtol < 1e-6 else 1e-6)


# --- the projection ---------------------------------------------------------------------------------------------------


def layer(seed, stage='stage1', size=4):
    """One convolution with BatchNorm and one classifier: (params, statistics)."""
    rng = np.random.RandomState(seed)

    def draw(*shape):
        return jnp.asarray(rng.randn(*shape))

    params = {
        'backbone': {
            'stem': {'conv': {'kernel': draw(3, 3, 1, size)}},
            stage: {'conv': {'kernel': draw(3, 3, size, size), 'bias': draw(size)},
                    'bn': {'scale': draw(size), 'bias': draw(size)}},
        },
        'heads': {'target': {'kernel': draw(size, 5), 'bias': draw(5)}},
    }  # fmt: skip
    stats = {'backbone': {stage: {'bn': {'mean': draw(size), 'var': 0.5 + jnp.abs(draw(size))}}}}
    return params, stats


def distances(params, start, norm):
    """Of the kernel from its start and of the classifier from zero."""
    found = params['backbone']['stage1']['conv']['kernel'] - start['backbone']['stage1']['conv']['kernel']
    head = params['heads']['target']['kernel']
    if norm == 'row':
        return jnp.abs(found).sum((0, 1, 2)).max(), jnp.abs(head).sum(0).max()
    return jnp.linalg.norm(found), jnp.linalg.norm(head)


@pytest.mark.parametrize('norm', NORMS)
def test_projected_weights_lie_in_the_ball_and_stay(norm):
    with jax.enable_x64(True):
        (start, stats0), (params, stats) = layer(0), layer(1)
        radius = parts(params, 0.3, 0.7, 2.0)
        once = project(params, start, stats, stats0, radius, norm)
        np.testing.assert_allclose(distances(once, start, norm), [0.3, 0.7], rtol=1e-12)
        close(project(once, start, stats, stats0, radius, norm), once, rtol=1e-12)
        # The nearest point: on the line to the centre.
        move, whole = (
            p['backbone']['stage1']['conv']['kernel'] - start['backbone']['stage1']['conv']['kernel']
            for p in (once, params)
        )
        ratio = move / whole
        np.testing.assert_allclose(ratio, jnp.broadcast_to(ratio[:1, :1, :1], ratio.shape), rtol=1e-9)
        # Stem and biases go where they like, and bit for bit.
        free = [
            tree
            for p in (once, params)
            for tree in [(p['backbone']['stem'], p['backbone']['stage1']['conv']['bias'],
                          p['backbone']['stage1']['bn']['bias'], p['heads']['target']['bias'])]
        ]  # fmt: skip
        assert_trees_equal(*free)


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('dtype', ['float64', 'float32'])
def test_inside_the_ball_nothing_moves(norm, dtype):
    with jax.enable_x64(dtype == 'float64'):
        (start, stats0), (params, stats) = layer(0), layer(1)
        radius = parts(params, 1e3, 1e3, 2.0)
        assert_trees_equal(project(params, start, stats, stats0, radius, norm), params)
        # On the boundary itself: a displacement of exactly k = 2 in one entry.
        kernel = jnp.zeros((1, 1, 2, 2)).at[0, 0, 0, 0].set(2.0)
        edge = {'backbone': {'stage1': {'conv': {'kernel': kernel}}}}
        zero = jax.tree.map(jnp.zeros_like, edge)
        assert_trees_equal(project(edge, zero, {}, {}, {'stage1': 2.0}, norm), edge)


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('k', [0.0, 0.5])
def test_zero_displacement_has_finite_gradients(norm, k):
    params, stats = layer(0)
    radius = parts(params, k, k, 2.0)

    def projected(p):
        return project(p, params, stats, stats, radius, norm)

    found = projected(params)
    assert_trees_equal(found['backbone'], params['backbone'])
    grad = jax.grad(lambda p: sum(jnp.sum(x) for x in jax.tree.leaves(projected(p))))(params)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves((found, grad)))
    if k == 0:
        assert float(jnp.abs(found['heads']['target']['kernel']).max()) == 0


def test_a_row_is_bound_by_itself():
    kernel = jnp.asarray([[[[3.0, 0.1], [-1.0, 0.2]]]])  # L1 norms of the two output channels: 4 and 0.3
    params = {'backbone': {'stage1': {'conv': {'kernel': kernel}}}}
    zero = jax.tree.map(jnp.zeros_like, params)
    found = project(params, zero, {}, {}, {'stage1': 2.0}, 'row')['backbone']['stage1']['conv']['kernel']
    np.testing.assert_allclose(found, [[[[1.5, 0.1], [-0.5, 0.2]]]], rtol=1e-6)


def test_batchnorm_is_bound_by_what_multiplies_the_signal():
    def bn(scale, var):
        at = {'backbone': {'stage1': {'bn': {'scale': jnp.asarray([scale]), 'bias': jnp.asarray([9.0])}}}}
        return at, {'backbone': {'stage1': {'bn': {'mean': jnp.zeros(1), 'var': jnp.asarray([var])}}}}

    with jax.enable_x64(True):
        start, stats0 = bn(2.0, 4 - 1e-6)  # q0 = 1

        def scale_after(scale, var, k):
            params, stats = bn(scale, var)
            found = project(params, start, stats, stats0, {'stage1': k})
            assert found['backbone']['stage1']['bn']['bias'] == 9
            return float(found['backbone']['stage1']['bn']['scale'][0])

        np.testing.assert_allclose(scale_after(10.0, 4 - 1e-6, 0.5), 3.0, rtol=1e-12)  # q = 5, then 1.5
        np.testing.assert_allclose(scale_after(10.0, 100 - 1e-6, 0.5), 10.0, rtol=1e-12)  # q = 1 by the variance
        np.testing.assert_allclose(scale_after(-10.0, 100 - 1e-6, 0.5), 5.0, rtol=1e-12)  # q = -1, then 0.5
        params, _ = bn(10.0, 1.0)
        assert_trees_equal(project(params, start, {}, stats0, {'stage1': 0.5}), params)  # no statistics


def test_strength_of_each_part():
    def params(*stages):
        leaf = {'conv': {'kernel': jnp.zeros((1, 1, 1, 1))}}
        trunk = {name: leaf for name in ('stem', *stages)}
        return {'backbone': trunk, 'heads': {'target': {'kernel': jnp.zeros((1, 2))}}}

    four = parts(params('stage1', 'stage2', 'stage3', 'stage4'), 2.0, 7.0, 3.0)
    assert four == {'stage1': 2, 'stage2': 2, 'stage3': 6, 'stage4': 18, 'head:target': 7}
    assert parts(params('stage1', 'stage2', 'neck'), 2.0, 7.0, 3.0) == {
        'stage1': 2, 'stage2': 2, 'head:target': 7
    }  # fmt: skip


# --- self-labelling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(('n', 'batch'), [(20, 16), (48, 16), (7, 48), (5994, 48), (1000, 96)])
def test_epochs_change_exactly_where_the_examples_are_through(n, batch):
    steps = np.concatenate([np.arange(2000), np.arange(8000, 9000)])
    found = jax.vmap(lambda step: regsl.epoch(step, n / batch))(jnp.asarray(steps))
    np.testing.assert_array_equal(found, 1 + steps * batch // n)


def test_weights_of_a_batch():
    loss = jnp.asarray([0.0, 1.0, 50.0, 1e4])
    weights = regsl.adaptive_weights(loss, 0.5)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(weights[1] / weights[0], np.exp(-2), rtol=1e-5)
    grad = jax.grad(lambda x: (regsl.adaptive_weights(x, 0.5) * x).sum())(loss)
    np.testing.assert_array_equal(grad, weights)  # the weights are constants


def logits_of(*probabilities):
    """Two classes and the probability of the second."""
    p = np.asarray(probabilities)
    return jnp.asarray(np.log(np.stack([1 - p, p], axis=1)))


def test_a_label_is_corrected_for_good():
    with jax.enable_x64(True):
        stored = jnp.asarray([0, 0, 1], jnp.int32)
        index = jnp.asarray([0, 1, 2])
        once = regsl.correct(stored, index, logits_of(0.95, 0.85, 0.97), 0.9)
        assert once.tolist() == [1, 0, 1] and once.dtype == jnp.int32
        # Doubts of less than 0.9 do not undo it.
        assert regsl.correct(once, index, logits_of(0.15, 0.5, 0.5), 0.9).tolist() == [1, 0, 1]
        assert regsl.correct(once, index, logits_of(0.05, 0.5, 0.5), 0.9).tolist() == [0, 0, 1]
        assert regsl.correct(stored, index, jnp.asarray([[-1e3, 0.0]] * 3), 1.0).tolist() == [0, 0, 1]  # not above 1


def test_of_several_views_of_an_example_the_most_certain_decides():
    stored, index = jnp.asarray([0, 1, 0]), np.array([0, 1, 0, 0, 1])
    logits = logits_of(0.08, 0.05, 0.03, 0.98, 0.5)  # example 0: 0 with .92 and .97, 1 with .98
    both = jnp.log(jnp.asarray([[0.05, 0.95], [0.5, 0.5], [0.95, 0.05], [0.05, 0.95], [0.5, 0.5]]))
    for seed in range(5):
        order = np.random.RandomState(seed).permutation(5)
        at = jnp.asarray(index[order])
        assert regsl.correct(stored, at, logits[order], 0.9).tolist() == [1, 0, 0]
        assert regsl.correct(jnp.asarray([1, 1, 0]), at, both[order], 0.9).tolist() == [0, 1, 0]


def test_a_sharded_batch_gives_the_same():
    rng = np.random.RandomState(0)
    stored, index = jnp.asarray(rng.randint(4, size=40)), jnp.asarray(rng.randint(40, size=32))
    logits = jnp.asarray(4 * rng.randn(32, 4), jnp.float32)

    def step(stored, index, logits):
        new = regsl.correct(stored, index, logits, 0.6)
        per_example = losses.cross_entropy(logits, new[index])
        return new, regsl.adaptive_weights(per_example, 1.5)

    alone = jax.jit(step)(stored, index, logits)
    assert (alone[0] != stored).sum() > 3
    mesh = Mesh(np.array(jax.devices()), ('batch',))
    shard, replicate = NamedSharding(mesh, P('batch')), NamedSharding(mesh, P())
    placed = jax.device_put(stored, replicate), jax.device_put(index, shard), jax.device_put(logits, shard)
    close(jax.jit(step)(*placed), alone, rtol=1e-6)
    # Inside shard_map each device sees its own part of the batch.
    local = jax.shard_map(step, mesh=mesh, in_specs=(P(), P('batch'), P('batch')), out_specs=P('batch'))
    new, weights = jax.jit(local)(stored, index, logits)
    here = step(stored, index[:4], logits[:4])
    np.testing.assert_array_equal(new[:40], here[0])
    np.testing.assert_allclose(weights[:4], here[1], rtol=1e-6)


# --- the method -------------------------------------------------------------------------------------------------------


def linear_net(pretrained=None):
    """A network whose logits are its input times a kernel of stage 1 and its classifier."""

    def apply(variables, image, *, train, tap=None, rng=None):
        p = variables['params']
        features = image @ p['backbone']['stage1']['conv']['kernel'][0, 0]
        return Out({'target': features @ p['heads']['target']['kernel']}, features, {}), {}

    return net_lib.bind(Net(None, apply, net_lib.group, None), pretrained)


def weights(seed):
    rng = np.random.RandomState(seed)
    kernel, head = jnp.asarray(rng.randn(1, 1, 3, 4)), jnp.asarray(rng.randn(4, 5))
    return {'backbone': {'stage1': {'conv': {'kernel': kernel}}}, 'heads': {'target': {'kernel': head}}}


def batch_of(n, size, seed=0):
    rng = np.random.RandomState(seed)
    labels = rng.randint(5, size=n)
    index = rng.permutation(n)[:size]
    image = jnp.asarray(3 * rng.randn(size, 3))
    return labels, {'image': image, 'label': jnp.asarray(labels[index]), 'index': jnp.asarray(index)}


def data_of(labels):
    return Data(Part(('x',) * 5, labels, np.bincount(labels, minlength=5), None, None))


def context(batch, state, step=0, per_epoch=2.0):
    return Ctx({}, state, (), batch, jax.random.key(0), jnp.asarray(step), Run(100, per_epoch, (0.5,), (0.5,)))


def test_projection_comes_after_the_optimiser():
    with jax.enable_x64(True):
        start, old, new = weights(0), weights(0), weights(1)
        net = linear_net({'params': start})
        method = method_registry.load('regsl')(5, distance=0.2, head_distance=0.5)
        labels, batch = batch_of(8, 8)
        _, aux = method.loss(net, old, context(batch, ()))
        params, state = method.after_step(net, old, new, aux, context(batch, ()))
        np.testing.assert_allclose(distances(params, start, 'frobenius'), [0.2, 0.5], rtol=1e-12)
        assert state == ()
        for form in ('penalty', 'none'):
            method = method_registry.load('regsl')(5, form=form)
            _, aux = method.loss(net, old, context(batch, ()))
            assert method.after_step(net, old, new, aux, context(batch, ()))[0] is new


def test_the_statistics_of_after_the_step_are_used():
    params, stats = layer(0)
    start = {'params': params, 'batch_stats': stats}
    method = method_registry.load('regsl')(5, distance=0.1, head_distance=100.0)
    later = jax.tree.map(lambda x: 9 * x, stats)
    net = linear_net(start)
    found, _ = method.after_step(net, params, params, Aux({'batch_stats': later}), context({}, ()))
    expected = project(params, params, later, stats, {'stage1': 0.1, 'head:target': 100.0})
    assert_trees_equal(found, expected)
    moved = found['backbone']['stage1']['bn']['scale'] != params['backbone']['stage1']['bn']['scale']
    assert moved.any()


def test_the_penalty_is_added():
    with jax.enable_x64(True):
        start, params = weights(0), weights(1)
        labels, batch = batch_of(8, 8)
        method = method_registry.load('regsl')(5, form='penalty', weight=0.3, head_weight=0.7)
        value, aux = method.loss(linear_net({'params': start}), params, context(batch, ()))
        trunk, head = distances(params, start, 'frobenius')
        np.testing.assert_allclose(aux.metrics['penalty'], 0.3 * trunk**2 + 0.7 * head**2, rtol=1e-12)
        plain, _ = method_registry.load('regsl')(5, form='none').loss(linear_net(), params, context(batch, ()))
        np.testing.assert_allclose(value, plain + aux.metrics['penalty'], rtol=1e-12)


def test_labels_are_doubted_epoch_by_epoch():
    with jax.enable_x64(True):
        labels, batch = batch_of(12, 8)
        params, net = weights(1), linear_net()
        knobs = dict(form='none', self_label=True, adaptive_epoch=2, correct_epoch=3, threshold=0.6, temperature=1.5)
        method = method_registry.load('regsl')(5, **knobs)
        state = method.init(net, params, Prepared(), data_of(labels))
        assert state['label'].tolist() == labels.tolist() and state['label'].dtype == jnp.int32
        logits = net.apply({'params': params}, batch['image'], train=True)[0].logits['target']
        ce = losses.cross_entropy(logits, batch['label'])

        def at(step):  # two steps an epoch
            value, aux = jax.jit(lambda step: method.loss(net, params, context(batch, state, step)))(jnp.asarray(step))
            return float(value), aux.carry['label'], float(aux.metrics['relabelled'])

        for step in (0, 1):  # epoch 1
            np.testing.assert_allclose(at(step)[0], ce.mean(), rtol=1e-12)
        for step in (2, 3):  # epoch 2
            expected = (jax.nn.softmax(-ce / 1.5) * ce).sum()
            np.testing.assert_allclose(at(step)[0], expected, rtol=1e-12)
            assert at(step)[1].tolist() == labels.tolist() and at(step)[2] == 0

        corrected = regsl.correct(jnp.asarray(labels), batch['index'], logits, 0.6)
        assert (corrected != labels).sum() > 2
        ce = losses.cross_entropy(logits, corrected[batch['index']])  # the correction counts at once
        for step, past in ((4, 0), (6, 1), (8, 2), (40, 18)):  # epochs 3, 4, 5 and 21
            heat = 1.5 * max(0.5, np.exp(-0.1 * past))
            value, stored, relabelled = at(step)
            np.testing.assert_allclose(value, (jax.nn.softmax(-ce / heat) * ce).sum(), rtol=1e-12)
            assert stored.tolist() == corrected.tolist()
            assert relabelled == np.mean(corrected[batch['index']] != batch['label'])
        _, aux = method.loss(net, params, context(batch, state, 4))
        assert method.after_step(net, params, params, aux, context(batch, state, 4))[1] is aux.carry


def test_without_a_pretrained_network():
    labels, _ = batch_of(12, 8)
    for knobs in ({}, {'form': 'penalty'}):
        with pytest.raises(UserError, match='config.model.weights'):
            method_registry.load('regsl')(5, **knobs).init(linear_net(), weights(0), Prepared(), data_of(labels))
    plain = method_registry.load('regsl')(5, form='none')
    assert plain.init(linear_net(), weights(0), Prepared(), data_of(labels)) == ()


def test_both_phases_of_self_labelling_act_in_the_toy_run(tmp_path, monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))
    built, data, ts = opened(settings(VARIANTS['regsl self-labelling']), tmp_path)
    start = np.asarray(built.shared.start['params']['backbone']['stage1']['conv']['kernel'])
    ts, metrics = walk(built, data, ts, 20)
    share = [m['relabelled'] for m in metrics]
    assert not any(share[:8]) and share[-1] > 0
    kernel = np.asarray(ts.params['backbone']['stage1']['conv']['kernel']).reshape(start.shape)
    np.testing.assert_allclose(np.linalg.norm(kernel - start), 0.1368, rtol=1e-5)


@pytest.mark.parametrize(
    ('knob', 'value'),
    [('norm', 'spectral'), ('form', 'hard'), ('distance', -1.0), ('head_distance', -1.0), ('scale', 0.0),
     ('weight', -1.0), ('head_weight', -1.0), ('temperature', 0.0), ('threshold', 0.0), ('threshold', 1.5)],
)  # fmt: skip
def test_regsl_refuses_impossible_values(knob, value):
    with pytest.raises(UserError, match='must be'):
        method_registry.load('regsl')(10, **{knob: value})
