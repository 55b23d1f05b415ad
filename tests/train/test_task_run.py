"""Runs of a folder with several labels an image, and with numbers: from the CSV to predictions and the report."""

import csv
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

import mixjax
from mixjax import config as config_lib
from mixjax import models, report
from mixjax.api import Results
from mixjax.commands import cli
from mixjax.errors import UserError
from mixjax.method import Aux, Method
from mixjax.rundir import files
from mixjax.train import evaluation, experiment, loop
from tests.support.common import Tiny, lines

COUNT = 20
CHANGES = {
    'method.name': 'finetune', 'num_seeds': '2', 'devices': '2', 'target.name': 'folder', 'target.labels': 'labels.csv',
    'target.per_class': '0', 'target.val': '0.25', 'keep': 'best', 'steps': '6', 'eval_every': '2',
    'checkpoint_every': '2', 'log_every': '2', 'batch_size': '6', 'eval_batch_size': '4', 'optim.lr': '0.02',
    'model.name': 'tiny', 'model.weights': 'random://3', 'source.name': '', 'image.resize': '16', 'image.crop': '16',
}  # fmt: skip
HEADS = {'multi_label': 'file,labels', 'regression': 'file,age,"price, net"'}
OUTPUTS = {'multi_label': ['left', 'rare', 'red'], 'regression': ['age', 'price, net']}


@pytest.fixture(autouse=True, scope='module')
def tiny():
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(4))
        yield


def photos(root, task):
    """Images that are red or not, and green on the left or not."""
    root.mkdir()
    random, rows = np.random.RandomState(0), [HEADS[task]]
    for k in range(COUNT):
        red, left = k % 2, k // 2 % 2
        image = random.randint(0, 60, (18, 20, 3)).astype(np.uint8)
        image[..., 0] += 150 * red
        image[:, :10, 1] += 150 * left
        Image.fromarray(image).save(root / f'{k:02}.png')
        names = ['red'] * red + ['left'] * left + ['rare'] * (k == 7)
        rows.append(f'{k:02}.png,' + (';'.join(names) if task == 'multi_label' else f'{20 + 30 * red + k / 10},{left}'))
    (root / 'labels.csv').write_text('\n'.join(rows))
    return root


def config(folder, task, **changes):
    given = {**CHANGES, 'target.dir': str(folder), 'target.task': task}
    given |= {key.replace('__', '.'): value for key, value in changes.items()}
    return config_lib.load('quickstart', list(given.items()))


@pytest.fixture(scope='module', params=['multi_label', 'regression'])
def done(request, tmp_path_factory):
    here = tmp_path_factory.mktemp(request.param)
    photos(here / 'photos', request.param)
    return request.param, here, experiment.run(config(here / 'photos', request.param), here / 'run', progress=False)


def truth(folder):
    """{row: labels} of the test part, by the CSV and nothing else of mixjax."""
    with (folder / 'photos/labels.csv').open() as file:
        return {row[0]: row[1:] for row in csv.reader(file)}


def measured(task, value, label):
    if task == 'regression':
        return {'MAE': np.abs(value - label).mean(), 'R2': metrics.r2_score(label, value)}
    there = label.any(0)
    return {
        'mAP': metrics.average_precision_score(label[:, there], value[:, there], average='macro'),
        'F1_micro': metrics.f1_score(label, value > 0.5, average='micro'),
        'exact_match': metrics.accuracy_score(label, value > 0.5),
    }


def test_results_are_measures_of_the_kept_predictions(done):
    task, here, results = done
    assert (results['task'], results['classes']) == (task, OUTPUTS[task])
    assert (results['train_examples'], results['val_examples'], results['test_examples']) == (12, 4, 4)
    primary = results['primary']
    assert 'accuracy' not in results and results['higher_is_better'] == (task == 'multi_label')
    found = np.load(here / 'run/predictions.npz')
    for place, seed in enumerate(results['seeds']):
        label = np.broadcast_to(found['label'], found['value'].shape)[place]
        for name, wanted in measured(task, found['value'][place], label).items():
            np.testing.assert_allclose(seed[name], wanted, rtol=1e-6, err_msg=name)
        assert found['step'][place] == seed['step']
    values = [seed[primary] for seed in results['seeds']]
    assert results[primary] == {'mean': np.mean(values), 'std': np.std(values, ddof=1), 'n': 2}
    assert Results.read(here / 'run').primary.per_seed == tuple(values)
    with pytest.raises(UserError, match=f'task {task} and has no accuracy; results.primary is its {primary}'):
        _ = Results.read(here / 'run').accuracy


