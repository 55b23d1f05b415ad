"""The cost of a precision, counted by hand."""

import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.export.cost import cost


def rows(*pairs):
    return np.array(pairs, np.float32)


def test_classification_counts_images():
    before = rows((0.9, 0.1), (0.2, 0.8), (0.6, 0.4), (0.3, 0.7))
    after = rows((0.8, 0.2), (0.7, 0.3), (0.4, 0.6), (0.3, 0.7))
    found = cost([0, 1, 1, 0], before, after)
    assert found[:7] == (4, 'accuracy', 0.5, 0.5, 1, 1, 2)
    assert found.largest == pytest.approx(0.5)


def test_several_labels_count_each_label():
    found = cost([[1, 0], [0, 1]], rows((0.9, 0.1), (0.1, 0.4)), rows((0.4, 0.1), (0.1, 0.6)), 'multi_label')
    assert found[:7] == (2, 'share of right labels', 0.75, 0.75, 1, 1, 2)


def test_numbers_are_compared_in_units_of_their_spread():
    labels = np.array([[0.0], [2.0], [4.0]])  # of standard deviation 1.63
    found = cost(labels, labels + 1, labels + rows((1.5,), (1.0,), (1.01,)), 'regression')
    assert found[1:3] == ('mean absolute error', 1.0) and found.after == pytest.approx(3.51 / 3)
    assert (found.lost, found.gained, found.changed) == (0, 0, 1) and found.largest == pytest.approx(0.5)


def test_images_are_needed():
    with pytest.raises(UserError, match='there are none'):
        cost([], np.zeros((0, 3)), np.zeros((0, 3)))
