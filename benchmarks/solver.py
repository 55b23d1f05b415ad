"""PuzzleMix's labelling problems: the number solved per second, and the quality of the labels.

The graph cut is scipy's maximum flow on a CPU, one problem after the other: it proves the least energy.
"""

from __future__ import annotations

import functools

import jax
import numpy as np

from benchmarks import timing
from benchmarks.parts import Part, Table, times
from benchmarks.timing import Verdict
from mixjax.maths.puzzle import mincut
from tests.support.graph_cut import energy, least_energy, problems

BATCH = 48  # of the papers
BLOCKS = (2, 4, 8, 16)


def measure(short: bool = False) -> Part:
    rows, numbers, excess = [], {}, 0
    solve = jax.jit(mincut.solve)
    for n in BLOCKS:
        costs = problems(8 if short else BATCH, n, seed=n)
        count = len(costs.unary)
        here = jax.device_put(costs)
        calls = {
            'ours': lambda here=here: jax.block_until_ready(solve(here)),
            'cut': functools.partial(least_energy, costs),
        }
        found = timing.interleaved(calls, 2 if short else 7)
        ours, least = energy(costs, solve(here)), least_energy(costs)
        above = int(np.sum(ours > least))
        excess += above
        rate, cut = (timing.spread(count / found[name]) for name in ('ours', 'cut'))
        rows.append([f'{n} x {n}', f'{rate.median:,.0f}', f'{cut.median:,.0f}',
                     times(timing.ratio(found['cut'], found['ours'])), f'{above} of {count}'])  # fmt: skip
        numbers[str(n)] = {'per second': rate._asdict(), 'graph cut per second': cut._asdict(), 'above': above}
    about = f'Batches of {BATCH} problems of smooth images, as PuzzleMix poses them; the graph cut is exact.'
    columns = ['blocks', 'solved/s', 'graph cut/s', 'faster by', 'above the least energy']
    tables = [Table("PuzzleMix's solver", about, columns, rows)]
    what = 'energy equal to the graph cut in every problem'
    verdict = Verdict(what, f'{excess} above', timing.MISSED if excess else timing.HOLDS)
    return Part("PuzzleMix's solver", tables, [verdict], numbers)
