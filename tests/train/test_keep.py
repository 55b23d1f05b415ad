"""The validation part, and the network of the best step by it."""

import json
import shutil

import numpy as np
import pytest

import mixjax
from mixjax import config as config_lib
from mixjax.commands import cli
from mixjax.errors import UserError
from mixjax.rundir import files
from mixjax.train import evaluation, experiment
from tests.support.common import lines

BASE = {
    'method.name': 'finetune', 'num_seeds': '1', 'devices': '1', 'target.per_class': '6', 'target.val': '0.3',
    'keep': 'best', 'steps': '12', 'eval_every': '3', 'checkpoint_every': '6', 'log_every': '6', 'optim.lr': '0.05',
}  # fmt: skip


def config(**changes):
    return config_lib.load(
        'quickstart', list({**BASE, **{k.replace('__', '.'): v for k, v in changes.items()}}.items())
    )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('keep') / 'run'
    return folder, experiment.run(config(), folder)


def test_the_best_step_by_validation_is_the_result(run):
    folder, results = run
    (seed,) = results['seeds']
    found = {(line['kind'], line['step']): line for line in lines(folder / 'metrics.jsonl')}
    val = {step: line['accuracy'] for (kind, step), line in found.items() if kind == 'val'}
    assert list(val) == [3, 6, 9, 12]
    assert seed['step'] == max(step for step, accuracy in val.items() if accuracy == max(val.values()))
    assert seed['accuracy'] == results['accuracy']['mean'] == found['eval', seed['step']]['accuracy']
    assert (results['train_examples'], results['val_examples'], results['test_examples']) == (40, 20, 1737)
    assert results['keep'] == 'best' and seed['val_accuracy'] == max(val.values())


def test_what_the_best_network_said_of_each_example_is_kept(run):
    folder, results = run
    (seed,) = results['seeds']
    found = np.load(folder / 'predictions.npz')
    assert (found['seed'].tolist(), found['step'].tolist()) == ([0], [seed['step']])
    test = mixjax.inference.test_set(folder)
    np.testing.assert_array_equal(found['label'], [test.label])
    right = found['predicted'] == found['label']
    assert np.count_nonzero(right) / right.size == seed['accuracy'] < 1
    # The exported network says the same; the sharded evaluation rounds otherwise.
    again = mixjax.load(folder).probabilities(test.image)
    np.testing.assert_allclose(found['probability'][0], again.max(1), atol=1e-4)
    sure = np.where(right[0], 0, found['probability'][0])
    assert found['shown'].tolist() == np.argsort(-sure, kind='stable')[:12].tolist()
    np.testing.assert_array_equal(found['image'], test.image[found['shown']])


