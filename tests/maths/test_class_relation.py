"""Co-Tuning: calibration, the two relations between classes, and the method around them."""

from __future__ import annotations

import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.maths import class_relation
from mixjax.method import Ctx, Data, Part
from mixjax.models.net import Net, Out
from tests.support.common import fixture


def mean_ce(logits, labels):
    return -class_relation.log_softmax(logits)[np.arange(len(labels)), labels].mean()


@pytest.fixture(scope='module')
def reference():
    """The authors' numbers, and P as they have it."""
    f = fixture('cotuning')
    scale = float(f['calibration_T_inverse'])
    return f, class_relation.softmax(scale * f['train_logits']), class_relation.softmax(scale * f['val_logits'])


def opinions(n, m, classes, seed=0, sharp=2.0):
    """P of n examples, and labels of which each class has its share."""
    rng = np.random.RandomState(seed)
    labels = np.arange(n) % classes
    return class_relation.softmax(sharp * (rng.randn(classes, m)[labels] + rng.randn(n, m))), labels


def solved(prob, labels, classes, c, start=None, *, before=None, val=None, **settings):
    """W, the bound of its error, and which validation examples are classified correctly."""
    start = np.zeros((classes, prob.shape[1])) if start is None else start
    with class_relation._float64():
        problem = class_relation.Regression.of(prob, labels, classes, *(val or (prob[:0], labels[:0])))
        points = [problem.at(one) for one in (start, start if before is None else before)]
        found = problem.solve(c, *points, **settings)
        return np.asarray(found.point.weights), float(found.error), np.asarray(found.correct)


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibration_by_hand():
    # Of four, three are right by a margin of 2s: sigmoid(2s) = 3/4.
    logits = np.array([[1.0, -1.0]] * 4)
    np.testing.assert_allclose(class_relation.calibrate(logits, np.array([0, 0, 0, 1])), np.log(3) / 2, rtol=1e-14)


@pytest.mark.parametrize('factor', [1e-6, 0.3, 1.0, 500.0])
def test_calibration_is_where_the_derivative_vanishes_and_undoes_a_scale(factor):
    rng = np.random.RandomState(1)
    logits, labels = rng.randn(300, 7), rng.randint(7, size=300)
    logits[np.arange(300), labels] += 0.8
    one, s = class_relation.calibrate(logits, labels), class_relation.calibrate(factor * logits, labels)
    np.testing.assert_allclose(s * factor, one, rtol=1e-12)
    step = 1e-4 * s
    at = [mean_ce(factor * x * logits, labels) for x in (s - step, s, s + step)]
    assert at[0] > at[1] < at[2]
    assert abs(at[2] - at[0]) < 1e-9  # symmetric around the minimum
    p = class_relation.softmax(one * logits)
    assert abs(((p * logits).sum(1) - logits[np.arange(300), labels]).mean()) < 1e-13


def test_calibration_takes_its_rows_in_pieces(monkeypatch):
    rng = np.random.RandomState(2)
    logits, labels = rng.randn(50, 4), rng.randint(4, size=50)
    logits[np.arange(50), labels] += 1
    whole = class_relation.calibrate(logits, labels)
    monkeypatch.setattr(class_relation, 'CHUNK', 7)
    np.testing.assert_allclose(class_relation.calibrate(logits, labels), whole, rtol=1e-12)


def test_separable_data_get_a_finite_scale():
    rng = np.random.RandomState(3)
    logits = rng.randn(40, 5)
    labels = logits.argmax(1)
    s = class_relation.calibrate(logits, labels)
    assert np.isfinite(s) and mean_ce(s * logits, labels) <= 1e-6 < mean_ce(s / 2 * logits, labels)
    # One wrong label more, by however little, and there is a minimum again.
    logits, labels = np.vstack([logits, [0, 0, 0, 0, 1e-3]]), np.append(labels, 0)
    s = class_relation.calibrate(logits, labels)
    assert mean_ce(0.999 * s * logits, labels) > mean_ce(s * logits, labels) < mean_ce(1.001 * s * logits, labels)


def test_logits_worse_than_chance_get_a_small_scale():
    logits = np.array([[3.0, -1.0], [-2.0, 5.0]])
    s = class_relation.calibrate(logits, np.array([1, 0]))
    assert s > 0 and np.abs(class_relation.softmax(s * logits) - 0.5).max() < 1e-2
    assert class_relation.calibrate(np.full((3, 4), 2.5), np.array([0, 1, 2])) == 1.0


