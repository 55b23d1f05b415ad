"""The numbers behind docs/results.md: read from runs, kept seed by seed, and the page written from them."""

import functools
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from mixjax.commands import grid
from mixjax.config import grid_files
from mixjax.rundir import files
from reproduction import charts, digits, kept, papers_claims
from reproduction.kept import Line


@pytest.fixture(scope='module', autouse=True)
def grid_once():
    """The hundreds of configs of the grid are read once, not for each folder of runs."""
    read = functools.cache(functools.partial(grid.runs, overrides=(), root='.'))

    def runs(file, overrides, root):
        assert not overrides
        return [run._replace(folder=Path(root) / run.folder.name) for run in read(file)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits.grid, 'runs', runs)
        yield


LINE = Line('a-1', 'table=order,labels=3,method=a', 'accuracy', '0.1', '0.10', 'c0ffee', 'f1', {0: 0.1, 2: 1 / 3})


def lines(*every):
    return {(line.run, line.metric): line for line in every}


def test_numbers_are_read_as_they_were_written(tmp_path):
    other = LINE._replace(run='b-2', metric='tail', values={1: 1e-17, 2: 12345678.9})
    path = tmp_path / 'digits.csv'
    assert kept.read(path) == {}
    kept.write(path, [LINE, other])
    head, first, second = path.read_text().splitlines()
    assert head == 'run,cell,metric,mixjax,jax,commit,files,seed 0,seed 1,seed 2'
    assert first.endswith(',f1,0.1,,0.3333333333333333') and second.endswith(',,1e-17,12345678.9')
    assert kept.read(path) == lines(LINE, other)


def test_new_numbers_go_beside_the_old_ones_or_in_their_place():
    tail, other = LINE._replace(metric='tail'), LINE._replace(run='b-2')
    order = [(line.run, line.metric) for line in (other, LINE, tail)]
    again = LINE._replace(commit='bead')
    assert kept.merged(lines(LINE, tail), [again, other], order) == [other, again, tail]
    changed = LINE._replace(files='f2', values={0: 0.5})  # other bits: the old tail is not of them
    assert kept.merged(lines(LINE, tail, other), [changed], order) == [other, changed]
    assert kept.merged(lines(LINE, tail, other), [], order[1:]) == [LINE, tail]  # b-2 is not in the grid any more


def made(run, accuracy, **env):
    """A finished run's files, as small as they can be."""
    run.folder.mkdir(parents=True)
    seeds = [{'seed': seed, 'accuracy': number} for seed, number in enumerate(accuracy)]
    files.write_json(run.folder / 'results.json', {'kind': 'run', 'steps': run.config.steps, 'seeds': seeds})
    files.write_json(run.folder / 'env.json', {'mixjax': '0.1', 'jax': '0.10', 'commit': 'c0ffee', **env})
    (run.folder / 'metrics.jsonl').write_text('{}\n')
    (run.folder / 'model.safetensors').write_bytes(b'weights')


@pytest.fixture
def analysed(monkeypatch):
    """Measures that are as asked for, and what was asked: (name of the run, what)."""
    asked = []

    def analyse(given):
        folder, (what,) = Path(given['workdir']), given['what']
        asked.append((folder.name, what))
        path = folder / 'analysis.json'
        said = files.read_json(path) if path.exists() else {}
        files.write_json(path, {**said, what: {'settings': {'seeds': [4, 7]}}})
        names = {'interpolation': [f'{f} {part}' for f in F for part in ('train', 'test')], 'spectrum': ['tail']}
        rows = np.array([[0.25, 0.75], [math.nan, 1.0]])
        files.write_arrays(folder / f'analysis-{what}.npz', dict.fromkeys(names[what], rows))
        return 0

    monkeypatch.setattr(digits.analyse, 'measure', analyse)
    return asked


F = ('probabilities raw', 'features raw', 'features unit')


