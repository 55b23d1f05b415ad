"""The minimiser against scikit-learn, numpy's own gradient in float64, and cases that can be solved by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from sklearn.linear_model import LogisticRegression

from mixjax.maths import logistic


def drawn(n, d, c, seed=0, signal=1.0):
    """Features whose spectrum decays, as networks' do, and labels of which every class has some."""
    rng = np.random.RandomState(seed)
    labels = np.arange(n) % c
    scale = np.arange(1, d + 1) ** -0.6
    x = (signal * rng.randn(c, d)[labels] + rng.randn(n, d)) * scale @ np.linalg.qr(rng.randn(d, d))[0] + 0.5
    return x.astype(np.float32), labels


def one_hot(labels, c):
    return np.eye(c, dtype=np.float32)[labels]


def run(x, y, weights, strengths, **settings):
    columns = np.asarray(weights, np.float32)
    found = logistic.path(*(jnp.asarray(one, jnp.float32) for one in (x, y, columns, strengths)), **settings)
    return jax.tree.map(np.asarray, found)


def objective(kernel, bias, x, y, weights, strength, ignored=()):
    """f and its gradient, in numpy's float64."""
    kernel, bias, x, y = (np.asarray(one, np.float64) for one in (kernel, bias, x, y))
    logits = x @ kernel + bias
    logits = np.delete(logits, ignored, 1) - logits.max(1, keepdims=True)
    y = np.delete(y, ignored, 1)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    r = weights[:, None] * (np.exp(log_p) - y)
    value = -(weights[:, None] * y * log_p).sum() + (kernel**2).sum() / 2 / strength
    return value, x.T @ r + np.delete(kernel, ignored, 1) / strength, r.sum(0)


def minimum(x, y, weights, strength):
    """min f by scipy's L-BFGS in float64, from 0, until it can do no more."""
    shape = x.shape[1] + 1, y.shape[1]

    def f(flat):
        w = flat.reshape(shape)
        value, by_kernel, by_bias = objective(w[:-1], w[-1], x, y, weights, strength)
        return value, np.concatenate([by_kernel, by_bias[None]]).ravel()

    options = {'maxiter': 20_000, 'maxfun': 40_000, 'ftol': 1e-15, 'gtol': 1e-9, 'maxcor': 30}
    return minimize(f, np.zeros(shape[0] * shape[1]), jac=True, method='L-BFGS-B', options=options).fun


@pytest.mark.parametrize(('n', 'd'), [(120, 30), (60, 80), (30, 90)])
def test_objectives_are_those_of_scikit_learn(n, d):
    x, labels = drawn(n, d, 6)
    strengths = np.array([1e-3, 1e-1, 1.0, 30.0, 1e3])
    weights = np.ones((n, 1))
    found = run(x, one_hot(labels, 6), weights, strengths)
    for s, strength in enumerate(strengths):
        other = LogisticRegression(C=strength, tol=1e-10, max_iter=20_000).fit(x.astype(np.float64), labels)
        ours, theirs = (
            objective(kernel, bias, x, one_hot(labels, 6), weights[:, 0], strength)[0]
            for kernel, bias in ((found.kernel[s, 0], found.bias[s, 0]), (other.coef_.T, other.intercept_))
        )
        assert abs(ours / theirs - 1) < 1e-5
        np.testing.assert_allclose(found.bias[s, 0].sum(), 0, atol=1e-4)


@pytest.mark.parametrize(('n', 'd', 'standardize'), [(120, 30, False), (30, 90, False), (60, 80, True)])
def test_the_gradient_at_the_minimiser_is_small(n, d, standardize):
    x, labels = drawn(n, d, 5, seed=1)
    rng = np.random.RandomState(2)
    weights = rng.rand(n, 3) * (rng.rand(n, 3) < 0.8)
    y = 0.8 * one_hot(labels, 5) + 0.2 * rng.dirichlet(np.ones(5), n)
    strengths = np.array([1e-2, 1.0, 1e3])
    found = run(x, y, weights, strengths, standardize=standardize)
    used = weights.any(1)
    scaled = (x - x[used].mean(0)) / (x[used].std(0) if standardize else 1.0)
    for s, strength in enumerate(strengths):
        for p in range(3):
            kernel = found.kernel[s, p] * (x[used].std(0)[:, None] if standardize else 1.0)
            bias = found.bias[s, p] + x[used].mean(0) @ found.kernel[s, p]
            value, by_kernel, by_bias = objective(kernel, bias, scaled, y, weights[:, p], strength)
            # f is 1/C-strongly convex in the kernel; centred features have little to do with the intercept.
            assert strength * (by_kernel**2).sum() / 2 < 2e-5 * value
            assert np.abs(by_bias).max() < 3e-3 * value
            assert abs(value / minimum(scaled, y, weights[:, p], strength) - 1) < 1e-5
    assert found.gap.max() <= 1e-5


