"""Training: `run(config, workdir)` runs the experiment of a config. It names no method and no data set.

Read `experiment`, `loop` and `step`, in this order: they are the whole of training, and the rest are details. The files
of a work directory belong to `mixjax.rundir`, the report on them to `mixjax.report`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixjax.train.experiment import run

__all__ = ['run']


def __getattr__(name: str) -> Any:
    """Import the trainer on first use: many commands only read the files of a run."""
    if name == 'run':
        from mixjax.train.experiment import run

        return run
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