def test_the_exported_network_is_that_of_the_best_step(run, capsys):
    folder, results = run
    assert cli.run('predict', [f'--workdir={folder}', '--test', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['accuracy'] == results['accuracy']['mean']
    assert mixjax.load(folder).about['step'] == results['seeds'][0]['step']


def test_the_validation_part_is_neither_learned_from_nor_tested_on(run):
    folder, _ = run
    held = files.read_json(folder / 'splits.json')
    learned, val = set(held['labelled rows']['0']), set(held['validation rows']['0'])
    assert len(learned) == 40 and len(val) == 20 and not learned & val
    test = mixjax.inference.test_set(folder)
    assert len(test.label) == 1797 - 60


def test_keep_last_trains_the_same_run(run, tmp_path):
    folder, _ = run
    last = experiment.run(config(keep='last'), tmp_path / 'last')
    assert (folder / 'metrics.jsonl').read_text() == (tmp_path / 'last' / 'metrics.jsonl').read_text()
    assert last['seeds'][0]['step'] == 12 and files.read_json(tmp_path / 'last' / 'model.json')['step'] == 12


@pytest.mark.slow
def test_an_extended_run_is_that_of_a_long_one(run, tmp_path):
    folder, results = run
    experiment.run(config(steps='6', optim__schedule='constant'), tmp_path / 'two')
    long = experiment.run(config(optim__schedule='constant'), tmp_path / 'one')
    assert experiment.run(config(optim__schedule='constant'), tmp_path / 'two') == long
    for name in ('metrics.jsonl', 'model.safetensors', 'model.json', 'predictions.npz'):
        assert (tmp_path / 'one' / name).read_bytes() == (tmp_path / 'two' / name).read_bytes()


@pytest.mark.slow
def test_seeds_at_once_validate_on_their_own_examples(tmp_path):
    found = [
        experiment.run(config(num_seeds='2', steps='6', devices=devices), tmp_path / devices)['seeds']
        for devices in '12'
    ]
    for one, other in zip(*found, strict=True):
        assert one['step'] == other['step'] and abs(one['val_accuracy'] - other['val_accuracy']) <= 0.05
    held = files.read_json(tmp_path / '2' / 'splits.json')['validation rows']
    assert set(held['0']) != set(held['1'])


def test_equal_accuracies_go_to_the_later_step(tmp_path):
    for seed, step, accuracy, kind in (
        (0, 1, 0.5, 'val'), (0, 2, 0.7, 'val'), (0, 3, 0.7, 'val'), (0, 4, 0.6, 'val'),
        (0, 5, 0.9, 'eval'), (1, 5, 0.8, 'val'),
    ):  # fmt: skip
        files.append(tmp_path / 'metrics.jsonl', {'seed': seed, 'step': step, 'kind': kind, 'accuracy': accuracy})
    assert evaluation.best_steps(tmp_path) == {0: 3, 1: 5}


def test_keep_best_without_validation_is_refused(tmp_path):
    with pytest.raises(UserError, match='there is none; hold out a share'):
        experiment.run(config(target__val='0'), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('record', ['inputs.json', 'splits.json'])
def test_changed_images_of_a_run_are_refused(record, run, tmp_path):
    """splits.json is all that a run of an older version has."""
    folder = tmp_path / 'run'
    shutil.copytree(run[0], folder)
    key = 'target' if record == 'inputs.json' else 'data'
    held = files.read_json(folder / record)
    files.write_json(folder / record, {**held, key: {**held[key], 'train': 'other'}})
    if record == 'splits.json':
        (folder / 'inputs.json').unlink()
    with pytest.raises(UserError, match='begun with other inputs(.|\n)*the images of the train part'):
        experiment.run(config(steps='15'), folder)


# --- draws, through a run ---------------------------------------------------------------------------------------------


def test_a_draw_given_back_is_the_same_run(run, tmp_path):
    folder, results = run
    again = experiment.run(
        config(target__per_class='0', target__val='0', target__splits=str(folder / 'splits.json')), tmp_path / 'again'
    )
    assert again['seeds'] == results['seeds']
    assert (folder / 'splits.json').read_text() == (tmp_path / 'again' / 'splits.json').read_text()


@pytest.mark.slow
def test_subset_of_classes_and_images(tmp_path):
    """SMILE's C:x / N:y on the synthetic set, which has a test part."""
    words = {'target__name': 'synthetic', 'target__per_class': '0', 'target__val': '0', 'keep': 'last', 'steps': '2'}
    some = experiment.run(config(**words, target__classes='0.3', target__images='10'), tmp_path / 'some')
    held = files.read_json(tmp_path / 'some' / 'splits.json')
    assert len(some['classes']) == 3 and (some['train_examples'], some['test_examples']) == (10, 60)
    assert sorted(held['per class']['0']) == [3, 3, 4] and len(held['left out classes']) == 7
    rest = experiment.run(config(**words, target__rate='0.3', target__add_rest='true'), tmp_path / 'rest')
    held = files.read_json(tmp_path / 'rest' / 'splits.json')
    assert (
        rest['train_examples'] == 400 and len(held['labelled rows']['0']) == 120 and len(held['added rows']['0']) == 280
    )
    given = config(**words, target__splits=str(tmp_path / 'some' / 'splits.json'))
    again = experiment.run(given, tmp_path / 'again')
    assert again['classes'] == some['classes'] and again['seeds'] == some['seeds']


def test_balanced_classes_in_a_run(tmp_path):
    counts = ','.join(map(str, [8, 1, 1, 1, 1, 1, 1, 1, 1, 1]))
    words = {'target__per_class': '0', 'target__counts': counts, 'target__val': '0', 'keep': 'last', 'steps': '2'}
    one = experiment.run(config(**words, target__balance='classes'), tmp_path / 'run')
    assert one['train_examples'] == 17
    with np.load(tmp_path / 'run' / 'samples.npz') as file:
        assert len(set(file['label'].tolist())) > 2  # eight images; of the whole batch half would be of one class


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'target.images': '20'}, 'config.target.per_class and config.target.images both say how many'),
        ({'target.counts': '1,2'}, 'both say how many'),
        ({'target.per_class': '0', 'target.counts': '1,0'}, 'config.target.counts must be whole numbers above 0'),
        ({'target.sampler': 'global_floor_plus_one'}, 'it goes with'),
        ({'target.sampler': 'global'}, 'config.target.sampler must be one of stratified'),
        ({'target.classes': '2.5'}, 'config.target.classes must be'),
        ({'target.classes': '11'}, 'classes=11 of 10 classes'),
        ({'target.per_class': '0', 'target.splits': 'nowhere.json'}, 'nowhere.json cannot be read'),
        ({'target.per_class': '0', 'target.splits': 'x.json', 'target.val': '0.2'}, 'leave config.target.val as it is'),
        ({'target.val': '1'}, 'config.target.val must be at least 0 and below 1'),
        ({'keep': 'first'}, 'config.keep must be one of last, best'),
        ({'target.balance': 'x'}, 'config.target.balance must be one of images, classes'),
        ({'accumulate': '5'}, 'config.accumulate=5 must divide config.batch_size=48'),
        ({'accumulate': '4'}, 'set config.mix.groups=4 too'),
        ({'optim.factors': 'trunk'}, 'config.optim.factors must be words like trunk=0.1'),
        ({'optim.freeze': ','}, ''),
    ],
)
def test_wrong_settings_are_one_sentence(changes, sentence):
    words = [('method.name', 'finetune'), *changes.items()]
    if not sentence:
        assert config_lib.load('quickstart', words).optim.freeze == ()
        return
    with pytest.raises(UserError) as error:
        config_lib.load('quickstart', words)
    assert sentence.replace('it goes with', 'draws a share') in str(error.value)
