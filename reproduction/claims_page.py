"""The text of docs/results.md that comes from runs: claims with their verdicts, and the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mixjax.report.words import TYPESET, count, markdown, mean_std, points
from reproduction import claims
from reproduction.claims import Cell, Measure, Outcome, PerSeed

TAIL = 10  # the smallest singular values
LAST = 20  # logged steps
BATCH_KINDS = ('original', 'mixed')  # of LaMix's batches
WEAK = '\u2020'  # a verdict that one correction over all papers would change
# metric: (measure of `mixjax analyse`, its array, from a seed's row to a number, factor to show it, digits).
METRICS: dict[str, tuple[str, str, Callable[[Any], Any], float, int]] = {
    'accuracy': ('', '', float, 100.0, 2),
    **{
        f'{name}_{part}': ('interpolation', f'{output} {part}', np.mean, 1.0, 3)
        for part in ('train', 'test')
        for name, output in (('label', 'probabilities raw'), ('feature', 'features raw'), ('unit', 'features unit'))
    },
    'tail': ('spectrum', 'tail', lambda row: row[:TAIL].mean(), 1000.0, 2),
    'loss': ('curves', 'loss', lambda row: row[-LAST:].mean(), 1.0, 3),
    **{f'loss_{kind}': ('curves', f'loss {kind}', lambda row: row[-LAST:].mean(), 1.0, 3) for kind in BATCH_KINDS},
    'global_early': ('curves', 'global_max mixed', lambda row: row[: len(row) // 10].mean(), 1.0, 3),
    'global_late': ('curves', 'global_max mixed', lambda row: row[-(len(row) // 10) :].mean(), 1.0, 3),
    'area': ('cam', 'area', float, 100.0, 2),
    **{f'top{k + 1}': ('targets', 'mixed_top', lambda row, k=k: row[k], 1.0, 3) for k in range(5)},
    'top_original': ('targets', 'original_top', lambda row: row[0], 1.0, 3),
    **{
        f'{name}_{when}': ('plane', array, lambda row, at=at: row[at], factor, digits)
        for name, array, factor, digits in (('apart', 'separation', 1.0, 2), ('known', 'accuracy', 100.0, 2))
        for when, at in (('half', -2), ('end', -1))
    },
    **{part: ('probe', part, float, 100.0, 2) for part in ('auxiliary', 'all_but_auxiliary', 'all')},
}
# table: its metrics besides accuracy.
OTHERS: Mapping[str, tuple[str, ...]] = {
    'smile_table4': ('label_train', 'label_test', 'feature_train', 'feature_test', 'unit_test'),
    'xmixup_table1': ('tail',),
    'xmixup_table2': ('auxiliary', 'all_but_auxiliary', 'all'),
    'lamix_fig2': tuple(f'top{k}' for k in range(1, 6)),
    'lamix_fig2_letters': tuple(f'top{k}' for k in range(1, 6)),
    'lamix_fig3': ('global_early', 'global_late', 'top_original'),
    'lamix_fig5': ('loss', *(f'loss_{kind}' for kind in BATCH_KINDS)),
    'lamix_fig7': ('area',),
    'lamix_fig8': ('known_half', 'known_end', 'apart_half', 'apart_end'),
}
# Those of them that are measured for some methods of the table only.
ONLY: Mapping[str, tuple[str, ...]] = {
    'loss': ('lamix_long', 'mixup_long', 'cutmix_long'),
    **dict.fromkeys((f'loss_{kind}' for kind in BATCH_KINDS), ('lamix_long',)),
}
WORDS = {
    'accuracy': 'accuracy %',
    'label_train': 'label-IL, labelled images',
    'label_test': 'label-IL, test images',
    'feature_train': 'feature-IL, labelled images',
    'feature_test': 'feature-IL, test images',
    'unit_test': 'feature-IL, test images, features of length 1',
    'tail': 'mean of the ten smallest singular values, in thousandths of the largest',
    'loss': 'training loss, mean of the last twenty logged steps; of LaMix, of both kinds of batch',
    **{f'loss_{kind}': f'the same, of {kind} batches' for kind in BATCH_KINDS},
    'global_early': 'largest learned label of mixed images, mean of the first tenth of training',
    'global_late': 'largest learned label of mixed images, mean of the last tenth of training',
    'area': 'class activation maps: % of the image above half of their maximum',
    **{f'top{k}': f'soft target of mixed images at the end, number {k}' for k in range(1, 6)},
    'top_original': 'largest soft target of original images at the end',
    'known_half': 'training accuracy % after half of the steps',
    'known_end': 'training accuracy % at the end',
    'apart_half': 'distance between classes over distance within, after half of the steps',
    'apart_end': 'distance between classes over distance within, at the end',
    'auxiliary': 'probe %, auxiliary',
    'all_but_auxiliary': 'probe %, all but auxiliary',
    'all': 'probe %, all',
}
TITLES = {
    'order': 'The main methods as labels grow',
    'others': 'Other methods',
    'smile_table2': 'SMILE, Table 2',
    'smile_with_mixup': 'SMILE, abstract: the methods of its Table 2 with Mixup',
    'smile_table3': 'SMILE, Table 3: another network, deeper',
    'smile_table4': 'SMILE, Table 4: interpolation losses',
    'xmixup_table1': 'XMixup, Table 1, and Fig. 2',
    'xmixup_table2': 'XMixup, Table 2: what the trunk still knows of the letters',
    'xmixup_table3': 'XMixup, Table 3: random source images',
    'xmixup_table4': 'XMixup, Table 4: within the target, without source labels',
    'xmixup_fig4': 'XMixup, Fig. 4: alpha',
    'lamix_table1': 'LaMix, Table 1, from scratch',
    'lamix_table2': 'LaMix, Table 2: a shallow network (LeNet) and a deep one',
    'lamix_table3': 'LaMix, Table 3: PuzzleMix',
    'lamix_table4': 'LaMix, Table 4: PuzzleMix, printed letters',
    'lamix_table5': 'LaMix, Table 5: Mixup with label smoothing',
    'lamix_table6': 'LaMix, Table 6: printed letters',
    'lamix_table7': 'LaMix, Table 7: originals',
    'lamix_table8': 'LaMix, Table 8: the learned label',
    'smile_fig1': 'SMILE, Fig. 1: Mixup in fine-tuning and from scratch',
    'xmixup_fig3': 'XMixup, Fig. 3: how many source images',
    'lamix_fig2': 'LaMix, Fig. 2: the five largest soft targets',
    'lamix_fig2_letters': 'LaMix, Fig. 2: the five largest soft targets, printed letters',
    'lamix_fig3': 'LaMix, Fig. 3: soft targets over training',
    'lamix_fig4': 'LaMix, Fig. 4: beta',
    'lamix_fig5': 'LaMix, Fig. 5: five times as many steps',
    'lamix_fig6': 'LaMix, Fig. 6: label smoothing',
    'lamix_fig7': 'LaMix, Fig. 7: class activation maps',
    'lamix_fig8': 'LaMix, Fig. 8: how far the classes are apart in two units',
}
# paper: the forms that its claims mean.
FORMS = {
    'SMILE': 'Mixup, L2-SP and DELTA are as SMILE has them: `mixup_smile` (alpha 0.2), `l2sp_smile`, `delta_smile`.',
    'XMixup': 'Mixup, L2-SP and BSS are `mixup` (alpha 1), `l2sp` and `bss` of the tables below.',
    'LaMix': 'PuzzleMix is `puzzlemix_ce`, with the cross-entropy of its paper, and Mixup is `mixup` (alpha 1).',
}


def measured(table: str, method: str) -> tuple[str, ...]:
    """Return the metrics of a method in a table besides accuracy."""
    return tuple(metric for metric in OTHERS.get(table, ()) if method in ONLY.get(metric, (method,)))


def cell_text(values: PerSeed | None, metric: str = 'accuracy') -> str:
    """Return `81.64 ± 4.00`, or that there is nothing."""
    if not values:
        return claims.MISSING
    *_, factor, digits = METRICS[metric]
    mean, std = mean_std([factor * value for value in values.values()])
    return f'{mean:.{digits}f}' + ('' if std is None else f' {TYPESET} {std:.{digits}f}')


def difference_text(one: Outcome) -> str:
    """Return `+5.10 ± 0.47` in the unit of the metric."""
    if one.claim.metric == 'accuracy' or METRICS[one.claim.metric][3] == 100.0:
        return f'{points(one.mean, True)} {TYPESET} {100 * one.stderr:.2f}'
    *_, factor, digits = METRICS[one.claim.metric]
    shown = f'{factor * one.mean:+.{digits}f}'.replace('-', '\u2212')
    return f'{shown} {TYPESET} {factor * one.stderr:.{digits}f}'


def p_text(p: float) -> str:
    """Return p with enough digits to show on which side of 0.05 it is."""
    digits = 4 if p < 0.01 else 3 if p < 0.1 else 2
    return '&lt; 0.0001' if p < 0.0001 else f'{p:.{digits}f}'


def table_text(head: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> str:
    """Return a table; the first `names` columns are words."""
    rule = ['---'] * names + ['--:'] * (len(head) - names)
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in (head, rule, *rows))


def claims_section(tested: Sequence[Outcome], about: str) -> str:
    run = [one for one in tested if one.n]
    verdicts = [one.verdict for one in run]
    many = [verdicts.count(verdict) for verdict in (claims.HOLDS, claims.OPEN, claims.OPPOSITE)]
    decided, stand = (sum(getattr(one, name) for one in tested) for name in ('decided', 'stands'))
    left = f' {count(len(tested) - len(run), "comparison")} not run yet.' if len(run) < len(tested) else ''
    papers = dict.fromkeys(one.claim.paper for one in tested)
    tables = [paper_text(paper, [one for one in tested if one.claim.paper == paper]) for paper in papers]
    return f"""## Which claims hold here

