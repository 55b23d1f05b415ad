"""The tables as data, text, Markdown and HTML."""

import pytest

from mixjax.report import tables
from tests.support import fake


@pytest.fixture
def results():
    return fake.comparison_results(
        {'finetune': [0.85, 0.86, 0.87], 'smile': [0.88, 0.90, 0.905], 'x"mix': [0.84, 0.99, 1.0]}
    )


PAIRS = {
    'seed': 0,
    'pairs': [
        {'target': '3', 'sources': ['ze'], 'similarity': [0.834]},
        {'target': '5', 'sources': ['xi'], 'similarity': [0.7]},
        {'target': '10', 'sources': ['ze', 'Ze'], 'similarity': [1.0, 0.5]},
    ],
}


def test_accuracy_text_of_a_comparison(results):
    assert tables.accuracy_text(results) == (
        'method    accuracy %     n  difference to finetune\n'
        'finetune  86.00 +- 1.00  3  baseline\n'
        'smile     89.50 +- 1.32  3  +3.50 +- 0.29\n'
        'x"mix     94.33 +- 8.96  3  +8.33 +- 4.67\n'
        'accuracy: mean +- standard deviation over seeds; '
        'difference: percentage points, paired over seeds, +- standard error'
    )


def test_accuracy_text_lines_up_numbers_of_different_lengths():
    results = fake.comparison_results({'a': [0.05, 0.06], 'b': [1.0, 0.5]})
    assert tables.accuracy_text(results).splitlines()[:3] == [
        'method  accuracy %      n  difference to a',
        'a        5.50 +-  0.71  2  baseline',
        'b       75.00 +- 35.36  2  +69.50 +- 25.50',
    ]


def test_accuracy_text_of_one_run_and_one_seed():
    assert tables.accuracy_text(fake.run_results('xmixup', [0.8912])) == (
        'method  accuracy %  n\nxmixup  89.12       1\naccuracy: mean +- standard deviation over seeds'
    )


def test_one_seed_has_no_spread_anywhere():
    results = fake.comparison_results({'finetune': [0.85], 'smile': [0.84]})
    assert tables.accuracy_text(results).splitlines()[1:3] == [
        'finetune  85.00       1  baseline',
        'smile     84.00       1  -1.00',
    ]
    assert '\u00b1' not in tables.accuracy_html(results) + tables.accuracy_markdown(results)


def test_a_missing_difference_is_a_dash(results):
    del results['differences']['smile']
    assert tables.accuracy_text(results).splitlines()[2].endswith('3  -')


def test_accuracy_rows(results):
    rows = tables.accuracy_rows(results)
    assert [row.label for row in rows] == ['finetune', 'smile', 'x"mix']
    assert [row.baseline for row in rows] == [True, False, False]
    assert rows[0].difference is None
    assert rows[1].difference == pytest.approx((0.035, 0.0028868, 3), abs=1e-6)
    assert rows[1].seeds == ((0, 0.88), (1, 0.90), (2, 0.905))


def test_best_row_prefers_the_baseline_among_equals():
    rows = tables.accuracy_rows(fake.comparison_results({'b': [0.9], 'a': [0.9], 'c': [0.8]}))
    assert tables.best_row(rows).label == 'b'
    assert tables.best_row(rows[::-1]).label == 'b'


def test_pairs_text_stands_in_columns_read_downwards():
    assert tables.pairs_text(PAIRS) == (' 3 -> ze       0.83          10 -> ze, Ze   1.00, 0.50\n 5 -> xi       0.70')
    one = {'pairs': PAIRS['pairs'][:2]}
    assert tables.pairs_text(one, width=1) == '3 -> ze   0.83\n5 -> xi   0.70'
    assert tables.pairs_text({'pairs': []}) == ''
    told = {**one, 'notes': {'source images': 188.0, 'similarity': 0.84149}}
    assert tables.pairs_text(told).splitlines()[-1] == 'source images 188, similarity 0.8415'


def test_pairs_text_keeps_within_its_width():
    pairs = {'pairs': [{'target': f'{i}', 'sources': ['long name'], 'similarity': [0.5]} for i in range(120)]}
    lines = tables.pairs_text(pairs, width=100).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) == 40
    assert sum(line.count('->') for line in lines) == 120


def test_markdown(results):
    lines = tables.accuracy_markdown(results).splitlines()
    assert lines[:3] == [
        '| method | accuracy % | n | difference to finetune |',
        '| --- | --: | --: | --: |',
        '| finetune | 86.00 \u00b1 1.00 | 3 | baseline |',
    ]
    evil = {**results, 'runs': {'a|b*': next(iter(results['runs'].values()))}, 'baseline': 'a|b*', 'differences': {}}
    assert tables.accuracy_markdown(evil).splitlines()[2].startswith(r'| a\|b\* | 86.00')


def test_html_marks_the_best_and_escapes(results):
    page = tables.accuracy_html(results)
    assert page.count('class=best') == 1
    assert '<tr class=best><th scope="row">x&quot;mix</th><td class=num>94.33 \u00b1 8.96</td>' in page
    assert 'class=best' not in tables.accuracy_html(fake.run_results('a', [0.5, 0.6]))
    assert '<th scope="row">10</th><td>ze, Ze</td><td class=num>1.00, 0.50</td>' in tables.pairs_html(PAIRS)
