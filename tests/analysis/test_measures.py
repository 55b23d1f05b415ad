"""The measures as pure functions, against values by hand and properties that must hold."""

import json
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

from mixjax.analysis import (
    cam,
    embedding,
    interpolation,
    measures,
    opened,
    pictures,
    probe,
    soft_targets,
    spectrum,
    sweep,
)
from mixjax.analysis.measures import Asked
from mixjax.errors import UserError
from mixjax.models.net import from_linen
from mixjax.models.transformer import Form
from mixjax.models.vit import VisionTransformer

RNG = np.random.RandomState(0)


# --- interpolation loss -----------------------------------------------------------------------------------------------


def linear(x):
    flat = x.reshape(len(x), -1)
    w = jnp.asarray(np.random.RandomState(3).randn(flat.shape[1], 4), flat.dtype)
    return {'logits': flat @ w + 0.5, 'features': flat}


def squared(x):
    return {'logits': jnp.square(x), 'features': jnp.square(x)}


def test_a_linear_network_has_no_interpolation_loss():
    images = jnp.asarray(RNG.randn(6, 3, 3, 1), jnp.float32)
    found = interpolation.curve(linear, images, interpolation.partners(6), interpolation.midpoints(4))
    assert set(found) == {f'{o} {s}' for o in ('probabilities', 'logits', 'features') for s in ('raw', 'mean', 'unit')}
    for name in ('logits raw', 'logits mean', 'features raw', 'features mean'):
        assert found[name].shape == (4,) and np.abs(found[name]).max() < 1e-9, name
    # A softmax, and a division by the norm, are not linear.
    assert found['probabilities raw'].min() > 1e-3 and found['logits unit'].min() > 1e-3


def test_the_loss_of_squares_by_hand():
    """f(x) = x^2: (lam a + (1 - lam) b)^2 - lam a^2 - (1 - lam) b^2 = -lam (1 - lam) (a - b)^2."""
    images = jnp.asarray([[1.0, 0.0], [4.0, 2.0]])
    found = interpolation.curve(squared, images, np.array([1, 0]), np.array([0.25, 0.5]))
    for k, lam in enumerate((0.25, 0.5)):
        want = (lam * (1 - lam)) ** 2 * (3.0**4 + 2.0**4)  # the same for both pairs
        assert found['logits raw'][k] == pytest.approx(want, rel=1e-6)
        assert found['logits mean'][k] == pytest.approx(want / 2, rel=1e-6)


