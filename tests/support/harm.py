"""Runs of seconds to be harmed: processes that are stopped, and files that are damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.common import ROOT, call, command, environment

CONFIG = f'--config={ROOT / "tests" / "support" / "tiny_config.py"}'
WORDS = ['--config.num_seeds=3', '--config.log_every=1', '--workdir=run']


def words(method: str = 'finetune', *more: str) -> list[str]:
    return [f'{CONFIG}:{method}', *WORDS, *more]


def start(folder: Path, *given: str) -> subprocess.Popen:
    """The command, started and not waited for; what it says is in `said`."""
    folder.mkdir(exist_ok=True)
    with (folder / 'said').open('w') as said:
        return subprocess.Popen(command(*given), cwd=folder, env=environment(), stdout=said, stderr=said)


def until(process: subprocess.Popen, happened, seconds: float = 200) -> None:
    """Wait for something; a process that ends before is an error."""
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, 'the run ended before it could be harmed'
        assert time.monotonic() < end
        time.sleep(0.005)


def logged(folder: Path, step: int, seed: int = 0, run: str = 'run'):
    """Whether that step of a seed is in the log, as a function for `until`."""
    metrics = folder / run / 'metrics.jsonl'
    return lambda: metrics.exists() and f'"seed": {seed}, "step": {step},' in metrics.read_text()


@contextlib.contextmanager
def meanwhile(happened: Callable[[], bool], act: Callable[[], None], seconds: float = 200) -> Iterator[None]:
    """While a run of this process goes on in the block, wait for something in another thread, and then act."""
    ended = threading.Event()

    def wait() -> None:
        end = time.monotonic() + seconds
        while not ended.is_set() and time.monotonic() < end:
            if happened():
                act()
                return
            time.sleep(0.005)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def terminated(happened: Callable[[], bool]) -> Iterator[None]:
    """SIGTERM for a command of this process, twice as engines may send it, as soon as something has happened.

    The command ends with `os._exit`, which is a SystemExit of the block here.
    """

    def act() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: None)  # for one that comes when the command has ended
    try:
        with pytest.MonkeyPatch.context() as patch, meanwhile(happened, act):
            patch.setattr(os, '_exit', sys.exit)
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def finished(folder: Path, *given: str) -> Path:
    """The work directory of a run that was never harmed."""
    folder.mkdir(exist_ok=True)
    done = call(folder, *given)
    assert done.returncode == 0, done.stderr
    return folder / 'run'


def stopped_at(folder: Path, step: int, *given: str) -> Path:
    """The work directory of a run that was killed after that step of its last seed."""
    process = start(folder, *given)
    try:
        until(process, logged(folder, step, 2 if WORDS[0] in given else 0))
    finally:
        process.kill()
        process.wait()
    return folder / 'run'


def copied(run: Path, folder: Path) -> Path:
    folder.mkdir()
    shutil.copytree(run, folder / 'run')
    return folder / 'run'
