"""The numbers behind docs/results.md: read from runs, kept seed by seed, and the page written from them."""

import json
import math
import os

import numpy as np
import pytest

from benchmarks import claims, digits, kept
from benchmarks.kept import Line
from mixjax import grid
from mixjax.train import workdir

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
    workdir.write_json(run.folder / 'results.json', {'kind': 'run', 'steps': run.config.steps, 'seeds': seeds})
    workdir.write_json(run.folder / 'env.json', {'mixjax': '0.1', 'jax': '0.10', 'commit': 'c0ffee', **env})
    (run.folder / 'metrics.jsonl').write_text('{}\n')
    (run.folder / 'model.safetensors').write_bytes(b'weights')


def test_measures_are_read_from_the_folders_of_the_runs(tmp_path):
    runs = digits.Runs(str(tmp_path))
    assert list(runs.cells) == list(map(digits.said, grid.grid_file.cells(digits.GRID)))
    assert runs.lines() == []
    cell = ('smile_table4', '3', 'smile')
    run = runs.cells[cell]
    assert run is runs.cells['order', '3', 'smile']
    made(run, [0.5, 0.75])
    assert runs.measure(cell, 'accuracy') == {0: 0.5, 1: 0.75}
    workdir.write_json(run.folder / 'analysis.json', {'interpolation': {'settings': {'seeds': [4, 7]}}})
    rows = np.array([[0.25, 0.75], [math.nan, 1.0]])
    workdir.write_arrays(run.folder / 'analysis-interpolation.npz', {'label_test': rows, 'feature_test': rows})
    assert runs.measure(cell, 'label_test') == {4: 0.5}
    found = runs.lines()
    assert [line.metric for line in found] == ['accuracy', 'label_test', 'feature_test']
    assert {line.cell for line in found} == {'table=order,labels=3,method=smile'}
    assert {(line.mixjax, line.jax, line.commit) for line in found} == {('0.1', '0.10', 'c0ffee')}
    (files,) = {line.files for line in found}
    (run.folder / 'metrics.jsonl').write_text('{"loss": 1}\n')
    assert kept.digest(run.folder) != files


def test_a_probe_waits_for_the_run_that_chose_its_images(tmp_path):
    runs = digits.Runs(str(tmp_path))
    run = runs.cells['xmixup_table2', '3', 'finetune']
    made(run, [0.5, 0.75])
    for what, names in {'interpolation': ('label_test', 'feature_test'), 'spectrum': ('values',)}.items():
        workdir.write_arrays(run.folder / f'analysis-{what}.npz', {name: np.ones((2, 12)) for name in names})
    said = {what: {'settings': {'seeds': [0, 1]}} for what in ('interpolation', 'spectrum')}
    workdir.write_json(run.folder / 'analysis.json', said)
    assert [line.metric for line in runs.lines()] == ['accuracy', 'label_test', 'feature_test', 'tail']


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
    (line,) = kept.read(tmp_path / 'digits.csv').values()
    assert digits.compared(line, folder) == digits.ALIKE
    unlike = line._replace(files='', values={0: 0.5, 1: 0.745})
    assert digits.compared(unlike, folder) == 'DIFFERENT, accuracies by up to 0.50 points'


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
    few = [one for one in claims.CLAIMS if one.table == 'order' and {one.better, one.worse} <= {'finetune', 'mixup'}]
    monkeypatch.setattr(claims, 'CLAIMS', few)

    def said(*words):
        code = digits.main(words)
        return code, capsys.readouterr().out

    code, out = said(str(tmp_path / 'runs'), '--train')
    assert code == 0 and 'exit code 0' in out
    assert out.endswith('kept: 2 runs, 2 of them new\ntable: docs/results.md, from 2 of 2 runs\n')
    assert '2 of the 2 runs' in page.read_text() and '### The main methods as labels grow' in page.read_text()
    code, out = said(str(tmp_path / 'runs'), '--train')
    assert out.startswith('2 of 2 runs are finished\nkept: 2 runs, 0 of them new\n')
    code, out = said(str(tmp_path / 'elsewhere'), '--train', '--new')
    assert out.startswith('2 of 2 runs are finished or kept\nkept: 0 runs')
    code, out = said('--repeat=2', '--seed=0')
    assert code == 0 and out.count('the same bit for bit') == 2
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
