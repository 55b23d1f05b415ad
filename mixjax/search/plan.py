"""The plan of a search: which trials are made, with how many steps and folds, from measured times.

It is successive halving over folds. All trials are run on the first folds; those that are ahead go on to further folds,
and the last ones have seen them all. Every trial has the same number of epochs, chosen so that the time is enough: with
few images many, since it is steps that a network needs to learn its classes, and these are cheap then.
A plan is made once and then carried out as it stands, whatever the clock says, so that a search that was killed ends
with the same choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

EPOCHS = (1000, 500, 250, 120, 60, 30, 20, 12, 8, 5, 3)  # passes over the labelled images of a fold
USUAL = 30  # epochs; more of them only up to `MOST_STEPS`
LEAST_STEPS, GOOD_STEPS, MOST_STEPS = 20, 200, 1000
ENOUGH = 4  # trials for which fewer steps are accepted
JUDGED = 40  # images that a trial is measured on before two thirds of the trials end
SPARE = 0.85  # share of the time that is planned: the machine may become slower
KEPT = 3  # of how many trials one goes on
STOPS = 10  # checkpoints of a trial


class Trial(NamedTuple):
    """A network, a method, and a factor of its learning rate.

    Attributes:
      label: its name, and that of its folder.
      network: the place of the network among those of the search.
      method: name of the method.
      freeze: parts of the network that stay as they are, as `config.optim.freeze`.
      factor: of the learning rate.
      step: seconds of a step, measured.
      start: seconds of a run besides its steps, measured: compilation, above all.
      fold: seconds of a fold besides its steps, measured: preparation, evaluation.
    """

    label: str
    network: int
    method: str
    freeze: tuple[str, ...]
    factor: float
    step: float
    start: float
    fold: float

    def seconds(self, steps: int, folds: int) -> float:
        return self.start + folds * (self.fold + steps * self.step)


class Rung(NamedTuple):
    """A stage of the search.

    Attributes:
      trials: how many trials take part.
      folds: the folds they are run on.
    """

    trials: int
    folds: tuple[int, ...]


class Plan(NamedTuple):
    """The trials of a search, and the rungs on which they are run.

    Attributes:
      trials: all trials, the most promising first.
      epochs, steps, last_steps: epochs of a trial, its steps on a fold, and steps of the winner on all images.
      rungs: the stages; () where nothing but the probes can be had in the time.
      seconds: how long all of it is expected to take.
    """

    trials: tuple[Trial, ...]
    epochs: int
    steps: int
    last_steps: int
    rungs: tuple[Rung, ...]
    seconds: float


def steps_of(epochs: int, images: int, batch: int) -> int:
    """Return the steps of so many passes over the images, `LEAST_STEPS` at least."""
    return max(LEAST_STEPS, math.ceil(epochs * images / batch))


def lengths(learned: int, batch: int) -> list[tuple[int, int]]:
    """Return the lengths that a trial may have, as (epochs, steps)."""
    every = [(epochs, steps_of(epochs, learned, batch)) for epochs in EPOCHS]
    return [(epochs, steps) for epochs, steps in every if epochs <= USUAL or steps <= MOST_STEPS]


def ladder(trials: int, folds: int, repeats: int, first: int = 2) -> tuple[Rung, ...]:
    """Return the rungs for a number of trials.

    The first folds show which trials are far behind; each further rung has two times the folds of all before it, and a
    third of the trials. The last rung is made of all folds of whole repeats.

    Args:
      trials: number of trials.
      folds: number of folds of a repeat.
      repeats: number of repeats that the last rung sees.
      first: number of folds of the first rung.

    Example:
      >>> ladder(6, 5, 1)
      (Rung(trials=6, folds=(0, 1)), Rung(trials=2, folds=(2, 3, 4)))
      >>> ladder(1, 3, 2)
      (Rung(trials=1, folds=(0, 1, 2, 3, 4, 5)),)
    """
    rungs, start, every = [], 0, folds * repeats
    while trials > 2:
        end = 3 * start if start else first
        if end >= every:
            break
        rungs.append(Rung(trials, tuple(range(start, end))))
        trials, start = math.ceil(trials / KEPT), end
    return (*rungs, Rung(trials, tuple(range(start, every))))


def cost(trials: Sequence[Trial], rungs: Sequence[Rung], steps: int, last_steps: int) -> float:
    """Return the seconds of a plan, where the slowest trials go on: at most so much."""
    slowest = sorted(trials, key=lambda one: -one.seconds(steps, 1))
    total = sum(one.seconds(steps, len(rungs[0].folds)) for one in trials)
    for rung in rungs[1:]:
        total += sum(one.seconds(steps, len(rung.folds)) for one in slowest[: rung.trials])
    return total + max(one.seconds(last_steps, 1) for one in trials)


def make(
    trials: Sequence[Trial], *, seconds: float, images: int, learned: int, batch: int, folds: int, repeats: int
) -> Plan:
    """Make the plan that uses the time best.

    Of all plans that fit, the one that has, in this order: enough trials (`ENOUGH`); steps enough to learn something
    (`GOOD_STEPS`); a first rung that measures each trial on enough images (`JUDGED`); more repeats of the folds; more
    epochs; more trials.

    Args:
      trials: all that there are, the most promising first.
      seconds: the time that is left.
      images: number of labelled images.
      learned: number of images that a fold learns from.
      batch: size of a batch.
      folds: folds of a repeat.
      repeats: repeats of the folds.
    """
    judged = max(2, math.ceil(JUDGED / max(1, images - learned)))
    best: tuple[tuple[int, ...], Plan] = ((), Plan((), 0, 0, 0, (), 0.0))
    for (epochs, steps), count, repeat, first in itertools.product(
        lengths(learned, batch), range(1, len(trials) + 1), range(1, repeats + 1), sorted({2, judged})
    ):
        rungs, last = ladder(count, folds, repeat, first), steps_of(epochs, images, batch)
        needed = cost(trials[:count], rungs, steps, last)
        worth = min(count, ENOUGH), min(steps, GOOD_STEPS), first, repeat, epochs, count
        if needed <= SPARE * seconds and worth > best[0]:
            best = worth, Plan(tuple(trials[:count]), epochs, steps, last, rungs, needed)
    return best[1]


def to_data(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON has it."""
    return {
        **plan._asdict(),
        'trials': [{**one._asdict(), 'freeze': list(one.freeze)} for one in plan.trials],
        'rungs': [{'trials': rung.trials, 'folds': list(rung.folds)} for rung in plan.rungs],
    }


def from_data(data: dict[str, Any]) -> Plan:
    """Return the plan that `to_data` wrote."""
    trials = tuple(Trial(**{**one, 'freeze': tuple(one['freeze'])}) for one in data['trials'])
    rungs = tuple(Rung(one['trials'], tuple(one['folds'])) for one in data['rungs'])
    return Plan(**{**data, 'trials': trials, 'rungs': rungs})
