"""What a run is made from must be the same when it goes on."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from mixjax import config as config_lib
from mixjax import inference
from mixjax.analysis import opened
from mixjax.data.labelled import split_file
from mixjax.errors import UserError
from mixjax.models import weights
from mixjax.rundir import files
from mixjax.train import experiment, input_digests, loop
from tests.support import tiny_config
from tests.support.common import assert_same_run

CODE = """
import optax
from mixjax.method import Aux, Method

def make(classes_t, *, weight: float = 1.0):
    def loss(net, params, ctx):
        out, state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        each = optax.softmax_cross_entropy_with_integer_labels(out.logits['target'], ctx.batch['label'])
        return weight * each.mean(), Aux(state)

    return Method(loss)
"""


def photos(folder, classes, each, seed=0):
    """Random pictures, as PNG files in a folder for each class."""
    random = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for k in range(each):
            Image.fromarray(random.integers(0, 256, (16, 16), np.uint8)).save(folder / name / f'{k}.png')


def config(**changes):
    out = tiny_config.get_config()
    out.synthetic.per_class = out.synthetic.side = 0
    out.model.weights = 'pretrained'
    out.target.name, out.target.dir, out.source.name, out.source.dir = 'folder', 'photos', 'folder', 'source'
    out.target.splits = 'given.json'
    out.num_seeds = 1
    out.steps, out.eval_every, out.checkpoint_every, out.log_every = 4, 2, 2, 1
    out.batch_size = 4
    for key, value in changes.items():
        *groups, last = key.split('__')
        node = out
        for group in groups:
            node = node[group]
        node[last] = value
    return config_lib.complete(out)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A run of all kinds of inputs, carried to its end; and its inputs. Paths are relative to this folder."""
    here = tmp_path_factory.mktemp('home')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.syspath_prepend(here)
        (here / 'code_of_mine').mkdir()
        (here / 'code_of_mine' / '__init__.py').write_text('')
        (here / 'code_of_mine' / 'method.py').write_text(CODE)
        photos(here / 'photos' / 'train', 'ab', 8)
        photos(here / 'photos' / 'test', 'ab', 2, seed=2)
        photos(here / 'source', 'xyz', 4, seed=1)
        first = config(
            steps=1, model__weights='', target__dir='source', source__name='', source__dir='', target__splits='',
            target__holdout=0.25,
        )  # fmt: skip
        experiment.run(first, 'pretrained')
        experiment.run(config(steps=1, target__splits='', target__per_class=3), 'drawn')
        shutil.copy(here / 'drawn' / 'splits.json', here / 'given.json')
        experiment.run(config(method={'name': 'code_of_mine.method'}), 'run')
        yield here


@pytest.fixture
def killed(made, tmp_path, monkeypatch):
    """A copy of it as a kill after the third step leaves it."""
    here = tmp_path / 'home'
    shutil.copytree(made, here)
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    forget()
    for name in ('results.json', 'model.json', 'model.safetensors', 'predictions.npz'):
        (here / 'run' / name).unlink()
    shutil.rmtree(here / 'run' / 'checkpoints' / '0' / 'step_4')
    files.rewind_log(here / 'run' / 'metrics.jsonl', [0], 3)
    yield here
    forget()


def forget():
    for name in ('code_of_mine', 'code_of_mine.method'):
        sys.modules.pop(name, None)


def other_weights(here):
    path = here / 'pretrained' / 'model.safetensors'
    loaded = weights.load('pretrained')
    tensors = {name: tensor + 1 if 'bias' in name else tensor for name, tensor in loaded.tensors.items()}
    path.write_bytes(weights.to_bytes(weights.Weights(tensors, True, {}).variables))


def another_source_image(here):
    shutil.copy(here / 'photos' / 'train' / 'a' / '0.png', here / 'source' / 'x' / '0.png')


def a_target_image_less(here):
    (here / 'photos' / 'train' / 'a' / '3.png').unlink()


def a_part_to_validate_on(here):
    photos(here / 'photos' / 'val', 'ab', 2, seed=5)


