"""Times of several ways of doing something, measured in turn, so that other work on the machine disturbs all alike.

Times are given as the median and the quartiles. Ratios within a round are judged: a disturbance that lasts
longer than a round affects both of its parts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

HOLDS, MISSED, OPEN = 'holds', 'missed', 'not judged'
NO_GPU = 'there is no GPU here'


def interleaved(
    calls: Mapping[str, Callable[[], object]], rounds: int, repeats: int = 1, pause: float = 0.0
) -> dict[str, np.ndarray]:
    """Return the seconds of one call of each way: (rounds,). A call must wait for its work to end.

    Every way is called once before, to be compiled. Every other round goes backwards, so that no way always
    follows the same one.

    Args:
      calls: {name of a way: function}.
      rounds: number of rounds.
      repeats: calls in a row of one way in one round.
      pause: seconds after them, for work in the background.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(rounds):
        for name in list(calls)[:: -1 if k % 2 else 1]:
            call, start = calls[name], time.perf_counter()
            for _ in range(repeats):
                call()
            times[name].append((time.perf_counter() - start) / repeats)
            time.sleep(pause)
    return {name: np.array(found) for name, found in times.items()}


class Spread(NamedTuple):
    """The median, the quartiles, and the standard error of the median of some numbers."""

    median: float
    low: float
    high: float
    error: float


def spread(found: np.ndarray) -> Spread:
    low, median, high = np.quantile(found, [0.25, 0.5, 0.75])
    # The quartiles of a normal distribution are 1.349 sigma apart, and the median's error is 1.2533 sigma / sqrt(n).
    return Spread(float(median), float(low), float(high), float(1.2533 * (high - low) / 1.349 / len(found) ** 0.5))


def ratio(found: np.ndarray, to: np.ndarray) -> Spread:
    """Return the spread of the ratios in the rounds."""
    return spread(found / to)


class Verdict(NamedTuple):
    """A verdict.

    what: one sentence with the target in it.
    found: the number.
    verdict: of `judged`, and the reason if it is open.
    """

    what: str
    found: str
    verdict: str
    why: str = ''


def judged(what: str, found: Spread, target: float, digits: int = 2) -> Verdict:
    """Judge whether `found` is at most `target`. Above it by less than two standard errors it is open."""
    text = f'{found.median:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})'
    if found.median <= target:
        return Verdict(what, text, HOLDS)
    if found.median - 2 * found.error <= target:
        return Verdict(what, text, OPEN, 'above the target by less than the noise; run it again on an idle machine')
    return Verdict(what, text, MISSED)


def at_least(what: str, found: Spread, target: float, digits: int = 2) -> Verdict:
    """Judge whether `found` is at least `target`."""
    mirrored = judged(what, Spread(-found.median, -found.high, -found.low, found.error), -target)
    text = f'{found.median:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})'
    why = mirrored.why.replace('above', 'below')
    return mirrored._replace(found=text, why=why)


def unjudged(what: str, why: str) -> Verdict:
    return Verdict(what, '', OPEN, why)