{about}

Of {count(len(run), 'comparison')} {many[0]} hold, {many[1]} are not shown, and for {many[2]} the opposite holds.{left}
These counts are not a score: many rows repeat one fact (each baseline that is no better than fine-tuning adds a row
for every method that is better).

A difference is the first minus the second, paired over seeds (a seed draws the labelled images, the same for all
methods), with its standard error: percentage points of accuracy, of probes and of areas; losses and soft targets as
they are; thousandths for singular values. A number that a paper prints is the same for every seed. p is of Student's
paired t-test, two-sided, after Holm's correction over all comparisons of the
paper{', those not run yet too' * bool(left)}.
"holds" and "the opposite" need p < 0.05, and "not shown" is all else: what more seeds might show, too.

* The test takes the differences for normal. One that does not, by changing their signs, cannot give less than
  p = 2/1024 with ten seeds, and the correction lifts that above 0.05 in each paper.
* The correction was first one over all three papers, and was changed, and claims were put in other words, added or
  left out, when verdicts had been seen. With one correction over all, {stand} of the {decided} that are decided would
  stand; the others are marked with {WEAK}.
* "At most half a point" below is tested with half a point added to the difference. From scratch with 100 labels per
  class, where all are near 99 %, that is most of the error.
* Where a method is compared with several at once, the least favourable difference is shown. The opposite of "above any"
  is "below one of them at least"; p is then multiplied by how many there are.
