from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixjax.data.dataset import Dataset
from mixjax.data.labelled import splits
from mixjax.errors import UserError

LABELS = np.array([0, 1, 2] * 10 + [1] * 20)
NAMES = ('a', 'b', 'c')


def draw(labels=LABELS, names=NAMES, *, seed=0, **how):
    return splits.draw(labels, names, seed=seed, **how)


def test_as_many_of_each_class():
    rows = draw(per_class=4)
    np.testing.assert_array_equal(LABELS[rows], [0] * 4 + [1] * 4 + [2] * 4)
    assert len(set(rows)) == 12


@pytest.mark.parametrize(('rate', 'expected'), [(1.0, [10, 30, 10]), (0.3, [3, 9, 3]), (0.01, [1, 1, 1])])
def test_rate_is_rounded_up_in_each_class(rate, expected):
    np.testing.assert_array_equal(np.bincount(LABELS[draw(rate=rate)]), expected)


@given(st.integers(1, 100), st.integers(1, 400))
@settings(deadline=None, max_examples=200)
def test_a_rate_in_percent_is_rounded_up_exactly(percent, count):
    """In exact fractions: 0.3 * 30 is 9 and not 10."""
    rows = draw(np.zeros(count, int), ('a',), rate=percent / 100)
    assert len(rows) == -(-Fraction(percent, 100) * count // 1)


def test_seeds_draw_differently_and_repeatably():
    draws = [draw(per_class=3, seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert set(draws[0]) != set(draws[2])


def test_a_draw_that_must_never_change():
    np.testing.assert_array_equal(draw(per_class=2, seed=7), [15, 24, 10, 37, 8, 14])


def test_rest():
    np.testing.assert_array_equal(splits.rest(6, np.array([1, 4])), [0, 2, 3, 5])


def test_too_few_examples():
    with pytest.raises(UserError, match="class 'a' has only 10"):
        draw(per_class=11)
    with pytest.raises(UserError, match="class 'd' has no example"):
        draw(names=(*NAMES, 'd'), per_class=1)


def test_counts_of_each_class():
    rows = draw(counts=(1, 30, 7))
    np.testing.assert_array_equal(np.bincount(LABELS[rows]), [1, 30, 7])
    with pytest.raises(UserError, match='has 2 numbers, and there are 3 classes'):
        draw(counts=(1, 2))
    with pytest.raises(UserError, match="31 of class 'b', which has only 30"):
        draw(counts=(1, 31, 1))


# --- the sampler of the released code ---------------------------------------------------------------------------------


@pytest.mark.parametrize(('rate', 'expected'), [(0.3, 16), (0.29, 15), (1.0, 50), (0.001, 1)])
def test_global_floor_plus_one(rate, expected):
    rows = draw(rate=rate, sampler='global_floor_plus_one')
    assert len(rows) == len(set(rows)) == expected
    order = list(zip(LABELS[rows], rows, strict=True))
    assert order == sorted(order)


def test_a_floor_in_floating_point_as_released():
    """0.29 * 100 is 28.999999999999996."""
    rows = draw(np.zeros(100, int), ('a',), rate=0.29, sampler='global_floor_plus_one')
    assert len(rows) == 1 + int(0.29 * 100) == 29


def test_it_is_a_uniform_draw_whatever_the_class():
    """Expected counts over many seeds are as the class sizes; strata would have no variance."""
    counts = np.array([
        np.bincount(LABELS[draw(rate=0.3, seed=seed, sampler='global_floor_plus_one')], minlength=3)
        for seed in range(400)
    ])  # fmt: skip
    mean, spread = counts.mean(0), counts.std(0)
    # Hypergeometric: 16 of 50, of which 10, 30 and 10 are of a class.
    np.testing.assert_allclose(mean, [3.2, 9.6, 3.2], atol=5 * 1.7 / 20)
    np.testing.assert_allclose(spread, [1.32, 1.62, 1.32], rtol=0.2)


# --- so many in all ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('total', 'sizes', 'expected'),
    [(400, [30] * 50, [8] * 50), (12, [1, 10, 10], [1, 5, 6]), (21, [1, 10, 10], [1, 10, 10]), (3, [5, 5, 5], [1] * 3)],
)
def test_images_in_all_are_spread_evenly(total, sizes, expected):
    found = splits.spread(total, np.array(sizes), 0)
    assert sum(found) == total and sorted(found) == sorted(expected)
    assert all(count <= size for count, size in zip(found, sizes, strict=True))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=8), st.data())
@settings(deadline=None, max_examples=100)
def test_no_class_gets_two_more_than_another_that_has_more(sizes, data):
    total = data.draw(st.integers(len(sizes), sum(sizes)))
    found = np.array(splits.spread(total, np.array(sizes), data.draw(st.integers(0, 3))))
    assert found.sum() == total and (found >= 1).all() and (found <= sizes).all()
    spare = found[found < sizes]
    assert not len(spare) or found.max() - spare.min() <= 1