def test_labels_of_the_test_part_are_those_of_the_file(done):
    task, here, results = done
    found, known = np.load(here / 'run/predictions.npz'), truth(here)
    split = files.read_json(here / 'run/splits.json')
    learned = {name for kind in ('labelled', 'validation') for name in split[f'{kind} ids']['0']}
    assert len(learned) == 16 and 'per class' not in split
    tested = sorted(set(known) - learned - {'file'})
    label = found['label'][0] if found['label'].ndim == 3 else found['label']
    for name, row in zip(tested, label, strict=True):
        if task == 'regression':
            assert row.tolist() == [float(cell) for cell in known[name]]
        else:
            assert {results['classes'][k] for k in np.flatnonzero(row)} == set(filter(None, known[name][0].split(';')))


def test_the_best_step_is_chosen_by_the_primary_measure(done):
    task, here, results = done
    val = [line for line in lines(here / 'run/metrics.jsonl') if line['kind'] == 'val']
    assert len(val) == 6
    for seed in results['seeds']:
        mine = {line['step']: line[results['primary']] for line in val if line['seed'] == seed['seed']}
        best = (max if task == 'multi_label' else min)(mine.values())
        assert seed['step'] == max(step for step, value in mine.items() if value == best)
        assert seed[f'val_{results["primary"]}'] == best


def test_seeds_draw_examples_of_their_own_and_numbers_of_their_own_scale(done):
    task, here, _ = done
    split = files.read_json(here / 'run/splits.json')
    assert set(split['labelled ids']['0']) != set(split['labelled ids']['1'])
    about = files.read_json(here / 'run/model.json')
    assert about['task'] == task and ('scale' in about) == (task == 'regression')
    if task == 'regression':
        known = truth(here)
        rows = np.array([list(map(float, known[name])) for name in split['labelled ids']['0']])
        np.testing.assert_allclose(about['scale']['mean'], rows.mean(0), rtol=1e-12)
        np.testing.assert_allclose(about['scale']['std'], rows.std(0), rtol=1e-12)


def test_the_loaded_network_says_what_the_run_said(done):
    task, here, results = done
    predictor = mixjax.load(here / 'run')
    found, test = np.load(here / 'run/predictions.npz'), mixjax.inference.test_set(here / 'run')
    said = predictor.numbers(test.image) if task == 'regression' else predictor.probabilities(test.image)
    np.testing.assert_allclose(said, found['value'][0], rtol=1e-4, atol=1e-4)
    path = here / 'photos/03.png'
    if task == 'regression':
        for call in (predictor.probabilities, predictor):
            with pytest.raises(UserError, match=r'predicts numbers .*predictor.numbers\(images\) gives them'):
                call(path)
        assert predictor.numbers([path, path]).shape == (2, 2)
        return
    with pytest.raises(UserError, match='predicts labels and no numbers'):
        predictor.numbers(path)
    row = predictor.probabilities(path)[0]
    wanted = sorted((name for name, p in zip(predictor.classes, row, strict=True) if p > 0.5))
    assert sorted(name for name, _ in predictor(path, top=1)) == wanted  # all, and not `top` of them


