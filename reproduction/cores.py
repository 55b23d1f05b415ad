"""One core for each run of a small network: two are used badly, and sums are split over the available cores."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence

import jax


def available_cores() -> list[int]:
    """Return the cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else list(range(os.cpu_count() or 1))


def run(core: int, words: Sequence[str]) -> tuple[int, str]:
    """Run a command on one core, without an accelerator; return its exit code and the end of its output.

    On a system that cannot pin processes (macOS), it may use all cores.
    """
    env = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        if hasattr(os, 'sched_setaffinity'):
            os.sched_setaffinity(process.pid, {core})  # long before jax makes its threads
        said, _ = process.communicate()
    return process.returncode, said[-2000:]


@contextlib.contextmanager
def single_core() -> Iterator[None]:
    """Restrict this process to one core, and no accelerator, inside the block."""
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
