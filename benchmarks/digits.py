"""The papers' tables and claims on the digits, from the runs of configs/digits/tables.py.

    python -m benchmarks.digits runs/digits_tables [--repeat=3]

Writes the sections "claims" and "tables" of docs/results.md. `--repeat=N` trains N of the runs, drawn at random, again,
says whether they are the same bit for bit, and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import claims
from benchmarks.claims import Cell, PerSeed, Tested
from mixjax import analyse, grid, plain
from mixjax.report import sections
from mixjax.report.words import TYPESET, count, markdown, mean_std, points
from mixjax.train import workdir

GRID = 'configs/digits/tables.py'
PAGE = Path(__file__).parent.parent / 'docs' / 'results.md'
TAIL = 10  # singular values
# metric: (measure of `mixjax.analyse`, its array, from a seed's row to a number, factor to show it, digits).
METRICS: dict[str, tuple[str, str, Any, float, int]] = {
    'accuracy': ('', '', None, 100.0, 2),
    'label_test': ('interpolation', 'label_test', np.mean, 1.0, 3),
    'feature_test': ('interpolation', 'feature_test', np.mean, 1.0, 3),
    'tail': ('spectrum', 'values', lambda row: np.sort(row)[:TAIL].mean(), 1000.0, 2),
    **{part: ('probe', part, float, 100.0, 2) for part in ('auxiliary', 'all_but_auxiliary', 'all')},
}
SAME = ('results.json', 'metrics.jsonl', 'model.safetensors')  # what a run that is repeated must leave alike


class Runs:
    """The finished runs of the grid in a folder, by cell."""

    def __init__(self, root: str) -> None:
        self.cells: dict[Cell, grid.Run] = {}
        self.every = grid.runs(GRID, (), root)
        for run in self.every:
            for spec in run.specs:
                said = dict(part.split('=') for part in spec.partition(':')[2].split(','))
                self.cells[said['table'], said['labels'], said['method']] = run

    def measure(self, cell: Cell, metric: str) -> PerSeed | None:
        """{seed: number}; None where the run or the measure is not there."""
        run = self.cells[cell]
        results = workdir.finished(run.folder, run.config.steps)
        if results is None:
            return None
        what, name, number, *_ = METRICS[metric]
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
            for metric in OTHERS.get(cell[0], ()):
                folder, what = self.cells[cell].folder, METRICS[metric][0]
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


# --- the page ---------------------------------------------------------------------------------------------------------


def cell_text(values: PerSeed | None, metric: str = 'accuracy') -> str:
    """`81.64 ± 4.00`, or that there is nothing."""
    if not values:
        return claims.MISSING
    *_, factor, digits = METRICS[metric]
    mean, std = mean_std([factor * value for value in values.values()])
    return f'{mean:.{digits}f}' + ('' if std is None else f' {TYPESET} {std:.{digits}f}')


def difference_text(one: Tested) -> str:
    """`+5.10 ± 0.47` in the unit of the metric."""
    if not one.n:
        return ''
    if one.claim.metric == 'accuracy' or METRICS[one.claim.metric][3] == 100.0:
        return f'{points(one.mean, True)} {TYPESET} {100 * one.stderr:.2f}'
    *_, factor, digits = METRICS[one.claim.metric]
    shown = f'{factor * one.mean:+.{digits}f}'.replace('-', '\u2212')
    return f'{shown} {TYPESET} {factor * one.stderr:.{digits}f}'


def p_text(p: float) -> str:
    return '< 0.0001' if p < 0.0001 else f'{p:.4f}' if p < 0.01 else f'{p:.2f}'


def table_text(head: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> str:
    """A table; the first `names` columns are words."""
    rule = ['---'] * names + ['--:'] * (len(head) - names)
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in (head, rule, *rows))


def claims_section(tested: Sequence[Tested], about: str) -> str:
    run = [one for one in tested if one.n]
    verdicts = [one.verdict for one in run]
    tally = ', '.join(f'{verdicts.count(v)} {v}' for v in (claims.HOLDS, claims.OPEN, claims.OPPOSITE))
    left = f' {count(len(tested) - len(run), "comparison")} not run.' if len(run) < len(tested) else ''
    rows = []
    for one in tested:
        told = [difference_text(one), str(one.n), p_text(one.p)] if one.n else [''] * 3
        verdict = f'**{one.verdict}**' if one.verdict == claims.OPPOSITE else one.verdict
        rows.append([one.claim.where, markdown(one.claim.says), one.labels, *told, verdict])
    head = ['in the paper', 'claim', 'labels per class', 'difference', 'n', 'p', 'here']
    return f"""## Which claims hold here

{about}

