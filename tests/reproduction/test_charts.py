"""The charts of docs/results.md: their numbers by hand, and files that a browser takes."""

import math
from xml.etree import ElementTree

import pytest

from mixjax.config import grid_files
from reproduction import charts, digits
from reproduction.charts import Chart, Point
from tests.support.common import ROOT

ABOVE = Chart(
    't', 'Above b', 'n', [Point(k, f'n{k}', {'a': ('t', str(k), 'a'), 'b': ('t', str(k), 'b')}) for k in (1, 2)], 'b'
)
ALONE = ABOVE._replace(points=[Point(one.x, one.mark, {'a': one.lines['a']}) for one in ABOVE.points], base='')
NUMBERS = {
    ('t', '1', 'a'): {0: 0.5, 1: 0.7},
    ('t', '1', 'b'): {0: 0.4, 1: 0.4},
    ('t', '2', 'a'): {0: 0.9, 1: 0.9},
    ('t', '2', 'b'): {0: 0.8, 1: 0.7, 2: 0.1},
}


def of(numbers):
    return lambda cell, metric: numbers.get(cell)


def test_differences_to_the_base_are_paired_and_the_base_is_a_line_at_zero():
    base, line = charts.lines_of(ABOVE, of(NUMBERS))
    assert (base.label, base.colour, line.label, line.colour) == ('b', 0, 'a', 1)
    assert base.mean == base.low == base.high == (0.0, 0.0)
    assert line.mean == pytest.approx((20, 15))  # 10 and 30; 10 and 20, the third seed has no partner
    assert line.high == pytest.approx((30, 20)) and line.low == pytest.approx((10, 10))


def test_accuracies_without_a_base():
    (line,) = charts.lines_of(ALONE, of(NUMBERS))
    assert line.colour == 1 and line.mean == pytest.approx((60, 90))
    assert line.high == pytest.approx((60 + 10, 90))  # a standard deviation of 14.1 over two seeds


def test_cells_that_were_not_run_are_left_out():
    few = {cell: values for cell, values in NUMBERS.items() if cell[1] == '2'}
    (line,) = charts.lines_of(ALONE, of(few))
    assert line.x == (2,)
    few.pop(('t', '2', 'a'))
    assert [line.label for line in charts.lines_of(ABOVE, of(few))] == ['b']
    assert charts.drawn(ABOVE, of(few)) is None and charts.drawn(ALONE, of({})) is None


def test_a_chart_is_a_file_of_its_own():
    drawn = charts.drawn(ABOVE, of(NUMBERS))
    assert drawn is not None
    drawing, words = drawn
    assert words == 'Above b. Bands: standard errors over seeds. At the right end: b 0.0, a 15.0.'
    root = ElementTree.fromstring(drawing)
    assert root.get('width') == '600'
    assert root.tag == '{http://www.w3.org/2000/svg}svg'
    written = [node.text for node in root.iter() if node.tag.endswith('}text')]
    assert {'n1', 'n2', 'n', 'points above b', 'a', 'b'} <= set(written)
    rules = next(node.text for node in root.iter() if node.tag.endswith('}style'))
    assert 'prefers-color-scheme: dark' in rules and '.chart .line' in rules and '.c1 {' in rules
    assert 'CHART' not in rules and 'COLOUR' not in rules


def test_every_chart_shows_cells_that_there_are():
    cells = set(map(digits.parse_cell, grid_files.cells(digits.GRID)))
    for chart in charts.CHARTS:
        assert {cell for point in chart.points for cell in point.lines.values()} <= cells
        assert all(not chart.base or chart.base in point.lines for point in chart.points)
        assert all(math.isfinite(point.x) for point in chart.points)


def test_the_page_is_the_one_that_its_numbers_give(tmp_path, monkeypatch, capsys):
    """docs/results.md, its charts and reproduction/results/digits.csv belong together; none is edited by hand."""
    page = ROOT / 'docs' / 'results.md'
    (tmp_path / 'results.md').write_bytes(page.read_bytes())
    monkeypatch.setattr(digits, 'PAGE', tmp_path / 'results.md')
    digits.write()
    assert (tmp_path / 'results.md').read_text() == page.read_text()
    made, kept = (
        {path.name: path.read_text() for path in (at / 'results').iterdir()} for at in (tmp_path, ROOT / 'docs')
    )
    assert made == kept
