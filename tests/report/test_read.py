"""Folders that are finished, and folders that are not."""

import json
import shutil

import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.report.read import read
from tests.support import fake


@pytest.fixture
def run(tmp_path):
    return fake.make_run(tmp_path / 'run', 'xmixup', [0.88, 0.9], pairs=True)


@pytest.fixture
def comparison(tmp_path):
    return fake.make_comparison(tmp_path / 'all', {'finetune': 0.86, 'xmixup': 0.9}, seeds=2)


def test_a_run(run):
    (folder,) = read([run])
    assert folder.name == 'run' and folder.baseline is None
    assert folder.env['jax'] == '0.10.2' and folder.config['steps'] == fake.STEPS
    (only,) = folder.runs
    assert only.label == 'xmixup' and len(only.metrics) == 2 * (20 + 4)
    assert only.pairs is not None and only.pairs.source is not None and only.samples is not None
    assert only.pairs.source.shape == (10, 2, 16, 16, 1) and only.samples.source is not None


def test_a_comparison_and_a_run_together(run, comparison):
    one, two = read([comparison, run])
    assert one.baseline == 'finetune' and [r.label for r in one.runs] == ['finetune', 'xmixup']
    assert one.runs[0].pairs is None and one.runs[0].samples is not None and one.runs[0].samples.source is None
    assert two.runs[0].label == 'xmixup'


def test_run_names_are_the_shortest_distinct_ones(tmp_path):
    paths = [fake.make_run(tmp_path / name / 'run', 'a', [0.5]) for name in ('one', 'two')]
    assert [folder.name for folder in read(paths)] == ['one/run', 'two/run']


def test_curves_pairs_and_pictures_may_be_missing(run):
    for name in ('metrics.jsonl', 'pairs.json', 'samples.npz'):
        (run / name).unlink()
    (folder,) = read([run])
    assert folder.runs[0].metrics == () and folder.runs[0].pairs is None and folder.runs[0].samples is None


def test_a_half_written_line_is_passed_over(run):
    with (run / 'metrics.jsonl').open('a') as file:
        file.write('{"seed": 0, "st')
    assert len(read([run])[0].runs[0].metrics) == 48


def test_not_a_folder(tmp_path):
    with pytest.raises(UserError, match='is not a folder'):
        read([tmp_path / 'nothing'])


def test_not_a_work_directory(tmp_path):
    with pytest.raises(UserError, match='not a work directory: config.json and results.json are missing'):
        read([tmp_path])


def test_not_finished(run):
    (run / 'results.json').unlink()
    with pytest.raises(UserError, match='not finished: results.json is missing'):
        read([run])


@pytest.mark.parametrize('name', ['config.json', 'env.json'])
def test_a_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(UserError, match=f'run is not complete: {name} is missing'):
        read([run])


def test_a_comparison_needs_the_folders_of_its_runs(comparison):
    (comparison / 'xmixup' / 'results.json').unlink()
    with pytest.raises(UserError, match='xmixup is not finished: results.json is missing'):
        read([comparison])
    shutil.rmtree(comparison / 'xmixup')
    with pytest.raises(UserError, match='xmixup is not a folder'):
        read([comparison])


def test_the_same_folder_twice(run):
    with pytest.raises(UserError, match='given twice'):
        read([run, run / '..' / 'run'])


@pytest.mark.parametrize(
    'change',
    [
        {'kind': 'other'}, {'classes': [1, 2]}, {'classes': 'ab'}, {'seeds': []}, {'seeds': [{'seed': 0}]},
        {'accuracy': {'mean': 0.5, 'n': 1}}, {'test_examples': None}, {'label': 3},
    ],
)  # fmt: skip
def test_a_damaged_result(run, change):
    results = json.loads((run / 'results.json').read_text())
    fake.dump(run / 'results.json', {**results, **change})
    with pytest.raises(UserError, match=r'results\.json'):
        read([run])


@pytest.mark.parametrize('text', ['', '[]', '{"kind": ', '\xff'])
def test_a_damaged_json_file(run, text):
    (run / 'results.json').write_bytes(text.encode('latin-1'))
    with pytest.raises(UserError, match=r'results\.json'):
        read([run])


@pytest.mark.parametrize('label', ['../run', '..', '/etc', 'a/b', ''])
def test_a_label_stays_inside_the_folder(comparison, label):
    results = json.loads((comparison / 'results.json').read_text())
    results['runs'][label] = results['runs']['xmixup']
    fake.dump(comparison / 'results.json', results)
    with pytest.raises(UserError, match='cannot be the name of a sub-folder'):
        read([comparison])


def test_a_baseline_that_was_not_run(comparison):
    results = json.loads((comparison / 'results.json').read_text())
    fake.dump(comparison / 'results.json', {**results, 'baseline': 'other'})
    with pytest.raises(UserError, match="no run of the baseline 'other'"):
        read([comparison])


def test_damaged_pictures(run):
    (run / 'samples.npz').write_bytes(b'PK no zip')
    with pytest.raises(UserError, match=r'samples\.npz cannot be read'):
        read([run])


@pytest.mark.parametrize(
    'image', [np.zeros((8, 16, 16), np.uint8), np.zeros((8, 4, 4, 1)), np.zeros((8, 4, 4, 2), np.uint8)]
)
def test_invalid_picture_arrays_are_refused(run, image):
    np.savez(run / 'samples.npz', image=image, partner=image, seen=image, label=np.arange(8))
    with pytest.raises(UserError, match=r'samples\.npz is damaged'):
        read([run])


def test_pictures_that_do_not_fit_the_pairs(run):
    arrays = dict(np.load(run / 'pairs.npz'))
    np.savez(run / 'pairs.npz', target=arrays['target'], source=arrays['source'][:, :1])  # the first class has two
    with pytest.raises(UserError, match='does not fit'):
        read([run])
