"""The benchmarks' own arithmetic: what is judged, in which order things are timed, and what is written."""

import json

import numpy as np
import pytest

import benchmarks.__main__ as suite
from benchmarks import methods, parts, timing
from benchmarks.steps import Case, CompiledSteps
from benchmarks.timing import HOLDS, MISSED, OPEN


def test_ways_take_turns_and_every_other_round_goes_backwards():
    order = []
    ways = {name: lambda name=name: order.append(name) for name in 'abc'}
    found = timing.interleaved(ways, 3, repeats=2)
    assert ''.join(order) == 'abc' + 'aabbcc' + 'ccbbaa' + 'aabbcc'
    assert {name: len(each) for name, each in found.items()} == {'a': 3, 'b': 3, 'c': 3}


def test_a_ratio_is_that_of_the_rounds():
    """A disturbance of both ways in one round changes nothing."""
    base = np.array([1.0, 1.0, 5.0, 1.0, 1.0])
    found = timing.ratio(1.2 * base, base)
    assert found.median == pytest.approx(1.2) and found.error == pytest.approx(0)


@pytest.mark.parametrize(
    ('median', 'error', 'verdict'), [(1.05, 0.1, HOLDS), (0.9, 0.0, HOLDS), (1.1, 0.03, OPEN), (1.1, 0.02, MISSED)]
)
def test_misses_within_noise_are_not_judged(median, error, verdict):
    found = timing.Spread(median, median - 0.01, median + 0.01, error)
    assert timing.judged('x <= 1.05', found, 1.05).verdict == verdict
    mirrored = timing.Spread(2.1 - median, 2.09 - median, 2.11 - median, error)
    other = timing.at_least('x >= 1.05', mirrored, 1.05)
    assert other.verdict == verdict and ('below' in other.why) == (verdict == OPEN)


def test_spread_of_numbers_of_a_normal_law():
    found = timing.spread(np.random.default_rng(0).normal(5, 2, 100_001))
    assert found.median == pytest.approx(5, abs=0.03) and found.high - found.low == pytest.approx(1.349 * 2, abs=0.03)
    assert found.error == pytest.approx(1.2533 * 2 / 100_001**0.5, rel=0.02)


def test_a_method_with_a_first_stage_costs_both():
    def made(flops, temporary):
        return CompiledSteps(lambda: None, 1, flops, temporary, 7, lambda: None)

    ways = {'finetune': made(3.0, 10), 'two, second stage': made(3.0, 10), 'two, first stage': made(4.0, 12)}
    found = {name: np.array([1.0, 2.0]) * (k + 1) for k, name in enumerate(ways)}
    ways, found = methods.with_totals(ways, found, {'two': 0.5})
    np.testing.assert_array_equal(found['two'], [2 + 1.5, 4 + 3])
    assert (ways['two'].flops, ways['two'].temporary, ways['two'].arguments) == (5.0, 12, 7)
    table = methods.table(Case('glyphnet', 16, 8), ways, found, {})
    assert [row[0] for row in table.rows][0] == '`finetune`' and len(table.rows) == 4


def test_the_methods_that_are_measured_are_those_with_a_floor():
    every = methods.ways_of()
    assert every.keys() == methods.CLAIMS.keys()
    assert every['lamix_puzzle'] == {'name': 'lamix', 'mixing': 'puzzle', 'beta': 1.0}
    assert methods.CLAIMS['seqtrain'].floor == 2


def part(verdict, commit, rows=(('a', '1'),)):
    found = parts.Part(
        'Title', [parts.Table('Table', 'About.', ['x', 'y'], rows)],
        [timing.Verdict('y <= 1', '1.00', verdict, 'why' if verdict == OPEN else '')], {'y': 1},
    )  # fmt: skip
    about = {'devices': ['Some GPU (2)'], 'processor': '2 x this', 'commit': commit, 'jax': '1', 'python': '3'}
    return {**parts.plain(found), 'about': about, 'seconds': 3}


def test_partial_benchmarks_keep_other_results(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, 'ROOT', tmp_path)
    monkeypatch.setattr(suite, 'RESULTS', tmp_path / 'results')
    monkeypatch.setattr(suite, 'PAGE', tmp_path / 'speed.md')
    (tmp_path / 'speed.md').write_text('# Speed\n\nBy hand.\n')
    suite.write({'methods': part(HOLDS, 'aaa'), 'growth': part(OPEN, 'aaa')})
    suite.write({'growth': part(MISSED, 'bbb', [('b', '2')])})
    kept = json.loads((tmp_path / 'results' / 'some-gpu-2.json').read_text())
    assert list(kept) == ['methods', 'growth'] and kept['growth']['about']['commit'] == 'bbb'
    page = (tmp_path / 'speed.md').read_text()
    assert page.startswith('# Speed\n\nBy hand.\n') and page.count('## Some GPU (2)') == 1
    assert 'commit aaa, bbb' in page and '1 hold, 1 are missed and 0 could not be' in page
    assert '| b | 2 |' in page and page.index('| missed |') < page.index('| holds |')


def test_unknown_words_end_in_the_help(capsys):
    for words in (['--parts=nothing'], ['--part=methods'], ['methods']):
        assert suite.main(words) == 2
        assert 'methods, backbones, against, whole, growth, devices, solver, probe' in capsys.readouterr().out


def test_every_part_is_there():
    for name in suite.PARTS:
        assert (suite.ROOT / 'benchmarks' / f'{name}.py').exists()
