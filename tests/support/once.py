"""Folders that tests of several workers share: the first one that asks for a folder fills it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def once(tmp_path_factory, name: str, fill: Callable[[Path], object]) -> Path:
    """Return the folder `name` of this test session, which `fill` was called with once in all workers.

    A fixture of a module is set up again in every worker that has tests of the module.
    """
    here = tmp_path_factory.getbasetemp()
    root = (here.parent if 'PYTEST_XDIST_WORKER' in os.environ else here) / 'shared'
    root.mkdir(exist_ok=True)
    folder, done = root / name, root / f'{name}.done'
    with (root / f'{name}.lock').open('w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            fill(folder)
            done.touch()
    return folder
