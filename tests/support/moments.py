"""Moments to kill a run at, spread over all that it does, and what it was doing when it was killed.

Both are seen from outside, by the files of the run: who holds the lock, what the log has, which checkpoint has no
name yet. A second kill aims at what is left to do.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

STAGES = ('first', '')  # a run of two stages has the first one in a folder of its own
LAST = ('results.json', 'model.safetensors', 'model.json', 'predictions.npz', 'report.html', 'results.csv')
AIMS = ('any', 'starting', 'compiling', 'training', 'evaluating', 'saving', 'ending')
# Seconds that a kill comes later than what it waits for, at most.
LATER = {'any': 0.0, 'starting': 0.0, 'compiling': 1.5, 'training': 0.02, 'evaluating': 0.03, 'saving': 0.03,
         'ending': 0.01}  # fmt: skip


def logged(run: Path, stage: str) -> list[tuple[int, int, str]]:
    """(seed, step, kind) of each line of a stage's log; the last one may be half-written."""
    path, out = run / stage / 'metrics.jsonl', []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        out.append((line['seed'], line['step'], line['kind']))
    return out


def saving(run: Path, since: float) -> bool:
    """Whether a checkpoint is being written, and has no name yet; one that was begun before is of a dead process."""
    for stage in STAGES:
        for path in (run / stage).glob('checkpoints/*/*orbax-checkpoint-tmp*'):
            with contextlib.suppress(OSError):  # it has its name now
                if path.stat().st_mtime >= since:
                    return True
    return False


class Watched:
    """A process that trains in `run`, and what it has done there so far; `look` often."""

    def __init__(self, run: Path, pid: int) -> None:
        self.run, self.pid = run, pid
        self.began, self.since = time.monotonic(), time.time()
        self.locked, self.trains, self.stage = False, False, ''
        self._logs = self._sizes()

    def _sizes(self) -> dict[str, tuple[int, int]]:
        paths = {stage: self.run / stage / 'metrics.jsonl' for stage in STAGES}
        stats = {stage: path.stat() for stage, path in paths.items() if path.exists()}
        return {stage: (about.st_ino, about.st_size) for stage, about in stats.items()}

    def look(self) -> None:
        if not self.locked:
            try:
                self.locked = json.loads((self.run / 'lock.json').read_text())['pid'] == self.pid
            except (OSError, ValueError):
                return
        sizes = self._sizes()
        for stage, (file, size) in sizes.items():
            before = self._logs.get(stage, (file, 0))
            # What is logged after the checkpoint is dropped by a new file; a line makes the file longer.
            if (file, size) != before:
                self.trains, self.stage = file == before[0], stage
        self._logs = sizes

    def phase(self) -> str:
        """What the process is doing, a kind of `AIMS`."""
        if not self.locked:
            return 'starting'
        if (self.run / 'results.json').exists():
            return 'ending'
        seed, step, kind = logged(self.run, self.stage)[-1] if self.trains else (0, 0, '')
        if kind == 'train' and step % 5 == 0:
            return 'evaluating'
        if saving(self.run, self.since):
            return 'saving'
        if not self.trains:
            return 'compiling'
        return 'ending' if self.stage == '' and (seed, step) == (2, 20) else 'training'


def moment(random_: random.Random, watched: Watched, straight: Path, seconds: float) -> Callable[[], bool]:
    """Whether the moment has come. straight: the same run, finished; seconds: that it took, all of it."""
    run, aim = watched.run, random_.choice(AIMS)
    stage = random_.choice([stage for stage in STAGES if (straight / stage / 'metrics.jsonl').exists()])
    done = set(logged(run, stage))
    left = [line for line in logged(straight, stage) if line not in done]
    missing = [name for name in LAST if not (run / name).exists()]
    if aim in ('any', 'starting') or not left or aim == 'ending' and not missing:
        share = 0.4 if aim == 'starting' else 0.95
        end = watched.began + random_.uniform(0, share * seconds)
        return lambda: time.monotonic() > end
    happened = _aimed(aim, random_, watched, stage, left, missing)
    after, end = random_.uniform(0, LATER[aim]), float('inf')

    def come() -> bool:
        nonlocal end
        if end == float('inf') and happened():
            end = time.monotonic() + after
        return time.monotonic() >= end

    return come


def _aimed(
    aim: str, random_: random.Random, watched: Watched, stage: str, left: list[tuple[int, int, str]],
    missing: list[str],
) -> Callable[[], bool]:  # fmt: skip
    run = watched.run
    if aim == 'compiling':
        return lambda: watched.locked
    if aim == 'saving':  # the next checkpoint after some step that is still to come
        after = random_.choice([line for line in left if line[1] < left[-1][1]] or left)
        return lambda: after in logged(run, stage) and saving(run, watched.since)
    if aim == 'ending':
        name = random_.choice(missing)
        return (run / name).exists
    measured = {(seed, step) for seed, step, kind in left if kind == 'eval'}
    wanted = [line for line in left if line[2] == 'train' and ((line[:2] in measured) or aim == 'training')]
    target = random_.choice(wanted or left)
    return lambda: target in logged(run, stage)
