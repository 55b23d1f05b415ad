"""The measurement of the search: its draws, its area under the curve, and its table."""

import numpy as np
import pytest

from reproduction import best
from reproduction.best import Cell


def test_a_draw_leaves_two_classes_out_and_tests_on_the_rest():
    data = best.load('digits')
    one, again = best.draw(data, Cell('digits', 3, 5, 1)), best.draw(data, Cell('digits', 3, 20, 1))
    np.testing.assert_array_equal(one.rows, again.rows)  # the minutes change nothing
    learned, tested = set(data.label[one.rows]), set(one.label)
    assert len(one.rows) == 24 and learned == tested and len(learned) == 8
    assert len(one.test) + len(one.unknown) + 24 == len(data.label)
    other = best.draw(data, Cell('digits', 3, 5, 2))
    assert set(one.rows) != set(other.rows)


def test_the_area_is_the_share_of_pairs_in_order():
    known, unknown = np.array([0.9, 0.5, 0.7]), np.array([0.5, 0.6])
    assert best.area(known, unknown) == pytest.approx((2 + 0.5 + 2) / 6)
    assert best.area(unknown, known) == pytest.approx(1 - 4.5 / 6)


def test_the_table_has_paired_differences_and_regret():
    def cell(draw, ours, theirs):
        return {
            **Cell('digits', 3, 5, draw)._asdict(), 'hindsight': max(ours, theirs), 'covered': True, 'seconds': 120,
            'accuracy': {'best': ours, 'scikit-learn': theirs, 'fine-tuning': 0.5},
            'calibration': [0.2, 0.1], 'unknown': 0.75,
        }  # fmt: skip

    row = best.table([cell(0, 0.8, 0.75), cell(1, 0.7, 0.72)]).splitlines()[2].split(' | ')
    assert row[0] == '| digits, 3, 5' and row[1] == '2' and row[2] == '75.00 +- 7.07'
    assert row[5] == '+1.50 +- 3.50' and row[6] == '1.00' and row[7] == '2 of 2' and row[8] == '20.0 to 10.0'
