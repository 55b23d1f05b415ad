"""Curves: means over seeds, and few enough points."""

import numpy as np
import pytest

from mixjax.report import curves
from mixjax.report.read import Run


def run(lines):
    return Run('a', {}, {}, tuple(lines), None, None)


def lines(values, kind='eval', name='accuracy'):
    """values: {seed: {step: value}}."""
    return [
        {'seed': seed, 'step': step, 'kind': kind, name: value}
        for seed, found in values.items()
        for step, value in found.items()
    ]


def test_mean_and_band_over_seeds():
    (found,) = curves.series(run(lines({0: {10: 0.5, 20: 0.7}, 1: {10: 0.7, 20: 0.7}})), 3, 'eval', 'accuracy', 100.0)
    assert found.colour == 3 and found.x == (10, 20)
    assert found.mean == pytest.approx((60, 70))
    assert np.subtract(found.high, found.mean) == pytest.approx((np.std([50, 70], ddof=1), 0))
    assert np.subtract(found.mean, found.low) == pytest.approx((np.std([50, 70], ddof=1), 0))


def test_only_steps_that_every_seed_logged():
    assert curves.by_step(run(lines({0: {10: 0.1, 20: 0.2}, 1: {20: 0.4}})), 'eval', 'accuracy') == {20: [0.2, 0.4]}


def test_other_kinds_and_odd_values_are_left_out():
    odd = [*lines({0: {10: float('nan'), 20: 1.0}}), *lines({0: {30: 9.0}}, kind='train'), *lines({0: {40: None}})]
    assert curves.by_step(run(odd), 'eval', 'accuracy') == {20: [1.0]}
    assert curves.series(run([]), 1, 'eval', 'accuracy') == []


def test_a_step_logged_twice_counts_once():
    assert curves.by_step(run(lines({0: {10: 0.1}}) + lines({0: {10: 0.3}})), 'eval', 'accuracy') == {10: [0.3]}


def alternating(steps):
    """Two seeds that log 'original' at odd steps and 'mixed' at even ones; values: step, and 10 more for seed 1."""
    return [
        {
            'seed': seed,
            'step': s,
            'kind': 'train',
            'batch_kind': 'original' if s % 2 else 'mixed',
            'loss': s + 10 * seed,
        }
        for seed in (0, 1)
        for s in steps
    ]


def test_a_method_that_alternates_has_a_curve_for_each_kind_of_batch():
    found = curves.series(run(alternating([3, 4, 7, 8])), 2, 'train', 'loss')
    assert [(one.label, one.x) for one in found] == [('a, original', (3, 7)), ('a, mixed', (4, 8))]
    assert found[0].mean == (8, 12) and len({one.colour for one in found}) == 2
    baseline = curves.series(run(alternating([3, 4])), 0, 'train', 'loss')
    assert [one.colour for one in baseline] == [0, 0]


def test_the_mean_over_kinds_of_batch_waits_for_all_of_them():
    assert curves.of_lines(alternating([3, 4, 7, 8]), 'train', 'loss') == {4: [3.5, 13.5], 8: [7.5, 17.5]}
    # Every step logged, and a last one without its pair.
    assert curves.of_lines(alternating([1, 2, 3]), 'train', 'loss') == {2: [1.5, 11.5]}


def test_lines_without_a_batch_kind_stay_as_they_are():
    """A file that an older version began."""
    old = [{'seed': seed, 'step': 2, 'kind': 'train', 'loss': 1.0} for seed in (0, 1)]
    assert curves.of_lines(old, 'train', 'loss') == {2: [1.0, 1.0]}
    assert curves.of_lines([*old, *alternating([3, 4])], 'train', 'loss') == {2: [1.0, 1.0], 4: [3.5, 13.5]}
    strange = [{**line, 'batch_kind': ['x']} for line in alternating([3, 4])]
    assert curves.of_lines([*old, *strange], 'train', 'loss') == {2: [1.0, 1.0]}


@pytest.mark.parametrize('n', [1, 2, 119, 120, 121, 239, 240, 9000])
def test_thinning_keeps_the_mean_and_the_last_point(n):
    curve = {step: [float(step), 2.0 * step] for step in range(1, n + 1)}
    points = curves.thin(curve)
    assert len(points) <= curves.MOST
    assert points[-1] == (n, [n, 2 * n])
    assert all(values == pytest.approx([step, 2 * step]) for step, values in points)
    assert [step for step, _ in points] == sorted({step for step, _ in points})


def test_the_baseline_has_the_first_colour():
    runs = [Run(label, {}, {}, (), None, None) for label in ('a', 'b', 'c')]
    assert curves.colours(runs, 'b') == {'b': 0, 'a': 1, 'c': 2}
    assert curves.colours(runs[:1], None) == {'a': 1}
