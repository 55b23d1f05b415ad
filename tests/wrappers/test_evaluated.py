"""Wrappers that evaluate other weights than the trained ones: a moving average, and a point between start and end."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.method import Aux, Ctx, Data, Head, Method, Part, Phase, Prepared, Run
from mixjax.models import net as net_lib
from mixjax.train import experiment, mesh
from mixjax.wrappers import ema, wiseft
from tests.support.common import assert_trees_equal
from tests.support.toy import opened, settings, tiny, walk  # noqa: F401 (for every test: tiny)


def network(value, count=0):
    """Variables of a network of three numbers: a weight, a classifier of two classes, a statistic, and a count."""
    params = {
        'backbone': {'stem': {'w': jnp.asarray([value])}},
        'heads': {'target': {'kernel': jnp.full((1, 2), value), 'bias': jnp.full(2, value)}},
    }
    return {'params': params, 'batch_stats': {'mean': jnp.asarray([value]), 'count': jnp.asarray(count)}}


def parts(variables):
    return variables['params'], {'batch_stats': variables['batch_stats']}


def begun(method, variables, net=None):
    """The state that a method's `init` makes of these variables."""
    params, model_state = parts(variables)
    labels = np.arange(2)
    target = Part(('a', 'b'), labels, np.bincount(labels), None, None)
    return method.init(net, params, Prepared(), Data(target, model_state=model_state))


def stepped(method, state, before, after, step, run=None):
    """The state after a step that led from one network to the other."""
    (old, old_state), (new, new_state) = parts(before), parts(after)
    run = run or Run(10, 1.0, (), ())
    ctx = Ctx(old_state, state, (), {}, jax.random.key(0), jnp.asarray(step), run)
    return method.after_step(None, old, new, Aux(new_state), ctx)[1]


def nothing(net, params, ctx):
    return jnp.zeros(()), Aux(ctx.model_state)


def assert_near(found, wanted, tolerance):
    chex.assert_trees_all_close(found, wanted, rtol=tolerance, atol=tolerance)


# --- ema --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('decay', 'expected'),
    # a: 0.1 * 0 + 0.9 * 1 = 0.9;  2/11 * 0.9 + 9/11 * 2 = 1.8;  3/12 * 1.8 + 9/12 * 3 = 2.7, or 0.2 * 1.8 + 0.8 * 3
    [(0.999, (0.9, 1.8, 2.7)), (0.2, (0.9, 1.8, 2.76)), (0.0, (1.0, 2.0, 3.0))],
)
def test_average_by_hand(decay, expected):
    method = ema.wrap(Method(nothing), 2, decay=decay)
    state = begun(method, network(0.0))
    assert_trees_equal(method.evaluated(None, network(5.0), state), network(0.0))
    for step, wanted in enumerate(expected):
        state = stepped(method, state, network(float(step)), network(float(step + 1), count=step + 1), step)
        assert_near(method.evaluated(None, network(5.0), state), network(wanted, step + 1), 1e-6)


def test_average_is_of_what_the_method_leaves_behind():
    """`after_step` of the method comes first, with the method's own state, and so does its `evaluated`."""

    def after_step(net, old, new, aux, ctx):
        return jax.tree.map(lambda w: 2 * w, new), {'seen': ctx.state['seen'] + 1}

    def evaluated(net, variables, state):
        return jax.tree.map(lambda w: w + state['seen'], variables)

    inner = Method(nothing, after_step=after_step, init=lambda *_: {'seen': jnp.asarray(3.0)}, evaluated=evaluated)
    method = ema.wrap(inner, 2)
    state = stepped(method, begun(method, network(0.0)), network(0.0), network(1.0), 0)
    assert float(state['method']['seen']) == 4
    found = method.evaluated(None, None, state)
    np.testing.assert_allclose(found['params']['backbone']['stem']['w'], [0.9 * 2 + 4], rtol=1e-6)
    np.testing.assert_allclose(found['batch_stats']['mean'], [0.9 + 4], rtol=1e-6)


