"""The steps at which something is due, and the number of steps in a call of the compiled program.

Everything here is a function of the config and the step's number, so a restarted run logs, evaluates and saves at the
same steps as one that was never stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import jax

from mixjax.method import Phase

MOST_STEPS_A_CALL = 25  # where convolutions in a loop are not slow


def calls(config: Any, step: int, period: int = 1, starts: Sequence[int] = ()) -> Iterator[tuple[int, int]]:
    """Yield (step, count) for each call of the training program from `step` on: `count` steps that begin with `step`.

    Args:
      config: the run's config.
      step: the first step.
      period: the method's `Method.period`.
      starts: the first steps of the method's phases (`phase_starts`).
    """
    most = config.dispatch or (1 if jax.default_backend() == 'cpu' else steps_a_call(config, period, starts))
    while step < config.steps:
        stop = next_stop(config, step, period, starts)
        count = most if step + most <= stop else 1
        yield step, count
        step += count


def steps_a_call(config: Any, period: int = 1, starts: Sequence[int] = ()) -> int:
    """Return the steps of a call, up to `MOST_STEPS_A_CALL`, with the fewest calls: 20 if every 20th step is logged."""
    stops = [0]
    while stops[-1] < config.steps:
        stops.append(next_stop(config, stops[-1], period, starts))
    stretches = Counter(b - a for a, b in pairwise(stops))

    def number(count: int) -> int:
        return sum(times * (length // count + length % count) for length, times in stretches.items())

    return min(range(1, MOST_STEPS_A_CALL + 1), key=number)


def next_stop(config: Any, step: int, period: int = 1, starts: Sequence[int] = ()) -> int:
    """Return the next step after which the host has something to do between two calls, or another phase begins."""
    every = (config.eval_every, config.checkpoint_every)
    later = [at for at in (*snapshots(config), *starts) if at > step]
    next_line = max(step + 1, window_end(config, step + 1) - period + 1)
    return min(config.steps, next_line, *((step // n + 1) * n for n in every), *later)


def logged(config: Any, step: int, period: int = 1) -> bool:
    """Return whether the metrics of a step are logged.

    The last `period` steps up to each multiple of `log_every`, and up to the end, are logged, so every kind of batch
    of a method that alternates is logged for any `log_every`.
    """
    return window_end(config, step) - step < period


def window_end(config: Any, step: int) -> int:
    """Return the first step from this one on that every method logs: a multiple of `log_every`, or the last step."""
    return min(config.steps, -(-step // config.log_every) * config.log_every)


def evaluated(config: Any, step: int) -> bool:
    """Return whether the network is evaluated after this step."""
    return step % config.eval_every == 0 or step == config.steps


def saved(config: Any, step: int) -> bool:
    """Return whether a checkpoint is saved after this step."""
    return step % config.checkpoint_every == 0 or step == config.steps


def snapshots(config: Any) -> list[int]:
    """Return the steps after which the first seed's network is kept, apart from the checkpoints."""
    return sorted({max(1, round(share * config.steps)) for share in config.snapshots})


# --- phases -----------------------------------------------------------------------------------------------------------


def phase_starts(phases: Sequence[Phase], steps: int) -> tuple[int, ...]:
    """Return the first step of each phase of a run of so many steps; a phase may be too short to have a step."""
    return tuple(round(sum(phase.share for phase in phases[:k]) * steps) for k in range(len(phases)))


def phase_at(starts: Sequence[int], step: int) -> int:
    """Return the number of the phase that a step belongs to."""
    return max(k for k, start in enumerate(starts) if start <= step)
