"""The claims of the papers over runs on the digits: their statistics, the page, and the command that trains them."""

import random

import numpy as np
import pytest
from scipy import stats

from mixjax.config import grid_files
from reproduction import claims, claims_page, digits, papers_claims
from reproduction.claims import Claim, Outcome

ONE = Claim('A, Table 1', 'a above b', 'order', 'a', 'b', ('3',))


def test_every_claim_is_about_cells_that_exist():
    cells = {tuple(part.partition('=')[2] for part in cell.split(',')) for cell in grid_files.cells(digits.GRID)}
    for claim in papers_claims.CLAIMS:
        for labels in claim.labels:
            named = {name for pair in claim.pairs() for what in pair for name in what.split(' - ')}
            for name in (name for name in named if claims.printed(name) is None):
                cell, metric = claim.meant(name, labels)
                assert cell in cells and metric in ('accuracy', *claims_page.measured(cell[0], cell[2]))
    assert set(claims_page.TITLES) == {table for table, *_ in cells}
    said = [(claim.paper, claim.says) for claim in papers_claims.CLAIMS]
    assert len(said) == len(set(said)), 'the lists of verdicts tell claims apart by what they say'


def test_the_difference_is_paired_over_the_seeds_that_both_have():
    draw = random.Random(0)
    a, b = ({seed: draw.random() for seed in seeds} for seeds in (range(10), range(2, 12)))
    mean, stderr, n, p = claims.paired(a, b)
    both = [[x[seed] for seed in range(2, 10)] for x in (a, b)]
    assert n == 8 and mean == pytest.approx(np.mean(both[0]) - np.mean(both[1]))
    assert p == pytest.approx(stats.ttest_rel(*both).pvalue)
    assert stderr == pytest.approx(stats.sem(np.subtract(*both)))


@pytest.mark.parametrize('a, b', [(None, {0: 1.0, 1: 2.0}), ({0: 1.0}, {0: 2.0}), ({0: 1.0, 1: 1.0}, {2: 1.0})])
def test_fewer_than_two_seeds_in_common_are_no_test(a, b):
    assert claims.paired(a, b) == (0.0, 0.0, 0, 1.0)
    assert Outcome(ONE, '3', *claims.paired(a, b)).verdict == claims.MISSING


def test_differences_that_are_all_alike_have_no_error():
    assert claims.paired({0: 0.5, 1: 0.75}, {0: 0.25, 1: 0.5}) == (0.25, 0.0, 2, 0.0)
    assert claims.paired({0: 0.5, 1: 0.75}, {0: 0.5, 1: 0.75}) == (0.0, 0.0, 2, 1.0)


def test_holm_by_hand():
    # sorted: .01 x 4, .02 x 3, .03 x 2 (not below the one before), .5 x 1
    assert claims.holm([0.02, 0.5, 0.01, 0.03]) == pytest.approx([0.06, 0.5, 0.04, 0.06])
    assert claims.holm([0.9, 0.8]) == [1.0, 1.0]
    assert claims.holm([]) == []


@pytest.mark.parametrize(
    'gap, sign, verdict', [(1.0, 1, claims.HOLDS), (1.0, -1, claims.OPPOSITE), (-1.0, -1, claims.HOLDS)]
)
def test_verdicts(gap, sign, verdict):
    noise = [0.01 * (-1) ** k for k in range(10)]
    cells = {'a': {k: gap + e for k, e in enumerate(noise)}, 'b': dict.fromkeys(range(10), 0.0)}
    (found,) = claims.judged(lambda cell, metric: cells[cell[2]], [ONE._replace(sign=sign)])
    assert found.verdict == verdict
    cells['a'] = dict(enumerate(10 * e for e in noise))  # the mean is 0
    (found,) = claims.judged(lambda cell, metric: cells[cell[2]], [ONE._replace(sign=sign)])
    assert found.verdict == claims.OPEN