Of {len(run)} comparisons: {tally}.{left} A difference is the first minus the second, paired over seeds (a seed draws
the labelled images, the same for all methods), with its standard error: percentage points of accuracy, interpolation
losses as they are, thousandths for singular values. p is of Student's paired t-test, two-sided. "holds" and "the
opposite" need p < 0.05 after Holm's correction over all {len(run)} comparisons; "not shown" is all else: what a larger
n might show, too.

{table_text(head, rows, 3)}"""


def table_section(runs: Runs) -> str:
    """Accuracy of every cell, a table for each table; and what was measured."""
    parts = ['## Accuracy, and what else was measured', '']
    for table in dict.fromkeys(table for table, *_ in runs.cells):
        mine = [cell for cell in runs.cells if cell[0] == table]
        labels = list(dict.fromkeys(labels for _, labels, _ in mine))
        methods = list(dict.fromkeys(method for *_, method in mine))
        for metric in ('accuracy', *OTHERS.get(table, ())):
            body = [
                [markdown(name), *(cell_text(runs.measure((table, few, name), metric), metric) for few in labels)]
                for name in methods
            ]
            head = [f'{WORDS[metric]}', *(f'{few} per class' for few in labels)]
            parts += [f'### {TITLES[table]}' if metric == 'accuracy' else '', '', table_text(head, body, 1), '']
    return '\n'.join(parts)


OTHERS = {
    'smile_table4': ('label_test', 'feature_test'),
    'xmixup_table1': ('tail',),
    'xmixup_table2': ('auxiliary', 'all_but_auxiliary', 'all'),
}
WORDS = {
    'accuracy': 'accuracy %',
    'label_test': 'label-IL, test images',
    'feature_test': 'feature-IL, test images',
    'tail': 'mean of the ten smallest singular values, of the largest / 1000',
    'auxiliary': 'probe %, auxiliary',
    'all_but_auxiliary': 'probe %, all but auxiliary',
    'all': 'probe %, all',
}
TITLES = {
    'order': 'The main methods as labels grow',
    'others': 'Other methods',
    'smile_table2': 'SMILE, Table 2',
    'smile_table4': 'SMILE, Table 4: interpolation losses',
    'xmixup_table1': 'XMixup, Table 1, and Fig. 2',
    'xmixup_table2': 'XMixup, Table 2: what the trunk still knows of the letters',
    'xmixup_table3': 'XMixup, Table 3: random source images',
    'xmixup_table4': 'XMixup, Table 4: within the target, without source labels',
    'xmixup_fig4': 'XMixup, Fig. 4: alpha',
    'lamix_table1': 'LaMix, Table 1, from scratch',
    'lamix_table3': 'LaMix, Table 3: PuzzleMix',
    'lamix_table5': 'LaMix, Table 5: Mixup with label smoothing',
    'lamix_table7': 'LaMix, Table 7: originals',
    'lamix_table8': 'LaMix, Table 8: the learned label',
}


def write(root: str) -> None:
    runs = Runs(root)
    runs.analyse()
    done, env = len(runs.finished()), runs.environment()
    about = f"""    make results-full

{done} of the {len(runs.every)} runs of `{GRID}`, ten seeds each (mixjax {env['mixjax']}, jax {env['jax']}, commit
{env['commit']}). Transfer begins with the shipped network, 400 steps; LaMix's tables are from scratch, 100 labels per
class, 1,000 steps. Every method has its defaults; none was tuned."""
    sections.write(PAGE, 'claims', claims_section(claims.test_all(runs.measure), about))
    sections.write(PAGE, 'tables', table_section(runs))
    print(f'table: docs/results.md, from {done} of {len(runs.every)} runs')


# --- the same again ---------------------------------------------------------------------------------------------------


def repeat(root: str, times: int, seed: int | None) -> int:
    """Train some runs again; how many of them differ."""
    runs, different = Runs(root), 0
    done = runs.finished()
    for run in random.Random(seed).sample(done, min(times, len(done))):
        with tempfile.TemporaryDirectory() as scratch:
            code = grid.main([GRID, '--run', str(runs.every.index(run)), f'--runs={scratch}'])
            same = not code and all(alike(run.folder / name, Path(scratch) / run.folder.name / name) for name in SAME)
        print(f'{run.specs[0]}: {"the same bit for bit" if same else "DIFFERENT"}', flush=True)
        different += not same
    return different


def alike(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.digits', description=__doc__)
    parser.add_argument('runs', help='the folder of the runs')
    parser.add_argument('--repeat', type=int, default=0, help='train so many runs again and compare')
    parser.add_argument('--seed', type=int, help='of the draw')
    given = parser.parse_args()
    if given.repeat:
        return repeat(given.runs, given.repeat, given.seed)
    write(given.runs)
    return 0


if __name__ == '__main__':
    sys.exit(main())
