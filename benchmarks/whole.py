"""The whole run, not only its step: from the command to the report, on the embedded benchmark.

Every run is a separate process, as a user starts it (`benchmarks.one_run` measures it). Before the first one all
caches are empty; later ones find the compiled programs of an earlier one, as by default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import timing
from benchmarks.parts import Part, Table, seconds
from benchmarks.timing import Verdict, judged, ratio, spread
from mixjax.maths import class_pairing

ROOT = Path(__file__).parent.parent
IMPORTS = 2.0  # seconds
KEPT, FIRST = 1.15, 1.30  # XMixup to fine-tuning: with cached means of the source classes, and without
PHASES = (
    'python', 'imports', 'data and weights', 'pairing', 'tracing and compiling', 'to the first step', 'evaluation',
    'checkpoints', 'pictures and export', 'report', 'all',
)  # fmt: skip
Seconds = dict[str, float]


def environment(cache: Path) -> dict[str, str]:
    """Return the environment variables of a user's shell, with a separate cache."""
    env = {name: value for name, value in os.environ.items() if name not in ('XLA_FLAGS', 'JAX_COMPILATION_CACHE_DIR')}
    return {**env, 'MIXJAX_CACHE': str(cache), 'PYTHONPATH': str(ROOT)}


def importing(rounds: int) -> np.ndarray:
    """Return the seconds of a new process that imports the modules for training: (rounds,)."""
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run([sys.executable, '-c', 'import mixjax.train'], cwd=ROOT, check=True)
        found.append(time.perf_counter() - start)
    return np.array(found)


def one_run(folder: Path, cache: Path, method: str, steps: int) -> Seconds:
    """Train one seed of the embedded benchmark; return the seconds of its phases."""
    number = len(list(folder.iterdir()))
    workdir, out = folder / f'run{number}', folder / f'out{number}.json'
    words = [
        '--config=quickstart', f'--workdir={workdir}', f'--config.method.name={method}', '--config.num_seeds=1',
        f'--config.steps={steps}',
    ]  # fmt: skip
    asked = json.dumps({'began': time.time(), 'words': words, 'out': str(out)})
    command = [sys.executable, '-m', 'benchmarks.one_run', asked]
    done = subprocess.run(command, cwd=ROOT, env=environment(cache), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'the run of {method} ended with {done.returncode}:\n{done.stderr}')
    return json.loads(out.read_text())['seconds']


def forget_means(cache: Path) -> None:
    for path in cache.glob('*.npz'):
        path.unlink()


def runs(rounds: int, steps: int) -> dict[str, list[Seconds]]:
    """Return {kind of run: its phases, in each round}."""
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place, 'runs'), Path(place, 'cache')
        folder.mkdir()

        def anew(method: str) -> Seconds:
            forget_means(cache)
            return one_run(folder, cache, method, steps)

        kinds: dict[str, Callable[[], Seconds]] = {
            'finetune': lambda: one_run(folder, cache, 'finetune', steps),
            'xmixup, first time': lambda: anew('xmixup'),
            'xmixup, means kept': lambda: one_run(folder, cache, 'xmixup', steps),
        }
        found: dict[str, list[Seconds]] = {'finetune, nothing kept': [kinds['finetune']()]}
        anew('xmixup')  # its program is cached from here on
        for _ in range(rounds):
            for kind, call in kinds.items():
                found.setdefault(kind, []).append(call())
        for _ in range(rounds - 1):
            other = Path(place, f'cache{len(found["finetune, nothing kept"])}')
            found['finetune, nothing kept'].append(one_run(folder, other, 'finetune', steps))
    return found


def measure(short: bool = False) -> Part:
    imports = spread(importing(2 if short else 5))
    found = runs(1 if short else 3, 20 if short else 400)
    phases = {
        kind: {name: spread(np.array([one.get(name, 0.0) for one in each])) for name in PHASES}
        for kind, each in found.items()
    }
    rows = [[name, *(f'{phases[kind][name].median:.2f}' for kind in phases)] for name in PHASES]
    about = (
        'Seconds of a run of 400 steps of one seed, report and all; medians. "To the first step" and "all" count from '
        'the command; the others are parts of them, and overlap where a method compiles while it prepares.'
    )
    whole = {kind: np.array([one['all'] for one in each]) for kind, each in found.items()}
    tables = [Table('The whole run', about, ['phase', *phases], rows), pairs(short)]
    verdicts = [judged(f'imports <= {IMPORTS:.0f} s', imports, IMPORTS)]
    if not short:
        for kind, target in (('xmixup, means kept', KEPT), ('xmixup, first time', FIRST)):
            found_ratio = ratio(whole[kind], whole['finetune'])
            verdicts.append(judged(f'{kind} / finetune, end to end <= {target}', found_ratio, target))
        verdicts.append(sooner(phases))
    numbers = {
        'imports': imports._asdict(),
        'phases': {kind: {name: one._asdict() for name, one in each.items()} for kind, each in phases.items()},
    }
    return Part('The whole run', tables, verdicts, numbers)


def sooner(phases: dict[str, dict[str, timing.Spread]]) -> Verdict:
    """Judge whether cached programs are found."""
    kept, anew = (phases[kind]['to the first step'] for kind in ('finetune', 'finetune, nothing kept'))
    text = f'{seconds(kept)} s, without {seconds(anew)} s'
    what = 'to the first step sooner with kept programs'
    return Verdict(what, text, timing.HOLDS if kept.median < anew.median else timing.MISSED)


def pairs(short: bool) -> Table:
    """Return the times of pairing alone, from scores to pairs, by the numbers of classes."""
    rows = []
    for c, m in ((10, 160), (120, 1000)) if short else ((10, 160), (120, 1000), (1000, 1000), (1000, 10_000)):
        random = np.random.default_rng(0)
        target, source = random.standard_normal((c, 256)), random.standard_normal((m, 256))
        score, sizes = class_pairing.cosine(target, source), np.full(m, 50)
        found = timing.interleaved(
            {
                'cosines': lambda target=target, source=source: class_pairing.cosine(target, source),
                'greedy': lambda score=score, sizes=sizes: class_pairing.pair(score, sizes),
                'optimal': lambda score=score, sizes=sizes: class_pairing.pair(score, sizes, exact=True),
            },
            2 if short else 5,
        )
        rows.append([f'{c:,} x {m:,}', *(f'{1000 * spread(each).median:.1f}' for each in found.values())])
    about = 'Milliseconds, target by source classes, of features of 256 numbers.'
    return Table('Pairing classes', about, ['classes', 'cosines', 'greedy', 'optimal assignment'], rows)
