"""Averages of weights on trees that are computed by hand."""

import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.maths import weight_average

A = {'kernel': np.float32([[1, 2], [3, 4]]), 'bias': np.float32([0.5, -0.0])}
B = {'kernel': np.float32([[5, 6], [7, 0]]), 'bias': np.float32([1.5, 4])}


def assert_tree(found, kernel, bias):
    assert found['kernel'].dtype == found['bias'].dtype == np.float32
    np.testing.assert_array_equal(found['kernel'], np.float32(kernel))
    np.testing.assert_array_equal(found['bias'], np.float32(bias))


def test_interpolation_by_hand():
    assert_tree(weight_average.interpolate(A, B, 0.25), [[2, 3], [4, 3]], [0.75, 1])
    assert_tree(weight_average.interpolate(A, B, 0.5), [[3, 4], [5, 2]], [1, 2])
    assert weight_average.interpolate(A, B, 0) is A and weight_average.interpolate(A, B, 1) is B
    with pytest.raises(UserError, match='from 0 to 1, not 1.5'):
        weight_average.interpolate(A, B, 1.5)


def test_the_mean_by_hand():
    assert_tree(weight_average.mean([A, B]), [[3, 4], [5, 2]], [1, 2])
    assert_tree(weight_average.mean([A, A, A, B]), [[2, 3], [4, 3]], [0.75, 1])
    assert weight_average.mean([A]) is A
    with pytest.raises(UserError, match='at least one'):
        weight_average.mean([])


@pytest.mark.parametrize('count', [2, 3, 7])
def test_averages_of_equal_weights_are_these_weights_bit_for_bit(count):
    one = {'w': np.random.default_rng(0).normal(size=1000).astype(np.float32)}
    np.testing.assert_array_equal(weight_average.mean([one] * count)['w'], one['w'])
    np.testing.assert_array_equal(weight_average.interpolate(one, one, 1 / count)['w'], one['w'])


def test_greedy_adds_what_does_not_lower_the_score():
    scores = [0.5, 0.75, 0.5, 0.25]
    table = {(1, 0): 0.75, (1, 0, 2): 0.625, (1, 0, 3): 0.875}  # equal: taken; lower: left out; higher: taken
    asked = []

    def score_of(numbers):
        asked.append(numbers)
        return table[numbers]

    assert weight_average.greedy(scores, score_of) == (1, 0, 3)
    assert asked == [(1, 0), (1, 0, 2), (1, 0, 3)]
    assert weight_average.greedy([0.5, 0.5], lambda numbers: 0.4) == (0,)


@pytest.mark.parametrize('momentum', [0.0, 0.5, 0.9, 0.99])
def test_the_statistics_of_a_batch_come_back_from_their_update(momentum):
    batch, old = np.array([3.0, -2.0, 1e4]), np.array([7.0, 8.0, 9.0])
    found = weight_average.from_zero_and_slope((1 - momentum) * batch, np.full(3, momentum), old)
    np.testing.assert_allclose(found, batch, rtol=1e-12)
    np.testing.assert_array_equal(weight_average.from_zero_and_slope(np.zeros(3), np.ones(3), old), old)
