"""Try every cell of the papers' tables: `python -m tests.tables.smoke [TABLE ..]`, or `make tables-smoke`.

The training step of every cell is traced at full size, once for the cells that differ in their data only; each pair of
method and network trains its `:smoke` form. No data, weights or accelerator are needed. What has passed is noted in
runs/tables-smoke/passed.txt, so a command that was stopped goes on; another source tree begins anew. --minutes=N begins
no check after N minutes.
Exit codes: 0 all is well, 1 something is not, 3 the time is over and the same command goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import math
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from mixjax.commands import grid
from mixjax.commands import train as command
from mixjax.errors import UserError
from mixjax.planner import slices, traced
from mixjax.report import papers
from tests.support.common import ROOT
from tests.tables import cells

FOLDER = Path('runs/tables-smoke')
OVER = 3  # exit code
# Methods with these settings pass over images before they train: smaller and fewer ones, and one pass, will do.
SMALLER = ('image.crop=32', 'image.resize=32', 'synthetic.side=32')
PASSES = {
    'per_class': (*SMALLER, 'method.per_class=1'),
    'head_epochs': (*SMALLER, 'method.head_epochs=1', 'method.batches=1'),
}


def trace(run: grid.Run) -> str:
    """Trace a run's training step at full size; returns what is worth telling."""
    found = traced.steps(run.config, slices.find(slices.parse('cpu:1')))
    return ', '.join(f'{one.parameters:,} parameters' for one in found)


def train(run: grid.Run) -> str:
    """Train the `:smoke` form of a run: two steps, finite losses, an accuracy."""
    folder = FOLDER / run.folder.name
    shutil.rmtree(folder, ignore_errors=True)
    said = io.StringIO()
    words = [f'--config={run.specs[0]},smoke', '--config.devices=1', f'--workdir={folder}']
    for knob, less in PASSES.items():
        words += [f'--config.{setting}' for setting in less if knob in run.config.method]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = command.main(words)
    if code:
        raise UserError(f'mixjax train {" ".join(words)} ended with {code}:\n{said.getvalue()}')
    results = json.loads((folder / 'results.json').read_text())
    losses = losses_of(folder)
    if results['steps'] != 2 or len(losses) != 2 or not all(map(math.isfinite, losses)):
        raise UserError(f'{folder}: two steps with finite losses were expected, not {losses}')
    if not 0 <= results['accuracy']['mean'] <= 1:
        raise UserError(f'{folder}: the accuracy is {results["accuracy"]}')
    shutil.rmtree(folder)
    return f'losses {losses[0]:.3g}, {losses[1]:.3g}'


def losses_of(folder: Path) -> list[float]:
    """The losses of the steps that a run has logged."""
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    return [line['loss'] for line in lines if line['kind'] == 'train']


def digest() -> str:
    """Of all that a run is made of; the report is not part of it."""
    found = hashlib.sha256()
    for path in sorted([*(ROOT / 'mixjax').rglob('*.py'), *(ROOT / 'configs').rglob('*.py')]):
        if path.parent != ROOT / 'mixjax' / 'report':
            found.update(path.read_bytes())
    return found.hexdigest()


def passed() -> set[str]:
    """What this source tree has passed before."""
    path = FOLDER / 'passed.txt'
    lines = path.read_text().splitlines() if path.exists() else []
    if lines[:1] != [digest()]:
        FOLDER.mkdir(parents=True, exist_ok=True)
        path.write_text(digest() + '\n')
        return set()
    return set(lines[1:])


def checks(tables: tuple[str, ...]) -> list[tuple[str, Callable[[grid.Run], str], grid.Run]]:
    """(name, what to do, with which run)."""
    found = [('trace', trace, run) for run in cells.traces(tables).values()]
    return found + [('train', train, run) for run in cells.pairs(tables).values()]


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog='python -m tests.tables.smoke')
    parser.add_argument('table', nargs='*', help='some of the tables; all without it')
    parser.add_argument('--minutes', type=float, default=math.inf, help='begin no check after so many')
    asked = parser.parse_args(words)
    tables = tuple(asked.table)
    for table in tables:
        if table not in papers.UNPRINTED:
            papers.of(table)
    work, before, wrong, start = checks(tables), passed(), [], time.monotonic()
    for number, (kind, check, run) in enumerate(work, 1):
        name, head = f'{kind} {run.folder.name}', f'[{number}/{len(work)}] {kind} {run.specs[0]}'
        if name in before:
            continue
        began = time.monotonic()
        if began - start > 60 * asked.minutes:
            print(f'stopped before check {number} of {len(work)}; the same command goes on', flush=True)
            return 1 if wrong else OVER
        try:
            told = check(run)
        except Exception:
            traceback.print_exc()
            wrong.append(head)
            told = 'FAILED'
        else:
            with (FOLDER / 'passed.txt').open('a') as file:
                file.write(name + '\n')
        print(f'{head}: {told}, {time.monotonic() - began:.1f} s', flush=True)
        jax.clear_caches()
    print('\n'.join([*(f'FAILED: {head}' for head in wrong), summary(tables, len(work), len(wrong), start)]))
    return int(bool(wrong))


def summary(tables: tuple[str, ...], checks: int, wrong: int, start: float) -> str:
    names = tables or cells.names()
    numbers = sum(len(papers.of(table)) for table in names if table not in papers.UNPRINTED)
    return (
        f'{len(names)} tables, {numbers} numbers, {len(cells.every(tables))} runs: {checks - wrong} of {checks} checks '
        f'passed ({len(cells.traces(tables))} steps traced, {len(cells.pairs(tables))} pairs trained), '
        f'{(time.monotonic() - start) / 60:.1f} minutes now'
    )


if __name__ == '__main__':
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f'tables-smoke: {error}')