def test_average_of_a_run(tmp_path):
    """Training is that of the method alone, bit for bit; the average, computed again in float64, is evaluated."""
    plain, data, other = opened(settings('finetune'), tmp_path)
    built, mine, ts = opened(settings({'name': 'ema', 'decay': 0.3}), tmp_path)
    average = mesh.take_trial(plain.evaluated(other), 0)
    assert_trees_equal(mesh.take_trial(built.evaluated(ts), 0), average)
    average = jax.tree.map(lambda x: np.asarray(x, np.float64), average)
    for step in range(6):
        other, _ = walk(plain, data, other, 1)
        ts, _ = walk(built, mine, ts, 1)
        d = min(0.3, (1 + step) / (10 + step))
        now = mesh.take_trial(plain.evaluated(other), 0)
        average = jax.tree.map(lambda a, w, d=d: d * a + (1 - d) * np.asarray(w, np.float64), average, now)
    assert_trees_equal(ts.params, other.params)
    assert_trees_equal(ts.model_state, other.model_state)
    found = mesh.take_trial(built.evaluated(ts), 0)
    assert_near(found, average, 1e-5)
    apart = jax.tree.map(lambda a, b: float(abs(a - b).max()), found, mesh.take_trial(plain.evaluated(other), 0))
    assert min(jax.tree.leaves(apart)) > 0  # statistics too


def test_average_in_parts_of_a_batch_and_over_a_step_left_out(tmp_path, monkeypatch):
    finetune = method_registry.load('finetune')

    def make(classes_t):
        method = finetune(classes_t)

        def loss(net, params, ctx):
            value, aux = method.loss(net, params, ctx)
            return jnp.where(ctx.step == 1, jnp.nan, value), aux

        return ema.wrap(method._replace(loss=loss), classes_t)

    monkeypatch.setattr(method_registry, 'load', lambda name, *_: make)
    config = settings('mine', on_nan='skip', accumulate=2)
    config.mix.groups = 2
    built, data, first = opened(config, tmp_path)
    second, _ = walk(built, data, first, 1)
    before = jax.tree.map(np.array, second.state)
    third, (metrics,) = walk(built, data, second, 1)
    assert metrics['skipped'] == 1 and int(third.step[0]) == 2
    assert_trees_equal(jax.tree.map(np.array, third.state), before)
    fourth, (metrics,) = walk(built, data, third, 1)
    assert metrics['skipped'] == 0
    moved = jax.tree.map(lambda a, b: float(abs(np.asarray(a) - b).max()), fourth.state['average'], before['average'])
    assert min(jax.tree.leaves(moved['batch_stats'])) > 0 and np.isfinite(jax.tree.leaves(moved)).all()


def test_best_average_is_exported(tmp_path):
    config = settings({'name': 'ema', 'decay': 0.5}, steps=6, eval_every=2, checkpoint_every=6, keep='best')
    with config.unlocked():
        config.target.val = 0.5
    results = experiment.run(config, tmp_path / 'run')
    (seed,) = results['seeds']
    built, data, ts = opened(config, tmp_path / 'run')
    ts, _ = walk(built, data, ts, seed['step'])
    exported = load_file(tmp_path / 'run' / 'model.safetensors')
    names = {'/'.join(key.key for key in path): x for path, x in paths(mesh.take_trial(built.evaluated(ts), 0))}
    assert exported.keys() == names.keys()
    for name, value in exported.items():
        np.testing.assert_allclose(value, names[name], rtol=1e-4, atol=1e-5, err_msg=name)
    trained = {'/'.join(key.key for key in path): x for path, x in paths({'params': mesh.take_trial(ts.params, 0)})}
    assert not np.allclose(exported['params/backbone/stem/conv/kernel'], trained['params/backbone/stem/conv/kernel'])


def paths(tree):
    return jax.tree_util.tree_leaves_with_path(tree)


# --- wiseft -----------------------------------------------------------------------------------------------------------


def pretrained(*heads):
    """A bound network whose pretrained variables have these heads."""
    made = {name: {'kernel': jnp.zeros((1, 4)), 'bias': jnp.zeros(4)} for name in heads}
    return net_lib.Net(None, None, None, None)._replace(pretrained=lambda: {'params': {'heads': made}})


@dataclasses.dataclass
class Case:
    """A head and settings, and the share of the trained weights in each of its classes."""

    head: Head
    classes: tuple[float, float]
    heads: str = 'auto'
    phases: int = 1
    kept: bool = False


CASES = {
    'fresh': Case(Head(2), (1.0, 1.0)),
    'a number': Case(2, (1.0, 1.0)),
    'fresh, by force': Case(Head(2), (0.25, 0.25), 'interpolate'),
    'pretrained rows': Case(Head(2, rows=np.array([3, -1])), (0.25, 1.0)),
    'fitted': Case(Head(2, kernel=np.zeros((1, 2)), bias=np.zeros(2)), (0.25, 0.25)),
    'fitted, never': Case(Head(2, kernel=np.zeros((1, 2)), bias=np.zeros(2)), (1.0, 1.0), 'trained'),
    'kept': Case(Head(2), (0.25, 0.25), kept=True),
    'of a phase before': Case(Head(2), (0.25, 0.25), phases=2),
}


