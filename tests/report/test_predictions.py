"""What networks said of the test examples, and which classes they confuse."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixjax.errors import UserError
from mixjax.report import mistakes, predictions, render, svg
from mixjax.report.predictions import Confused, Predictions, confused, matrix
from tests.support import fake
from tests.support.page import Page


def found(label, *predicted):
    predicted = np.array(predicted, np.int64)
    labels = np.broadcast_to(np.array(label, np.int64), predicted.shape)
    seeds, none = tuple(range(len(predicted))), np.zeros((0, 1, 1, 1), np.uint8)
    return Predictions(seeds, predicted, np.ones(predicted.shape), labels, np.zeros(0, int), none)


BY_HAND = found([0, 0, 1, 1, 1, 2], [0, 1, 1, 0, 0, 2], [0, 1, 1, 2, 0, 2])


def test_counts_by_hand():
    assert matrix(BY_HAND, 3).tolist() == [[2, 2, 0], [3, 2, 1], [0, 0, 2]]
    assert confused(BY_HAND, 3) == [Confused(1, 0, 3, 6), Confused(0, 1, 2, 4), Confused(1, 2, 1, 6)]
    classes = ('cat', 'dog', 'eel')
    assert mistakes.confused_text(confused(BY_HAND, 3), classes) == (
        'Most often taken for another: dog for cat 3 times; cat for dog 2 times; dog for eel 1 times.'
    )
    assert mistakes.confused_text([], classes) == 'No class is taken for another.'


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40))
def test_the_matrix_and_the_pairs_say_the_same(classes, examples):
    label, predicted = np.array(examples).T % classes
    one = found(label, predicted)
    cells, pairs = matrix(one, classes), confused(one, classes)
    assert cells.sum() == len(examples) and np.trace(cells) == np.count_nonzero(label == predicted)
    np.testing.assert_array_equal(cells.sum(1), np.bincount(label, minlength=classes))
    apart = np.zeros_like(cells)
    for pair in pairs:
        apart[pair.true, pair.taken] = pair.times
        assert pair.of == cells[pair.true].sum()
    np.testing.assert_array_equal(apart, cells - np.diag(np.diag(cells)))
    assert [pair.times for pair in pairs] == sorted((pair.times for pair in pairs), reverse=True)


def test_the_small_matrix_has_each_number_that_is_not_zero():
    chart = Page(mistakes.numbers(matrix(BY_HAND, 3), ('cat', 'dog', 'a longer name'), svg.Text('x', 'title', 'words')))
    told = [text for where, text in chart.texts if where == 'text']
    assert [text for text in told if text.isdigit()] == ['2', '2', '3', '2', '1', '2']
    assert told.count('cat') == told.count('dog') == told.count('a longer na\u2026') == 2
    shades = [float(tag.attributes['opacity'] or 0) for tag in chart.named('path') if 'opacity' in tag.attributes]
    assert shades == [0.5, 0.5, 0.29]  # halves of their rows, and a sixth; the diagonal is not shaded


def test_colours_from_never_to_always():
    cells = np.array([[4, 0], [3, 1]])
    shown = mistakes.coloured(cells)
    assert shown.dtype == np.uint8 and shown.shape == (2, 2, 3)
    assert shown[0].tolist() == [[255, 234, 70], [0, 32, 77]]
    assert shown[1, 1].tolist() == [124, 123, 120]  # a quarter, whose root is the middle
    assert mistakes.coloured(np.zeros((1, 1), int)).tolist() == [[[0, 32, 77]]]  # a class without examples


@pytest.fixture
def run(tmp_path):
    folder = fake.make_run(tmp_path / 'run', 'smile', [0.9, 0.8])
    fake.predict(folder)
    return folder


def change(run, **arrays):
    with np.load(run / 'predictions.npz') as file:
        before = dict(file)
    np.savez(run / 'predictions.npz', **{k: v for k, v in {**before, **arrays}.items() if v is not None})


def test_the_page_shows_numbers_words_and_pictures(run):
    page = Page(render([run]))
    assert [text for where, text in page.texts if where == 'h2'][2:4] == ['Confused classes', 'Surest mistakes']
    results = json.loads((run / 'results.json').read_text())
    words = next(text for where, text in page.texts if where == 'desc' and text.startswith('Most often'))
    assert words.count('times') == 5 and 'for' in words
    alts = [tag.attributes['alt'] for tag in page.named('img')]
    assert sum(alt.startswith('a test image of the class') for alt in alts if alt) == 12
    first = round(1767 * results['seeds'][0]['accuracy'])  # the first that is wrong, and the surest
    with np.load(run / 'predictions.npz') as file:
        sure = 100 * float(file['probability'][0, first])
    assert f'{(first + 1) % 10} {sure:.1f} % is {first % 10}' in page.text()


def test_many_classes_are_a_picture_and_more_are_a_list(tmp_path):
    for many in (40, 301):
        run = fake.make_run(tmp_path / str(many), 'smile', [0.9], classes=tuple(f'breed {i}' for i in range(many)))
        fake.predict(run)
        if many > 255:
            with np.load(run / 'predictions.npz') as file:
                label = np.arange(1767) % many
                right = file['predicted'][0] == file['label']
            change(run, label=label.astype(np.uint16), predicted=np.where(right, label, (label + 1) % many)[None])
        page = Page(render([run]))
        shown = [tag.attributes for tag in page.named('img') if 'matrix' in (tag.attributes['class'] or '')]
        assert [tag['width'] for tag in shown] == (['40'] if many == 40 else [])
        assert all('Most often taken for another: breed' in (tag['alt'] or '') for tag in shown)
        assert 'Most confused, in percent' in page.text()


def test_without_the_file_there_is_no_section(run):
    (run / 'predictions.npz').unlink()
    assert 'Confused classes' not in Page(render([run])).text()


def test_seeds_of_another_step_are_left_out(run):
    results = json.loads((run / 'results.json').read_text())
    results['seeds'][0]['step'] = 300
    fake.dump(run / 'results.json', results)
    read = predictions.read(run, results)
    assert read is not None and read.seeds == (1,) and len(read.predicted) == 1
    assert len(read.image) == 0  # they were of the seed that is left out
    results['seeds'][1]['step'] = 300
    assert predictions.read(run, results) is None


@pytest.mark.parametrize(
    ('arrays', 'told'),
    [
        ({'label': None}, "'label' is missing"),
        ({'label': np.zeros(3, int)}, "'label' is int64"),
        ({'label': np.full(1767, 10)}, "'label' is out of range"),
        ({'label': np.zeros(1767, int)}, 'does not fit results.json: the accuracy of seed 0'),
        ({'predicted': np.zeros((2, 1767))}, "'predicted' is float64"),
        ({'predicted': np.full((2, 1767), -1)}, 'out of range'),
        ({'probability': np.full((2, 1767), np.nan)}, "'probability' holds values that are not probabilities"),
        ({'probability': np.zeros((2, 3))}, 'not one number for each'),
        ({'seed': np.zeros(2, int)}, 'a seed is listed twice'),
        ({'seed': np.array(3)}, "'seed' is int64"),
        ({'shown': np.arange(3)}, "'shown' is int64"),
        ({'shown': np.full(12, 5000)}, "'shown' is out of range"),
        ({'image': np.zeros((12, 4, 4, 2), np.uint8)}, "'image' holds no pictures"),
    ],
)
def test_inconsistent_predictions_file_is_refused(run, arrays, told):
    change(run, **arrays)
    with pytest.raises(UserError, match=told):
        render([run])


def test_a_file_that_is_none(run):
    (run / 'predictions.npz').write_bytes(b'PK no zip')
    with pytest.raises(UserError, match='predictions.npz cannot be read'):
        render([run])


def test_of_many_methods_two_are_seen_at_once(tmp_path):
    folder = fake.make_comparison(tmp_path / 'all', {'finetune': 0.8, 'lamix': 0.85, 'mixup': 0.9}, seeds=1)
    page = Page(render([fake.predict_all(folder)]))
    folded = [tag for tag in page.named('svg') if 'details' in tag.path]
    assert len(folded) == 1
    images = [tag for tag in page.named('img') if (tag.attributes['alt'] or '').startswith('a test image')]
    assert len(images) == 36 and sum('details' in tag.path for tag in images) == 12
