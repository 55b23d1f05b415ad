"""Numbers and text as the report writes them."""

import pytest
from scipy import stats

from mixjax.report import words


@pytest.mark.parametrize('freedom', [*range(1, 12), 19, 49, 499])
def test_t95_is_the_quantile_of_students_t(freedom):
    assert words.t95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=0.005)


def test_percent_and_points_keep_two_decimals_and_no_minus_zero():
    assert words.percent(0.88414) == '88.41'
    assert words.points(0.0321) == '+3.21'
    assert words.points(-0.0321) == '-3.21'
    assert words.points(-0.0321, typeset=True) == '\u22123.21'
    assert words.points(-0.000001) == '+0.00'


def test_spread_of_one_seed_is_not_shown():
    assert words.spread('88.41', 0.0073) == '88.41 +- 0.73'
    assert words.spread('88.41', None) == '88.41'
    assert words.spread('88.41', 0.0, words.TYPESET, width=5) == '88.41 \u00b1  0.00'


def test_counts():
    assert words.count(1, 'seed') == '1 seed'
    assert words.count(1767, 'test image') == '1,767 test images'
    assert words.count(2, 'class', 'classes') == '2 classes'


def test_plain_text_cannot_move_the_cursor():
    assert words.plain('a\x1b[2Jb\nc\u0437') == 'a?[2Jb?c\u0437'


def test_escape_covers_content_attributes_and_lone_surrogates():
    assert words.escape('<b a="1" c=\'2\'>&') == '&lt;b a=&quot;1&quot; c=&#x27;2&#x27;&gt;&amp;'
    words.escape('\ud800').encode('utf-8')


def test_markdown_cell_has_no_markup():
    assert words.markdown('a|b*c\n<i>') == r'a\|b\*c?\<i\>'


def test_mean_std_is_the_sample_deviation():
    assert words.mean_std([1.0, 2.0, 4.5]) == pytest.approx((2.5, 1.8027756))
    assert words.mean_std([0.25]) == (0.25, None)
