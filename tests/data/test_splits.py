import numpy as np
import pytest

from mixjax.data import splits
from mixjax.errors import UserError

LABELS = np.array([0, 1, 2] * 10 + [1] * 20)
NAMES = ('a', 'b', 'c')


def test_as_many_of_each_class():
    rows = splits.draw(LABELS, NAMES, per_class=4, rate=1.0, seed=0)
    np.testing.assert_array_equal(LABELS[rows], [0] * 4 + [1] * 4 + [2] * 4)
    assert len(set(rows)) == 12


@pytest.mark.parametrize(('rate', 'expected'), [(1.0, [10, 30, 10]), (0.3, [3, 9, 3]), (0.01, [1, 1, 1])])
def test_rate_is_rounded_up_in_each_class(rate, expected):
    rows = splits.draw(LABELS, NAMES, per_class=0, rate=rate, seed=0)
    np.testing.assert_array_equal(np.bincount(LABELS[rows]), expected)


def test_seeds_draw_differently_and_repeatably():
    draws = [splits.draw(LABELS, NAMES, per_class=3, rate=1.0, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert set(draws[0]) != set(draws[2])


def test_a_draw_that_must_never_change():
    np.testing.assert_array_equal(splits.draw(LABELS, NAMES, per_class=2, rate=1.0, seed=7), [15, 24, 10, 37, 8, 14])


def test_rest():
    np.testing.assert_array_equal(splits.rest(6, np.array([1, 4])), [0, 2, 3, 5])


def test_too_few_examples():
    with pytest.raises(UserError, match="class 'a' has only 10"):
        splits.draw(LABELS, NAMES, per_class=11, rate=1.0, seed=0)
    with pytest.raises(UserError, match="class 'd' has no example"):
        splits.draw(LABELS, (*NAMES, 'd'), per_class=1, rate=1.0, seed=0)
