"""The answer in words: the best method, its lead, and how certain that is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from mixjax.report.tables import Difference, Primary, Row, accuracy_rows, best_row
from mixjax.report.words import TYPESET, count, isolate, mean_std, number, t95

FEW = 5  # with fewer seeds a standard error is too uncertain


class Answer(NamedTuple):
    """A summary in words. headline: one sentence. figures: (number, description). remarks: sentences."""

    headline: str
    figures: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]


def answer(results: Mapping[str, Any]) -> Answer:
    """Return the answer of a run or a comparison."""
    rows = accuracy_rows(results)
    if _untested(results):
        learned = next(iter(_runs(results)))['train_examples']
        headline = f'Trained on all {count(learned, "image")}; nothing was left to test on.'
        return Answer(headline, (), ('Its accuracy is not known (config.target.test=none).',))
    best = best_row(rows)
    run = results['runs'][best.label] if results['kind'] == 'comparison' else results
    figures = [_accuracy_figure(best, run)]
    best_name = isolate(best.label)
    if len(rows) == 1:
        remarks = () if best.n > 1 else ('One seed was run, so nothing is known about how much the result varies.',)
        found = f'{best_name} gets {best.text} % of the test images right.'
        found = found if best.primary.percent else f'{best_name} has a test {best.primary.name} of {best.text}.'
        return Answer(found, tuple(figures), remarks)
    base = next(row for row in rows if row.baseline)
    base_name = isolate(base.label)
    rival = best_row([row for row in rows if row is not best])
    gap = best.difference or paired(best, base)
    if best.baseline:
        nearest = rival.difference or paired(rival, base)
        figures.append(_difference_figure(best.primary, nearest, f'{isolate(rival.label)} to {base_name}'))
        headline = f'No method scored {_above(best.primary)} {base_name}.'
        return Answer(headline, tuple(figures), (_second(best, rival),))
    figures.append(_difference_figure(best.primary, gap, f'to {base_name}'))
    headline, remarks = _lead(best, base_name, gap, len(rows) - 1)
    if not rival.baseline:
        remarks.append(_second(best, rival))
    return Answer(headline, tuple(figures), tuple(remarks))


def _runs(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(results['runs'].values()) if results['kind'] == 'comparison' else [results]


def _untested(results: Mapping[str, Any]) -> bool:
    return not any(run['test_examples'] for run in _runs(results))


def paired(row: Row, other: Row) -> Difference | None:
    """Return `row` minus `other` over the seeds that both have; None if they share none."""
    theirs = dict(other.seeds)
    gaps = [value - theirs[seed] for seed, value in row.seeds if seed in theirs]
    if not gaps or any(map(math.isnan, gaps)):
        return None
    mean, std = mean_std(gaps)
    return Difference(mean, None if std is None else std / len(gaps) ** 0.5, len(gaps))


def interval(difference: Difference) -> tuple[float, float] | None:
    """Return the 95 % interval of a paired difference by Student's t; None for one seed."""
    if difference.stderr is None or difference.n < 2:
        return None
    half = t95(difference.n - 1) * difference.stderr
    return difference.mean - half, difference.mean + half


def sure(difference: Difference | None) -> str:
    """Classify how certain the sign of a difference is.

    `unknown` (one seed), `chance` (within two standard errors), `weak` (beyond them, but two seeds or
    a 95 % interval that reaches zero), `clear`.
    """
    limits = interval(difference) if difference else None
    if not difference or difference.stderr is None or limits is None:
        return 'unknown'
    if abs(difference.mean) <= 2 * difference.stderr:
        return 'chance'
    return 'weak' if difference.n < 3 or limits[0] <= 0 <= limits[1] else 'clear'


def _accuracy_figure(row: Row, run: Mapping[str, Any]) -> tuple[str, str]:
    classes, shown = len(run['classes']), run['train_examples']
    each = f', {number(shown // classes)} per class' if classes and shown % classes == 0 else ''
    each = each if row.primary.percent else ''
    over = f'mean {TYPESET} standard deviation over {count(row.n, "seed")}; ' if row.n > 1 else 'one seed; '
    what = f'{isolate(row.label)}: {over}{count(run["test_examples"], "test image")}, {number(shown)} labelled{each}'
    return row.primary.spread(row.text, row.std, TYPESET) + (' %' if row.primary.percent else ''), what


def _difference_figure(primary: Primary, difference: Difference | None, to: str) -> tuple[str, str]:
    if difference is None:
        return '?', f'{primary.unit} {to}: no seed in common'
    text = primary.spread(primary.gap(difference.mean, True), difference.stderr, TYPESET)
    if difference.stderr is None:
        return text, f'{primary.unit} {to}; one seed'
    return text, f'{primary.unit} {to}: paired over {count(difference.n, "seed")}, {TYPESET} standard error'


def _above(primary: Primary) -> str:
    return 'above' if primary.higher else 'below'


def _lead(row: Row, base: str, gap: Difference | None, tried: int) -> tuple[str, list[str]]:
    """Return headline and remarks on the lead of the best method over the baseline."""
    level, primary, best = sure(gap), row.primary, isolate(row.label)
    top = 'highest' if primary.higher else 'lowest'
    if gap is None or level == 'unknown':
        headline = f'{best} scored {top}, in the one seed that can be compared.'
        return headline, [f'One seed cannot tell a lead over {base} from chance; run several (--config.num_seeds=5).']
    limits = interval(gap)
    assert limits is not None
    low, high = (primary.gap(limit, True) for limit in limits)
    reach = f'The 95 % interval of the difference (Student\u2019s t) is {low} to {high}.'
    if level == 'chance':
        headline = f'{best} scored {top}, but its lead over {base} may be chance.'
        remarks = ['The difference is within two standard errors.', reach]
    elif level == 'weak':
        headline = f'{best} scored {top}; {count(gap.n, "seed")} are too few to be sure that it beats {base}.'
        remarks = ['The difference is beyond two standard errors, but these are known only roughly.', reach]
    else:
        headline = f'{best} is ahead of {base} by {_by(primary, gap.mean)}.'
        few = f' {gap.n} seeds are few: take the size of the lead as rough.' if gap.n < FEW else ''
        remarks = [reach + few]
    if tried > 1:
        remarks.append(f'It was picked as the best of {tried} after they were run, which flatters its lead a little.')
    return headline, remarks


def _by(primary: Primary, gap: float) -> str:
    """Return a lead in words: `3.21 points`, or `0.12 in mAP`."""
    lead = primary.text(primary.gain(gap))
    return f'{lead} points' if primary.percent else f'{lead} in {primary.name}'


def _second(best: Row, rival: Row) -> str:
    """Return one sentence on the second-best method."""
    primary, gap, name = best.primary, paired(best, rival), isolate(rival.label)
    if gap is None:
        return f'Next is {name} with {rival.text}{" %" if primary.percent else ""}.'
    lead = primary.spread(primary.text(primary.gain(gap.mean)), gap.stderr, TYPESET)
    by = f'{lead} points' if primary.percent else f'{lead} in {primary.name}'
    if sure(gap) == 'clear':
        return f'{name} is next, {by} behind.'
    return f'{name} is next, {by} behind: too close to tell the two apart.'
