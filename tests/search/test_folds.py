"""Folds: every image is left out once, copies stay together, and all folds learn from as many."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mixjax.search import folds


@st.composite
def folders(draw):
    labels = np.array(draw(st.lists(st.integers(0, 4), min_size=4, max_size=40)))
    labels = np.unique(labels, return_inverse=True)[1]
    groups = np.arange(len(labels))
    for _ in range(draw(st.integers(0, 6))):
        one, other = sorted(draw(st.tuples(*[st.integers(0, len(labels) - 1)] * 2)))
        groups[groups == groups[other]] = groups[one]
    return labels, groups


@given(folders(), st.integers(2, 5), st.integers(1, 3))
def test_folds_keep_their_promises(folder, count, repeats):
    labels, groups = folder
    found = folds.draw(labels, groups, count=count, repeats=repeats)
    assert found.held.shape == (len(labels), repeats, count)
    times = found.held.sum(2)
    assert set(np.unique(times)) <= {0, 1}
    assert (times == times[:, :1]).all()  # in every repeat the same ones
    for group in np.unique(groups):  # copies are on one side
        assert len(np.unique(found.held[groups == group].reshape(sum(groups == group), -1), axis=0)) == 1
    sizes = {len(rows) for rows in found.learned}
    assert len(sizes) == 1
    for fold in range(repeats * count):
        out = np.flatnonzero(found.of(fold))
        assert not np.isin(found.learned[fold], out).any()
        assert set(labels[found.learned[fold]]) == set(labels[~found.of(fold)])  # no class is lost by making them equal
        assert np.array_equal(np.sort([*found.learned[fold], *found.tested(fold)]), np.arange(len(labels)))


def test_classes_are_spread_evenly():
    labels = np.repeat(np.arange(3), 20)
    found = folds.draw(labels, np.arange(60), count=5, repeats=2)
    for fold in range(10):
        assert np.bincount(labels[found.of(fold)]).tolist() == [4, 4, 4]
        assert len(found.learned[fold]) == 48
    assert found.measured.all()
    first, second = (found.held[:, r].argmax(1) for r in range(2))
    assert (first != second).any()  # drawn anew


def test_the_only_image_of_a_class_is_always_learned_from():
    found = folds.draw(np.array([0, 0, 0, 1]), np.arange(4), count=3, repeats=1)
    assert found.measured.tolist() == [True, True, True, False]
    assert all(3 in rows for rows in found.learned)
