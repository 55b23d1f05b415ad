"""Training commands in one or several real processes on this machine, each with virtual devices."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from tests.support.common import ROOT, command, environment

CONFIG = f'--config={ROOT / "tests" / "support" / "tiny_config.py"}'


def free_port() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


class Job:
    """The command in `count` processes with so many devices each; ended with the `with` block, whatever happens."""

    def __init__(self, folder: Path, count: int, devices: int, *words: str, module: str = 'mixjax.main') -> None:
        env = {**environment(), 'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}'}
        port, self.every, self.files = free_port(), [], []
        for i in range(count):
            own = [f'--coordinator=127.0.0.1:{port}', f'--processes={count}', f'--process={i}'] if count > 1 else []
            self.files.append([(folder / f'{name}{i}').open('w+') for name in ('out', 'err')])
            out, err = self.files[-1]
            self.every.append(
                subprocess.Popen(command(*words, *own, module=module), cwd=folder, env=env, stdout=out, stderr=err)
            )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.every:
            one.kill()
            one.wait()
        for file in sum(self.files, []):
            file.close()

    def ends(self, seconds: float = 280) -> list[int]:
        """The exit codes."""
        until = time.monotonic() + seconds
        return [one.wait(max(0.1, until - time.monotonic())) for one in self.every]

    def says(self, i: int, stream: str) -> str:
        file = self.files[i][('out', 'err').index(stream)]
        file.seek(0)
        return file.read()

    def until(self, run: Path, step: int, seconds: float = 280) -> None:
        """Wait until that step is logged."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and all(one.poll() is None for one in self.every):
            if (run / 'metrics.jsonl').exists() and f'"step": {step},' in (run / 'metrics.jsonl').read_text():
                return
            time.sleep(0.01)
        raise AssertionError([self.says(i, 'err') for i in range(len(self.every))])


def run(folder: Path, count: int, devices: int, *words: str) -> Path:
    """The work directory of a run that went well."""
    with Job(folder, count, devices, *words, '--workdir=run') as job:
        assert job.ends() == [0] * count, [job.says(i, 'err') for i in range(count)]
        for i in range(1, count):
            assert job.says(i, 'out') == job.says(i, 'err') == ''  # only the first one talks
        assert 'report: run/report.html' in job.says(0, 'out')
    return folder / 'run'


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
