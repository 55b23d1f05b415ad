"""The plan of a search: which trials are made, with how many steps and folds, from measured times.

It is successive halving over folds. All trials are run on the first folds; those that are ahead go on to further folds,
and the last ones have seen them all. Every trial has the same number of epochs, chosen so that the time is enough.
A plan is made once and then carried out as it stands, whatever the clock says, so that a search that was killed ends
with the same choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

EPOCHS = (30, 20, 12, 8, 5, 3)  # passes over the labelled images of a fold
LEAST_STEPS = 20
ENOUGH = 4  # trials for which fewer epochs are accepted; beyond it, epochs come first
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


def ladder(trials: int, folds: int, repeats: int) -> tuple[Rung, ...]:
    """Return the rungs for a number of trials.

    Two folds show which trials are far behind; so each rung has two times the folds of all before it, and a third of
    the trials. The last rung is made of all folds of whole repeats.

    Args:
      trials: number of trials.
      folds: number of folds of a repeat.
      repeats: number of repeats that the last rung sees.

    Example:
      >>> ladder(6, 5, 1)
      (Rung(trials=6, folds=(0, 1)), Rung(trials=2, folds=(2, 3, 4)))
      >>> ladder(1, 3, 2)
      (Rung(trials=1, folds=(0, 1, 2, 3, 4, 5)),)
    """
    rungs, first, every = [], 0, folds * repeats
    while trials > 2:
        end = max(2, 3 * first) if first else 2
        if end >= every:
            break
        rungs.append(Rung(trials, tuple(range(first, end))))
        trials, first = math.ceil(trials / KEPT), end
    return (*rungs, Rung(trials, tuple(range(first, every))))


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

    The most epochs with which `ENOUGH` trials fit are taken, and with these as many trials and repeats as fit. If so
    many fit with none, the plan is that of the most trials, and of these of the most epochs.

    Args:
      trials: all that there are, the most promising first.
      seconds: the time that is left.
      images: number of labelled images.
      learned: number of images that a fold learns from.
      batch: size of a batch.
      folds: folds of a repeat.
      repeats: repeats of the folds.
    """
    found: list[tuple[tuple[int, int], Plan]] = []
    for epochs in EPOCHS:
        steps, last = steps_of(epochs, learned, batch), steps_of(epochs, images, batch)
        fits = [
            (count, repeat, rungs, needed)
            for count in range(len(trials), 0, -1)
            for repeat in range(repeats, 0, -1)
            if (needed := cost(trials[:count], rungs := ladder(count, folds, repeat), steps, last)) <= SPARE * seconds
        ]
        if fits:
            count, _, rungs, needed = fits[0]
            plan = Plan(tuple(trials[:count]), epochs, steps, last, rungs, needed)
            found.append(((min(count, ENOUGH, len(trials)), epochs), plan))
    if not found:
        return Plan((), 0, 0, 0, (), 0.0)
    return max(found, key=lambda one: one[0])[1]


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