def test_a_gain_is_the_difference_of_two_methods_seed_by_seed():
    cells = {
        'a': {0: 5.0, 1: 7.0, 2: 9.0},
        'b': {0: 1.0, 1: 2.0},
        'c': {0: 3.0, 1: 3.5, 2: 4.0},
        'd': {0: 1, 1: 1, 2: 1},
    }
    claim = ONE._replace(better='a - b', worse='c - d')  # seed 0: 4 - 2, seed 1: 5 - 2.5
    (found,) = claims.judged(lambda cell, metric: cells[cell[2]], [claim])
    assert (found.mean, found.n) == (2.25, 2) and found.stderr == pytest.approx(0.25)
    (found,) = claims.judged(lambda cell, metric: cells.get(cell[2]), [claim._replace(worse='c - missing')])
    assert found.verdict == claims.MISSING


def test_what_was_not_run_yet_counts_in_the_correction_too():
    half = {'a': {0: 1.0, 1: 1.1, 2: 1.2}, 'b': {0: 0.0, 1: 0.2, 2: 0.1}}
    every = [ONE, ONE._replace(better='missing'), ONE._replace(worse='missing')]
    found = claims.judged(lambda cell, metric: half.get(cell[2]), every)
    assert found[0].adjusted == pytest.approx(3 * found[0].p) and found[0].adjusted < 0.05
    text = claims_page.claims_section(found, 'about')
    assert 'Of 1 comparison 1 hold, 0 are not shown, and for 0 the opposite holds. 2 comparisons not run yet.' in text
    assert '* **Holds** (in brackets: labels per class):\n    * A: a above b (3).\n* **The opposite holds**' in text
    assert '* **Not shown** (in brackets: labels per class): nothing.' in text
    assert '### Claims of A\n' in text and '| in the paper | claim | 3 per class |' in text
    assert '| Table 1 | a above b | +100.00 ± 5.77, p 0.0100: holds |' in text  # 3 x 0.0033
    assert text.count('| a above b | not run |') == 2


def test_at_most_a_margin_below():
    noise = [0.001 * (-1) ** k for k in range(10)]
    cells = {'a': {k: 0.497 + e for k, e in enumerate(noise)}, 'b': dict.fromkeys(range(10), 0.5)}

    def verdict(**changes):
        (found,) = claims.judged(lambda cell, metric: cells[cell[2]], [ONE._replace(**changes)])
        return found.verdict

    assert verdict() == claims.OPPOSITE  # 0.3 points below
    assert verdict(margin=0.005) == claims.HOLDS
    assert verdict(margin=0.003) == claims.OPEN
    assert verdict(margin=0.001) == claims.OPPOSITE
    assert verdict(better='b', worse='a', sign=-1, margin=0.005) == claims.HOLDS  # at most 0.5 above
    assert verdict(better='b', worse='a', sign=-1, margin=0.001) == claims.OPPOSITE


def test_above_each_of_several_stands_or_falls_with_the_least():
    noise = [0.01 * (-1) ** k for k in range(10)]
    cells = {name: {k: mean + e * (k % 3) for k, e in enumerate(noise)} for name, mean in (('a', 0.5), ('b', 0.4))}
    cells |= {'c': {k: 0.3 + e for k, e in enumerate(noise)}, 'd': dict.fromkeys(range(10), 0.6)}

    def of(worse, names=cells):
        (found,) = claims.judged(lambda cell, metric: names.get(cell[2]), [ONE._replace(worse=worse)])
        return found

    alone = {name: of(name) for name in 'bcd'}
    assert of('b | c') == max(alone['b'], alone['c'], key=lambda one: one.p)._replace(claim=of('b | c').claim)
    assert of('b | c').verdict == claims.HOLDS
    against = of('b | c | d')
    assert against.verdict == claims.OPPOSITE and against.mean == alone['d'].mean
    assert against.p == pytest.approx(3 * alone['d'].p)  # the worst of three
    assert of('b | missing').verdict == claims.MISSING
    text = claims_page.verdict_text(of('b | c'))
    assert text.startswith('least +') and text.endswith(': holds')


def test_a_cell_of_another_table_or_of_other_labels():
    asked = []

    def measure(cell, metric):
        asked.append(cell)
        return {0: 1.0, 1: 2.0}

    claims.judged(measure, [ONE._replace(better='others::c', worse='order:50:a - b')])
    assert asked == [('others', '3', 'c'), ('order', '50', 'a'), ('order', '3', 'b')]


