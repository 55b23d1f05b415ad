"""The claims of the three papers, as differences between runs of configs/digits/tables.py: paired over seeds, tested.

A claim states that one cell is better than another in a metric. Its difference is taken seed by seed (a seed is one
draw of the labelled images, the same for all methods), and tested by Student's paired t-test, two-sided. A paper has
many claims, so a verdict needs a p that stays below 5 % after Holm's correction over all of that paper's.

"Not below by more than half a point" is a claim, too: the same test of the difference plus the margin. "Above each of"
is one claim and not one for each: it is decided by the least of the differences.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from scipy import stats

LEVEL = 0.05
HOLDS, OPPOSITE, OPEN, MISSING = 'holds', 'the opposite', 'not shown', 'not run'

Cell = tuple[str, str, str]  # table, labels per class, method
PerSeed = Mapping[int, float]
Measure = Callable[[Cell, str], PerSeed | None]


class Claim(NamedTuple):
    """A claim that `better` is above `worse` in `metric`, or below it if `sign` is -1, at each number of labels.

    where: paper and table.
    says: the claim in words.
    table: the table of the cells.
    better, worse: a method of it, or the gain of one over another, `a - b`; of several, `a | b`, each is meant. A
        method of another table is `table:labels:method`; empty labels are those of the claim. `worse` may be a bare
        number that the paper prints, `0.25`, the same for every seed.
    metric: one of `reproduction.claims_page.METRICS`; `method@metric` names another.
    margin: a shortfall that still counts.
    """

    where: str
    says: str
    table: str
    better: str
    worse: str
    labels: tuple[str, ...]
    metric: str = 'accuracy'
    sign: int = 1
    margin: float = 0.0

    @property
    def paper(self) -> str:
        return self.where.partition(',')[0]

    def meant(self, name: str, labels: str) -> tuple[Cell, str]:
        """Return the cell that a name in `better` or `worse` means, and its metric."""
        name, _, metric = name.partition('@')
        table, few, method = name.split(':') if ':' in name else (self.table, labels, name)
        return (table, few or labels, method), metric or self.metric

    def pairs(self) -> list[tuple[str, str]]:
        """Return the pairs of each of `better` and each of `worse`."""
        return list(itertools.product(self.better.split(' | '), self.worse.split(' | ')))


class Outcome(NamedTuple):
    """A claim at one number of labels. mean, stderr: of `better` minus `worse`, for their least favourable pair.

    p: before the correction, adjusted: after that over its paper, at_once: after one over all papers.
    """

    claim: Claim
    labels: str
    mean: float
    stderr: float
    n: int
    p: float
    adjusted: float = 1.0
    at_once: float = 1.0

    @property
    def decided(self) -> bool:
        return self.verdict in (HOLDS, OPPOSITE)

    @property
    def stands(self) -> bool:
        """True if it would be decided with one correction over all papers, too."""
        return self.decided and self.at_once < LEVEL

    @property
    def verdict(self) -> str:
        if not self.n:
            return MISSING
        if self.adjusted >= LEVEL:
            return OPEN
        return HOLDS if self.mean * self.claim.sign + self.claim.margin > 0 else OPPOSITE


def quantity(measure: Measure, claim: Claim, labels: str, what: str) -> PerSeed | None:
    """Return {seed: number} of a method, or of the difference of two; None if a run is missing."""
    found = [measure(*claim.meant(name, labels)) for name in what.split(' - ')]
    first, *rest = found
    if first is None or not rest:
        return first
    (less,) = rest
    return None if less is None else {seed: first[seed] - less[seed] for seed in first.keys() & less.keys()}


def printed(what: str) -> float | None:
    """Return the number that a claim has in place of a method, or None."""
    try:
        return float(what)
    except ValueError:
        return None


def paired(better: PerSeed | None, worse: PerSeed | None, shift: float = 0.0) -> tuple[float, float, int, float]:
    """Return mean, standard error and n of the differences over the shared seeds, and p of mean + shift being 0.

    n is 0 below two seeds.
    """
    seeds = sorted((better or {}).keys() & (worse or {}).keys())
    if len(seeds) < 2 or better is None or worse is None:
        return 0.0, 0.0, 0, 1.0
    gaps = [better[seed] - worse[seed] for seed in seeds]
    mean = math.fsum(gaps) / len(gaps)
    stderr = math.sqrt(math.fsum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1) / len(gaps))
    if stderr == 0:  # all differences are equal: there is no error to divide by
        return mean, 0.0, len(gaps), 1.0 if mean + shift == 0 else 0.0
    return mean, stderr, len(gaps), float(2 * stats.t.sf(abs(mean + shift) / stderr, len(gaps) - 1))


def tested(measure: Measure, claim: Claim, labels: str) -> Outcome:
    """Test the least favourable pair of a claim; if it shows the opposite, p is corrected for the number of pairs."""
    found = []
    for better, worse in claim.pairs():
        better, number = quantity(measure, claim, labels, better), printed(worse)
        fixed = None if number is None else dict.fromkeys(better or {}, number)
        worse = quantity(measure, claim, labels, worse) if fixed is None else fixed
        one = Outcome(claim, labels, *paired(better, worse, claim.sign * claim.margin))
        if not one.n:
            return one
        found.append(one)

    def favour(one: Outcome) -> tuple[float, float]:
        toward = math.copysign(1.0, one.mean * claim.sign + claim.margin)
        return toward * (1 - one.p), one.mean * claim.sign

    least = min(found, key=favour)
    against = least.mean * claim.sign + claim.margin < 0
    return least._replace(p=min(1.0, least.p * len(found))) if against else least


def holm(values: Sequence[float]) -> list[float]:
    """Return each p with Holm's correction: the k-th smallest of m times m - k + 1, never below the ones before it."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, least = [1.0] * len(values), 0.0
    for rank, index in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = least
    return adjusted


def judged(measure: Measure, claims: Sequence[Claim]) -> list[Outcome]:
    """Test every claim at each of its numbers of labels, in order; corrected over all of them, run or not yet."""
    found = [tested(measure, claim, labels) for claim in claims for labels in claim.labels]
    found = [one._replace(at_once=p) for one, p in zip(found, holm([one.p for one in found]), strict=True)]
    for paper in {claim.paper for claim in claims}:
        mine = [index for index, one in enumerate(found) if one.claim.paper == paper]
        for index, p in zip(mine, holm([found[index].p for index in mine]), strict=True):
            found[index] = found[index]._replace(adjusted=p)
    return found