def test_measures_are_read_from_the_folders_of_the_runs(tmp_path, analysed):
    runs = digits.Runs(str(tmp_path))
    assert list(runs.cells) == list(map(digits.parse_cell, grid_files.cells(digits.GRID)))
    assert runs.lines({}) == ([], [])
    cell = ('smile_table4', '3', 'smile')
    run = runs.cells[cell]
    assert run is runs.cells['order', '3', 'smile']
    made(run, [0.5, 0.75])
    found, lacking = runs.lines({})
    metrics = ['accuracy', 'label_train', 'label_test', 'feature_train', 'feature_test', 'unit_test']
    assert [line.metric for line in found] == metrics and not lacking
    assert [line.values for line in found] == [{0: 0.5, 1: 0.75}] + 5 * [{4: 0.5}]  # seed 7 has no number
    assert {line.cell for line in found} == {'table=order,labels=3,method=smile'}
    assert {(line.mixjax, line.jax, line.commit) for line in found} == {('0.1', '0.10', 'c0ffee')}
    assert analysed == [(run.folder.name, 'interpolation')]
    # What is kept of the same files is taken; of others it is measured again, whoever measured it before.
    assert runs.lines(lines(*found)) == (found, []) and len(analysed) == 1
    (run.folder / 'metrics.jsonl').write_text('{"loss": 1}\n')
    again, _ = runs.lines(lines(*found))
    assert again[0].files != found[0].files and len(analysed) == 2


def test_missing_measurements_are_reported_and_the_rest_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, 'KEPT', tmp_path / 'digits.csv')
    monkeypatch.setattr(digits.analyse, 'measure', lambda given: 2)
    runs = digits.Runs(str(tmp_path / 'runs'))
    made(runs.cells['smile_table4', '10', 'smile'], [0.5])
    assert digits.keep(str(tmp_path / 'runs')) == 5
    assert 'could not be measured: digits-smile-10-' in capsys.readouterr().err
    assert [metric for _, metric in kept.read(digits.KEPT)] == ['accuracy']


def test_a_probe_waits_for_the_run_that_chose_its_images(tmp_path, analysed):
    runs = digits.Runs(str(tmp_path))
    run = runs.cells['xmixup_table2', '3', 'finetune']
    made(run, [0.5, 0.75])
    found, _ = runs.lines({})
    assert {line.metric for line in found} == {
        'accuracy', 'label_train', 'label_test', 'feature_train', 'feature_test', 'unit_test', 'tail'
    }  # fmt: skip
    assert {what for _, what in analysed} == {'interpolation', 'spectrum'}


def test_a_number_needs_its_run_and_a_probe_that_of_xmixup(tmp_path):
    runs = digits.Runs(str(tmp_path))
    own, chose = (runs.cells['xmixup_table2', '3', method].folder.name for method in ('finetune', 'xmixup'))
    assert runs.needed((own, 'tail')) == {own}
    assert runs.needed((own, 'auxiliary')) == {own, chose}


def test_a_run_that_is_not_what_was_kept_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(digits, 'KEPT', tmp_path / 'digits.csv')
    runs = digits.Runs(str(tmp_path / 'runs'))
    cell = ('order', '3', 'cutmix')
    made(runs.cells[cell], [0.5, 0.75])
    digits.keep(str(tmp_path / 'runs'))
    assert capsys.readouterr().out == 'kept: 1 run, 1 of them new\n'
    digits.keep(str(tmp_path / 'runs'))
    assert capsys.readouterr().out == 'kept: 1 run, 0 of them new\n'
    folder = runs.cells[cell].folder
    (folder / 'model.safetensors').write_bytes(b'others')
    digits.keep(str(tmp_path / 'runs'))
    assert capsys.readouterr().out.endswith(f'not the bits that were kept before: {folder.name}\n')
    stale = LINE._replace(run='digits-mixup-3-0000000000')
    kept.write(digits.KEPT, [*kept.read(digits.KEPT).values(), stale])
    digits.keep(str(tmp_path / 'runs'))
    assert capsys.readouterr().out.endswith('left out: 1 run that the grid has no more\n')
    (line,) = kept.read(tmp_path / 'digits.csv').values()
    assert digits.compare_run(line, folder) == digits.ALIKE
    unlike = line._replace(files='', values={0: 0.5, 1: 0.745})
    assert digits.compare_run(unlike, folder) == 'DIFFERENT, accuracies by up to 0.50 points'


