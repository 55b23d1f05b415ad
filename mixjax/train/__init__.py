"""Training: `run(config, workdir)` runs the experiment of a config. It names no method and no data set.

Read `experiment`, `loop` and `step`, in this order: they are the whole of training, and the rest are details. The files
of a work directory belong to `mixjax.rundir`, the report on them to `mixjax.report`.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ['run']  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import the trainer on first use: many commands only read the files of a run.

    `run` is that of `mixjax.api`, which is above the trainer; `__init__.pyi` beside this file has its type.
    """
    if name == 'run':
        return importlib.import_module('mixjax.api').run
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
