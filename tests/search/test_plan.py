"""Plans fit the time, use it, and survive the way through JSON."""

import json

from hypothesis import given
from hypothesis import strategies as st

from mixjax.search import plan
from mixjax.search.plan import Rung, Trial

ROOM = {'images': 100, 'learned': 80, 'batch': 16, 'folds': 5, 'repeats': 2}


def trial(step=0.1, start=5.0, fold=0.5, label='a'):
    return Trial(label, 0, 'lpft', ('stem',), 1.0, step, start, fold)


def test_every_rung_sees_new_folds_and_fewer_trials():
    assert plan.ladder(9, 5, 2) == (Rung(9, (0, 1)), Rung(3, (2, 3, 4, 5)), Rung(1, (6, 7, 8, 9)))
    assert plan.ladder(2, 5, 1) == (Rung(2, (0, 1, 2, 3, 4)),)
    assert plan.ladder(4, 2, 1) == (Rung(4, (0, 1)),)  # there is nothing to halve over
    for trials in range(1, 20):
        rungs = plan.ladder(trials, 5, 1)
        assert [fold for rung in rungs for fold in rung.folds] == list(range(5))


def test_a_plan_costs_what_its_runs_cost():
    rungs = (Rung(2, (0, 1)), Rung(1, (2,)))
    slow, fast = trial(1.0, 10.0, 2.0), trial(0.1, 1.0, 1.0)
    # Both on two folds, the slower one on the third, and the slower one at the end.
    both = (10 + 2 * (2 + 20)) + (1 + 2 * (1 + 2))
    assert plan.cost([slow, fast], rungs, 20, 25) == both + (10 + 2 + 20) + (10 + 2 + 25)


@given(st.floats(1, 20_000), st.floats(0.001, 5), st.floats(0, 60), st.integers(1, 9))
def test_a_plan_fits_and_more_time_gives_no_less(seconds, step, start, many):
    every = [trial(step, start, label=str(k)) for k in range(many)]
    found = plan.make(every, seconds=seconds, **ROOM)
    assert found.seconds <= plan.SPARE * seconds
    assert plan.from_data(json.loads(json.dumps(plan.to_data(found)))) == found
    longer = plan.make(every, seconds=2 * seconds, **ROOM)
    assert min(len(longer.trials), plan.ENOUGH) >= min(len(found.trials), plan.ENOUGH)
    if found.rungs:
        assert found.rungs[0].trials == len(found.trials)


def test_without_time_for_one_trial_there_is_none():
    found = plan.make([trial(step=10.0)], seconds=60, **ROOM)
    assert found.rungs == () and found.trials == ()


def test_epochs_come_before_more_than_enough_trials():
    many = [trial(label=str(k)) for k in range(12)]
    needed = plan.cost(many[:4], plan.ladder(4, 5, 1), plan.steps_of(30, 80, 16), plan.steps_of(30, 100, 16))
    found = plan.make(many, seconds=needed / plan.SPARE + 1, **ROOM)
    assert found.epochs == 30 and 4 <= len(found.trials) < 12


def test_a_handful_of_images_is_passed_over_often_and_measured_before_it_is_judged():
    few = {'images': 24, 'learned': 19, 'batch': 16, 'folds': 5, 'repeats': 3}
    cheap = [trial(0.004, 5.0, 0.05, str(k)) for k in range(9)]
    found = plan.make(cheap, seconds=300, **few)
    assert plan.GOOD_STEPS <= found.steps <= plan.MOST_STEPS and found.epochs > plan.USUAL
    assert len(found.rungs[0].folds) * 5 >= plan.JUDGED  # a fold is measured on five images
    assert len(found.trials) >= plan.ENOUGH


def test_the_passes_over_many_images_are_bounded():
    assert max(plan.lengths(19, 16))[1] == plan.steps_of(500, 19, 16)  # 1,000 epochs would be 1,188 steps
    assert max(plan.lengths(800, 32)) == (30, 750)
    assert max(plan.lengths(80_000, 32)) == (30, 75_000)