def test_gap_per_pair_and_unit_norm():
    first, second, mixed = (jnp.asarray(RNG.rand(5, 3), jnp.float32) for _ in range(3))
    lam = jnp.asarray([0.0, 0.25, 0.5, 0.75, 1.0])
    got = interpolation.gap(mixed, first, second, lam)
    want = [np.sum((m - (s * a + (1 - s) * b)) ** 2) for m, a, b, s in zip(mixed, first, second, lam, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    larger = [interpolation.gap(7 * mixed, 3 * first, 5 * second, lam, 'unit') for _ in range(1)][0]
    np.testing.assert_allclose(larger, interpolation.gap(mixed, first, second, lam, 'unit'), rtol=1e-4)
    zero = jnp.zeros((1, 3))
    assert float(interpolation.gap(zero, zero, zero, jnp.asarray(0.5), 'unit')[0]) == 0


@given(st.integers(2, 40), st.integers(0, 5))
def test_partners_are_a_permutation_without_a_fixed_point(count, seed):
    found = interpolation.partners(count, seed)
    assert sorted(found) == list(range(count)) and not (found == np.arange(count)).any()


def test_midpoints_are_even():
    np.testing.assert_allclose(interpolation.midpoints(4), [0.125, 0.375, 0.625, 0.875])


# --- singular values --------------------------------------------------------------------------------------------------


def test_singular_values_of_a_known_matrix():
    u, _ = np.linalg.qr(RNG.randn(7, 3))
    v, _ = np.linalg.qr(RNG.randn(3, 3))
    values = spectrum.singular_values((u * [8.0, 2.0, 0.5]) @ v.T)
    np.testing.assert_allclose(values, [1, 0.25, 0.0625], atol=1e-12)
    np.testing.assert_allclose(spectrum.tail(values, 2), [0.0625, 0.25], atol=1e-12)
    assert len(spectrum.tail(values, 10)) == 3


def test_the_spectrum_does_not_depend_on_scale_order_or_rotation():
    features = RNG.rand(9, 4).astype(np.float32)
    turn, _ = np.linalg.qr(RNG.randn(4, 4))
    values = spectrum.singular_values(features)
    np.testing.assert_allclose(spectrum.singular_values(100 * features[::-1]), values, atol=1e-6)
    np.testing.assert_allclose(spectrum.singular_values(features @ turn), values, atol=1e-6)
    assert spectrum.singular_values(np.vstack([features[:1]] * 5))[1] < 1e-7  # one direction only
    for wrong in (np.zeros((3, 2)), np.zeros(3)):
        with pytest.raises(UserError):
            spectrum.singular_values(wrong)


# --- the probe --------------------------------------------------------------------------------------------------------


def test_a_probe_finds_what_is_separable_and_not_what_is_noise():
    labels = np.arange(90) % 3
    centres = np.array([[5.0, 0, 0, 100], [0, 5.0, 0, 100], [0, 0, 5.0, 100]])
    features = centres[labels] + 0.1 * RNG.randn(90, 4)
    features = np.hstack([features, np.zeros((90, 1))])  # a channel that is silent
    made = probe.fit(jax.random.key(0), features[:60], labels[:60], 3, steps=200, batch=32)
    assert probe.accuracy(made, features[60:], labels[60:]) == 1
    for array in made:
        assert np.isfinite(array).all()
    again = probe.fit(jax.random.key(0), features[:60], labels[:60], 3, steps=200, batch=32)
    np.testing.assert_array_equal(made.kernel, again.kernel)
    noise = probe.fit(jax.random.key(0), RNG.randn(200, 4), np.arange(200) % 4, 4, steps=100, batch=64)
    assert probe.accuracy(noise, RNG.randn(400, 4), np.arange(400) % 4) < 0.4


def test_the_probe_is_linear_on_standardised_features():
    features, labels = RNG.rand(20, 3), np.arange(20) % 2
    made = probe.fit(jax.random.key(1), features, labels, 2, steps=1, batch=4, lr=0.0)
    want = (features - features.mean(0)) / features.std(0) @ np.asarray(made.kernel) + made.bias
    np.testing.assert_allclose(probe.logits(made, jnp.asarray(features)), want, rtol=1e-4, atol=1e-5)
    assert np.abs(made.kernel).max() <= 3**-0.5  # with a rate of 0 it is as it was drawn


def test_subsets_and_parts_of_source_rows():
    found = probe.subsets(np.array([4, 1, 4]), 6)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        'auxiliary': [1, 4], 'all_but_auxiliary': [0, 2, 3, 5], 'all': [0, 1, 2, 3, 4, 5],
    }  # fmt: skip
    labels = np.array([0] * 10 + [1] * 5 + [2])
    rows = np.arange(16)
    few = probe.sample(labels, rows, 3)
    assert np.bincount(labels[few]).tolist() == [3, 3, 1] and probe.sample(labels, rows, 0).tolist() == rows.tolist()
    train, test = probe.held_out(labels, rows)
    assert np.bincount(labels[test], minlength=3).tolist() == [2, 1, 0]
    assert sorted([*train, *test]) == rows.tolist()


# --- soft targets -----------------------------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.sampled_from([2, 10, 30]), st.floats(0, 1))
def test_targets_are_distributions_within_their_bounds(classes, beta):
    logits = jnp.asarray(np.random.RandomState(classes).randn(5, classes) * 50, jnp.float32)
    label, other = np.arange(5) % classes, np.arange(5)[::-1] % classes
    local = soft_targets.local_label(jnp.asarray(label), jnp.asarray(other), jnp.linspace(0, 1, 5), classes)
    target, learned = soft_targets.target(local, logits, beta)
    low, high = soft_targets.bounds(classes)
    np.testing.assert_allclose(target.sum(-1), 1, rtol=1e-5)
    assert low - 1e-6 <= learned.min() and learned.max() <= high + 1e-6
    assert target.max() <= beta + (1 - beta) * high + 1e-5


def test_soft_targets_by_hand():
    local = soft_targets.local_label(jnp.asarray([0]), jnp.asarray([2]), jnp.asarray([0.75]), 3)
    np.testing.assert_allclose(local, [[0.75, 0, 0.25]])
    target, learned = soft_targets.target(local, jnp.zeros((1, 3)), 0.5)
    np.testing.assert_allclose(learned, [[1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(target, [[0.375 + 1 / 6, 1 / 6, 0.125 + 1 / 6]], rtol=1e-6)
    np.testing.assert_allclose(soft_targets.top(np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]), 2), [0.6, 0.25])
    assert soft_targets.bounds(10) == pytest.approx((0.0393, 0.2320), abs=1e-4)
    assert soft_targets.bounds(2) == pytest.approx((1 / (1 + math.e), math.e / (math.e + 1)))


def test_curves_have_each_kind_of_batch_of_a_method_that_alternates(tmp_path):
    lines = [{'seed': 0, 'step': 8, 'kind': 'eval', 'accuracy': 0.5}]
    for step in (3, 4, 7, 8):
        batch_kind = 'original' if step % 2 else 'mixed'
        lines.append(
            {'seed': 0, 'step': step, 'kind': 'train', 'batch_kind': batch_kind, 'loss': float(step), 'lam': step / 10}
        )
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    run = SimpleNamespace(folder=tmp_path, every=[0], config=SimpleNamespace(steps=8))
    found = measures.curves(run, Asked())
    assert found.numbers['loss']['mean'] == 7.5
    assert {batch_kind: one['mean'] for batch_kind, one in found.numbers['batch_kinds'].items()} == {
        'original': 7,
        'mixed': 8,
    }
    expected = {'loss': [3.5, 7.5], 'loss original': [3, 7], 'loss mixed': [4, 8], 'lam mixed': [0.4, 0.8]}
    for name, values in expected.items():
        np.testing.assert_array_equal(found.arrays[name], [values])
    np.testing.assert_array_equal(found.arrays['loss_step'], [4, 8])
    np.testing.assert_array_equal(found.arrays['loss original_step'], [3, 7])
    # A run that was logged without kinds of batch.
    plain = [
        {key: value for key, value in line.items() if key != 'batch_kind'} for line in lines if line['step'] % 4 == 0
    ]
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in plain))
    found = measures.curves(run, Asked())
    assert found.numbers['loss']['mean'] == 8 and 'batch_kinds' not in found.numbers
    np.testing.assert_array_equal(found.arrays['loss'], [[4, 8]])
    # A method whose own metric has the name of what is measured.
    shadow = [{**line, 'accuracy': 0.9} if line['kind'] == 'train' else line for line in plain]
    (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in shadow))
    np.testing.assert_array_equal(measures.curves(run, Asked()).arrays['accuracy'], [[0.5]])