def test_scale_equals_the_exact_one(reference):
    f, _, prob_val = reference
    scale = class_relation.calibrate(prob_val @ f['reverse_coef_selected'].T, f['val_labels'])
    np.testing.assert_allclose(scale, f['reverse_scale_exact_for_reference_coef'], atol=1e-5)


# --- direct -----------------------------------------------------------------------------------------------------------


def test_direct_equals_the_released_code(reference):
    f, train, val = reference
    prob, labels = np.concatenate([train, val]), np.concatenate([f['train_labels'], f['val_labels']])
    np.testing.assert_allclose(class_relation.direct(prob, labels, 5), f['relationship_direct'], atol=1e-10)
    uncalibrated = class_relation.direct(class_relation.softmax(f['train_logits']), f['train_labels'], 5)
    np.testing.assert_allclose(uncalibrated, f['relationship_direct_tll_uncalibrated_train_only'], atol=1e-10)


def test_direct_by_hand_and_of_a_class_without_examples():
    prob = np.array([[0.5, 0.5], [0.1, 0.9], [0.3, 0.7]])
    np.testing.assert_allclose(class_relation.direct(prob, np.array([1, 0, 1]), 2), [[0.1, 0.9], [0.4, 0.6]])
    with pytest.raises(UserError, match='target class 1 has no labelled example; 2 classes'):
        class_relation.direct(prob, np.array([0, 0, 2]), 4)


# --- reverse ----------------------------------------------------------------------------------------------------------


def test_reverse_equals_the_exact_solution_and_the_released_code(reference):
    f, train, val = reference
    assert f['reverse_C'].tolist() == list(class_relation.GRID)
    found = class_relation.reverse_fit(train, f['train_labels'], val, f['val_labels'], 5)
    np.testing.assert_array_equal(found.accuracy, f['reverse_val_acc_converged'])
    assert found.chosen == f['reverse_selected_converged']
    np.testing.assert_allclose(found.weights, f['reverse_coef_selected_converged'], atol=1e-6)
    np.testing.assert_allclose(found.scale, f['reverse_scale_converged'], atol=1e-5)
    np.testing.assert_allclose(found.relation, f['relationship_reverse_converged'], atol=1e-6)
    # The released solver stops early.
    np.testing.assert_allclose(found.relation, f['relationship_reverse'], atol=5e-3)


@pytest.mark.parametrize(('n', 'm', 'sharp'), [(24, 60, 2.0), (200, 12, 2.0), (60, 40, 12.0)])
@pytest.mark.parametrize('c', [1e4, 30.0, 1e-4])
def test_the_regression_is_solved(n, m, sharp, c):
    prob, labels = opinions(n, m, 4, sharp=sharp)
    weights = solved(prob, labels, 4, c)[0]
    p = class_relation.softmax(prob @ weights.T) - np.eye(4)[labels]
    assert np.linalg.norm(c * p.T @ prob + weights) < 2e-8


def test_the_regression_does_not_depend_on_its_start_and_keeps_its_promise():
    prob, labels = opinions(60, 20, 3)
    exact, _, _ = solved(prob, labels, 3, 100.0)
    far = 30 * np.random.RandomState(0).randn(3, 20)
    np.testing.assert_allclose(solved(prob, labels, 3, 100.0, far)[0], exact, atol=1e-7)
    some = [solved(prob, labels, 3, 100.0, far, most=most)[:2] for most in range(0, 60, 6)]
    assert some[-1][1] < 1e-3 * some[0][1]
    assert all(np.linalg.norm(weights - exact) <= error + 1e-7 for weights, error in some)


def test_the_regression_ends_when_no_prediction_can_become_right_or_wrong():
    prob, labels = opinions(90, 20, 3)
    train, val = (prob[:60], labels[:60]), (prob[60:], labels[60:])
    exact, least, _ = solved(*train, 3, 100.0, val=val)
    early, error, correct = solved(*train, 3, 100.0, val=val, settle=True)
    assert error > 1e3 * least  # it is the earlier end
    np.testing.assert_array_equal(correct, np.argmax(val[0] @ exact.T, axis=1) == val[1])
    logits = val[0] @ early.T
    own = logits[np.arange(30), val[1]]
    margin = own - np.where(np.eye(3, dtype=bool)[val[1]], -np.inf, logits).max(1)
    assert (abs(margin) > 2**0.5 * error * np.linalg.norm(val[0], axis=1)).all()


def test_predictions_are_settled_however_small_the_logits():
    # Where C is small, W is C times the gradient at 0.
    prob, labels = opinions(200, 30, 5)
    train, val = slice(0, 100), slice(100, 200)
    first = (np.eye(5)[labels[train]] - 0.2).T @ prob[train]
    right = np.mean(np.argmax(prob[val] @ first.T, axis=1) == labels[val])
    found = class_relation.reverse_fit(prob[train], labels[train], prob[val], labels[val], 5, grid=(1e-8, 3e-9, 1e-9))
    assert 0.25 < right < 1
    np.testing.assert_array_equal(found.accuracy, right)