* The seeds draw from one set of images, so p speaks of other draws from it, not of other sets.

{chr(10).join(in_words(run))}

{chr(10).join(tables)}"""


def in_words(run: Sequence[Outcome]) -> list[str]:
    """Return for each verdict a line for each paper: the claims that have it, and at how many labels per class."""
    lines = []
    titles = ((claims.HOLDS, 'Holds'), (claims.OPPOSITE, 'The opposite holds'), (claims.OPEN, 'Not shown'))
    for verdict, title in titles:
        at: dict[str, dict[str, list[str]]] = {}
        for one in run:
            if one.verdict == verdict:
                at.setdefault(one.claim.paper, {}).setdefault(one.claim.says, []).append(one.labels)
        lines.append(f'* **{title}** (in brackets: labels per class): {"" if at else "nothing."}'.rstrip())
        for paper, said in at.items():
            each = '; '.join(f'{markdown(says)} ({", ".join(labels)})' for says, labels in said.items())
            lines.append(f'    * {paper}: {each}.')
    return lines


def paper_text(paper: str, tested: Sequence[Outcome]) -> str:
    """Return the claims of one paper: a row for each, a column for each number of labels."""
    labels = sorted({one.labels for one in tested}, key=int)
    found = {(one.claim, one.labels): one for one in tested}
    rows = []
    for claim in dict.fromkeys(one.claim for one in tested):
        told = [verdict_text(found[claim, few]) if (claim, few) in found else '' for few in labels]
        rows.append([claim.where.partition(', ')[2], markdown(claim.says), *told])
    head = ['in the paper', 'claim', *(f'{few} per class' for few in labels)]
    forms = f'{FORMS[paper]}\n\n' if paper in FORMS else ''
    return f'### Claims of {paper}\n\n{forms}{table_text(head, rows, len(head))}\n'


def verdict_text(one: Outcome) -> str:
    """Return `+5.10 ± 0.47, p < 0.0001: holds`; p after the correction."""
    if not one.n:
        return one.verdict
    verdict = f'**{one.verdict}**' if one.verdict == claims.OPPOSITE else one.verdict
    least = 'least ' * (len(one.claim.pairs()) > 1)
    weak = f' {WEAK}' if one.decided and not one.stands else ''
    return f'{least}{difference_text(one)}, p {p_text(one.adjusted)}: {verdict}{weak}'


def tables_section(every: Sequence[Cell], measure: Measure, pictures: Mapping[str, str]) -> str:
    """Return the accuracy of every cell, table by table, and the other measurements.

    Args:
      every: the cells.
      measure: the function that returns their numbers.
      pictures: {table: the Markdown of its chart}.
    """
    parts = ['## Accuracy, and what else was measured', '', 'Means and standard deviations over seeds.', '']
    for table in dict.fromkeys(table for table, *_ in every):
        mine = [cell for cell in every if cell[0] == table]
        labels = list(dict.fromkeys(labels for _, labels, _ in mine))
        methods = list(dict.fromkeys(method for *_, method in mine))
        for metric in ('accuracy', *OTHERS.get(table, ())):
            body = [
                [markdown(name), *(cell_text(measure((table, few, name), metric), metric) for few in labels)]
                for name in methods
                if metric == 'accuracy' or metric in measured(table, name)
            ]
            head = [f'{WORDS[metric]}', *(f'{few} per class' for few in labels)]
            if metric == 'accuracy':
                parts += [f'### {TITLES[table]}', '', *([pictures[table], ''] if table in pictures else [])]
            parts += [table_text(head, body, 1), '']
        if len(labels) > 1:
            parts += [f'At {few}: {ranked(table, few, methods, measure)}.  ' for few in labels] + ['']
    return '\n'.join(parts)


def ranked(table: str, labels: str, methods: Sequence[str], measure: Measure) -> str:
    """Return the methods from the best mean down; those that were not run are left out."""
    found = {name: measure((table, labels, name), 'accuracy') for name in methods}
    means = {name: mean_std(list(values.values()))[0] for name, values in found.items() if values}
    best = sorted(means, key=means.__getitem__, reverse=True)
    return ', '.join(f'{markdown(name)} {100 * means[name]:.1f}' for name in best) or claims.MISSING
