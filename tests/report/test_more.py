"""Top-5, the mean over classes, the kept step and what was found of a folder, in the tables and in the report."""

import json

import pytest

from mixjax import report
from mixjax.errors import UserError
from mixjax.report import read, tables
from tests.support import fake


def results(top5=0.98, per_class=0.8, **more):
    run = fake.run_results('finetune', [0.85, 0.87])
    run |= {'top5': fake.spread([top5, top5]), 'mean_per_class': fake.spread([per_class, per_class]), **more}
    return run


def test_other_measures_stand_beside_the_accuracy():
    text = tables.accuracy_text(results())
    assert text.splitlines()[0].split() == ['method', 'accuracy', '%', 'n', 'top-5', '%', 'per', 'class', '%']
    assert text.splitlines()[1].split() == ['finetune', '86.00', '+-', '1.41', '2', '98.00', '80.00']
    assert max(map(len, text.splitlines())) <= 80
    assert '<th scope="col" class=num>top-5 %</th>' in tables.accuracy_html(results())
    assert 'top-5' not in tables.accuracy_markdown(results())


def test_a_mean_over_classes_that_says_nothing_new_is_left_out():
    assert 'per class' not in tables.accuracy_text(results(per_class=0.86))


def test_measures_of_some_runs_only_are_left_out():
    both = fake.comparison_results({'a': [0.5, 0.6], 'b': [0.6, 0.7]})
    both['runs']['b']['top5'] = fake.spread([0.9, 0.9])
    assert 'top-5' not in tables.accuracy_text(both)
    both['runs']['a']['top5'] = fake.spread([0.8, 0.8])
    text = tables.accuracy_text(both)
    assert (
        'top-5' in text and 'difference: percentage points' in text and text.splitlines()[0].endswith('difference to a')
    )


def test_the_note_says_how_the_step_was_chosen():
    assert 'best validation accuracy' in tables.accuracy_text(results(keep='best'))
    assert 'best validation accuracy' not in tables.accuracy_text(results(keep='last'))


@pytest.fixture
def folder(tmp_path):
    run = results(keep='best')
    for k, seed in enumerate(run['seeds']):
        seed['step'] = 100 * (k + 1)
    config = fake.config('finetune', (), 2, 8)
    config['target'] = {'name': 'folder', 'dir': '~/my <photos>/', 'per_class': 0, 'rate': 1.0, 'val': 0.1}
    files = {'results': run, 'config': config, 'env': {'command': 'x'}, 'data': {'notes': ['3 of <b> left out']}}
    for name, data in files.items():
        (tmp_path / f'{name}.json').write_text(json.dumps(data))
    return tmp_path


def test_the_report_opens_with_what_was_found(folder):
    page = report.write(folder).read_text()
    assert page.index('3 of &lt;b&gt; left out') < page.index('class="answer"')
    assert 'finetune on my &lt;photos&gt;' in page
    assert 'the step with the best validation accuracy was kept: finetune 100, 200.' in page


def test_damaged_files_are_named(folder):
    (folder / 'data.json').write_text('{"notes": 3}')
    with pytest.raises(UserError, match="data.json is damaged: 'notes'"):
        read.read([folder])
    (folder / 'data.json').unlink()
    run = json.loads((folder / 'results.json').read_text())
    (folder / 'results.json').write_text(json.dumps({**run, 'top5': {'mean': 'x'}}))
    with pytest.raises(UserError, match="results.json is damaged: 'mean'"):
        read.read([folder])
