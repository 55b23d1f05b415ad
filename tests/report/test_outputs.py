"""The report of several labels an image, and of numbers."""

import json

import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.report import answer, outputs, overview, read, tables
from tests.support import fake


def results(values, primary='mAP', higher=True, label='finetune', **more):
    seeds = [{'seed': k, 'step': 10, primary: value, 'loss': 0.1} for k, value in enumerate(values)]
    known = [value for value in values if value is not None]
    found = fake.spread(known) if len(known) == len(values) else {'mean': None, 'std': None, 'n': len(values)}
    return {
        'kind': 'run', 'label': label, 'method': label, 'steps': 10, 'classes': ['<sky>', 'sea'], 'train_examples': 6,
        'test_examples': 3, 'task': 'multi_label' if primary == 'mAP' else 'regression', 'primary': primary,
        'higher_is_better': higher, 'seeds': seeds, primary: found, **more,
    }  # fmt: skip


def comparison(runs, **about):
    gaps = {
        label: {'mean': float(np.mean(values) - np.mean(next(iter(runs.values())))), 'stderr': 0.01, 'n': len(values)}
        for label, values in list(runs.items())[1:]
    }
    each = {label: results(values, label=label, **about) for label, values in runs.items()}
    return {'kind': 'comparison', 'baseline': next(iter(runs)), 'runs': each, 'differences': gaps}


def test_less_is_better_of_an_error():
    found = comparison({'finetune': [3.0, 3.1, 3.2], 'mixup': [2.0, 2.1, 2.2]}, primary='MAE', higher=False)
    rows = tables.accuracy_rows(found)
    assert tables.best_row(rows).label == 'mixup'
    said = answer.answer(found)
    assert said.headline == 'mixup is ahead of finetune by 1 in MAE.'
    assert said.figures[1][0] == '\u22121 \u00b1 0.01'
    text = tables.accuracy_text(found).splitlines()
    assert text[0].split() == ['method', 'MAE', 'n', 'difference', 'to', 'finetune'] and text[2].endswith('-1 +- 0.01')
    assert 'MAE: mean' in text[-1] and 'difference: MAE' in text[-1]
    worse = comparison({'finetune': [2.0, 2.1, 2.2], 'mixup': [3.0, 3.1, 3.2]}, primary='MAE', higher=False)
    assert answer.answer(worse).headline == 'No method scored below finetune.'


def test_other_measures_and_unknown_ones():
    found = results([None], F1_micro={'mean': 0.25, 'std': None, 'n': 1})
    assert tables.accuracy_text(found).splitlines()[1].split() == ['finetune', '-', '1', '0.25']
    assert tables.more_of(found) == ['F1_micro']
    known = tables.accuracy_rows(results([0.5]))[0]
    assert tables.best_row([tables.accuracy_rows(found)[0], known]) is known


def test_runs_of_several_tasks_have_no_common_answer():
    rows = [tables.accuracy_rows(one)[0] for one in (results([0.5]), results([2.0], 'MAE', False))]
    lines = [
        overview.Line(k, 'a', overview.Setting('d', 'l', 'n'), row, '', None, '', None, {})
        for k, row in enumerate(rows)
    ]
    assert overview.answer(lines).headline == 'The runs are of several tasks, which have no measure in common.'
    assert overview.shared_primary(lines[:1]).name == 'mAP'


def arrays(**changes):
    random = np.random.RandomState(0)
    return {
        'seed': np.array([0]), 'step': np.array([10]), 'value': random.rand(1, 3, 2).astype(np.float32),
        'label': np.array([[1.0, 0], [0, 0], [1, 1]]), 'shown': np.array([2, 0]),
        'image': random.randint(0, 255, (2, 4, 4, 3)).astype(np.uint8), **changes,
    }  # fmt: skip


def test_tables_charts_and_cards(tmp_path):
    given = arrays(value=np.array([[[0.9, 0.2], [0.6, 0.1], [0.4, 0.7]]], np.float32))
    np.savez(tmp_path / 'predictions.npz', **given)
    found = outputs.read(tmp_path, results([0.5]))
    table = outputs.labels_html(results([0.5]), found)
    # The first label: 2 images have it, 2 are predicted, one of them rightly.
    assert '<th scope="row">&lt;sky&gt;</th><td class=num>2</td><td class=num>2</td><td class=num>50.0</td>' in table
    cards = outputs.cards(results([0.5]), found, lambda image, alt: '')
    assert '<b><bdi>sea</bdi></b> <span class="value">70 %</span>' in cards[0] and '&lt;sky&gt;' in cards[0]
    numbers = results([0.5], 'MAE', False)
    chart = outputs.charts(numbers, found, 'x')
    assert chart.count('<circle') == 6 and '&lt;sky&gt;' in chart and '<sky>' not in chart
    assert outputs.read(tmp_path, {**results([0.5]), 'seeds': [{'seed': 0, 'step': 9, 'mAP': 1}]}) is None


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'value': np.zeros((1, 3, 3), np.float32)}, "'value' is not a number for each output"),
        ({'value': np.zeros((1, 3, 2), int)}, "'value' is not a number for each output"),
        ({'label': np.zeros((2, 2))}, "'label' is not a number for each output"),
        ({'shown': np.array([3, 0])}, "'shown' is out of range"),
        ({'shown': np.array([1])}, "'shown' is not a row for each picture"),
        ({'image': np.zeros((2, 4, 4, 2), np.uint8)}, "'image' holds no pictures"),
        ({'seed': np.array([0.5])}, 'not whole numbers'),
    ],
)
def test_damaged_predictions_are_refused(changes, said, tmp_path):
    np.savez(tmp_path / 'predictions.npz', **arrays(**changes))
    with pytest.raises(UserError, match=said):
        outputs.read(tmp_path, results([0.5]))


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        ({'primary': 3}, "'primary' is missing or of the wrong kind"),
        ({'primary': 'accuracy'}, 'which this version of mixjax does not know'),
        ({'task': 'detection'}, "a task 'detection', which this version of mixjax does not know"),
        ({'mAP': {'mean': 'x', 'std': None, 'n': 1}}, "'mAP' is no number"),
        ({'mAP': 0.5}, "'mAP' is missing or of the wrong kind"),
        ({'seeds': [{'seed': 0, 'mAP': True}]}, "'mAP' is no number"),
        ({'measures': {'x': {'mean': [], 'std': None, 'n': 1}}}, "'x' is no number"),
        ({'measures': [1]}, "'measures' is missing or of the wrong kind"),
    ],
)
def test_damaged_results_are_refused(changes, said, tmp_path):
    for name, data in {'results': {**results([0.5]), **changes}, 'config': {'steps': 10}, 'env': {}}.items():
        (tmp_path / f'{name}.json').write_text(json.dumps(data))
    with pytest.raises(UserError, match=said):
        read.read([tmp_path])