def test_the_regression_begins_on_the_line_through_two_solutions():
    prob, labels = opinions(60, 20, 3)
    a, b = (solved(prob, labels, 3, c)[0] for c in (1e-3, 3e-3))
    at_start, error, _ = solved(prob, labels, 3, 1e-2, b, most=0)
    _, ahead, _ = solved(prob, labels, 3, 1e-2, b, before=a, most=0)
    np.testing.assert_array_equal(at_start, b)
    assert ahead < 0.1 * error  # W is proportional to C where C is small


def test_the_regression_gives_the_same_bits_again():
    prob, labels = opinions(60, 20, 3)
    one, two = (solved(prob, labels, 3, 30.0)[0] for _ in range(2))
    assert one.dtype == np.float64
    np.testing.assert_array_equal(one, two)


def test_the_regression_is_compiled_once_for_all_strengths_and_seeds(monkeypatch):
    prob, labels = opinions(61, 21, 3)
    chex.clear_trace_counter()
    once = chex.assert_max_traces(class_relation._minimise.__wrapped__, n=1)
    monkeypatch.setattr(class_relation, '_minimise', jax.jit(once))
    for rows in (np.arange(61), np.arange(61)[::-1]):
        train, val = rows[:41], rows[-20:]
        class_relation.reverse_fit(prob[train], labels[train], prob[val], labels[val], 3)


def test_reverse_follows_the_order_of_the_classes():
    prob, labels = opinions(90, 12, 3)
    train, val = slice(0, 60), slice(60, 90)
    found = class_relation.reverse(prob[train], labels[train], prob[val], labels[val], 3)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)
    source, target = np.random.RandomState(4).permutation(12), np.array([2, 0, 1])
    permuted = prob[:, source]
    again = class_relation.reverse(permuted[train], target[labels[train]], permuted[val], target[labels[val]], 3)
    np.testing.assert_allclose(again[target], found[:, source], atol=1e-6)


def test_reverse_takes_the_first_of_the_best_and_finds_the_obvious():
    # Class y looks like source class 2y or 2y + 1, and never like another.
    labels = np.repeat(np.arange(3), 8)
    prob = np.full((24, 7), 1e-3)
    prob[np.arange(24), 2 * labels + np.arange(24) % 2] = 1 - 6e-3
    found = class_relation.reverse_fit(prob, labels, prob, labels, 3)
    assert found.chosen == 0 and (found.accuracy == 1).all()
    assert (found.relation.reshape(-1)[[0, 1, 9, 10, 18, 19]] > 0.49).all()
    assert np.isfinite(found.relation).all()


def test_reverse_where_the_mean_opinion_underflows():
    labels = np.array([0, 1, 0, 1, 1, 0])
    prob = np.zeros((6, 4))
    prob[np.arange(6), labels] = 1  # nobody ever names the source classes 2 and 3
    found = class_relation.reverse(prob[:4], labels[:4], prob[4:], labels[4:], 2)
    assert np.isfinite(found).all() and (found[:, 2:] == 0).all()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)


def test_reverse_with_classes_missing():
    prob, labels = opinions(40, 6, 4)
    few = labels[:20] % 3
    with pytest.raises(UserError, match='target class 3 has no example'):
        class_relation.reverse(prob[:20], few, prob[20:], labels[20:], 4)
    with pytest.raises(UserError, match='there are none'):
        class_relation.reverse(prob, labels, prob[:0], labels[:0], 4)
    some = labels[20:] != 1  # a class that is not validated is learned all the same
    found = class_relation.reverse(prob[:20], labels[:20], prob[20:][some], labels[20:][some], 4)
    assert np.isfinite(found).all() and found.shape == (4, 6)
    alone = class_relation.reverse(prob[:5], np.zeros(5, int), prob[5:8], np.zeros(3, int), 1)
    np.testing.assert_allclose(alone[0], prob[:8].mean(0), atol=1e-12)


@pytest.mark.parity
def test_reverse_of_many_classes():
    prob, labels = opinions(600, 500, 100, sharp=1.5)
    held = class_relation.held_out(labels, 100, 1 / 3, jax.random.key(0))
    found = class_relation.reverse_fit(prob[~held], labels[~held], prob[held], labels[held], 100)
    c, weights = class_relation.GRID[found.chosen], found.weights
    p = class_relation.softmax(prob[~held] @ weights.T) - np.eye(100)[labels[~held]]
    assert np.linalg.norm(c * p.T @ prob[~held] + weights) < 1e-7
    np.testing.assert_allclose(found.relation.sum(1), 1, atol=1e-12)


