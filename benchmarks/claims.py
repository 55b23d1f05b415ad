"""What the three papers claim, as differences between runs of configs/digits/tables.py: paired over seeds, and tested.

A claim says which of two cells is better in what. Its difference is taken seed by seed (a seed is one draw of the
labelled images, the same for all methods), and tested by Student's paired t-test, two-sided. A paper has many claims,
so a verdict needs a p that stays below 5 % after Holm's correction over all of that paper's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from scipy import stats

LEVEL = 0.05
HOLDS, OPPOSITE, OPEN, MISSING = 'holds', 'the opposite', 'not shown', 'not run'
FEW, THREE, ALL, LETTERS = ('3', '5', '10', '20', '50'), ('3', '10', '50'), ('100',), ('8',)
VANILLA = 'finetune mixup cutmix'  # what LaMix is above of in its tables
XMIXUP_PROBED = ('xmixup_table2', 'xmixup', 'finetune', ('3',))

Cell = tuple[str, str, str]  # table, labels per class, method
PerSeed = Mapping[int, float]
Measure = Callable[[Cell, str], PerSeed | None]


class Claim(NamedTuple):
    """`better` is above `worse` in `metric`, or below it where `sign` is -1, at each number of labels.

    where: paper and table. says: in words. table: whose cells they are. better, worse: a method of it, or the gain
    of one over another, `a - b`. metric: of `benchmarks.claims_page.METRICS`.
    """

    where: str
    says: str
    table: str
    better: str
    worse: str
    labels: tuple[str, ...]
    metric: str = 'accuracy'
    sign: int = 1

    @property
    def paper(self) -> str:
        return self.where.partition(',')[0]


class Outcome(NamedTuple):
    """A claim at one number of labels. mean, stderr: of `better` minus `worse`. p: before the correction."""

    claim: Claim
    labels: str
    mean: float
    stderr: float
    n: int
    p: float
    adjusted: float = 1.0

    @property
    def verdict(self) -> str:
        if not self.n:
            return MISSING
        if self.adjusted >= LEVEL:
            return OPEN
        return HOLDS if self.mean * self.claim.sign > 0 else OPPOSITE


def _each(
    where: str, table: str, metric: str, sign: int, rows: Sequence[tuple[str, str, str, tuple[str, ...]]]
) -> list[Claim]:
    """Claims of one table: (says, better, worse, labels)."""
    return [Claim(where, says, table, better, worse, labels, metric, sign) for says, better, worse, labels in rows]


def _above(where: str, table: str, best: str, title: str, labels: tuple[str, ...], others: str) -> list[Claim]:
    """One method above each of the others in accuracy."""
    rows = [(f'{title} above {NAMES[other]}', best, other, labels) for other in others.split()]
    return _each(where, table, 'accuracy', 1, rows)


def _elsewhere(where: str, table: str, place: str, best: str, labels: tuple[str, ...], others: str) -> list[Claim]:
    """The same on another network or other data, `place`: methods whose names end with what `best` ends with."""
    name, _, end = best.rpartition('_')
    rows = [
        (f'{place}, {NAMES[name]} above {NAMES[other]}', best, f'{other}_{end}', labels) for other in others.split()
    ]
    return _each(where, table, 'accuracy', 1, rows)


NAMES = {
    'finetune': 'fine-tuning',
    'lamix': 'LaMix',
    'lamix_puzzle': 'LaMix over PuzzleMix',
    'smile': 'SMILE',
    'mixup': 'Mixup',
    'cutmix': 'CutMix',
    'puzzlemix': 'PuzzleMix',
    'l2sp': 'L2-SP',
    'delta': 'DELTA',
    'bss': 'BSS',
    'rifle': 'RIFLE',
    'cotuning': 'Co-Tuning',
    'regsl': 'RegSL',
    'seqtrain': 'Seq-Train',
    'cotrain': 'Co-Train',
    'xmixup_random': 'XMixup with random source images',
    'xmixup_target': 'XMixup within the target',
    'xmixup_without_label': 'XMixup without the labels of source images',
    'xmixup_alpha0.5': 'alpha 1/2',
    'xmixup_alpha64': 'alpha 64',
    **{f'mixup_uls{e}': f'Mixup with smoothing {e}' for e in (0.1, 0.2, 0.3, 0.4)},
    **{f'smoothing{k / 10}': f'label smoothing {k / 10}' for k in range(1, 10)},
    **{f'lamix_beta{beta}': f'beta {beta}' for beta in (0.1, 0.9)},
    'xmixup_images20': 'XMixup with 20 source images',
    'mixup_long': 'Mixup, trained as long',
    'cutmix_long': 'CutMix, trained as long',
    'lamix_without_originals': 'LaMix without batches of originals',
    'lamix_without_global': 'LaMix without the learned label',
}
SMOOTHED = tuple(f'mixup_uls{e}' for e in (0.1, 0.2, 0.3, 0.4))
MIXED = ('mixup', 'cutmix')
LONG = ('mixup_long', 'cutmix_long')
CLAIMS: tuple[Claim, ...] = (
    *_above('SMILE, Table 2', 'order', 'smile', 'SMILE', FEW, 'finetune mixup'),
    *_above('SMILE, Table 2', 'smile_table2', 'smile', 'SMILE', THREE, 'l2sp delta bss rifle cotuning regsl'),
    *_elsewhere(
        *('SMILE, Table 3', 'smile_table3', 'deeper network', 'smile_other', ('3', '10')),
        'finetune mixup delta bss rifle',
    ),
    *(
        claim
        for what in ('label', 'feature')
        for other in ('finetune', 'mixup')
        for claim in _each(
            *('SMILE, Table 4', 'smile_table4', f'{what}_test', -1),
            [(f'SMILE has a lower {what}-IL on test images than {NAMES[other]}', 'smile', other, ('3', '10'))],
        )
    ),
    *_each(
        *('SMILE, Fig. 1', 'smile_fig1', 'accuracy', 1),
        [
            ('from scratch, Mixup above training without it', 'mixup_scratch', 'finetune_scratch', ('3',)),
            (
                'Mixup gains more from scratch than in fine-tuning',
                *('mixup_scratch - finetune_scratch', 'mixup - finetune', ('3',)),
            ),
        ],
    ),
    *_above('XMixup, Table 1', 'order', 'xmixup', 'XMixup', FEW, 'finetune cotrain'),
    *_above('XMixup, Table 1', 'xmixup_table1', 'xmixup', 'XMixup', THREE, 'l2sp bss seqtrain'),
    *(
        Claim('XMixup, Table 2', f'XMixup forgets less than fine-tuning ({words})', *XMIXUP_PROBED, metric=metric)
        for metric, words in (('auxiliary', 'auxiliary'), ('all_but_auxiliary', 'all but auxiliary'), ('all', 'all'))
    ),
    *_above('XMixup, Table 3', 'xmixup_table3', 'xmixup', 'XMixup', THREE, 'xmixup_random'),
    *_above('XMixup, Table 4', 'xmixup_table4', 'xmixup', 'XMixup', THREE, 'xmixup_target xmixup_without_label'),
    *_each(
        *('XMixup, Fig. 2', 'xmixup_table1', 'tail', -1),
        [('XMixup has smaller tail singular values than L2-SP', 'xmixup', 'l2sp', THREE)],
    ),
    *_above('XMixup, Fig. 3', 'xmixup_fig3', 'xmixup', 'XMixup', ('3',), 'xmixup_images20'),
    *_above('XMixup, Fig. 3', 'xmixup_fig3', 'xmixup_rounds16', 'XMixup with all source classes', ('3',), 'finetune'),
    *_above('XMixup, Fig. 4', 'xmixup_fig4', 'xmixup_alpha4', 'alpha 4', ('3',), 'xmixup_alpha0.5 xmixup_alpha64'),
    *_above('LaMix, Table 1', 'lamix_table1', 'lamix', 'LaMix', ALL, VANILLA),
    *_elsewhere('LaMix, Table 2', 'lamix_table2', 'shallow network', 'lamix_shallow', ALL, VANILLA),
    *_elsewhere('LaMix, Table 2', 'lamix_table2', 'deep network', 'lamix_deep', ALL, VANILLA),
    *_above('LaMix, Table 3', 'lamix_table3', 'lamix_puzzle', 'LaMix over PuzzleMix', ALL, 'puzzlemix'),
    *_elsewhere('LaMix, Table 4', 'lamix_table4', 'letters', 'lamix_puzzle_letters', LETTERS, 'puzzlemix'),
    *_above('LaMix, Table 5', 'lamix_table5', 'lamix', 'LaMix', ALL, ' '.join(SMOOTHED)),
    *_above('LaMix, Table 5', 'lamix_table5', 'mixup', 'Mixup', ALL, ' '.join(SMOOTHED)),
    *_elsewhere('LaMix, Table 6', 'lamix_table6', 'letters', 'lamix_letters', LETTERS, VANILLA),
    *_above('LaMix, Table 7', 'lamix_table7', 'lamix', 'LaMix', ALL, 'lamix_without_originals'),
    *_above('LaMix, Table 8', 'lamix_table8', 'lamix', 'LaMix', ALL, 'lamix_without_global'),
    *_above('LaMix, Fig. 4', 'lamix_fig4', 'lamix_beta0.5', 'beta 0.5', ALL, 'lamix_beta0.1 lamix_beta0.9'),
    *_above('LaMix, Fig. 5', 'lamix_fig5', 'lamix_long', 'LaMix, trained five times as long,', ALL, 'lamix'),
    *_above('LaMix, Fig. 5', 'lamix_fig5', 'lamix_long', 'LaMix, trained five times as long,', ALL, ' '.join(LONG)),
    *_each(
        *('LaMix, Fig. 5', 'lamix_fig5', 'loss', 1),
        [(f'LaMix ends with a larger training loss than {NAMES[other]}', 'lamix_long', other, ALL) for other in LONG],
    ),
    *_above('LaMix, Fig. 6', 'lamix_fig6', 'lamix', 'LaMix', ALL, ' '.join(f'smoothing{k / 10}' for k in range(1, 10))),
    *_each(
        *('LaMix, Fig. 7', 'lamix_fig7', 'area', -1),
        [(f'LaMix has smaller class activation maps than {NAMES[other]}', 'lamix', other, ALL) for other in MIXED],
    ),
)


def quantity(measure: Measure, claim: Claim, labels: str, what: str) -> PerSeed | None:
    """{seed: number} of a method, or of the difference of two; None where a run is missing."""
    found = [measure((claim.table, labels, name), claim.metric) for name in what.split(' - ')]
    first, *rest = found
    if first is None or not rest:
        return first
    (less,) = rest
    return None if less is None else {seed: first[seed] - less[seed] for seed in first.keys() & less.keys()}


def paired(better: PerSeed | None, worse: PerSeed | None) -> tuple[float, float, int, float]:
    """Mean, standard error, n and p of the differences over the seeds that both have; n is 0 below two seeds."""
    seeds = sorted((better or {}).keys() & (worse or {}).keys())
    if len(seeds) < 2 or better is None or worse is None:
        return 0.0, 0.0, 0, 1.0
    gaps = [better[seed] - worse[seed] for seed in seeds]
    mean = math.fsum(gaps) / len(gaps)
    stderr = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps))
    if stderr == 0:  # all alike: nothing to divide by
        return mean, 0.0, len(gaps), 1.0 if mean == 0 else 0.0
    return mean, stderr, len(gaps), float(2 * stats.t.sf(abs(mean) / stderr, len(gaps) - 1))


def holm(values: Sequence[float]) -> list[float]:
    """Each p with Holm's correction: the k-th smallest of m times m - k + 1, never below the ones before it."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, least = [1.0] * len(values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = least
    return adjusted


def judged(measure: Measure, claims: Sequence[Claim]) -> list[Outcome]:
    """Every claim at each of its numbers of labels, in order; those not run do not count in the correction."""
    found = []
    for claim in claims:
        for labels in claim.labels:
            pair = (quantity(measure, claim, labels, what) for what in (claim.better, claim.worse))
            found.append(Outcome(claim, labels, *paired(*pair)))
    for paper in {claim.paper for claim in claims}:
        run = [index for index, one in enumerate(found) if one.n and one.claim.paper == paper]
        for index, p in zip(run, holm([found[index].p for index in run]), strict=True):
            found[index] = found[index]._replace(adjusted=p)
    return found