def test_remainder_is_assigned_at_random():
    assert len({tuple(splits.spread(4, np.array([9, 9, 9]), seed)) for seed in range(20)}) == 3


@pytest.mark.parametrize('total', [2, 51])
def test_too_few_or_too_many_images_in_all(total):
    with pytest.raises(UserError, match=f'images={total} must be at least the number of classes, 3, and at most'):
        draw(images=total)


def test_images_in_all_are_drawn_of_each_class():
    rows = draw(images=12)
    assert len(set(rows)) == 12 and np.bincount(LABELS[rows]).tolist() == [4, 4, 4]


# --- to validate on ---------------------------------------------------------------------------------------------------


def test_validation_is_stratified_and_disjoint():
    rows = draw(counts=(10, 20, 1))
    learned, val = splits.validation(LABELS, rows, 0.2, seed=0)
    assert np.bincount(LABELS[val], minlength=3).tolist() == [2, 4, 0]  # a class of one has none to spare
    assert sorted([*learned, *val]) == sorted(rows)
    again = splits.validation(LABELS, rows, 0.2, seed=0)
    np.testing.assert_array_equal(again[1], val)
    assert set(splits.validation(LABELS, rows, 0.2, seed=1)[1]) != set(val)


@pytest.mark.parametrize(('share', 'expected'), [(0.01, [1, 1, 1]), (0.99, [1, 2, 3])])
def test_validation_leaves_something_on_both_sides(share, expected):
    rows = draw(counts=(2, 3, 4))
    learned, val = splits.validation(LABELS, rows, share, seed=0)
    assert np.bincount(LABELS[val]).tolist() == expected and np.bincount(LABELS[learned]).min() >= 1


def test_zero_validation_share_holds_nothing_out():
    rows = draw(per_class=3)
    learned, val = splits.validation(LABELS, rows, 0.0, seed=0)
    np.testing.assert_array_equal(learned, rows)
    assert len(val) == 0


def test_known_rows_of_a_draw():
    one = splits.Drawn(np.array([3, 1]), np.array([2]), np.array([7]))
    assert one.train.tolist() == [3, 1, 7] and sorted(one.known) == [1, 2, 3, 7]


# --- balanced ---------------------------------------------------------------------------------------------------------


def test_balanced_classes_are_equally_often_there_and_so_are_their_rows():
    rows = draw(counts=(3, 20, 7))
    found = rows[splits.balanced(LABELS[rows], seed=0)]
    assert np.bincount(LABELS[found]).tolist() == [20, 20, 20]
    for label, times in ((0, {6, 7}), (1, {1}), (2, {2, 3})):
        mine = found[LABELS[found] == label]
        assert set(mine) == set(rows[LABELS[rows] == label])
        assert set(np.unique(mine, return_counts=True)[1]) == times
    np.testing.assert_array_equal(found, rows[splits.balanced(LABELS[rows], seed=0)])
    equal = draw(per_class=4)
    np.testing.assert_array_equal(splits.balanced(LABELS[equal], 0), np.arange(12))


# --- some of the classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('total', 'wanted', 'expected'),
    [(200, 0.25, 50), (196, 0.25, 49), (102, 0.25, 26), (30, 0.3, 9), (10, 1.0, 10), (10, 3.0, 3), (10, 10.0, 10)],
)
def test_class_count(total, wanted, expected):
    assert splits.class_count(total, wanted) == expected


@pytest.mark.parametrize('wanted', [0.01, 11.0])
def test_class_count_out_of_range(wanted):
    with pytest.raises(UserError, match=f'classes={wanted:g} of 10 classes are'):
        splits.class_count(10, wanted)


def test_restricted_to_some_classes():
    data = Dataset('x', NAMES, LABELS.astype(np.int32), lambda rows: LABELS[rows], [f'id{k}' for k in range(50)])
    chosen = np.array([0, 2])
    some, rows = splits.restrict(data, chosen)
    assert some.classes == ('a', 'c') and some.labels.dtype == np.int32
    np.testing.assert_array_equal(some.labels, LABELS[rows] // 2)
    assert set(LABELS[rows]) == {0, 2} and len(rows) == 20
    assert list(some.ids) == [f'id{row}' for row in rows] and list(some.ids[2:4]) == [some.ids[2], some.ids[3]]
    np.testing.assert_array_equal(some.read(np.array([5, 0])), LABELS[rows[[5, 0]]])


def test_chosen_classes_are_the_same_for_a_seed_and_differ_between_seeds():
    chosen = [tuple(splits.choose_classes(200, 0.25, seed)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2] and len(set(chosen[0])) == 50
    assert list(chosen[0]) == sorted(chosen[0])
