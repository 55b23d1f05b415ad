"""Numbers that are none: a run stops at the step where its loss or its gradient is NaN or infinite.

Nothing is fetched from the devices for this. What the steps since the last look have left there is kept, a few
numbers each; where the host looks at a loss anyway and finds none, it looks back for the first step that had none.
"""

from __future__ import annotations

import math
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from mixjax.errors import UserError
from mixjax.train.arrays import whole
from mixjax.train.step import TrainState, variables

Tree = Any
CHOICES = ('stop', 'skip')  # of config.on_nan
ALWAYS = ('loss', 'grad_norm')  # what must be finite; a metric of a method need not


class Watch:
    """What the steps of a wave left on the devices since the last look. on_nan: `config.on_nan`."""

    def __init__(self, seeds: list[int], on_nan: str, folder: Any) -> None:
        self._seeds, self._skips, self._folder = seeds, on_nan == 'skip', folder
        self._left: list[tuple[int, Tree]] = []
        self._good: dict[int, tuple[int, dict[str, float]]] = {}  # of each seed, the last one at a look

    def add(self, step: int, metrics: Tree) -> None:
        """The metrics of a call of the training program that ended with this step; they stay where they are."""
        self._left.append((step, metrics))

    def look(self) -> float:
        """At a step at which the loss is fetched: end the run if it has come to numbers that are none.

        Returns:
          The loss of the first seed.
        """
        left, self._left = self._left, []
        step, last = left[-1][0], whole(left[-1][1])
        for i, seed in enumerate(self._seeds):
            mine = _of(last, i)
            if not _bad(mine):
                self._good[seed] = (step, mine)
            elif not self._skips:
                self._end(i, seed, left)
            elif all(_bad(_of(whole(metrics), i)) for _, metrics in left):
                raise UserError(
                    f'seed {seed}: no step from {left[0][0]} to {step} had a finite loss and gradient '
                    f'({_shown(mine)}), so none was taken; lower config.optim.lr and use another --workdir'
                )
        return float(last['loss'][0])

    def check_state(self, ts: TrainState, step: int) -> None:
        """Before a checkpoint: parameters that have overflowed are not saved over good ones."""
        for seed, fine in zip(self._seeds, whole(_all_finite(ts)), strict=False):
            if not fine:
                raise UserError(
                    f'the parameters of seed {seed} are not finite after step {step}{self._before(seed)}; '
                    f'{self._kept()}'
                )

    def _end(self, i: int, seed: int, left: list[tuple[int, Tree]]) -> NoReturn:
        for step, metrics in left:
            mine = _of(whole(metrics), i)
            if _bad(mine):
                break
            self._good[seed] = (step, mine)
        wrong = [name for name, value in mine.items() if not math.isfinite(value)]
        raise UserError(
            f'{" and ".join(wrong)} of seed {seed} {"is" if len(wrong) == 1 else "are"} not finite at step {step} '
            f'({_shown(mine)}){self._before(seed)}; {self._kept()}'
        )

    def _before(self, seed: int) -> str:
        if seed not in self._good:
            return ', its first that was looked at'
        step, mine = self._good[seed]
        return f'; at step {step} there was {_shown(mine)}'

    def _kept(self) -> str:
        return (
            f'the last checkpoint in {self._folder} was saved before. Lower config.optim.lr, or set config.on_nan=skip '
            'to leave such steps out, with another --workdir'
        )


def _of(metrics: Tree, i: int) -> dict[str, float]:
    return {name: float(values[i]) for name, values in metrics.items()}


def _bad(metrics: dict[str, float]) -> bool:
    return not all(math.isfinite(metrics[name]) for name in ALWAYS if name in metrics)


def _shown(metrics: dict[str, float]) -> str:
    return ', '.join(f'{name} {value:.4g}' for name, value in metrics.items())


@jax.jit
def _all_finite(ts: TrainState) -> jax.Array:
    """(trials,) whether all parameters and statistics are finite."""
    leaves = [x for x in jax.tree.leaves(variables(ts)) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([jnp.isfinite(x).all(axis=tuple(range(1, x.ndim))) for x in leaves]).all(0)


def plain(line: dict[str, float]) -> dict[str, float | None]:
    """A line of metrics as JSON has it: a number that is none is null."""
    return {name: value if math.isfinite(value) else None for name, value in line.items()}