@pytest.mark.parametrize('count', [1, 2, 15, 200])
def test_lams_are_uniform_one_from_each_part(count):
    found = soft_targets.lams(count, np.random.RandomState(1))
    assert sorted(np.floor(found * count).astype(int)) == list(range(count))
    np.testing.assert_array_equal(found, soft_targets.lams(count, np.random.RandomState(1)))
    many = np.concatenate([soft_targets.lams(count, np.random.RandomState(seed)) for seed in range(1000)])
    assert abs(many.mean() - 1 / 2) < 0.05 and abs(np.maximum(many, 1 - many).mean() - 3 / 4) < 0.03


@pytest.mark.parametrize('local_label', ['lambda', 'mean'])
def test_soft_targets_are_measured_with_one_lam_a_batch_as_in_training(local_label):
    examples = opened.Examples(np.zeros((70, 4, 4, 1), np.uint8), np.arange(70) % 10, 70)
    method = {'local_label': local_label, 'beta': 1.0}
    run = SimpleNamespace(
        config=SimpleNamespace(batch_size=16, method=method), examples=lambda *_: examples, classes=tuple('0123456789'),
        test_inputs=lambda image: jnp.asarray(image, jnp.float32), programs={}, net=None,
    )  # fmt: skip
    run.programs['global', 'train'] = lambda variables, x: jnp.zeros((len(x), 10))
    made = pictures._batches(run, 0, Asked())
    assert len(made) == 4 and all(isinstance(lam, float) for *_, lam in made)
    network = SimpleNamespace(variables=None)
    targets, _ = pictures._targets(run, network, made, 'mixed', 1.0)
    for target, (_, label, partner, lam) in zip(targets, made, strict=True):
        differ = label != label[partner]
        np.testing.assert_allclose(target[differ, label[differ]], lam, rtol=1e-6)
    assert {lam for *_, lam in made} == {0.5} or local_label == 'lambda'
    for target, (_, label, *_) in zip(pictures._targets(run, network, made, 'original', 1.0)[0], made, strict=True):
        np.testing.assert_array_equal(target, np.eye(10)[label])


def test_a_histogram_has_all_values_once():
    values = np.array([[0.0, 0.24, 0.26], [0.5, 1.0, 3.0]])
    np.testing.assert_allclose(soft_targets.histogram(values, 0, 1, 4), [2 / 6, 1 / 6, 1 / 6, 2 / 6])


# --- class activation maps --------------------------------------------------------------------------------------------


def test_the_mean_of_a_map_is_the_logit_without_its_bias():
    maps, kernel = RNG.randn(4, 3, 3, 5), RNG.randn(5, 7)
    label = np.array([0, 6, 2, 2])
    found = cam.activation(jnp.asarray(maps), jnp.asarray(kernel), jnp.asarray(label))
    logits = maps.mean((1, 2)) @ kernel
    np.testing.assert_allclose(found.mean((1, 2)), logits[np.arange(4), label], rtol=1e-4, atol=1e-5)