def test_a_method_may_have_a_measure_of_its_own():
    values = {('a', 'test'): 9.0, ('a', 'train'): 4.0, ('b', 'test'): 3.0, ('b', 'train'): 1.0}
    claim = ONE._replace(better='a@test - a@train', worse='b@test - order:50:b@train')
    (found,) = claims.judged(lambda cell, metric: dict.fromkeys(range(3), values[cell[2], metric]), [claim])
    assert found.mean == (9 - 4) - (3 - 1)
    assert claim.meant('order:50:b@train', '3') == (('order', '50', 'b'), 'train')


def test_a_number_that_the_paper_prints_is_the_same_for_every_seed():
    values = {0: 0.22, 1: 0.24, 2: 0.23}
    asked = []

    def measure(cell, metric):
        asked.append(cell[2])
        return values if cell[2] == 'a' else None

    (found,) = claims.judged(measure, [ONE._replace(worse='0.2')])
    assert (found.mean, found.n) == (pytest.approx(0.03), 3) and asked == ['a']
    assert found.p == pytest.approx(stats.ttest_1samp(list(values.values()), 0.2).pvalue)
    assert claims.judged(measure, [ONE._replace(worse='0.3')])[0].mean == pytest.approx(-0.07)
    (at_most,) = claims.judged(measure, [ONE._replace(worse='0.2', sign=-1, margin=0.05)])
    assert at_most.mean * -1 + 0.05 > 0
    assert claims.judged(measure, [ONE._replace(better='missing', worse='0.2')])[0].verdict == claims.MISSING
    low, high = papers_claims.within('A, Fig. 1', 'it is', ('order', 'a', ('3',)), 'accuracy', 0.2, 0.25)
    assert [one.verdict for one in claims.judged(lambda *_: dict.fromkeys(range(3), 0.22), [low, high])] == 2 * [
        'holds'
    ]
    outside = claims.judged(lambda *_: dict.fromkeys(range(3), 0.3), [low, high])
    assert [one.verdict for one in outside] == [claims.HOLDS, claims.OPPOSITE]


def test_papers_are_corrected_each_by_itself():
    half = {'a': {0: 1.0, 1: 1.1, 2: 1.2}, 'b': {0: 0.0, 1: 0.2, 2: 0.1}}
    found = claims.judged(lambda cell, metric: half[cell[2]], [ONE, ONE, ONE._replace(where='B, Table 1')])
    assert [one.adjusted / one.p for one in found] == pytest.approx([2, 2, 1])
    assert [one.at_once / one.p for one in found] == pytest.approx([3, 3, 3])


def test_claims_lost_under_joint_correction_are_marked():
    half = {'a': {0: 1.0, 1: 1.1, 2: 1.2}, 'b': {0: 0.0, 1: 0.2, 2: 0.1}}  # p is 0.0033
    others = [ONE._replace(where=f'{name}, Table 1') for name in 'BCDEFGHIJKLMNOPQ']
    found = claims.judged(lambda cell, metric: half[cell[2]], [ONE, *others])
    assert found[0].decided and not found[0].stands and claims_page.verdict_text(found[0]).endswith('holds \u2020')
    assert 'With one correction over all, 0 of the 17 that are decided would' in claims_page.claims_section(found, '')
    few = claims.judged(lambda cell, metric: half[cell[2]], [ONE, others[0]])
    assert few[0].stands and claims_page.verdict_text(few[0]).endswith('holds')


def test_tables_have_a_row_for_each_method_and_the_order():
    values = {'a': {0: 0.5, 1: 0.75}, 'b_c': {0: 0.8, 1: 0.8}}
    every = [('order', few, name) for few in ('3', '5') for name in values]
    text = claims_page.tables_section(
        every, lambda cell, metric: values[cell[2]] if cell[1] == '3' else None, {'order': '![chart](a.svg)'}
    )
    assert '\n\n![chart](a.svg)\n\n| accuracy % | 3 per class | 5 per class |' in text
    assert '| a | 62.50 ± 17.68 | not run |' in text
    assert 'At 3: b\\_c 80.0, a 62.5.' in text and 'At 5: not run.' in text
