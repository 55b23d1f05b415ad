"""`splits.json`: written, and given back to repeat a draw anywhere."""

import json
from pathlib import Path

import numpy as np
import pytest

from mixjax.data.dataset import Dataset
from mixjax.data.labelled import split_file, splits
from mixjax.errors import UserError

LABELS = np.repeat(np.arange(4, dtype=np.int32), 6)
NAMES = ('a', 'b', 'c', 'd')


def dataset(ids=True, drop=()):
    keep = [k for k in range(24) if k not in drop]
    names = tuple(f'{NAMES[LABELS[k]]}/{k}.png' for k in keep) if ids else ()
    return Dataset('toy', NAMES, LABELS[keep], lambda rows: rows, names)


def written(tmp_path, *, ids=True, classes=(0, 1, 2, 3), edit=None, seeds=(0, 1)):
    """The file of a draw of 3 of each class, one of which validates."""
    data, rows = dataset(ids), None
    if len(classes) < 4:
        data, rows = splits.restrict(data, np.array(classes))
    drawn = {}
    for seed in seeds:
        chosen = splits.draw(data.labels, data.classes, per_class=3, seed=seed)
        learned, val = splits.validation(data.labels, chosen, 0.3, seed)
        drawn[seed] = splits.Drawn(learned, val, np.zeros(0, int))
    held = split_file.contents('toy', NAMES, data, rows, {'train': 'x'}, drawn)
    if edit:
        edit(held)
    path = tmp_path / 'splits.json'
    path.write_text(json.dumps(held))
    return str(path), data, rows, drawn


def same(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize('ids', [True, False])
@pytest.mark.parametrize('classes', [(0, 1, 2, 3), (1, 3)])
def test_a_draw_is_repeated(ids, classes, tmp_path):
    path, data, rows, drawn = written(tmp_path, ids=ids, classes=classes)
    np.testing.assert_array_equal(split_file.classes(path, 'toy', NAMES), classes)
    assert split_file.count(path, 4) == len(classes)
    for seed in (0, 1):
        same(split_file.read_draw(path, data, rows, seed, ()), drawn[seed])


def test_rows_are_those_of_the_whole_train_part(tmp_path):
    path, _, rows, drawn = written(tmp_path, classes=(1, 3))
    held = json.loads(Path(path).read_text())
    assert held['labelled rows']['0'] == rows[drawn[0].labelled].tolist()
    assert held['labelled ids']['0'] == [f'{NAMES[LABELS[k]]}/{k}.png' for k in held['labelled rows']['0']]
    assert held['classes'] == ['b', 'd'] and held['left out classes'] == ['a', 'c']
    assert 'added rows' not in held and held['per class']['0'] == [2, 2]


def test_files_are_found_by_name_where_rows_have_moved(tmp_path):
    path, data, _, drawn = written(tmp_path)
    spare = sorted(set(range(24)) - set(drawn[0].known))[:4]
    moved = dataset(drop=spare)
    found = split_file.read_draw(path, moved, None, 0, ())
    assert [moved.ids[k] for k in found.labelled] == [data.ids[k] for k in drawn[0].labelled]


def test_the_file_of_an_older_run(tmp_path):
    path = tmp_path / 'old.json'
    path.write_text(json.dumps({'target': 'toy', 'labelled rows': {'0': [0, 6, 12, 18]}}))
    assert split_file.classes(str(path), 'toy', NAMES).tolist() == [0, 1, 2, 3]
    found = split_file.read_draw(str(path), dataset(ids=False), None, 0, ())
    assert found.labelled.tolist() == [0, 6, 12, 18] and not len(found.val)


def first(held, kind='labelled', what='ids'):
    return held[f'{kind} {what}']['0']


FAULTS = {
    'one too few': (lambda held: first(held).pop(), "2 labelled examples of class 'd' are announced, and 1 listed"),
    'unknown': (lambda held: first(held).append('a/99.png'), "no example 'a/99.png'"),
    'twice': (lambda held: first(held).append(first(held)[0]), 'is listed twice'),
    'to learn and to validate': (lambda held: first(held, 'validation').append(first(held)[0]), 'is listed twice'),
}


@pytest.mark.parametrize('fault', FAULTS)
def test_faults_of_the_examples_are_one_sentence(fault, tmp_path):
    edit, sentence = FAULTS[fault]
    path, data, rows, _ = written(tmp_path, edit=edit)
    with pytest.raises(UserError) as error:
        split_file.read_draw(path, data, rows, 0, ())
    assert sentence in str(error.value) and str(error.value).startswith(f'config.target.splits: {path}, seed 0: ')
    split_file.read_draw(path, data, rows, 1, ())


@pytest.mark.parametrize('row', [-1, 24, 'x', 1.5, None])
def test_invalid_rows_are_refused(row, tmp_path):
    path, data, rows, _ = written(tmp_path, ids=False, edit=lambda held: first(held, what='rows').append(row))
    with pytest.raises(UserError, match='has no example'):
        split_file.read_draw(path, data, rows, 0, ())


def test_an_example_of_a_class_that_was_left_out(tmp_path):
    path, data, rows, _ = written(tmp_path, classes=(1, 3), edit=lambda held: first(held).append('a/0.png'))
    with pytest.raises(UserError, match="train part of these classes has no example 'a/0.png'"):
        split_file.read_draw(path, data, rows, 0, ())


def test_an_example_that_is_tested_on(tmp_path):
    path, data, rows, drawn = written(tmp_path)
    name = data.ids[int(drawn[0].val[0])]
    with pytest.raises(UserError, match=f"'{name}' is in the test part"):
        split_file.read_draw(path, data, rows, 0, ['other.png', name])


def test_a_seed_that_is_not_there(tmp_path):
    path, data, rows, _ = written(tmp_path)
    with pytest.raises(UserError, match='the draws of the seeds 0, 1, and not of 2'):
        split_file.read_draw(path, data, rows, 2, ())


@pytest.mark.parametrize(
    ('target', 'names', 'sentence'),
    [
        ('tea', NAMES, "is of the data set 'toy', not of 'tea'"),
        ('toy', NAMES[:3], "names classes that the data set has not: 'd'"),
        ('toy', (*NAMES, 'e'), "lacks classes of the data set: 'e'"),
    ],
)
def test_another_data_set_or_other_classes(target, names, sentence, tmp_path):
    path, *_ = written(tmp_path)
    with pytest.raises(UserError) as error:
        split_file.classes(path, target, names)
    assert sentence in str(error.value)


@pytest.mark.parametrize('text', ['', '{', '[]', '{}', '{"target": "toy"}', '{"target": 1, "labelled rows": {}}'])
def test_a_file_that_is_none(text, tmp_path):
    path = tmp_path / 'splits.json'
    path.write_text(text)
    with pytest.raises(UserError, match='cannot be read'):
        split_file.read(str(path))
    with pytest.raises(UserError, match='cannot be read'):
        split_file.read(str(tmp_path / 'missing.json'))


def test_stamp_distinguishes_examples():
    other = dataset()._replace(labels=LABELS[::-1])
    assert split_file.stamp(dataset()) == split_file.stamp(dataset()) != split_file.stamp(other)
    assert split_file.stamp(dataset()) != split_file.stamp(dataset()._replace(name='tea'))