def test_a_map_by_gradient_is_the_activation_map_of_a_mean():
    maps, kernel, label = RNG.randn(4, 3, 2, 5), RNG.randn(5, 7), jnp.array([0, 6, 2, 2])

    def forward(x, tap):
        h = tap('stage1', x)
        return h.mean((1, 2)) @ kernel, {'stage1': h}

    found = cam.by_gradient(forward, jnp.asarray(maps), label, 'stage1')
    np.testing.assert_allclose(found, cam.activation(maps, jnp.asarray(kernel), label) / 6, rtol=1e-5, atol=1e-6)


def test_a_map_by_gradient_of_a_class_token():
    """Its weights are derivatives by the patches' channels; those of the last stage do not reach a class token."""
    net = from_linen(VisionTransformer(Form(16, 2, 32, scale=0.7), 4, 4, 3, registers=1, placed=False))
    x, label = jnp.asarray(RNG.randn(3, 12, 12, 3)), jnp.array([1, 0, 1])
    with jax.enable_x64(True):
        made = jax.jit(net.init, static_argnums=2)(jax.random.key(0), x, FrozenDict({'target': 2}))
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf + 0.5 * RNG.randn(*leaf.shape)), made)

        def forward(x, tap):
            out, _ = net.apply(variables, x, train=False, tap=tap)
            return out.logits['target'], out.maps

        patches = (jnp.arange(2 + 9) >= 2)[:, None]

        @jax.jit
        def logit(shift):
            out = forward(x, lambda name, h: h + patches * shift if name == 'stage3' else h)[0]
            return out[jnp.arange(3), label]

        found = cam.by_gradient(forward, x, label, 'stage3')
        weights = jnp.stack([(logit(1e-5 * unit) - logit(-1e-5 * unit)) / 2e-5 / 9 for unit in jnp.eye(16)], -1)
        expected = jnp.einsum('nhwd,nd->nhw', forward(x, lambda name, h: h)[1]['stage3'], weights)
        assert float(jnp.abs(expected).max()) > 1e-2
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        assert not cam.by_gradient(forward, x, label, 'stage4').any()


def test_area_and_shares_by_hand():
    maps = jnp.asarray([[[4.0, 2.0], [1.0, -3.0]], [[-1.0, -2.0], [-3.0, 0.0]]])
    shares = cam.positive(maps)
    np.testing.assert_allclose(shares, [[[1, 0.5], [0.25, 0]], [[0, 0], [0, 0]]])
    np.testing.assert_allclose(cam.area(shares), [0.5, 0])
    assert cam.mean_area(shares) == (0.5, 1)  # the second speaks nowhere for its class: not a narrow map, but none
    mean, without = cam.mean_area(shares[1:])
    assert math.isnan(mean) and without == 1
    flat = cam.enlarge(jnp.full((1, 2, 2), 3.0), 8, 6)
    np.testing.assert_allclose(flat, np.full((1, 8, 6), 3.0), rtol=1e-6)


# --- the bottleneck, and sweeps ---------------------------------------------------------------------------------------


def test_separation_by_hand():
    codes = np.array([[0, 1], [0, -1], [6, 1], [6, -1]])
    labels = np.array([3, 3, 8, 8])
    assert embedding.separation(codes, labels) == pytest.approx(6)
    assert embedding.separation(10 * codes + 3, labels) == pytest.approx(6)
    assert embedding.separation(codes * [1, 0], labels) == math.inf
    with pytest.raises(UserError, match='two of them'):
        embedding.separation(codes, np.zeros(4))


METHODS = {
    'base': {'name': 'finetune'},
    'b': {'name': 'xmixup', 'alpha': 4.0, 'labels': 'joint'},
    'a': {'name': 'xmixup', 'alpha': 0.5, 'labels': 'joint'},
    'l': {'name': 'lamix', 'beta': 0.5},
}


def test_the_number_in_which_runs_differ_is_found():
    found = sweep.knob(METHODS, {})
    assert found == sweep.Knob('xmixup', 'alpha', {'a': 0.5, 'b': 4.0}, ('base', 'l'))
    more = {**METHODS, 'c': {'name': 'xmixup', 'alpha': 4.0, 'labels': 'two_heads'}}
    with pytest.raises(UserError, match='--over'):
        sweep.knob(more, {})
    notes = {'a': {'images': 30.0}, 'b': {'images': 10.0}, 'c': {'images': 20.0}}
    assert sweep.knob(more, notes, 'images').values == {'b': 10.0, 'c': 20.0, 'a': 30.0}
    with pytest.raises(UserError, match="in 'imges'"):
        sweep.knob(more, notes, 'imges')
    with pytest.raises(UserError, match='there is no sweep; it has base, l'):
        sweep.knob({label: METHODS[label] for label in ('base', 'l')}, {})


def test_logarithms_are_for_wide_positive_ranges():
    assert sweep.logarithmic([0.125, 64]) and not sweep.logarithmic([0.1, 0.9]) and not sweep.logarithmic([0, 100])
