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


TURNED = 'cat \u202e\u2067\u200f'
HEBREW = '\u05e9\u05dc\u05d5\u05dd'


def test_bidi_names_cannot_reorder_text():
    """A class called so showed `% 9.2` for 2.9 %."""
    for char in '\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069':
        for show in (words.escape, words.bdi, words.plain, words.markdown, words.cell):
            assert char not in show(f'cat{char}x'), (show, hex(ord(char)))
        # What ends the isolation of a name does not get out of it.
        inside = words.escape(words.isolate(f'{HEBREW}{char}\u2069x'))
        assert inside == f'\u2068{HEBREW}??x\u2069', hex(ord(char))


def test_names_from_right_to_left_are_isolated_in_sentences_and_others_stay_as_they_are():
    assert words.isolate('cat') == 'cat' and words.isolate('\u0436') == '\u0436'
    assert words.isolate(HEBREW) == f'\u2068{HEBREW}\u2069'
    assert words.escape(f'{words.isolate(HEBREW)} 2.9 %') == f'\u2068{HEBREW}\u2069 2.9 %'
    assert words.escape(f'\u2068{TURNED}\u2069 2.9 %') == '?cat ???? 2.9 %'
    assert words.plain(f'{words.isolate(HEBREW)} 2.9 %') == f'{HEBREW} 2.9 %'
    assert words.markdown(words.isolate(HEBREW)) == HEBREW
    assert words.bdi(f'<{HEBREW}>') == f'<bdi>&lt;{HEBREW}&gt;</bdi>'


def test_cells_are_text_for_a_spreadsheet():
    for formula in ('=1', '+1', '-1', '@x', ' =1', '\uff1d1', '\uff0b1'):
        assert words.cell(formula) == f"'{formula}"
    assert words.cell('a=1') == 'a=1' and words.cell('a\tb\r\u202e') == 'a?b??'


def test_escape_covers_content_attributes_and_lone_surrogates():
    assert words.escape('<b a="1" c=\'2\'>&') == '&lt;b a=&quot;1&quot; c=&#x27;2&#x27;&gt;&amp;'
    words.escape('\ud800').encode('utf-8')


def test_markdown_cell_has_no_markup():
    assert words.markdown('a|b*c\n<i>') == r'a\|b\*c?\<i\>'


def test_mean_std_is_the_sample_deviation():
    assert words.mean_std([1.0, 2.0, 4.5]) == pytest.approx((2.5, 1.8027756))
    assert words.mean_std([0.25]) == (0.25, None)