def test_the_commands_show_it(done, capsys, tmp_path):
    task, here, results = done
    run = f'--workdir={here / "run"}'
    assert cli.run('predict', [run, '--test', '--json']) == 0
    found = json.loads(capsys.readouterr().out)
    for name in (results['primary'], *(['RMSE'] if task == 'regression' else ['F1_macro', 'exact_match'])):
        np.testing.assert_allclose(found['measures'][name], results['seeds'][0][name], rtol=1e-4)
    kinds = {'numbers'} if task == 'regression' else {'labels', 'probabilities'}
    assert set(found['predictions'][0]) == {'file', 'true'} | kinds
    assert cli.run('predict', [run, f'--csv={tmp_path / "out.csv"}', str(here / 'photos')]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == COUNT + 1 and said[-1] == 'left out, 1 file that is not an image'
    assert all(re.search('age [-0-9.e+]+, price, net|%|no label', line) for line in said[:-1])
    with (tmp_path / 'out.csv').open() as file:
        table = list(csv.reader(file))
    assert table[0] == ['file', *results['classes']] and len(table) == COUNT + 1


def test_the_report_shows_it(done):
    task, here, results = done
    page = report.write(here / 'run').read_text()
    assert '>Largest losses<' in page and 'Confused classes' not in page
    assert 'accuracy' not in page.replace('s-accuracy', '').casefold()
    assert f'Test {results["primary"]} over steps' in page
    assert ('precision %' in page and '<td>' in page) if task == 'multi_label' else 'predicted and true' in page
    assert f'| method | {results["primary"]} | n |' in (here / 'run/results.md').read_text()
    with (here / 'run/results.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row[results['primary']]) for row in rows] == [seed[results['primary']] for seed in results['seeds']]


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(done, tmp_path, monkeypatch):
    task, here, results = done
    real = evaluation.evaluate_and_log

    def stop(built, folder, step, ts, placed):
        if step == 6:
            raise KeyboardInterrupt
        real(built, folder, step, ts, placed)

    with monkeypatch.context() as patched:
        patched.setattr(loop.evaluation, 'evaluate_and_log', stop)
        with pytest.raises(KeyboardInterrupt):
            experiment.run(config(here / 'photos', task), tmp_path / 'run', progress=False)
    assert not (tmp_path / 'run/results.json').exists()
    assert experiment.run(config(here / 'photos', task), tmp_path / 'run', progress=False) == results
    for name in ('metrics.jsonl', 'model.safetensors', 'model.json', 'predictions.npz', 'splits.json'):
        assert (tmp_path / 'run' / name).read_bytes() == (here / 'run' / name).read_bytes(), name


@pytest.mark.slow
def test_one_device_and_a_streamed_feed_learn_the_same(done, tmp_path):
    task, here, results = done
    for changes in ({'devices': '1'}, {'feed': 'stream'}):
        other = experiment.run(config(here / 'photos', task, **changes), tmp_path / [*changes][0], progress=False)
        for one, two in zip(results['seeds'], other['seeds'], strict=True):
            np.testing.assert_allclose(one['loss'], two['loss'], rtol=1e-3)


def test_a_draw_given_back_is_the_same_run(done, tmp_path):
    task, here, results = done
    given = {'target__splits': str(here / 'run/splits.json'), 'target__val': '0'}
    again = experiment.run(config(here / 'photos', task, **given), tmp_path / 'again', progress=False)
    assert again['seeds'] == results['seeds']


def test_other_labels_in_the_file_are_another_run(done, tmp_path):
    task, here, _ = done
    photos(tmp_path / 'photos', task)
    run = config(tmp_path / 'photos', task, num_seeds='1', steps='2')
    experiment.run(run, tmp_path / 'run', progress=False)
    text = (tmp_path / 'photos/labels.csv').read_text()
    changed = text.replace('02.png,left', '02.png,red').replace('02.png,20.2', '02.png,20.3')
    assert changed != text
    (tmp_path / 'photos/labels.csv').write_text(changed)
    longer = config(tmp_path / 'photos', task, num_seeds='1', steps='4')
    with pytest.raises(UserError, match='the images of the t(rain|est) part of the target data set have changed'):
        experiment.run(longer, tmp_path / 'run', progress=False)


@pytest.mark.slow
def test_a_comparison_is_of_the_primary_measure(done, tmp_path, capsys):
    task, here, _ = done
    given = config(here / 'photos', task, keep='last', num_seeds='1', steps='2').unlock()
    given.method = {'name': ''}
    given.compare = {'finetune': {'name': 'finetune'}, 'mixup': {'name': 'mixup'}}
    results = experiment.run(given, tmp_path / 'run', progress=False)
    primary = 'mAP' if task == 'multi_label' else 'MAE'
    gap = results['runs']['mixup'][primary]['mean'] - results['runs']['finetune'][primary]['mean']
    assert results['differences']['mixup'] == {'mean': gap, 'stderr': None, 'n': 1}
    better = gap > 0 if task == 'multi_label' else gap < 0
    page = report.write(tmp_path / 'run').read_text()
    assert ('mixup scored' in page) == better and ('No method scored' in page) == (not better)
    report.write(here / 'run', tmp_path / 'run', out=tmp_path / 'both.html')


def test_a_method_is_for_classes_unless_it_says_otherwise(done, tmp_path):
    task, here, _ = done

    def make(classes_t):
        def loss(net, params, ctx):
            out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
            assert ctx.batch['label'].shape == (6, classes_t)
            return ctx.loss(out.logits['target'], ctx.batch['label']).mean(), Aux(model_state)

        def measures(out, label):
            return {'gap': jnp.abs(out.logits['target'] - label).mean(-1)}

        return Method(loss, measures=measures, tasks=('classification', task) if allowed else ('classification',))

    allowed = False
    given = config(here / 'photos', task, num_seeds='1', steps='2', keep='last')
    with pytest.raises(UserError, match='make is for classification only .its loss needs one class for each image'):
        mixjax.train.run(given, tmp_path / 'run', method=make, progress=False)
    assert not (tmp_path / 'run').exists()
    allowed = True
    found = mixjax.train.run(given, tmp_path / 'run', method=make, progress=False)
    (seed,) = found['seeds']
    if task == 'regression':  # the measure is in standardised units, as the loss is
        kept, about = np.load(tmp_path / 'run/predictions.npz'), files.read_json(tmp_path / 'run/model.json')
        gap = np.abs(kept['value'][0] - kept['label'].reshape(kept['value'][0].shape)) / about['scale']['std']
        np.testing.assert_allclose(seed['measures']['gap'], gap.mean(), rtol=1e-4)
    assert found['measures']['gap']['n'] == 1


METHODS = ['finetune', 'feature_extraction', 'l2sp', 'delta', 'bss', 'rifle', 'mixup']
WRAPPED = ['finetune + mixup', 'finetune + cutmix', 'finetune + manifold_mixup']


@pytest.mark.slow
@pytest.mark.parametrize('name', [*METHODS, *WRAPPED])
def test_every_method_for_the_task_takes_a_step(name, done, tmp_path):
    task, here, _ = done
    name, _, wrapper = name.partition(' + ')
    if (task, wrapper) == ('regression', 'cutmix'):
        return
    changes = {'method__name': name, **({'method__wrappers': wrapper} if wrapper else {})}
    changes |= {'method__manifold_mixup_layers': 'input,stage1'} if wrapper == 'manifold_mixup' else {}
    given = config(here / 'photos', task, num_seeds='1', steps='2', devices='1', **changes)
    found = experiment.run(given, tmp_path / 'run', progress=False)
    assert np.isfinite(found['seeds'][0]['loss'])


def test_a_trial_on_made_up_images(done, tmp_path):
    task, here, _ = done
    given = {key: value for key, value in CHANGES.items() if key.partition('.')[0] in ('method', 'target')}
    given |= {'target.dir': str(here / 'photos'), 'target.task': task, 'target.val': '0', 'source.name': ''}
    given |= {'model.name': 'tiny', 'model.weights': ''}
    smoke = config_lib.load('quickstart:smoke', list(given.items()))
    found = experiment.run(smoke, tmp_path / 'run', progress=False)
    assert found['task'] == task and found['classes'] == OUTPUTS[task]
