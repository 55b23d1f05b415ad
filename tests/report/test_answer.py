"""The answer claims no more than the numbers carry."""

import pytest

from mixjax.report.answer import answer, interval, sure
from mixjax.report.tables import Difference
from tests.support import fake

BASE = [0.84, 0.85, 0.86, 0.85, 0.85]


def compare(*gaps, base=BASE, **others):
    base = base[: len(gaps)]
    runs = {'finetune': base, 'smile': [b + gap for b, gap in zip(base, gaps, strict=True)], **others}
    return answer(fake.comparison_results(runs))


def test_clear_winner():
    found = compare(0.030, 0.032, 0.034, 0.031, 0.033)
    assert found.headline == 'smile is ahead of finetune by 3.20 points.'
    assert found.figures[0] == (
        '88.20 \u00b1 0.85 %',
        'smile: mean \u00b1 standard deviation over 5 seeds; 1,767 test images, 30 labelled, 3 per class',
    )
    assert found.figures[1] == (
        '+3.20 \u00b1 0.07',
        'percentage points to finetune: paired over 5 seeds, \u00b1 standard error',
    )
    assert found.remarks == ('The 95 % interval of the difference (Student\u2019s t) is +3.00 to +3.40.',)


def test_clear_winner_with_few_seeds():
    found = compare(0.030, 0.032, 0.034)
    assert found.headline == 'smile is ahead of finetune by 3.20 points.'
    assert '3 seeds are few' in found.remarks[0]


def test_within_two_standard_errors():
    found = compare(-0.02, 0.01, 0.03, 0.00, 0.01)
    assert found.headline == 'smile scored highest, but its lead over finetune may be chance.'
    assert found.remarks[0] == 'The difference is within two standard errors.'


def test_beyond_two_standard_errors_but_the_interval_reaches_zero():
    found = compare(0.01, 0.03, 0.05)  # 3.00 +- 1.15: t is 2.6, and 4.3 would be needed
    assert found.headline == 'smile scored highest; 3 seeds are too few to be sure that it beats finetune.'
    assert '\u22121.97 to +7.97' in found.remarks[1]


def test_one_seed_claims_nothing():
    found = compare(0.03)
    assert found.headline == 'smile scored highest, in the one seed that can be compared.'
    assert found.figures[1] == ('+3.00', 'percentage points to finetune; one seed')
    assert 'cannot tell' in found.remarks[0]


def test_baseline_that_wins():
    found = compare(-0.030, -0.032, -0.034)
    assert found.headline == 'No method scored above finetune.'
    assert found.figures[1] == (
        '\u22123.20 \u00b1 0.12',
        'percentage points smile to finetune: paired over 3 seeds, \u00b1 standard error',
    )
    assert found.remarks == ('smile is next, 3.20 \u00b1 0.12 points behind.',)


def test_indistinguishable_runner_up_is_named():
    found = compare(0.030, 0.032, 0.034, mixup=[0.871, 0.882, 0.889])
    assert found.remarks[-2].startswith('It was picked as the best of 2')
    assert found.remarks[-1].startswith('mixup is next') and 'too close' in found.remarks[-1]
    far = compare(0.030, 0.032, 0.034, mixup=[0.85, 0.861, 0.872])
    assert far.remarks[-1] == 'mixup is next, 2.10 \u00b1 0.06 points behind.'


def test_a_single_run():
    found = answer(fake.run_results('smile', [0.9, 0.92]))
    assert found.headline == 'smile gets 91.00 % of the test images right.' and found.remarks == ()
    assert 'One seed' in answer(fake.run_results('smile', [0.9])).remarks[0]
    assert len(answer(fake.comparison_results({'smile': [0.9]})).figures) == 1


def test_seeds_that_differ_are_paired_by_number():
    results = fake.comparison_results({'a': [0.8, 0.9], 'b': [0.81, 0.91]})
    results['differences'] = {}
    results['runs']['b']['seeds'][0]['seed'] = 7
    found = answer(results)
    assert found.figures[1] == ('+1.00', 'percentage points to a; one seed')
    results['runs']['b']['seeds'][1]['seed'] = 8
    assert answer(results).figures[1] == ('?', 'percentage points to a: no seed in common')


@pytest.mark.parametrize(
    ('difference', 'level'),
    [
        (None, 'unknown'), (Difference(0.1, None, 1), 'unknown'), (Difference(0.02, 0.01, 9), 'chance'),
        (Difference(-0.02, 0.01, 9), 'chance'), (Difference(0.1, 0.001, 2), 'weak'),
        (Difference(0.03, 0.01, 3), 'weak'), (Difference(0.05, 0.01, 3), 'clear'),
        (Difference(-0.05, 0.01, 3), 'clear'), (Difference(0.0, 0.0, 5), 'chance'),
    ],
)  # fmt: skip
def test_levels(difference, level):
    assert sure(difference) == level


def test_interval():
    assert interval(Difference(0.03, 0.01, 3)) == pytest.approx((0.03 - 0.04303, 0.03 + 0.04303), abs=1e-5)
    assert interval(Difference(0.03, None, 1)) is None