def other_splits(here):
    """Another image of the first class in the place of one."""
    said = json.loads((here / 'given.json').read_text())
    rows, ids = said['labelled rows']['0'], said['labelled ids']['0']
    rows[0] = next(row for row in range(8) if row not in rows)
    ids[0] = f'train/a/{rows[0]}.png'
    (here / 'given.json').write_text(json.dumps(said))


def other_code(here):
    path = here / 'code_of_mine' / 'method.py'
    path.write_text(CODE.replace('return weight *', 'return 100 * weight *'))


CHANGES = {
    other_weights: 'the weights have changed: pretrained',
    another_source_image: 'the images of the source data set have changed: source',
    a_target_image_less: 'the images of the train part of the target data set have changed: photos',
    a_part_to_validate_on: 'the target data set has a val part now, and had none: photos',
    other_splits: 'config.target.splits has changed: given.json',
    other_code: 'the source of module code_of_mine.method has changed: ',
}


def mine(**changes):
    return config(method={'name': 'code_of_mine.method'}, **changes)


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('change', CHANGES, ids=lambda change: change.__name__)
def test_changed_input_is_refused_by_name(change, killed):
    change(killed)
    forget()
    before = everything(killed / 'run')
    with pytest.raises(UserError) as error:
        experiment.run(mine(), 'run')
    assert CHANGES[change] in str(error.value) and str(error.value).startswith('run was begun with other ')
    assert 'another --workdir' in str(error.value) and error.value.code == 2
    assert str(error.value).count('\n') == 1
    assert everything(killed / 'run') == before


def test_killed_run_resumes_with_copies_of_its_inputs(made, killed):
    """Also where they are other files with the same content."""
    for name in ('photos', 'source', 'pretrained'):
        shutil.copytree(killed / name, killed / 'copy')
        shutil.rmtree(killed / name)
        (killed / 'copy').rename(killed / name)
    (killed / 'given.json').write_text(json.dumps(json.loads((killed / 'given.json').read_text())))
    (killed / 'code_of_mine' / 'method.py').write_text(CODE)
    experiment.run(mine(), 'run')
    assert_same_run(made / 'run', killed / 'run', range(1), 4)
    assert (killed / 'run' / 'inputs.json').read_bytes() == (made / 'run' / 'inputs.json').read_bytes()


def test_run_without_input_record_is_checked_by_splits(made, killed):
    """As an older version of mixjax has left it."""
    record = killed / 'run' / 'inputs.json'
    record.unlink()
    for change, name, sentence in (
        (other_splits, 'given.json', 'seed 0 had other examples, says splits.json'),
        (a_target_image_less, 'photos/train/a/3.png', 'the train part of the target data set have changed: photos'),
    ):
        change(killed)
        with pytest.raises(UserError, match=sentence):
            experiment.run(mine(), 'run')
        shutil.copy(made / name, killed / name)
    experiment.run(mine(), 'run')
    assert record.read_bytes() == (made / 'run' / 'inputs.json').read_bytes()


def test_new_val_part_is_refused_without_input_record(killed):
    (killed / 'run' / 'inputs.json').unlink()
    a_part_to_validate_on(killed)
    with pytest.raises(UserError, match='has a val part now, and had none'):
        experiment.run(mine(), 'run')


def test_changed_code_must_be_accepted_for_finished_and_extended_runs(made, killed):
    shutil.rmtree(killed / 'run')
    shutil.copytree(made / 'run', killed / 'run')
    other_code(killed)
    forget()
    before = everything(killed / 'run')
    for given in (mine(), mine(steps=6)):
        with pytest.raises(UserError, match=r'with other code(.|\n)*--changed-code=accept(.|\n)*method\.py'):
            experiment.run(given, 'run')
    assert everything(killed / 'run') == before
    assert experiment.run(mine(), 'run', changed_code='accept') == json.loads(
        (made / 'run' / 'results.json').read_text()
    )
    experiment.run(mine(steps=6), 'run', changed_code='accept')
    found = json.loads((killed / 'run' / 'inputs.json').read_text())
    told = json.loads((made / 'run' / 'inputs.json').read_text())
    # The network of these tests is not one of mixjax either.
    own = {'code_of_mine', 'code_of_mine.method'}
    assert found['code'].keys() == own | {'tests', 'tests.support', 'tests.support.common'}
    assert found['earlier code'] == [told['code']] and found['code'] != told['code']
    experiment.run(mine(steps=6), 'run')  # accepted once
    with pytest.raises(UserError, match="must be 'refuse' or 'accept', not 'yes'"):
        experiment.run(mine(steps=6), 'run', changed_code='yes')


