"""The methods `probe` and `lpft`: their heads, and networks that predict with them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mixjax
from mixjax import models
from mixjax.data.feed import augment
from mixjax.errors import UserError
from mixjax.maths import probe as probes
from mixjax.methods import probe
from mixjax.models import weights
from mixjax.models.net import Out
from mixjax.train import program, seeds
from tests.support.common import Tiny, lines
from tests.support.toy import opened, settings, train, walk


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))


def digits(method, **changes):
    config = settings(method, steps=6, log_every=2, eval_every=3, checkpoint_every=3, **changes)
    with config.unlocked():
        config.synthetic.per_class, config.synthetic.side, config.source.name = 0, 0, ''
        config.target.name, config.target.per_class = 'digits', 6
        config.model.weights = 'random://5'
    return config


def test_the_head_is_the_fit_to_the_features(tmp_path):
    results = train(digits({'name': 'probe', 'strength': 0.5}), tmp_path / 'run')
    built = program.build(digits('finetune'))
    data, _ = seeds.method_data(built, 0)
    features, labels = data.target.features(), data.target.labels
    (batch,) = data.target.batches(64)
    expected, _ = built.net.apply(built.shared.start_here, batch['image'], train=False)
    np.testing.assert_allclose(features, expected.features, rtol=1e-5, atol=1e-6)
    found = probes.fit(probes.Logistic(standardize=True), probes.examples(features, labels, 10), 0.5)
    head = weights.load(str(tmp_path / 'run')).variables['params']['heads']['target']
    np.testing.assert_allclose(head['kernel'], found.kernel, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(head['bias'], found.bias, rtol=1e-3, atol=1e-4)
    # Its accuracy is that of the classifier on the features of the test images.
    test = seeds.test_images(built, 0)
    out, _ = built.net.apply(
        built.shared.start_here, augment.centred(jnp.asarray(test.image[...]), built.shared.geometry), train=False
    )
    right = np.asarray(found.log_probs(out.features)).argmax(1) == test.label
    assert abs(results['accuracy']['mean'] - right.mean()) < 0.002
    (seed,) = results['seeds']
    assert seed['prepared']['C'] == 0.5 and 0 < seed['prepared']['cv_accuracy'] < 1


def test_the_strength_is_that_of_the_best_cross_validation(tmp_path):
    built = program.build(digits({'name': 'probe', 'folds': 3, 'repeats': 2}))
    made = seeds.load_or_prepare(built, 0, tmp_path)
    data, key = seeds.method_data(built, 0)
    examples = probes.examples(data.target.features(), data.target.labels, 10)
    held = probes.folds(data.target.labels, 3, rng=key, repeats=2)
    found = probes.cross_validate(probes.Logistic(standardize=True), examples, held)
    assert made.notes['C'] == found.best and made.notes['cv_accuracy'] == found.score[0]


def test_one_label_a_class_has_no_folds(tmp_path):
    config = digits('probe')
    with config.unlocked():
        config.target.per_class = 1
    made = seeds.load_or_prepare(program.build(config), 0, tmp_path)
    assert made.notes == {'C': 1.0} and made.frozen['kernel'].shape == (8, 10)


def test_neighbours_vote_by_the_angle():
    features = np.array([[3.0, 0.0], [0.0, 0.5], [1.0, 1.0], [0.0, -2.0]], np.float32)
    labels = np.array([0, 1, 1, 2])
    head = probe.neighbours(probes.examples(features, labels, 3), 3)
    kernel = head['kernel'].reshape(2, 3, 2)
    np.testing.assert_allclose(kernel[:, 0, 0], [1, 0])
    np.testing.assert_allclose(kernel[:, 1, 1], [0.5**0.5, 0.5**0.5], rtol=1e-6)
    np.testing.assert_array_equal(head['bias'], np.float32([0, probe.NEVER, 0, 0, 0, probe.NEVER]))
    queries = jnp.array([[2.0, 0.0], [0.0, 7.0], [0.0, 0.0]])
    out = Out({'neighbours': queries @ head['kernel'] + head['bias']}, queries, {})
    near = np.exp(probe.votes(out, 3, 2, 0.1))
    share = 1 / (1 + np.exp((0.5**0.5 - 1) / 0.1))  # cos 45 degrees against cos 0
    np.testing.assert_allclose(near[0], 0.999 * np.array([share, 1 - share, 0]) + 0.001 / 3, rtol=1e-5)
    np.testing.assert_allclose(near[1], 0.999 * np.array([0, 1, 0]) + 0.001 / 3, rtol=1e-5)
    assert np.isfinite(near[2]).all()
    everyone = np.exp(probe.votes(out, 3, 100, 0.1))
    np.testing.assert_allclose(everyone.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize('kind', ['means', 'knn'])
def test_other_kinds_predict_as_their_mathematics(kind, tmp_path):
    train(digits({'name': 'probe', 'kind': kind, 'k': 5}), tmp_path / 'run')
    built = program.build(digits('finetune'))
    data, _ = seeds.method_data(built, 0)
    examples = probes.examples(data.target.features(), data.target.labels, 10)
    settings = probes.Neighbours((5,), 5) if kind == 'knn' else probes.Means(standardize=True)
    test = seeds.test_images(built, 0).image[:32]
    out, _ = built.net.apply(
        built.shared.start_here, augment.centred(jnp.asarray(test), built.shared.geometry), train=False
    )
    expected = np.asarray(probes.fit(settings, examples).log_probs(out.features)).argmax(1)
    found = mixjax.load(tmp_path / 'run').probabilities(test).argmax(1)
    assert (found == expected).mean() > 0.95  # a tie or two may fall the other way


def test_lpft_starts_from_the_probe_and_trains(tmp_path):
    built, data, ts = opened(digits('lpft'), tmp_path)
    made = seeds.load_or_prepare(built, 0, tmp_path)
    np.testing.assert_array_equal(ts.params['heads']['target']['kernel'][0], made.frozen['kernel'])
    before = jax.tree.map(np.array, ts.params)
    ts, _ = walk(built, data, ts, 3)
    both = zip(jax.tree.leaves(ts.params), jax.tree.leaves(before), strict=True)
    assert all((np.array(after) != was).any() for after, was in both)


def test_lpft_begins_where_the_probe_is(tmp_path):
    """With a learning rate of nearly 0 both are evaluated alike."""
    accuracy = []
    for name in ('probe', 'lpft'):
        config = digits(name)
        with config.unlocked():
            config.optim.lr, config.image.pad = 1e-30, 0
            config.optim.freeze = ('trunk',)
        accuracy.append(train(config, tmp_path / name)['accuracy']['mean'])
    assert accuracy[0] > 0.2


def test_without_weights_there_is_nothing_to_probe(tmp_path):
    config = digits('probe')
    with config.unlocked():
        config.model.weights = ''
    with pytest.raises(UserError, match='config.model.weights'):
        train(config, tmp_path / 'run')


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'kind': 'svm'}, 'kind must be one of logistic, means, knn'),
        ({'strength': -1.0}, 'strength must be at least 0'),
        ({'folds': 1}, 'at least 2 folds'),
        ({'k': 0}, 'k must be at least 1'),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        probe.make(10, **changes)


def test_nothing_is_logged_but_the_evaluation(tmp_path):
    train(digits('probe'), tmp_path / 'run')
    assert [line['kind'] for line in lines(tmp_path / 'run' / 'metrics.jsonl')] == ['eval']
