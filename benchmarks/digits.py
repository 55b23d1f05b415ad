"""The papers' tables and claims on the digits: the runs of configs/digits/tables.py, and docs/results.md from them.

    python -m benchmarks.digits runs/digits_tables --train     # what is missing; `make results-full` is both of these
    python -m benchmarks.digits runs/digits_tables             # the sections "claims" and "tables" of docs/results.md
    python -m benchmarks.digits runs/digits_tables --repeat=3  # train three, drawn at random, again: the same bits?

A small network uses one core well and two badly, so each run has one core, and --jobs of them go at once. It also makes
the numbers those of any count of cores: sums are split over the cores that a process may use.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import claims, claims_page
from benchmarks.claims import Cell, PerSeed
from mixjax import analyse, grid, grid_file, plain
from mixjax.report import sections
from mixjax.train import workdir

GRID = 'configs/digits/tables.py'
PAGE = Path(__file__).parent.parent / 'docs' / 'results.md'
SAME = ('results.json', 'metrics.jsonl', 'model.safetensors')  # what a run that is repeated must leave alike
LEFT = (0, 3)  # exit codes: done, or another process has it


def said(argument: str) -> Cell:
    """`table=order,labels=3,method=smile` as a cell."""
    found = dict(part.split('=') for part in argument.split(','))
    return found['table'], found['labels'], found['method']


class Runs:
    """The finished runs of the grid in a folder, by cell."""

    def __init__(self, root: str) -> None:
        self.every = grid.runs(GRID, (), root)
        runs = {said(spec.partition(':')[2]): run for run in self.every for spec in run.specs}
        self.cells = {cell: runs[cell] for cell in map(said, grid_file.cells(GRID))}

    def measure(self, cell: Cell, metric: str) -> PerSeed | None:
        """{seed: number}; None where the run or the measure is not there."""
        run = self.cells[cell]
        results = workdir.finished(run.folder, run.config.steps)
        if results is None:
            return None
        what, name, number, *_ = claims_page.METRICS[metric]
        if not what:
            return {seed['seed']: seed['accuracy'] for seed in results['seeds']}
        file = run.folder / f'analysis-{what}.npz'
        if not file.exists():
            return None
        seeds = workdir.read_json(run.folder / 'analysis.json')[what]['settings']['seeds']
        rows = plain.arrays(file.read_bytes())[name]
        every = {seed: float(number(row)) for seed, row in zip(seeds, rows, strict=True)}
        return {seed: value for seed, value in every.items() if not math.isnan(value)}

    def analyse(self) -> None:
        """Measure what the tables show and nobody has measured yet."""
        for cell in self.cells:
            for metric in claims_page.OTHERS.get(cell[0], ()):
                folder, what = self.cells[cell].folder, claims_page.METRICS[metric][0]
                if not grid.finished(self.cells[cell]) or (folder / f'analysis-{what}.npz').exists():
                    continue
                words = [f'--workdir={folder}', f'--what={what}', '--images=0']
                if what == 'probe':  # of the images that XMixup chose
                    words.append(f'--auxiliary={self.cells[cell[0], cell[1], "xmixup"].folder}')
                if analyse.run(analyse.arguments(words)):
                    raise SystemExit(f'{folder}: {what} could not be measured')

    def finished(self) -> list[grid.Run]:
        return [run for run in self.every if grid.finished(run)]

    def environment(self) -> dict[str, Any]:
        """What the runs ran on: one value for each key, or all of them."""
        found = [json.loads((run.folder / 'env.json').read_bytes()) for run in self.finished()]
        return {key: ', '.join(sorted({str(one.get(key)) for one in found})) for key in ('mixjax', 'jax', 'commit')}


# --- training ---------------------------------------------------------------------------------------------------------


def train(root: str, jobs: int) -> int:
    """Train what is not finished, `jobs` at once, each on a core of its own; how many failed."""
    runs = Runs(root)
    left = [index for index, run in enumerate(runs.every) if not grid.finished(run)]
    print(f'{len(runs.every) - len(left)} of {len(runs.every)} runs are finished')
    cores = cores_here()[:jobs]

    def one(index: int) -> int:
        core, start = cores.pop(), time.monotonic()
        try:
            code, said = on_core(core, index, root)
        finally:
            cores.append(core)
        took = f'{time.monotonic() - start:.0f} s'
        print(f'run {index}, {runs.every[index].specs[0].partition(":")[2]}: exit code {code}, {took}', flush=True)
        if code not in LEFT:
            print(said, file=sys.stderr)
        return code not in LEFT

    with ThreadPoolExecutor(len(cores)) as pool:
        return sum(pool.map(one, left))


def cores_here() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else list(range(os.cpu_count() or 1))


def on_core(core: int, index: int, root: str) -> tuple[int, str]:
    """Train one run in a process that stays on one core; its exit code and the end of what it said."""
    words = [sys.executable, '-m', 'mixjax.grid', GRID, '--run', str(index), f'--runs={root}']
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        if hasattr(os, 'sched_setaffinity'):
            os.sched_setaffinity(process.pid, {core})  # long before jax makes its threads
        said, _ = process.communicate()
    return process.returncode, said[-2000:]


def repeat(root: str, times: int, seed: int | None) -> int:
    """Train some finished runs again, drawn at random; how many of them differ."""
    runs, different = Runs(root), 0
    done = runs.finished()
    for run in random.Random(seed).sample(done, min(times, len(done))):
        with tempfile.TemporaryDirectory() as scratch:
            code, said = on_core(cores_here()[-1], runs.every.index(run), scratch)
            same = not code and all(alike(run.folder / name, Path(scratch) / run.folder.name / name) for name in SAME)
        print(f'{run.specs[0].partition(":")[2]}: {"the same bit for bit" if same else "DIFFERENT"}', flush=True)
        print(said if code else '', file=sys.stderr, end='')
        different += not same
    return different


def alike(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


# --- the page ---------------------------------------------------------------------------------------------------------


def write(root: str) -> None:
    runs = Runs(root)
    runs.analyse()
    done, env = len(runs.finished()), runs.environment()
    about = f"""    make results-full

{done} of the {len(runs.every)} runs of `{GRID}`, ten seeds each (mixjax {env['mixjax']}, jax {env['jax']}, commit
{env['commit']}). Transfer begins with the shipped network, 400 steps; LaMix's tables are from scratch, 100 labels per
class, 1,000 steps (`_long`: 5,000). Every method has its defaults; none was tuned."""
    sections.write(PAGE, 'claims', claims_page.claims_section(claims.judged(runs.measure, claims.CLAIMS), about))
    sections.write(PAGE, 'tables', claims_page.tables_section(list(runs.cells), runs.measure))
    print(f'table: docs/results.md, from {done} of {len(runs.every)} runs')


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.digits', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', help='the folder of the runs')
    parser.add_argument('--train', action='store_true', help='train what is not finished')
    parser.add_argument('--jobs', type=int, default=len(cores_here()), help='so many at once (default: all cores)')
    parser.add_argument('--repeat', type=int, default=0, help='train so many runs again and compare')
    parser.add_argument('--seed', type=int, help='of the draw')
    given = parser.parse_args()
    if given.jobs < 1 or given.repeat < 0:
        parser.error('--jobs must be at least 1, --repeat at least 0')
    if given.train:
        return min(train(given.runs, given.jobs), 1)
    if given.repeat:
        return min(repeat(given.runs, given.repeat, given.seed), 1)
    write(given.runs)
    return 0


if __name__ == '__main__':
    sys.exit(main())
