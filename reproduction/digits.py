"""The papers' tables and claims on the digits: the runs of configs/digits/tables.py, and docs/results.md from them.

    python -m reproduction.digits runs/digits_tables --train         # train the missing runs (`make results-full`)
    python -m reproduction.digits runs/digits_tables --train --new   # only those whose numbers are not kept either
    python -m reproduction.digits runs/digits_tables                 # keep the numbers of its finished runs
    python -m reproduction.digits                                    # the page again, from the numbers that are kept
    python -m reproduction.digits --repeat=3                         # train three, drawn at random, again: same bits?

Numbers are kept seed by seed in reproduction/results/digits.csv, and every command but the last ends with the sections
"claims" and "tables" of docs/results.md, written from them; the last writes the section "repeated".

A small network uses one core well and two badly, so each run has one core, and --jobs of them go at once. It also makes
the numbers independent of the number of cores: sums are split over the cores that a process may use.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mixjax.commands import analyse, grid
from mixjax.commands.parser import parse
from mixjax.commands.table import ANALYSE
from mixjax.config import grid_files
from mixjax.host import storage, untrusted
from mixjax.report import sections
from mixjax.report.words import count
from mixjax.rundir import files
from reproduction import charts, claims, claims_page, cores, kept, papers_claims
from reproduction.claims import Cell, PerSeed
from reproduction.kept import Key, Line

GRID = 'configs/digits/tables.py'
PAGE = Path(__file__).parent.parent / 'docs' / 'results.md'
KEPT = Path(__file__).parent / 'results' / 'digits.csv'
LEFT = (0, 3)  # exit codes: done, or another process has it
ALIKE = 'the same bit for bit'
RAN = ('mixjax', 'jax', 'commit')  # the versions in the text of the page


def parse_cell(argument: str) -> Cell:
    """Parse `table=order,labels=3,method=smile` as a cell."""
    found = dict(part.split('=') for part in argument.split(','))
    return found['table'], found['labels'], found['method']


class Runs:
    """The runs of the grid, by cell, and their folder if there is one."""

    def __init__(self, root: str = '.') -> None:
        self.every = grid.runs(GRID, (), root)
        runs = {parse_cell(spec.partition(':')[2]): run for run in self.every for spec in run.specs}
        self.cells = {cell: runs[cell] for cell in map(parse_cell, grid_files.cells(GRID))}

    @functools.cached_property
    def wanted(self) -> dict[Key, Cell]:
        """The runs in order, each with its metric, and the first cell that shows it."""
        found: dict[str, dict[Key, Cell]] = {run.folder.name: {} for run in self.every}
        for cell, run in self.cells.items():
            for metric in ('accuracy', *claims_page.measured(cell[0], cell[2])):
                found[run.folder.name].setdefault((run.folder.name, metric), cell)
        return {key: cell for one in found.values() for key, cell in one.items()}

    def needed(self, key: Key) -> set[str]:
        """Return the runs that a number needs: its run, and for a probe the one that chose the images."""
        (name, metric), cell = key, self.wanted[key]
        probe = claims_page.METRICS[metric][0] == 'probe'
        return {name, self.cells[cell[0], cell[1], 'xmixup'].folder.name} if probe else {name}

    def measure(self, cell: Cell, metric: str) -> PerSeed:
        """Return {seed: number} of a finished run, as measured by `analyse`."""
        run = self.cells[cell]
        what, name, number, *_ = claims_page.METRICS[metric]
        if not what:
            results = files.read_json(run.folder / 'results.json')
            return {seed['seed']: seed['accuracy'] for seed in results['seeds']}
        seeds = files.read_json(run.folder / 'analysis.json')[what]['settings']['seeds']
        rows = untrusted.arrays((run.folder / f'analysis-{what}.npz').read_bytes())[name]
        every = {seed: float(number(row)) for seed, row in zip(seeds, rows, strict=True)}
        return {seed: value for seed, value in every.items() if not math.isnan(value)}

    def analyse(self, cell: Cell, what: str) -> bool:
        """Measure all images of a run; return whether that succeeded."""
        folder = self.cells[cell].folder
        words = [f'--workdir={folder}', f'--what={what}', '--images=0']
        if what == 'probe':  # measured on the images that XMixup chose
            words.append(f'--auxiliary={self.cells[cell[0], cell[1], "xmixup"].folder}')
        return not analyse.measure(parse(ANALYSE, words))

    def lines(self, old: Mapping[Key, Line]) -> tuple[list[Line], list[str]]:
        """Return the numbers of the finished runs, and the names of the ones that could not be measured.

        Kept numbers of the same files are not measured again. A probe waits for the run that chose its images.
        """
        done = {run.folder.name: run for run in self.every if grid.finished(run)}
        digests = {name: kept.digest(run.folder) for name, run in done.items()}
        found, lacking = [], []
        known: dict[tuple[str, str], bool] = {}  # {(run, measure): whether it succeeded}
        for (name, metric), cell in self.wanted.items():
            what = claims_page.METRICS[metric][0]
            if not self.needed((name, metric)) <= done.keys():
                continue
            before = old.get((name, metric))
            if before is not None and before.files == digests[name]:
                found.append(before)
                continue
            if what and (name, what) not in known:
                known[name, what] = self.analyse(cell, what)
            if what and not known[name, what]:
                lacking.append(f'{name}: {metric}')
                continue
            env = files.read_json(done[name].folder / 'env.json')
            ran = {key: str(env.get(key)) for key in RAN}
            values = self.measure(cell, metric)
            found.append(Line(name, cell_of(done[name]), metric, **ran, files=digests[name], values=values))
        return found, lacking


# --- training ---------------------------------------------------------------------------------------------------------


def train(root: str, jobs: int, new: bool = False) -> int:
    """Train the unfinished runs, `jobs` at once, each on one core; return how many failed.

    Args:
      root: folder of the runs.
      jobs: number of runs at once.
      new: leave out those whose numbers are kept.
    """
    runs, known = Runs(root), kept.read(KEPT) if new else {}
    lacking = {name for key in runs.wanted if key not in known for name in runs.needed(key)}
    left = [k for k, run in enumerate(runs.every) if not grid.finished(run) and run.folder.name in lacking]
    print(f'{len(runs.every) - len(left)} of {len(runs.every)} runs are finished{" or kept" * new}')
    free = cores.available_cores()[:jobs]

    def one(index: int) -> int:
        core, start = free.pop(), time.monotonic()
        try:
            code, said = cores.run(core, words_of(index, root))
        finally:
            free.append(core)
        took = f'{time.monotonic() - start:.0f} s'
        print(f'run {index}, {cell_of(runs.every[index])}: exit code {code}, {took}', flush=True)
        if code not in LEFT:
            print(said, file=sys.stderr)
        return code not in LEFT

    with ThreadPoolExecutor(len(free)) as pool:
        return sum(pool.map(one, left))


def words_of(index: int, root: str) -> list[str]:
    return [sys.executable, '-m', 'mixjax', 'grid', GRID, '--run', str(index), f'--runs={root}']


def repeat(times: int, seed: int | None) -> int:
    """Train some of the kept runs again, drawn at random, and write the outcome to the page; return how many differ."""
    runs = Runs()
    lines = {name: line for (name, metric), line in kept.read(KEPT).items() if metric == 'accuracy'}
    known = [run for run in runs.every if run.folder.name in lines]
    seed = random.randrange(1000) if seed is None else seed
    drawn = random.Random(seed).sample(known, min(times, len(known)))
    print(f'{count(len(drawn), "run")} of {len(known)}, drawn with --seed={seed}', flush=True)
    verdicts = {}
    for run in drawn:
        with tempfile.TemporaryDirectory() as scratch:
            code, said = cores.run(cores.available_cores()[-1], words_of(runs.every.index(run), scratch))
            verdict = 'failed' if code else compare_run(lines[run.folder.name], Path(scratch) / run.folder.name)
        print(f'{cell_of(run)}: {verdict}', flush=True)
        print(said if code else '', file=sys.stderr, end='')
        verdicts[cell_of(run)] = verdict
    about = f"""## Trained again

    python -m reproduction.digits --repeat={times} --seed={seed}

