"""One core for each run of a small network: two are used badly, and sums are split over the cores there are."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence

import jax


def here() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else list(range(os.cpu_count() or 1))


def run(core: int, words: Sequence[str]) -> tuple[int, str]:
    """A command in a process that stays on one core, without an accelerator; its exit code and the end of its output.

    Where a system has no way to say so (macOS), it may use all cores.
    """
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        if hasattr(os, 'sched_setaffinity'):
            os.sched_setaffinity(process.pid, {core})  # long before jax makes its threads
        said, _ = process.communicate()
    return process.returncode, said[-2000:]


@contextlib.contextmanager
def one() -> Iterator[None]:
    """What this process computes inside has one core, too, and no accelerator."""
    jax.config.update('jax_platforms', 'cpu')
    if not hasattr(os, 'sched_setaffinity'):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