def test_nothing_near_the_minimiser_is_better():
    """Differences in random directions: no gradient formula is involved."""
    x, labels = drawn(40, 12, 4)
    y, weights, strength = one_hot(labels, 4), np.ones(40), 0.7
    found = run(x, y, weights[:, None], [strength], tol=1e-8)
    kernel, bias = found.kernel[0, 0].astype(np.float64), found.bias[0, 0].astype(np.float64)
    rng = np.random.RandomState(0)
    for _ in range(20):
        dk, db, h = rng.randn(12, 4), rng.randn(4), 1e-2
        ahead, here, behind = (
            objective(kernel + t * dk, bias + t * db, x, y, weights, strength)[0] for t in (h, 0.0, -h)
        )
        assert ahead > here and behind > here
        # the minimum along the line is within a thousandth of h of here
        assert abs((ahead - behind) / (2 * (ahead + behind - 2 * here))) < 0.02


def test_two_classes_by_hand():
    """Two points at -a and a: by symmetry b = 0 and W = (-w, w) with 2 a / (1 + exp(2 a w)) = w / C."""
    a = 1.5
    for strength in (0.01, 1.0, 100.0):
        w = brentq(lambda w, c=strength: 2 * a / (1 + np.exp(2 * a * w)) - w / c, 0, 100, xtol=1e-14)
        found = run([[-a], [a]], np.eye(2), np.ones((2, 1)), [strength], tol=1e-9)
        np.testing.assert_allclose(found.kernel[0, 0], [[-w, w]], rtol=1e-3)
        np.testing.assert_allclose(found.bias[0, 0], 0, atol=1e-4)


def test_without_information_the_classes_have_their_frequencies():
    """Constant features: the kernel is 0 and softmax(b) is the weighted share of each class."""
    y = one_hot([0, 0, 0, 1, 1, 2], 3)
    weights = np.array([1, 1, 1, 1, 2, 0.5])
    for standardize in (False, True):
        found = run(np.full((6, 4), 7.3), y, weights[:, None], [1.0, 1e4], standardize=standardize)
        np.testing.assert_allclose(found.kernel, 0, atol=1e-6)
        share = weights @ y / weights.sum()
        np.testing.assert_allclose(jax.nn.softmax(found.bias[:, 0]), [share, share], rtol=1e-4)


@pytest.mark.parametrize(('n', 'd'), [(40, 100), pytest.param(90, 20, marks=pytest.mark.slow)])
def test_weights_of_0_leave_rows_out(n, d):
    """Whatever the row has; together with other problems and alone."""
    x, labels = drawn(n, d, 4)
    y, strengths = one_hot(labels, 4), [0.1, 10.0]
    weights = np.ones((n, 2))
    weights[::3, 0] = weights[1::3, 1] = 0
    both = run(x, y, weights, strengths, tol=1e-7)
    for p in range(2):
        kept = weights[:, p] > 0
        alone = run(x[kept], y[kept], np.ones((kept.sum(), 1)), strengths, tol=1e-7)
        np.testing.assert_allclose(both.kernel[:, p], alone.kernel[:, 0], atol=2e-3 * np.abs(alone.kernel).max())
        np.testing.assert_allclose(both.bias[:, p], alone.bias[:, 0], atol=2e-3)
    spoilt = np.concatenate([x, np.full((1, d), np.nan, np.float32)])
    more = run(spoilt, np.concatenate([y, y[:1]]), np.concatenate([weights, [[0, 0]]]), strengths, tol=1e-7)
    np.testing.assert_allclose(more.kernel, both.kernel, atol=2e-3 * np.abs(both.kernel).max())