Of {len(known)} runs, {len(drawn)} drawn at random were trained once more, with commit {files.commit()}, and their
results, metrics and weights compared with those behind the numbers above.
"""
    sections.write(PAGE, 'repeated', '\n'.join([about, *(f'* `{cell}`: {told}' for cell, told in verdicts.items())]))
    return sum(verdict != ALIKE for verdict in verdicts.values())


def compare_run(line: Line, folder: Path) -> str:
    """Return the comparison of a run with its kept numbers."""
    if kept.digest(folder) == line.files:
        return ALIKE
    seeds = files.read_json(folder / 'results.json')['seeds']
    most = max(abs(seed['accuracy'] - line.values[seed['seed']]) for seed in seeds)
    return f'DIFFERENT, accuracies by up to {100 * most:.2f} points'


def cell_of(run: grid.Run) -> str:
    return run.specs[0].partition(':')[2]


# --- the page ---------------------------------------------------------------------------------------------------------


def keep(root: str) -> int:
    """Write the numbers of a folder's finished runs beside the kept ones, or in their place.

    Returns:
      The number of measurements that failed.
    """
    runs, old = Runs(root), kept.read(KEPT)
    with cores.single_core():
        new, lacking = runs.lines(old)
    wanted = runs.wanted
    kept.write(KEPT, kept.merged(old, new, wanted))
    before, after = ({line.run: line.files for line in lines} for lines in (old.values(), new))
    print(f'kept: {count(len(after), "run")}, {len(after.keys() - before.keys())} of them new')
    for name in after:
        if before.get(name, after[name]) != after[name]:
            print(f'not the bits that were kept before: {name}')
    gone = before.keys() - {name for name, _ in wanted}
    if gone:
        print(f'left out: {count(len(gone), "run")} that the grid has no more')
    for one in lacking:
        print(f'could not be measured: {one}', file=sys.stderr)
    return len(lacking)


def write() -> None:
    """Write the sections of the page, from the kept numbers."""
    runs, lines = Runs(), kept.read(KEPT)
    lines = {key: lines[key] for key in runs.wanted if key in lines}
    done, every = len({name for name, _ in lines}), len(runs.every)
    which = f'All {every}' if done == every else f'{done} of the {every}'

    def measure(cell: Cell, metric: str) -> PerSeed | None:
        line = lines.get((runs.cells[cell].folder.name, metric))
        return line and line.values

    numbers = f'reproduction/results/{KEPT.name}'
    ran = {key: ', '.join(sorted({getattr(line, key) for line in lines.values()})) for key in RAN}
    about = f"""    make results-full

