"""Training: `run(config, workdir)` does everything that a config says. It names no method and no data set.

Read `experiment`, `loop` and `step`, in this order: they are the whole of training, and what they call is a detail.
What lies in a work directory belongs to `mixjax.rundir`, what is shown of it to `mixjax.report`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mixjax.train.experiment import run

__all__ = ['run']


def __getattr__(name: str) -> Any:
    """Import the trainer when it is first used: many commands only read what a run left."""
    if name == 'run':
        from mixjax.train.experiment import run

        return run
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
