"""Stop, or skip a step, on a loss or gradient that is NaN or infinite.

Nothing is fetched from the devices for this alone: the metrics of the steps since the last check stay there, a few
numbers each, and are all checked where the host fetches a loss anyway.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from mixjax.errors import UserError
from mixjax.train.step import TrainState, variables
from mixjax.train.transfer import to_host

Tree = Any
CHOICES = ('stop', 'skip')  # values of config.on_nan
MOST_SKIPPED = 20  # calls in a row without a good step, after which a run that skips them ends
ALWAYS = ('loss', 'grad_norm')  # these must be finite; a metric of a method need not


class NanGuard:
    """A checker of the metrics of seeds that are trained side by side. on_nan: `config.on_nan`."""

    def __init__(self, seeds: list[int], on_nan: str, folder: Any) -> None:
        self._seeds, self._skips, self._folder = seeds, on_nan == 'skip', folder
        self._left: list[tuple[int, Tree]] = []
        self._good: dict[int, tuple[int, dict[str, float]]] = {}  # {seed: the last step with finite metrics}
        self._row = dict.fromkeys(seeds, 0)  # {seed: number of calls in a row without finite metrics}

    def add(self, step: int, metrics: Tree) -> None:
        """Add the metrics of a training call that ended with this step; they stay on the devices."""
        self._left.append((step, metrics))

    def check(self) -> float:
        """Fetch the metrics since the last check, and end the run if they are not finite.

        Returns:
          The loss of the first seed.
        """
        steps = [step for step, _ in self._left]
        every = to_host([metrics for _, metrics in self._left])
        self._left = []
        for i, seed in enumerate(self._seeds):
            for step, metrics in zip(steps, every, strict=True):
                mine = _of(metrics, i)
                if not _bad(mine):
                    self._good[seed], self._row[seed] = (step, mine), 0
                    continue
                self._row[seed] += 1
                if not self._skips or self._row[seed] >= MOST_SKIPPED:
                    self._end(seed, step, mine)
        return float(every[-1]['loss'][0])

    def check_state(self, ts: TrainState, step: int) -> None:
        """Refuse to save a checkpoint of overflowed parameters over a good one."""
        for seed, fine in zip(self._seeds, to_host(_all_finite(ts)), strict=False):
            if not fine:
                raise UserError(
                    f'the parameters of seed {seed} are not finite after step {step}{self._before(seed)}; '
                    f'{self._kept()}'
                )

    def _end(self, seed: int, step: int, mine: dict[str, float]) -> NoReturn:
        wrong = [name for name, value in mine.items() if not math.isfinite(value)]
        skipped = f', the {self._row[seed]}th in a row' if self._skips else ''
        raise UserError(
            f'{" and ".join(wrong)} of seed {seed} {"is" if len(wrong) == 1 else "are"} not finite at step {step}'
            f'{skipped} ({_shown(mine)}){self._before(seed)}; {self._kept()}'
        )

    def _before(self, seed: int) -> str:
        if seed not in self._good:
            return ', the first one checked'
        step, mine = self._good[seed]
        return f'; at step {step} there was {_shown(mine)}'

    def _kept(self) -> str:
        return (
            f'the last checkpoint in {self._folder} was saved before. Lower config.optim.lr, or set config.on_nan=skip '
            'to leave such steps out, with another --workdir'
        )


def _of(metrics: Tree, i: int) -> dict[str, float]:
    """Return the metrics of one seed, the loss first."""
    return {name: float(metrics[name][i]) for name in sorted(metrics, key=lambda name: (name != 'loss', name))}


def _bad(metrics: dict[str, float]) -> bool:
    return not all(math.isfinite(metrics[name]) for name in ALWAYS if name in metrics)


def _shown(metrics: dict[str, float]) -> str:
    return ', '.join(f'{name} {value:.4g}' for name, value in metrics.items())


@jax.jit
def _all_finite(ts: TrainState) -> jax.Array:
    """Return, for each trial, whether all parameters and statistics are finite: (trials,)."""
    leaves = [x for x in jax.tree.leaves(variables(ts)) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(x).all(axis=tuple(range(1, x.ndim))) for x in leaves]).all(0)


def plain(line: dict[str, float]) -> dict[str, float | None]:
    """Return a line of metrics for JSON: a number that is not finite is null."""
    return {name: value if math.isfinite(value) else None for name, value in line.items()}