@pytest.mark.parametrize(
    'words, told',
    [
        (['--train'], 'needs a folder'),
        (['runs', '--new'], '--new needs --train'),
        (['runs', '--repeat=3'], 'goes alone'),
        (['no/such/folder'], 'there is no folder no/such/folder'),
        (['--jobs=0'], 'at least 1'),
    ],
)
def test_conflicting_flags_are_refused(words, told, capsys):
    with pytest.raises(SystemExit):
        digits.main(words)
    assert told in capsys.readouterr().err


SMALL = """
from mixjax.config import read

def grid():
    return ['table=order,labels=3,method=finetune', 'table=order,labels=3,method=mixup']

def get_config(argument='', *_):
    config = read('quickstart')
    config.compare, config.baseline, config.num_seeds = {}, '', 2
    config.steps = config.eval_every = config.checkpoint_every = 4
    config.method = {'name': argument.rpartition('=')[2]}
    return config
"""


@pytest.mark.slow
def test_runs_are_trained_kept_and_the_same_again(tmp_path, monkeypatch, capsys):
    """The real commands, in processes, each on one core."""
    file, page = tmp_path / 'small.py', tmp_path / 'results.md'
    file.write_text(SMALL)
    monkeypatch.setattr(digits, 'GRID', str(file))
    monkeypatch.setattr(digits, 'PAGE', page)
    monkeypatch.setattr(digits, 'KEPT', tmp_path / 'digits.csv')
    monkeypatch.setenv('PYTHONPATH', os.getcwd())
    few = [
        one for one in papers_claims.CLAIMS if one.table == 'order' and {one.better, one.worse} <= {'finetune', 'mixup'}
    ]
    monkeypatch.setattr(papers_claims, 'CLAIMS', few)
    point = charts.Point(0, '3', {name: ('order', '3', name) for name in ('finetune', 'mixup')})
    chart = charts.Chart('order', 'Mixup above fine-tuning', 'labels', [point], 'finetune')
    monkeypatch.setattr(charts, 'CHARTS', (chart,))

    def said(*words):
        code = digits.main(words)
        return code, capsys.readouterr().out

    code, out = said(str(tmp_path / 'runs'), '--train')
    assert code == 0 and 'exit code 0' in out
    assert out.endswith('kept: 2 runs, 2 of them new\ntable: docs/results.md, from 2 of 2 runs\n')
    assert 'All 2 runs' in page.read_text() and '### The main methods as labels grow' in page.read_text()
    assert '](results/order.svg)' in page.read_text() and 'mixup' in (tmp_path / 'results' / 'order.svg').read_text()
    code, out = said(str(tmp_path / 'runs'), '--train')
    assert out.startswith('2 of 2 runs are finished\nkept: 2 runs, 0 of them new\n')
    code, out = said(str(tmp_path / 'elsewhere'), '--train', '--new')
    assert out.startswith('2 of 2 runs are finished or kept\nkept: 0 runs')
    code, out = said('--repeat=2', '--seed=0')
    assert code == 0 and out.count('the same bit for bit') == 2 and '2 runs of 2, drawn with --seed=0' in out
    assert '--repeat=2 --seed=0\n' in page.read_text() and page.read_text().count(': the same bit for bit\n') == 2
    (one, _) = kept.read(digits.KEPT).values()
    table = digits.KEPT.read_text()
    digits.KEPT.write_text(table.replace(one.files, '0' * 16))
    code, out = said('--repeat=2', '--seed=0')
    assert code == 1 and out.count('DIFFERENT, accuracies by up to 0.00 points') == 1
    run, _ = digits.Runs(str(tmp_path / 'runs')).every
    results = run.folder / 'results.json'
    results.write_text(json.dumps({**json.loads(results.read_bytes()), 'note': 'changed'}))
    code, out = said(str(tmp_path / 'runs'))
    assert out.startswith(f'kept: 2 runs, 0 of them new\nnot the bits that were kept before: {run.folder.name}\n')
