"""Training: `run(config, workdir)` does everything that a config says. It names no method and no data set.

Read `experiment`, `loop` and `step`, in this order: they are the whole of training, and what they call is a detail.
What lies in a work directory belongs to `mixjax.rundir`, what is shown of it to `mixjax.report`.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ['run']  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import the trainer when it is first used: many commands only read what a run left.

    `run` is that of `mixjax.api`, which is above the trainer; `__init__.pyi` beside this file has its type.
    """
    if name == 'run':
        return importlib.import_module('mixjax.api').run
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