def test_held_out_examples():
    labels, key = np.repeat(np.arange(4), [2, 3, 10, 30]), jax.random.key
    held = class_relation.held_out(labels, 4, 1 / 3, key(1))
    assert np.bincount(labels[held]).tolist() == [1, 1, 3, 10]
    assert (held == class_relation.held_out(labels, 4, 1 / 3, key(1))).all()
    assert (held != class_relation.held_out(labels, 4, 1 / 3, key(2))).any()
    assert np.bincount(labels[class_relation.held_out(labels, 4, 0.99, key(0))]).tolist() == [1, 2, 9, 29]
    assert np.bincount(labels[class_relation.held_out(labels, 4, 0.01, key(0))]).tolist() == [1, 1, 1, 1]
    with pytest.raises(UserError, match="target class 1 has 1: set config.method.relation to 'direct'"):
        class_relation.held_out(np.array([0, 0, 1]), 2, 0.5, key(0))
    with pytest.raises(UserError, match='must be a jax key'):
        class_relation.held_out(labels, 4, 0.5, 0)
    # Runs of earlier releases hold these: the draw must never change.
    assert np.flatnonzero(held).tolist() == [0, 3, 10, 12, 13, 19, 20, 22, 25, 30, 32, 35, 39, 43, 44]


def test_the_module_is_light():
    script = 'import sys, mixjax.maths.class_relation; print(*{name.partition(".")[0] for name in sys.modules})'
    loaded = subprocess.run([sys.executable, '-c', script], check=True, capture_output=True, text=True).stdout.split()
    assert 'jax' in loaded and not {'sklearn', 'flax', 'optax'} & set(loaded)


# --- the method -------------------------------------------------------------------------------------------------------

SIDE, SOURCES = 4, 6


def toy():
    """A pretrained network that is a linear map of the pixels' means, and a data set for it."""
    kernel = np.random.RandomState(5).randn(3, SOURCES)
    seen = []

    def source(image):
        seen.append(image.shape)
        return Out({'source': image.mean((1, 2)) @ kernel}, image, {})

    def part(per_class, classes, seed):
        rng = np.random.RandomState(seed)
        labels = np.arange(per_class * classes) % classes
        image = rng.randn(len(labels), SIDE, SIDE, 3) + rng.randn(classes, 3)[labels][:, None, None]

        def batches(size, augmented=False, per_class=None):
            rows = np.arange(len(labels)) if per_class is None else np.arange(min(len(labels), per_class * classes))
            for at in range(0, len(rows), size):
                here = rows[at : at + size]
                yield {'image': jnp.asarray(image[here]), 'label': jnp.asarray(labels[here]), 'index': here}

        logits = image.mean((1, 2)) @ kernel
        return Part(('x',) * classes, labels, np.full(classes, per_class), batches, None), logits

    target, target_logits = part(50, 5, 6)
    sources, source_logits = part(4, SOURCES, 7)
    return Net(None, None, None, None, source=source), Data(target, sources), target_logits, source_logits, seen


def prepared(data, net, **knobs):
    method = method_registry.load('cotuning')(5, **knobs)
    return method.prepare(net, data, jax.random.key(3)).frozen['relation']


def test_prepare_takes_the_mean_opinion():
    with jax.enable_x64(True):
        net, data, logits, source_logits, seen = toy()
        labels = data.target.labels
        found = prepared(data, net, relation='direct', calibration=0.7)
        wanted = class_relation.direct(class_relation.softmax(0.7 * logits), labels, 5)
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        assert set(seen) == {(100, SIDE, SIDE, 3)}  # 250 images in three passes of one shape

        s = class_relation.calibrate(source_logits[: 2 * SOURCES], data.source.labels[: 2 * SOURCES])
        found = prepared(data, net, relation='direct', per_class=2)
        wanted = class_relation.direct(class_relation.softmax(s * logits), labels, 5)
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_prepare_fits_the_reverse_relation():
    with jax.enable_x64(True):
        net, data, logits, _, _ = toy()
        labels, key = data.target.labels, jax.random.key(3)
        prob, held = class_relation.softmax(logits), class_relation.held_out(labels, 5, 0.5, key)
        expected = class_relation.reverse(prob[~held], labels[~held], prob[held], labels[held], 5)
        np.testing.assert_allclose(prepared(data, net, calibration=1.0, val=0.5), expected, atol=1e-9)