{which} runs of `{GRID}`, ten seeds each (mixjax {ran['mixjax']}, jax {ran['jax']}, commit
{ran['commit']}); the numbers seed by seed: `{numbers}`. Transfer begins with the shipped network,
400 steps (`_other`: with the other one that is shipped); LaMix's tables are from scratch, 100 labels per class, of the
letters 8, 1,000 steps (`_long`: 5,000). No setting was searched (configs/digits/tables.py says
which method has other settings than its defaults, and why)."""
    sections.write(PAGE, 'claims', claims_page.claims_section(claims.judged(measure, papers_claims.CLAIMS), about))
    sections.write(PAGE, 'tables', claims_page.tables_section(list(runs.cells), measure, draw(measure)))
    print(f'table: docs/results.md, from {done} of {every} runs')


def draw(measure: claims.Measure) -> dict[str, str]:
    """Write the charts beside the page; return {table: the Markdown that shows its chart}."""
    found = {}
    for chart in charts.CHARTS:
        path = PAGE.with_suffix('') / f'{chart.table}.svg'
        drawn = charts.drawn(chart, measure)
        if drawn is None:
            path.unlink(missing_ok=True)
            continue
        drawing, words = drawn
        path.parent.mkdir(parents=True, exist_ok=True)
        storage.write(path, drawing.encode())
        found[chart.table] = f'{chart.title}; bands: standard errors.\n\n![{words}]({path.parent.name}/{path.name})'
    return found


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m reproduction.digits', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', nargs='?', help='the folder of the runs')
    parser.add_argument('--train', action='store_true', help='first train what is not finished')
    parser.add_argument('--new', action='store_true', help='of those, what has no numbers that are kept')
    every = len(cores.available_cores())
    parser.add_argument('--jobs', type=int, default=every, help='so many at once (default: all cores)')
    parser.add_argument('--repeat', type=int, default=0, help='train so many runs again and compare')
    parser.add_argument('--seed', type=int, help='of the draw')
    given = parser.parse_args(words)
    if given.jobs < 1 or given.repeat < 0:
        parser.error('--jobs must be at least 1, --repeat at least 0')
    if given.repeat and (given.runs or given.train):
        parser.error('--repeat goes alone: it trains runs whose numbers are kept')
    if given.train and not given.runs or given.new and not given.train:
        parser.error('--train needs a folder for the runs, and --new needs --train')
    if given.runs and not given.train and not Path(given.runs).is_dir():
        parser.error(f'there is no folder {given.runs}')
    if given.repeat:
        return min(repeat(given.repeat, given.seed), 1)
    failed = train(given.runs, given.jobs, given.new) if given.train else 0
    if given.runs:
        failed += keep(given.runs)
    write()
    return min(failed, 1)


if __name__ == '__main__':
    sys.exit(main())
