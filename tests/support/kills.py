"""Runs killed at random moments and carried to their end, over and over: `python -m tests.support.kills KIND`.

  --moments=30 --minutes=60   at least so many kills, as far as the time goes
  --start=1                   the number of the first run; what is printed at the end goes on from there
  --seconds=S                 what a run takes, where that need not be measured
  --folder=DIR                where the run that is compared with is kept from one call to the next

Every process that is killed is one of its own. It is forked from this one, which has imported all it needs and done
nothing yet: half of what a run of seconds takes is the import. The run that it is compared with is the command as a
person gives it, killed by nobody.
"""

from __future__ import annotations

import importlib
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mixjax.commands import train as command
from mixjax.config import method_registry
from mixjax.host import compile_cache
from mixjax.rundir import integrity
from tests.support import harm, moments
from tests.support.common import assert_same_run, final_state

# The methods that keep something of their own from step to step, and a run of two stages.
SELF_LABELLING = [
    '--config.method.self_label=true', '--config.method.adaptive_epoch=1', '--config.method.correct_epoch=2',
    '--config.method.threshold=0.13',
]  # fmt: skip
KINDS = {
    'finetune': ['finetune'],
    'smile': ['smile'],
    'xmixup': ['xmixup'],
    'rifle': ['rifle'],
    'regsl self-labelling': ['regsl', *SELF_LABELLING],
    'ema': ['ema'],
    'lora': ['lora', '--config.method.rank=2'],
    'seqtrain, two stages': ['seqtrain'],
}
NEEDED = (
    'config',
    'host.signals',
    'train.loop',
    'host.compile_cache',
    'report.html',
    'data.feed.batches',
    'models.weights',
)
COLD = 4  # each so manieth run finds no compiled programs


class Child:
    """A forked process that does one thing; as much of `subprocess.Popen` as is needed."""

    def __init__(self, what: Callable[[], int | None], folder: Path, said: Path) -> None:
        self.code: int | None = None
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            self._do(what, folder, said)

    @staticmethod
    def _do(what: Callable[[], int | None], folder: Path, said: Path) -> None:
        code = 1
        try:
            file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            os.chdir(folder)
            code = what() or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> int | None:
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if ended else None
        return self.code

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, 9)


def killed(folder: Path, given: list[str], random_: random.Random, straight: Path, seconds: float) -> str:
    """Start the command and kill it at some moment; what it was doing, '' if it had ended before."""
    process = Child(lambda: command.main(given), folder, folder / 'said')
    watched = moments.Watched(folder / 'run', process.pid)
    come = moments.moment(random_, watched, straight, seconds)
    while process.poll() is None and not come():
        watched.look()
        time.sleep(0.002)
    process.kill()
    code = process.wait()
    assert code in (0, -9), (folder / 'said').read_text()
    watched.look()
    return watched.phase() if code else ''


def finished(what: Callable[[], int | None], folder: Path) -> None:
    """Do it in a process of its own, to its end."""
    assert Child(what, folder, folder / 'said').wait() == 0, (folder / 'said').read_text()


def written(run: Path) -> dict[str, bytes]:
    """All files of a run but its times, and its checkpoints, whose files have names that are drawn."""
    names = {path.relative_to(run): path for path in run.rglob('*') if path.is_file()}
    return {
        str(name): path.read_bytes()
        for name, path in names.items()
        if name.name != 'timing.jsonl' and 'checkpoints' not in name.parts
    }


def assert_equal(straight: Path, run: Path) -> None:
    """Every file but the times, and every checkpoint, of each stage."""
    assert_same_run(straight, run, range(3), 20)
    left, right = written(straight), written(run)
    assert left.keys() == right.keys() and len(left) > 10
    assert [name for name in left if left[name] != right[name]] == []
    for stage in moments.STAGES:
        logged = moments.logged(run, stage)
        assert len(logged) == len(set(logged)) == len(moments.logged(straight, stage))
        for place in (straight / stage / 'checkpoints').glob('*'):
            there = run / stage / 'checkpoints' / place.name
            assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in place.iterdir())
            for step in integrity.steps(place):
                assert not integrity.fault(there / f'step_{step}')
                a, b = (final_state(one / stage, int(place.name), step) for one in (straight, run))
                assert a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a), (stage, step)


