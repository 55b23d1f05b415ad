"""The statistics of a choice: planted accuracies come back, and the flattery of a choice is taken off."""

import math

import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.maths import selection


def scores(correct, groups=None):
    n = len(correct)
    return selection.Scores(
        correct.astype(float), 1 - correct.astype(float), np.arange(n) if groups is None else groups
    )


def test_a_clear_lead_is_taken_and_one_by_chance_is_left_to_the_loss():
    right = np.tile([[1.0, 0.0, 1.0]], (20, 1))
    right[0] = [0.0, 1.0, 1.0]  # the third is ahead of the first by one image of 20
    loss = np.tile([[0.1, 0.01, 0.3]], (20, 1))
    assert selection.choose(selection.Scores(right, loss, np.arange(20))) == 0
    right[:9, 0] = 0.0  # and now by nine
    assert selection.choose(selection.Scores(right, loss, np.arange(20))) == 2
    assert selection.choose(selection.Scores(right, 0 * loss, np.arange(20))) == 2


def test_wilson_has_the_published_form():
    low, high = selection.wilson(0.5, 10, 1.96)
    assert (low, high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert selection.wilson(1.0, 5)[1] == 1.0 and selection.wilson(0.0, 5)[0] == 0.0
    assert selection.wilson(1.0, 5)[0] < 0.7


def test_the_flattery_of_a_choice_among_guesses_is_taken_off():
    random = np.random.RandomState(0)
    chosen, corrected = [], []
    for _ in range(20):  # 30 classifiers that are right half of the time, on 60 examples
        found = scores(random.rand(60, 30) < 0.5)
        chosen.append(found.correct.mean(0).max())
        corrected.append(selection.bias_corrected(found, draws=200))
    assert np.mean(chosen) > 0.6
    assert abs(np.mean(corrected) - 0.5) < 0.03


def test_a_choice_that_was_none_loses_nothing():
    found = scores(np.random.RandomState(1).rand(400, 1) < 0.8)
    assert abs(selection.bias_corrected(found) - found.correct.mean()) < 0.002


def test_a_group_is_in_a_sample_as_a_whole():
    right = np.repeat(np.random.RandomState(2).rand(40, 2) < 0.5, 5, axis=0)
    groups = np.repeat(np.arange(40), 5)
    one, other = selection.bias_corrected(scores(right, groups)), selection.bias_corrected(scores(right[::5]))
    assert one == pytest.approx(other, abs=1e-12)  # five copies of an example are one example
    with pytest.raises(UserError, match='one group'):
        selection.bias_corrected(scores(right, np.zeros(200, int)))


def test_a_lead_has_the_standard_error_of_paired_differences():
    random = np.random.RandomState(3)
    one, other = random.rand(200) < 0.8, random.rand(200) < 0.6
    found = selection.lead(one.astype(float), other.astype(float), np.arange(200))
    gap = one.astype(float) - other
    assert found.mean == pytest.approx(gap.mean())
    assert found.stderr == pytest.approx(gap.std(ddof=1) / math.sqrt(200))
    assert found.clear
    copies = selection.lead(np.tile(one, 3) * 1.0, np.tile(other, 3) * 1.0, np.tile(np.arange(200), 3))
    assert copies.stderr == pytest.approx(found.stderr)  # copies make nothing surer
    assert not selection.lead(other * 1.0, one * 1.0, np.arange(200)).clear


def test_the_temperature_of_planted_probabilities_comes_back():
    random = np.random.RandomState(4)
    logits = random.randn(4000, 5) * 2
    p = np.exp(selection.log_softmax(logits))
    labels = (p.cumsum(1) > random.rand(4000, 1)).argmax(1)
    assert selection.fit_temperature(logits, labels) == pytest.approx(1.0, abs=0.06)
    assert selection.fit_temperature(3 * logits, labels) == pytest.approx(3.0, abs=0.2)
    before, after = (selection.calibration(3 * logits, labels, t) for t in (1.0, 3.0))
    assert after.error < 0.03 < 0.1 < before.error and after.brier < before.brier


def test_calibration_of_two_bins_is_that_by_hand():
    # Two examples of 0.9, one of them right; two of 0.6, both right.
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]]))
    found = selection.calibration(logits, np.array([0, 1, 0, 0]), bins=10)
    assert found.error == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert found.brier == pytest.approx((0.02 + 1.62 + 0.32 + 0.32) / 4)
    assert [n for _, _, n in found.bins] == [2, 2]


def test_a_threshold_gives_up_the_share_that_was_said():
    random = np.random.RandomState(5)
    logits = random.randn(1000, 4)
    threshold = selection.rejection_threshold(logits, 0.05, 0.5)
    sure = np.exp(selection.log_softmax(logits / 0.5)).max(1)
    assert (sure < threshold).sum() in (49, 50)


def test_a_power_law_comes_back_and_more_labels_never_harm():
    counts = np.array([50, 100, 200])
    law = selection.growth(counts, 1 - 2.0 * counts**-0.5)
    assert (law.scale, law.rate) == pytest.approx((2.0, 0.5))
    assert law.accuracy(400) == pytest.approx(1 - 0.1)
    assert selection.growth(counts, np.array([0.9, 0.85, 0.8])).rate == 0
    assert selection.growth(counts, np.ones(3)).accuracy(400) > 0.99