def test_a_weight_of_2_is_the_row_twice_and_soft_labels_are_their_mixture():
    x, labels = drawn(30, 8, 3)
    y = one_hot(labels, 3)
    twice = run(np.concatenate([x, x[:10]]), np.concatenate([y, y[:10]]), np.ones((40, 1)), [2.0], tol=1e-8)
    once = run(x, y, np.where(np.arange(30) < 10, 2, 1)[:, None], [2.0], tol=1e-8)
    np.testing.assert_allclose(once.kernel, twice.kernel, atol=1e-3)
    soft = run(x, 0.7 * y + 0.3 * y[:, [1, 2, 0]], np.ones((30, 1)), [2.0], tol=1e-8)
    weights = np.repeat([0.7, 0.3], 30)[:, None]
    hard = run(np.concatenate([x, x]), np.concatenate([y, y[:, [1, 2, 0]]]), weights, [2.0], tol=1e-8)
    np.testing.assert_allclose(soft.kernel, hard.kernel, atol=1e-3)


def test_separable_classes_with_a_large_strength():
    x, labels = drawn(30, 60, 3, signal=5.0)
    x = 1000 * x
    strengths = np.array([1e2, 1e5, 1e8])
    found = run(x, one_hot(labels, 3), np.ones((30, 1)), strengths)
    assert all(np.isfinite(one).all() for one in found) and found.gap.max() <= 1e-5
    assert (np.argmax(x @ found.kernel[-1, 0] + found.bias[-1, 0], 1) == labels).all()
    values = [
        objective(found.kernel[s, 0], found.bias[s, 0], x, one_hot(labels, 3), np.ones(30), strength)[0]
        for s, strength in enumerate(strengths)
    ]
    other = LogisticRegression(C=strengths[0], tol=1e-12, max_iter=50_000).fit(x.astype(np.float64), labels)
    theirs = objective(other.coef_.T, other.intercept_, x, one_hot(labels, 3), np.ones(30), strengths[0])[0]
    assert values[0] < theirs * (1 + 2e-5) and values[0] > values[1] > values[2]


def test_a_class_without_an_example_in_one_problem():
    x, labels = drawn(40, 10, 4)
    weights = np.ones((40, 2))
    weights[labels == 2, 1] = 0
    y = one_hot(labels, 4)
    found = run(x, y, weights, [1.0], tol=1e-7)
    kept = labels != 2
    alone = run(x[kept], np.delete(y[kept], 2, 1), np.ones((kept.sum(), 1)), [1.0], tol=1e-7)
    np.testing.assert_allclose(np.delete(found.kernel[0, 1], 2, 1), alone.kernel[0, 0], atol=1e-3)
    assert found.bias[0, 1, 2] == logistic.ABSENT and not found.kernel[0, 1, :, 2].any()
    assert found.bias[0, 0, 2] > logistic.ABSENT
    _, by_kernel, by_bias = objective(found.kernel[0, 1], found.bias[0, 1], x, y, weights[:, 1], 1.0, ignored=[2])
    assert np.abs(by_kernel).max() < 1e-2 and np.abs(by_bias).max() < 1e-2


def test_scores_on_held_out_rows_are_those_of_the_classifiers():
    x, labels = drawn(60, 15, 3, signal=0.5)
    y, strengths = one_hot(labels, 3), np.array([0.01, 1.0])
    held = np.zeros((60, 2), np.float32)
    held[::4, 0], held[1::4, 1] = 1, 0.5
    train = (held == 0).astype(np.float32)
    arrays = (jnp.asarray(one, jnp.float32) for one in (x, y, train, held, strengths))
    right, loss = logistic.path_scores(*arrays, standardize=True)
    found = run(x, y, train, strengths, standardize=True)
    logits = np.einsum('nd,spdc->spnc', x, found.kernel) + found.bias[:, :, None]
    log_p = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(right, ((log_p.argmax(-1) == labels) * held.T).sum(-1))
    np.testing.assert_allclose(loss, -(log_p[..., np.arange(60), labels] * held.T).sum(-1), rtol=1e-4)


def test_float64_goes_further():
    x, labels = drawn(50, 20, 4)
    with jax.enable_x64(True):
        arrays = (jnp.asarray(one, jnp.float64) for one in (x, one_hot(labels, 4), np.ones((50, 1)), [0.1, 1e3]))
        found = logistic.path(*arrays, tol=1e-12)
    assert found.kernel.dtype == np.float64 and np.asarray(found.gap).max() <= 1e-12


def test_many_problems_take_one_compilation():
    x, labels = drawn(20, 5, 2)
    before = logistic.path._cache_size()
    for seed in range(3):
        weights = np.random.RandomState(seed).rand(20, 7)
        run(x, one_hot(labels, 2), weights, np.array([1e-2, 1.0, 10.0]) * (seed + 1), tol=10.0 ** -(4 + seed))
    assert logistic.path._cache_size() == before + 1
