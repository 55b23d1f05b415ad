"""The kinds of probes, folds, and the choice among candidates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from mixjax.errors import UserError
from mixjax.maths import logistic, probe


def drawn(n=90, d=12, c=3, signal=0.8, seed=0):
    rng = np.random.RandomState(seed)
    labels = rng.permutation(np.arange(n) % c)
    return (signal * rng.randn(c, d)[labels] + rng.randn(n, d) + 0.4).astype(np.float32), labels


SMALL = (
    probe.Logistic((0.01, 1.0, 100.0)), probe.Logistic((1.0, 0.1), standardize=True), probe.Means((1.0, 8.0)),
    probe.Means((1.0, 8.0), cosine=True), probe.Means((2.0,), cosine=True, standardize=True),
    probe.Means((2.0,), standardize=True), probe.Neighbours((1, 5, 1000)),
)  # fmt: skip


@pytest.mark.parametrize('standardize', [False, True])
def test_logistic_is_in_the_space_of_the_features(standardize):
    x, labels = drawn()
    x[:, 3] *= 50
    found = probe.fit(probe.Logistic(standardize=standardize), probe.examples(x, labels, 3), 0.3)
    scaled = StandardScaler().fit_transform(x.astype(np.float64)) if standardize else x.astype(np.float64)
    other = LogisticRegression(C=0.3, tol=1e-8, max_iter=20_000).fit(scaled, labels)
    np.testing.assert_allclose(found.log_probs(x), other.predict_log_proba(scaled), atol=0.02)


def test_means_are_the_nearest_centroid():
    x, labels = drawn(signal=0.4)
    data = probe.examples(x, labels, 3)
    for standardize in (False, True):
        scaled = StandardScaler().fit_transform(x) if standardize else x
        found = probe.fit(probe.Means(standardize=standardize), data, 2.0)
        nearest = NearestCentroid().fit(scaled, labels).predict(scaled)
        np.testing.assert_array_equal(found.log_probs(x).argmax(1), nearest)
    # the probabilities, by their definition
    means = np.stack([x[labels == k].mean(0) for k in range(3)])
    spread = np.square(x - x.mean(0)).sum(1).mean()
    logits = -2.0 * np.square(x[:, None] - means).sum(-1) / 2 / spread
    found = probe.fit(probe.Means(), data, 2.0)
    np.testing.assert_allclose(found.log_probs(x), jax.nn.log_softmax(logits), atol=1e-4)


def test_means_by_cosine():
    x, labels = drawn(signal=0.4)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    means = np.stack([unit[labels == k].mean(0) for k in range(3)])
    cosine = unit @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    found = probe.fit(probe.Means(cosine=True), probe.examples(x, labels, 3), 7.0)
    np.testing.assert_allclose(found.log_probs(x), jax.nn.log_softmax(7 * cosine * lengths / lengths.mean()), atol=1e-4)


def test_neighbours_are_those_of_scikit_learn():
    x, labels = drawn(signal=0.5)
    new, _ = drawn(seed=1)
    for k in (1, 7, 90):
        found = probe.fit(probe.Neighbours(), probe.examples(x, labels, 3), k).log_probs(new)
        other = KNeighborsClassifier(
            k, metric='cosine', algorithm='brute', weights=lambda distance: np.exp((1 - distance) / 0.07)
        ).fit(x, labels)
        share = other.predict_proba(new)
        np.testing.assert_allclose(np.exp(found), (1 - probe.FLOOR) * share + probe.FLOOR / 3, atol=1e-4)


def test_more_neighbours_than_examples_is_all_of_them():
    x, labels = drawn()
    data = probe.examples(x, labels, 3)
    one, other = (probe.fit(probe.Neighbours(), data, k).log_probs(x) for k in (90, 10_000))
    np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize('kind', SMALL)
def test_weights_of_0_leave_examples_out(kind):
    x, labels = drawn()
    kept = np.arange(90) % 3 > 0
    spoilt = np.where(kept[:, None], x, np.nan)
    masked = probe.fit(kind, probe.examples(spoilt, np.where(kept, labels, -1), 3, kept), kind.candidates[0])
    alone = probe.fit(kind, probe.examples(x[kept], labels[kept], 3), kind.candidates[0])
    np.testing.assert_allclose(masked.log_probs(x), alone.log_probs(x), atol=0.01)


@pytest.mark.parametrize('kind', SMALL)
def test_soft_labels_that_are_hard_and_weights_that_are_1_change_nothing(kind):
    x, labels = drawn()
    hard = probe.fit(kind, probe.examples(x, labels, 3), kind.candidates[-1])
    soft = probe.fit(kind, probe.examples(x, np.eye(3)[labels], 3, np.ones(90)), kind.candidates[-1])
    np.testing.assert_array_equal(hard.log_probs(x), soft.log_probs(x))


@pytest.mark.parametrize('kind', SMALL)
def test_validation_is_a_fit_on_each_fold(kind):
    """One fold after the other, by `fit` on the training part alone."""
    x, labels = drawn(signal=0.4)
    weights = np.where(np.arange(90) % 7 == 0, 0.0, 1 + np.arange(90) % 2)
    held = probe.folds(labels, 3, rng=1, used=weights)
    assert not held[weights == 0].any()
    data = probe.examples(x, labels, 3, weights)
    found = probe.cross_validate(kind, data, held)
    assert found.folds == 3
    for at, candidate in enumerate(kind.candidates):
        right = loss = total = 0.0
        for fold in held.T:
            # All features stay, so that those who standardise have the same deviations.
            fitted = probe.fit(kind, data._replace(weights=jnp.asarray(weights * ~fold, jnp.float32)), candidate)
            if getattr(kind, 'standardize', False):
                mean, std = x[weights > 0].mean(0), x[weights > 0].std(0)
                scaled = (x - mean) / std
                part = probe.examples(scaled, labels, 3, weights * ~fold)
                fitted = probe.fit(kind._replace(standardize=False), part, candidate)
                log_p = np.asarray(fitted.log_probs(scaled))
            else:
                log_p = np.asarray(fitted.log_probs(x))
            here = weights * fold
            right += here @ (log_p.argmax(1) == labels)
            loss -= here @ log_p[np.arange(90), labels]
            total += here.sum()
        assert found.accuracy[at] == pytest.approx(right / total, abs=1e-6)
        assert found.log_loss[at] == pytest.approx(loss / total, rel=5e-3)


def test_the_choice_is_accuracy_then_log_loss_then_order():
    class Fixed(probe.Means):
        def held_out(self, data, train, held):
            return np.array([[3.0], [4], [4], [4], [4]]), np.array([[1.0], [9], [2], [np.nan], [2]])

    held = np.arange(6)[:, None] < 5
    found = probe.cross_validate(
        Fixed((1.0, 2.0, 3.0, 4.0, 5.0)), probe.examples(np.eye(6), np.arange(6) % 2, 2), held
    )
    assert found.best == 3.0 and found.score == (0.8, -0.4)


def test_folds_are_stratified_and_deterministic():
    labels = np.repeat(np.arange(5), [1, 2, 3, 10, 13])
    held = probe.folds(labels, 5, rng=jax.random.key(3))
    assert held.shape == (29, 5)
    np.testing.assert_array_equal(held, probe.folds(labels, 5, rng=3))
    assert (held != probe.folds(labels, 5, rng=4)).any()
    assert held[0].sum() == 0 and (held[1:].sum(1) == 1).all()
    counts = np.stack([held[labels == k].sum(0) for k in range(5)])
    assert (counts.max(1) - counts.min(1) <= 1).all() and np.ptp(held.sum(0)) <= 1
    for fold in held.T:
        assert set(labels[~fold]) == set(range(5))


def test_folds_for_few_labels():
    assert probe.folds([0, 1, 2]).shape == (3, 0)
    two = probe.folds([0, 0, 1, 1, 2], 5)
    assert two.shape == (5, 4) and (two.sum(1) == [1, 1, 1, 1, 0]).all()
    many = probe.folds([0, 0, 1, 1] * 2, 2, repeats=10)
    assert many.shape == (8, 20) and len({tuple(column) for column in many.T}) > 3
    assert (many.reshape(8, 10, 2).sum(2) == 1).all()
    np.testing.assert_array_equal(probe.folds(np.eye(2)[[0, 0, 1, 1]]), probe.folds([0, 0, 1, 1]))


@pytest.mark.parametrize('kind', SMALL)
@pytest.mark.parametrize('per_class', [1, 2, 10])
def test_few_labels(kind, per_class):
    x, labels = drawn(3 * per_class, 40, 3)
    data = probe.examples(x, labels, 3)
    found = probe.cross_validate(kind, data, probe.folds(labels, 5, repeats=2))
    if per_class == 1:
        assert found.best == kind.default and found.folds == 0 and np.isnan(found.accuracy).all()
        assert found.score < (0.0, -100.0)
    else:
        assert found.best in kind.candidates and np.isfinite(found.log_loss).all()
    assert np.isfinite(probe.fit(kind, data, found.best).log_probs(x)).all()


@pytest.mark.parametrize('kind', SMALL)
def test_a_class_without_an_example_is_never_predicted(kind):
    x, labels = drawn()
    fitted = probe.fit(kind, probe.examples(x, labels, 5), kind.candidates[0])
    assert set(np.asarray(fitted.log_probs(x)).argmax(1)) <= {0, 1, 2}
    if isinstance(fitted, probe.Linear):
        assert (fitted.bias[3:] == logistic.ABSENT).all() and np.isfinite(fitted.kernel).all()


@pytest.mark.parametrize('kind', SMALL)
def test_constant_features_give_finite_results(kind):
    fitted = probe.fit(kind, probe.examples(np.full((6, 3), 2.0), np.arange(6) % 2, 2))
    np.testing.assert_allclose(np.exp(fitted.log_probs(np.full((2, 3), 2.0))).sum(1), 1, rtol=1e-5)


def test_mistakes_end_in_a_sentence():
    x, labels = drawn()
    for arguments, words in [
        ((x, labels + 1, 3), 'between 0 and 2'),
        ((x, labels[1:], 3), 'shape'),
        ((x[0], labels, 3), 'shape'),
        ((x, np.eye(3)[labels] * 2, 3), 'sum to 1'),
        ((x * np.nan, labels, 3), 'finite'),
        ((x, labels, 3, -np.ones(90)), 'negative'),
    ]:
        with pytest.raises(UserError, match=words):
            probe.examples(*arguments)
    with pytest.raises(UserError, match='two folds'):
        probe.folds(labels, 1)
    with pytest.raises(UserError, match='positive'):
        probe.fit(probe.Logistic(), probe.examples(x, labels, 3), 0.0)
    with pytest.raises(UserError, match='rows'):
        probe.cross_validate(probe.Means(), probe.examples(x, labels, 3), np.ones((3, 2), bool))