@pytest.mark.parametrize('case', CASES.values(), ids=CASES)
def test_interpolation_by_hand(case):
    """From 2 to 10 with a share of 0.25: 0.75 * 2 + 0.25 * 10 = 4."""
    phases = (Phase(0.5),) * 2 if case.phases == 2 else ()
    inner = Method(nothing, heads=lambda *_: {'target': case.head}, phases=phases)
    method = wiseft.wrap(inner, 2, share=0.25, heads=case.heads)
    state = begun(method, network(2.0), pretrained(*(('source', 'target') if case.kept else ('source',))))
    assert_trees_equal(method.evaluated(None, network(2.0), state), network(2.0))
    run = Run(4, 1.0, (), (), case.phases - 1, (0, 2)[: case.phases])
    state = stepped(method, state, network(2.0), network(9.0), 0, run)
    found = method.evaluated(None, network(10.0, count=7), state)
    assert found['params']['backbone']['stem']['w'] == found['batch_stats']['mean'] == 4
    assert found['batch_stats']['count'] == 7
    wanted = [2 + share * 8 for share in case.classes]
    np.testing.assert_array_equal(found['params']['heads']['target']['kernel'], [wanted])
    np.testing.assert_array_equal(found['params']['heads']['target']['bias'], wanted)


def test_last_phase_is_what_it_starts_from():
    """In phase 0 the network is evaluated as it is, and its last step is the start of phase 1."""
    inner = Method(nothing, phases=(Phase(0.5), Phase(0.5)))
    method = wiseft.wrap(inner, 2)
    state = begun(method, network(0.0), pretrained())
    for step, value in ((0, 3.0), (1, 4.0)):
        state = stepped(method, state, network(0.0), network(value), step, Run(4, 1.0, (), (), 0, (0, 2)))
        assert_trees_equal(method.evaluated(None, network(value), state), network(value))
    for step, value in ((2, 7.0), (3, 10.0)):
        state = stepped(method, state, network(0.0), network(value), step, Run(4, 1.0, (), (), 1, (0, 2)))
    assert_trees_equal(method.evaluated(None, network(10.0), state), network(7.0))


@pytest.mark.parametrize('share', [0.0, 1.0])
def test_ends_of_the_interpolation(share, tmp_path):
    built, data, ts = opened(settings({'name': 'wiseft', 'share': share, 'heads': 'interpolate'}), tmp_path)
    start = mesh.take_trial(built.evaluated(ts), 0)
    ts, _ = walk(built, data, ts, 3)
    trained = mesh.take_trial({'params': ts.params, **ts.model_state}, 0)
    assert not np.array_equal(start['params']['backbone']['stem']['conv']['kernel'],
                              trained['params']['backbone']['stem']['conv']['kernel'])  # fmt: skip
    found = mesh.take_trial(built.evaluated(ts), 0)
    assert_near(found, trained if share else start, 1e-6)


def test_around_an_average_the_average_is_interpolated(tmp_path):
    knobs = {'name': 'finetune', 'wrappers': ('ema', 'wiseft'), 'ema_decay': 0.3, 'wiseft_share': 0.25}
    built, data, ts = opened(settings(knobs), tmp_path)
    start = mesh.take_trial(built.evaluated(ts), 0)
    ts, _ = walk(built, data, ts, 4)
    state = mesh.take_trial(ts.state, 0)
    found, average = mesh.take_trial(built.evaluated(ts), 0), state['method']['average']
    wanted = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, start, average)
    for one, other in ((found['params']['backbone'], wanted['params']['backbone']),
                       (found['params']['heads'], average['params']['heads']),
                       (found['batch_stats'], wanted['batch_stats'])):  # fmt: skip
        assert_near(one, other, 1e-6)


@pytest.mark.parametrize(
    ('name', 'knobs', 'sentence'),
    [
        ('ema', {'decay': 1.0}, 'decay must be at least 0 and below 1, not 1.0'),
        ('wiseft', {'share': 1.5}, 'share must be between 0 and 1, not 1.5'),
        ('wiseft', {'heads': 'none'}, "heads must be one of auto, interpolate, trained, not 'none'"),
    ],
)
def test_impossible_values_are_refused(name, knobs, sentence):
    with pytest.raises(UserError, match=sentence):
        method_registry.build({'name': name, **knobs}, 5)