def test_accepting_changed_code_does_not_accept_changed_images(killed):
    other_code(killed)
    a_target_image_less(killed)
    forget()
    with pytest.raises(UserError, match=r'with other inputs(.|\n)*the train part'):
        experiment.run(mine(), 'run', changed_code='accept')


@pytest.mark.parametrize('kind', ['sweep', 'comparison'])
def test_inputs_of_finished_parts_are_checked_on_resume(kind, killed):
    """Killed between the first value, or label, and the second one."""
    changes = {'target__splits': '', 'steps': 1}
    if kind == 'sweep':
        given = config(**changes, sweep={'key': 'target.per_class', 'numbers': (1, 2)})
        names: tuple[str, ...] = ('per_class=1', 'per_class=2')
    else:
        given = config(**changes, method={'name': ''}, compare={'a': {'name': 'finetune'}, 'b': {'name': 'finetune'}})
        names = ('a', 'b')
    experiment.run(given, 'all')
    assert all((killed / 'all' / name / 'inputs.json').exists() for name in names)
    for name in ('results.json', 'report.html'):
        (killed / 'all' / name).unlink(missing_ok=True)
    shutil.rmtree(killed / 'all' / names[1])
    other_weights(killed)
    with pytest.raises(UserError, match=rf'all{os.sep}{names[0]} was begun with other inputs(.|\n)*the weights have'):
        experiment.run(given, 'all')
    assert not (killed / 'all' / names[1]).exists()


def test_input_record_is_written_before_the_first_stage(killed, monkeypatch):
    def stop(*_):
        assert (killed / 'two' / 'inputs.json').exists() and not (killed / 'two' / 'first').exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, 'train_first_stage', stop)
    given = config(method={'name': 'seqtrain'})
    with pytest.raises(KeyboardInterrupt):
        experiment.run(given, 'two')
    another_source_image(killed)
    with pytest.raises(UserError, match='the source data set have changed'):
        experiment.run(given, 'two')


def test_predict_and_analyse_check_the_input_record(made, killed):
    shutil.rmtree(killed / 'run')
    shutil.copytree(made / 'run', killed / 'run')
    importlib.import_module('code_of_mine.method')
    assert len(inference.test_set('run').label) == 4
    opened.source(opened.open_run(killed / 'run'), killed / 'run')
    another_source_image(killed)
    with pytest.raises(UserError, match='other source images'):
        opened.source(opened.open_run(killed / 'run'), killed / 'run')
    a_part_to_validate_on(killed)
    for look in (inference.test_set, opened.open_run):
        with pytest.raises(UserError, match='with other images(.|\n)*has a val part now'):
            look(killed / 'run')


DAMAGED = ('[]', '{"weights": 1}', '{"code": {"a": 1}}', '{"target": []}', '{"earlier code": 3}', '{')


@pytest.mark.parametrize('text', DAMAGED)
def test_damaged_input_record_is_refused(text, killed):
    (killed / 'run' / 'inputs.json').write_text(text)
    with pytest.raises(UserError, match=r'inputs\.json (is damaged|cannot be read)'):
        experiment.run(mine(), 'run')


def test_input_record_holds_no_paths(made):
    text = (made / 'run' / 'inputs.json').read_text()
    entries = {*input_digests.TEXTS, *input_digests.TABLES} - {'unlabelled'}  # there are none
    assert '/' not in text and set(json.loads(text)) == entries
    assert split_file.ROWS[0] == 'labelled rows'
