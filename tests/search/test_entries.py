"""An entry is compared by its accuracy, and by the log loss that it has once its probabilities are calibrated."""

import numpy as np
import pytest

from mixjax.maths import selection
from mixjax.search import entries, folds

LABELS = np.repeat(np.arange(3), 8)
FOLDS = folds.draw(LABELS, np.arange(24), count=4, repeats=2)


def logits(scale=1.0, seed=0):
    """Logits of both repeats, (2, 24, 3): right for five of six."""
    noise = np.random.RandomState(seed).randn(2, 24, 3)
    return (scale * (2 * np.eye(3)[LABELS] + noise)).astype(np.float32)


def test_overconfidence_does_not_lose_a_comparison():
    """Ten times the logits are the same classifier, which would get a tenth of the temperature."""
    plain, sure = (entries.make('a', 0, {}, logits(scale), LABELS, FOLDS) for scale in (1.0, 10.0))
    np.testing.assert_array_equal(plain.correct, sure.correct)
    np.testing.assert_allclose(plain.loss, sure.loss, rtol=1e-3)
    raw = selection.log_loss(logits(10.0).reshape(48, 3), np.tile(LABELS, 2)).mean()
    assert raw > 2 * sure.loss.mean()


def test_an_entry_has_the_repeats_of_which_all_folds_are_there():
    some = logits()
    some[1, FOLDS.held[:, 1, 0]] = np.nan  # the second repeat's first fold was not run
    entry = entries.make('a', 0, {}, some, LABELS, FOLDS)
    assert entry.repeats == 1
    assert np.isnan(entry.correct[1]).sum() == FOLDS.held[:, 1, 0].sum()
    there = ~np.isnan(some[..., 0])
    expected = some[there].argmax(-1) == np.broadcast_to(LABELS, (2, 24))[there]
    assert np.nanmean(entry.correct) == pytest.approx(expected.mean())
