"""Ticks, places and charts."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from mixjax.report import svg
from tests.support.page import parse

NUMBERS = st.floats(-1e6, 1e6)
TEXT = svg.Text('t', 'A <title>', 'A & description')


@given(NUMBERS, NUMBERS, st.integers(5, 9))
def test_ticks_are_round_even_and_inside(low, high, count):
    assume(high - low > 1e-6 * max(1, abs(low), abs(high)))
    values, step = svg.ticks(low, high, count), svg.tick_step(low, high, count)
    slack = 1e-6 * step
    assert 2 <= len(values) <= count + 1
    assert all(low - slack <= value <= high + slack for value in values)
    assert all(b - a == pytest.approx(step, rel=1e-6) for a, b in zip(values, values[1:], strict=False))
    assert all(value / step == pytest.approx(round(value / step), abs=1e-6) for value in values)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert mantissa == pytest.approx(round(mantissa)) and round(mantissa) in (1, 2, 5)


def test_ticks_by_hand():
    assert svg.ticks(0, 400) == (0, 100, 200, 300, 400)
    assert svg.ticks(85.3, 91.2) == (86, 88, 90)
    assert svg.ticks(0, 0.31) == (0, 0.1, 0.2, 0.3)
    assert svg.ticks(-0.05, 0.05) == (-0.04, -0.02, 0.0, 0.02, 0.04)


def test_tick_text_has_the_decimals_of_the_step():
    assert svg.tick_text(0.3, 0.1) == '0.3'
    assert svg.tick_text(0.5, 0.05) == '0.50'
    assert svg.tick_text(9000, 1000) == '9,000'
    assert svg.tick_text(-2, 1) == '\u22122'


@given(st.lists(st.floats(-50, 350), min_size=1, max_size=40))
def test_labels_keep_order_distance_and_limits(places):
    moved = svg.spread_out(places, 14, 10, 240)
    gap = min(14, 230 / max(1, len(places) - 1))
    assert all(10 - 1e-6 <= place <= 240 + 1e-6 for place in moved)
    order = sorted(range(len(places)), key=lambda index: places[index])
    assert all(moved[b] - moved[a] >= gap - 1e-6 for a, b in zip(order, order[1:], strict=False))


def test_labels_that_are_far_apart_stay():
    assert svg.spread_out([200, 20, 100], 14, 10, 240) == (200, 20, 100)


def line(label, colour, *means, std=0.0):
    steps = tuple(float(100 * (i + 1)) for i in range(len(means)))
    return svg.Series(label, colour, steps, means, tuple(m - std for m in means), tuple(m + std for m in means))


def test_line_chart_is_well_formed_and_says_what_it_is():
    root = parse(svg.line_chart([line('a<b', 0, 80.0, 90.0, std=1), line('c', 1, 82.0, 91.0)], TEXT, 'step', '% <'))
    assert [(part.text, part.attrib['id']) for part in root[:2]] == [
        ('A <title>', 't-title'),
        ('A & description', 't-desc'),
    ]
    assert root.attrib['aria-labelledby'] == 't-title t-desc'
    groups = [group for group in root.findall('g') if group.find('title') is not None]
    assert [group.findtext('title') for group in groups] == ['a<b', 'c']
    assert [group.attrib['class'] for group in groups] == ['c0 dash', 'c1']
    bands = [[path.attrib['class'] for path in group.findall('path')] for group in groups]
    assert bands == [['band', 'line'], ['line']]  # one seed, no band


def test_line_chart_rises_to_the_right():
    root = parse(svg.line_chart([line('a', 1, 10.0, 20.0, 40.0)], TEXT, 'step', 'y'))
    path = next(path for path in root.iter('path') if path.attrib['class'] == 'line').attrib['d']
    points = [tuple(map(float, pair.split())) for pair in path.removeprefix('M').split('L')]
    xs, ys = zip(*points, strict=True)
    assert list(xs) == sorted(xs) and list(ys) == sorted(ys, reverse=True)
    assert (ys[0] - ys[1]) * 2 == pytest.approx(ys[1] - ys[2], abs=0.3)
    assert min(xs) > 0 and max(xs) < svg.WIDTH and min(ys) > 0 and max(ys) < svg.HEIGHT


@pytest.mark.parametrize('means', [(0.0,), (0.5,), (0.3, 0.3)])
def test_charts_of_one_point_or_one_value(means):
    text = svg.line_chart([line('a', 1, *means)], TEXT, 'step', 'y')
    assert 'nan' not in text and parse(text) is not None
    assert ('class="dot"' in text) == (len(means) == 1)


def test_colours_begin_again_dashed():
    chart = svg.line_chart([line(f'm{i}', i, float(i), i + 1.0) for i in range(14)], TEXT, 'step', 'y')
    groups = [group for group in parse(chart).findall('g') if group.find('title') is not None]
    classes = [group.attrib['class'] for group in groups]
    assert len(set(classes[: 2 * svg.COLOURS + 1])) == 2 * svg.COLOURS + 1
    assert classes[1] == 'c1' and classes[1 + svg.COLOURS] == 'c1 dash'


def test_dot_chart_has_a_dot_for_each_seed_with_its_value():
    rows = [svg.Dots('a"b', 0, ((0, 80.0), (1, 84.0)), 82.0), svg.Dots('c', 1, ((0, 90.0),), 90.0)]
    root = parse(svg.dot_chart(rows, TEXT, '%', reference=82.0))
    assert [dot.findtext('title') for dot in root.iter('circle')] == [
        'a"b, seed 0: 80.00',
        'a"b, seed 1: 84.00',
        'c, seed 0: 90.00',
    ]
    reference = next(x for x in root.iter('line') if x.attrib['class'] == 'reference')
    mean = next(x for x in root.iter('path') if x.attrib['class'] == 'mean')
    assert mean.attrib['d'].startswith(f'M{reference.attrib["x1"]} ')


@pytest.mark.parametrize(
    ('label', 'name'),
    [
        ('lamix, originals', 'lamix, originals'),
        ('lamix, mean of images', 'lam\u2026, mean of images'),
        ('a_longer_method, originals', 'a_longer\u2026, originals'),
        ('method, a long kind of batch', 'method, a lon\u2026'),
        ('feature_extraction', 'feature_extra\u2026'),
        ('smile', 'smile'),
    ],
)
def test_line_names_keep_the_kind_of_batch(label, name):
    assert svg.line_name(label) == name


def test_line_names_fit_into_the_chart():
    """By their estimated width; the lines of a method that alternates can be told apart by their names."""
    labels = ['lamix, originals', 'lamix, averages', 'a_longer_method, originals', 'smile']
    chart = svg.line_chart([line(label, i, 1.0, 2.0) for i, label in enumerate(labels)], TEXT, 'step', 'loss')
    names = [part for part in parse(chart).iter('text') if part.attrib['class'] == 'name']
    assert len({part.text for part in names}) == 4
    assert all(0 < float(part.attrib['x']) + svg.CHAR * len(part.text) <= svg.WIDTH for part in names)
    path = next(path for path in parse(chart).iter('path') if path.attrib['class'] == 'line').attrib['d']
    steps = [float(pair.split()[0]) for pair in path.removeprefix('M').split('L')]
    assert steps[-1] - steps[0] > svg.WIDTH / 2 and max(steps) < float(names[0].attrib['x'])


def test_long_labels_are_cut_on_the_chart_only():
    text = svg.dot_chart([svg.Dots('a' * 40, 0, ((0, 1.0),), 1.0)], TEXT, '%')
    assert 'a' * 13 + '\u2026</text>' in text and 'a' * 40 + ', seed 0' in text