def test_prepare_without_source_images_or_labels():
    net, data, *_ = toy()
    with pytest.raises(UserError, match='config.source.name, or give config.method.calibration'):
        prepared(data._replace(source=None), net)
    assert prepared(data._replace(source=None), net, calibration=1.0).shape == (5, SOURCES)
    single = data.target._replace(labels=np.array([0, 1, 2, 3, 4, 4]))
    with pytest.raises(UserError, match="'direct', or label more"):
        prepared(data._replace(target=single), net)

    bare = net._replace(source=lambda image: Out({}, image, {}))
    with pytest.raises(UserError, match='which the weights do not hold'):
        prepared(data, bare)


def loss_of(f, table, dtype):
    """The method's loss of both heads' logits, with a relation that is given."""
    label = jnp.asarray(f['loss_labels'])
    frozen = {'relation': jnp.asarray(f[table], dtype)}

    def loss(z_t, z_s):
        out = Out({'target': z_t, 'source': z_s}, z_t, {})
        net = Net(None, lambda *_, **__: (out, {}), None, None)
        ctx = Ctx({}, (), frozen, {'image': z_t, 'label': label}, jax.random.key(0), jnp.asarray(0), ())
        return method_registry.load('cotuning')(5).loss(net, {}, ctx)

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


@pytest.mark.parametrize('dtype', ['float64', 'float32'])
def test_the_loss_equals_the_released_code(dtype):
    f = fixture('cotuning')
    rtol, atol = (1e-10, 1e-10) if dtype == 'float64' else (1e-6, 1e-6)
    with jax.enable_x64(dtype == 'float64'):
        z_t, z_s = (jnp.asarray(f[name], dtype) for name in ('total_target_logits', 'loss_source_logits'))
        (total, _), (d_t, d_s) = loss_of(f, 'relationship_reverse', dtype)(z_t, z_s)
        assert total.dtype == d_t.dtype == d_s.dtype == dtype
        np.testing.assert_allclose(total, f['total_value_reverse'], rtol=rtol)
        np.testing.assert_allclose(d_t, f['total_grad_target'], atol=atol)
        np.testing.assert_allclose(d_s, f['total_grad_source'], atol=atol)
        (total, aux), (_, d_s) = loss_of(f, 'relationship_direct', dtype)(z_t, z_s)
        np.testing.assert_allclose(aux.metrics['source_ce'], f['loss_value_direct'], rtol=rtol)
        np.testing.assert_allclose(d_s / 2.3, f['loss_grad_direct'], atol=atol)
        np.testing.assert_allclose(total, aux.metrics['target_ce'] + 2.3 * aux.metrics['source_ce'], rtol=1e-6)


def test_the_source_term_is_least_where_the_source_head_says_what_the_relation_says():
    f = fixture('cotuning')
    with jax.enable_x64(True):
        table = f['relationship_direct'][f['loss_labels']]
        z_t = jnp.asarray(f['total_target_logits'])
        (_, aux), (_, d_s) = loss_of(f, 'relationship_direct', 'float64')(z_t, jnp.log(table))
        np.testing.assert_allclose(aux.metrics['source_ce'], -(table * np.log(table)).sum(1).mean(), rtol=1e-12)
        np.testing.assert_allclose(d_s, 0, atol=1e-15)


def test_gradients_where_the_heads_are_certain_and_the_relation_has_zeros():
    f = fixture('cotuning') | {'relationship_direct': np.eye(5, 20)}
    z = 1e4 * jnp.ones((7, 20)).at[:, 0].set(-1e4)
    (total, _), grads = loss_of(f, 'relationship_direct', 'float32')(z[:, :5], z)
    assert np.isfinite(total) and all(np.isfinite(g).all() for g in grads)


def test_heads_and_rates():
    method = method_registry.load('cotuning')(5, trunk_factor=0.2)
    heads = method.heads(5, 20, None)
    assert heads['target'].width == 5 and heads['target'].std == 0.01 and heads['target'].rows is None
    assert heads['source'].rows.tolist() == list(range(20))
    assert method.groups == {'trunk': (0.2, 1.0), 'head:source': (0.2, 1.0)}


@pytest.mark.parametrize(
    ('knob', 'value'),
    [('relation', 'both'), ('weight', -1.0), ('calibration', -1.0), ('per_class', 0), ('val', 0.0), ('val', 1.0),
     ('trunk_factor', -0.1)],
)  # fmt: skip
def test_cotuning_refuses_impossible_values(knob, value):
    with pytest.raises(UserError, match='must be'):
        method_registry.load('cotuning')(10, **{knob: value})