def reference(folder: Path, given: list[str], known: float | None) -> tuple[Path, float]:
    """The run that nobody kills, as a person starts it, and the seconds that a process of ours takes for the same."""
    if known is not None:
        return harm.finished(folder, *given), known
    took, again = folder / 'seconds', folder / 'again'
    if not took.exists():
        harm.finished(folder, *given)
        shutil.rmtree(again, ignore_errors=True)
        again.mkdir()
        began = time.monotonic()
        finished(lambda: command.main(given), again)
        seconds = time.monotonic() - began
        finished(lambda: assert_equal(folder / 'run', again / 'run'), again)
        took.write_text(str(seconds))
    return folder / 'run', float(took.read_text())


def campaign(
    kind: str, wanted: int, start: int, seconds: float, folder: Path, known: float | None = None
) -> Counter[str]:
    """At least so many kills, each run begun anew carried to its end; the number of a run decides its moments.

    known: the seconds that a run takes, where they are not to be measured.

    Returns:
      How many kills fell into what the run was doing.
    """
    method, *more = KINDS[kind]
    given = harm.words(method, *more)
    straight, full = reference(folder / 'straight', given, known)
    began, phases, number = time.monotonic(), Counter[str](), start
    while phases.total() < wanted and time.monotonic() < began + seconds:
        random_, place = random.Random(f'{kind} {number}'), folder / f'{number}'
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        before = os.environ['MIXJAX_CACHE']
        if number % COLD == 0:
            os.environ['MIXJAX_CACHE'] = str(place / 'cache')
        # One kill, or several in a row.
        found = []
        for _ in range(random_.choice((1, 2, 3, 4))):
            found.append(killed(place, given, random_, straight, full))
            if not found[-1]:
                break
        finished(lambda: command.main(given), place)
        os.environ['MIXJAX_CACHE'] = before
        finished(lambda run=place / 'run': assert_equal(straight, run), place)
        shutil.rmtree(place)
        phases.update(filter(None, found))
        print(f'{kind}, run {number}: killed while {", ".join(filter(None, found)) or "it did nothing"}', flush=True)
        number += 1
    about = ', '.join(f'{count} {phase}' for phase, count in sorted(phases.items()))
    spent = (time.monotonic() - began) / max(1, phases.total())
    print(f'{kind}: {phases.total()} kills in {number - start} runs ({about}), {spent:.1f} s a kill, nothing lost')
    print(f'{kind}: --start={number} goes on', flush=True)
    return phases


def main(words: list[str]) -> int:
    flags = dict(word.removeprefix('--').partition('=')[::2] for word in words if word.startswith('--'))
    for name in NEEDED:
        importlib.import_module(f'mixjax.{name}')
    compile_cache.WORTH = 0.0  # what is compiled in no time is kept too: there are hundreds of it in these runs
    kinds = [word for word in words if not word.startswith('--')] or list(KINDS)
    for kind in kinds:
        method_registry.load(KINDS[kind][0])
        with tempfile.TemporaryDirectory() as drawn:
            folder = Path(flags.get('folder', drawn)) / kind.replace(' ', '-')
            folder.mkdir(parents=True, exist_ok=True)
            os.environ['MIXJAX_CACHE'] = str(folder / 'cache')
            wanted, seconds = int(flags.get('moments', '30')), 60 * float(flags.get('minutes', '60'))
            known = float(flags['seconds']) if 'seconds' in flags else None
            campaign(kind, wanted, int(flags.get('start', '1')), seconds / len(kinds), folder, known)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
