"""`mixjax merge` on runs of a few steps: two seeds at once on two devices, a network with BatchNorm."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mixjax
from mixjax import config as config_lib
from mixjax import models
from mixjax.analysis import merge
from mixjax.commands import cli
from mixjax.commands.table import shares
from mixjax.data.feed import augment
from mixjax.errors import UserError
from mixjax.models import weights
from mixjax.rundir import checkpoint
from mixjax.train import experiment, program
from tests.support import tiny_config
from tests.support.common import Tiny, assert_trees_equal


@pytest.fixture(scope='module', autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))
        yield


def settings(**changes):
    """Two seeds that draw 9 labelled digits of each class, 3 of them for validation; the others are tested on."""
    config = tiny_config.get_config()
    config.target.name, config.source.name = 'digits', ''
    config.synthetic.per_class = config.synthetic.side = 0
    config.target.per_class, config.target.val, config.eval_batch_size = 9, 0.34, 256
    config.num_seeds, config.devices, config.steps, config.batch_size = 2, 2, 10, 8
    for name, value in changes.items():
        group, _, key = name.rpartition('__')
        (config[group] if group else config)[key] = value
    return config


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """`a`; `b` with another learning rate; `c`, which began from `a` and has one seed and no validation part."""
    folder = tmp_path_factory.mktemp('runs')
    for name, changes in (
        ('a', {}),
        ('b', {'optim__lr': 0.05}),
        ('c', {'model__weights': str(folder / 'a'), 'num_seeds': 1, 'target__val': 0.0}),
    ):
        experiment.run(settings(**changes), folder / name, progress=False)
    return folder


def variables(folder):
    return weights.load(str(folder)).variables


def read(path):
    return json.loads(path.read_text())


def flat(tree):
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


# --- identities -------------------------------------------------------------------------------------------------------


def test_share_one_is_the_run_itself(runs, tmp_path):
    out = merge.merge(runs / 'a', tmp_path / 'merged', start=True, share=1)
    assert (tmp_path / 'merged' / 'model.safetensors').read_bytes() == (runs / 'a' / 'model.safetensors').read_bytes()
    seed = read(runs / 'a' / 'results.json')['seeds'][0]
    assert out.kept.test['accuracy'] == seed['accuracy'] and out.kept.test['loss'] == seed['loss']
    assert out.kept.val['accuracy'] == seed['val_accuracy']
    results = read(runs / 'a' / 'results.json')
    assert (out.val_examples, out.test_examples) == (results['val_examples'], results['test_examples'])


@pytest.mark.parametrize(('count', 'more'), [(2, {'uniform': True}), (3, {'uniform': True}), (2, {})])
def test_a_merge_of_a_run_with_itself_is_the_run(runs, tmp_path, count, more):
    out = merge.merge([runs / 'a'] * count, tmp_path / 'merged', **more)
    assert_trees_equal(variables(tmp_path / 'merged'), variables(runs / 'a'))
    seed = read(runs / 'a' / 'results.json')['seeds'][0]
    assert (out.kept.val['accuracy'], out.kept.test['accuracy']) == (seed['val_accuracy'], seed['accuracy'])
    assert out.kept.test['loss'] == seed['loss']


def test_share_zero_is_the_start_with_the_runs_head(runs, tmp_path):
    merge.merge(runs / 'a', tmp_path / 'merged', start=True, share=0)
    start = weights.into('random://160', models.build('tiny'), 'tiny', jnp.zeros((1, 16, 16, 1))).variables
    found = variables(tmp_path / 'merged')
    assert_trees_equal(found['batch_stats'], jax.tree.map(np.asarray, start['batch_stats']))
    assert_trees_equal(found['params']['backbone'], jax.tree.map(np.asarray, start['params']['backbone']))
    assert_trees_equal(found['params']['heads'], variables(runs / 'a')['params']['heads'])


def test_a_head_that_the_start_has_is_merged_too(runs, tmp_path):
    merge.merge(runs / 'c', tmp_path / 'merged', start=True, share=0.25, statistics='average')
    start, end, found = (flat(variables(folder)) for folder in (runs / 'a', runs / 'c', tmp_path / 'merged'))
    assert any('heads' in name for name in found)
    for name, x in found.items():
        assert (start[name] != end[name]).any()
        np.testing.assert_allclose(x, 0.75 * start[name] + 0.25 * end[name], rtol=1e-6, atol=1e-7)


# --- means and statistics ---------------------------------------------------------------------------------------------


def test_the_mean_of_two_runs(runs, tmp_path):
    merge.merge([runs / 'a', runs / 'b'], tmp_path / 'merged', uniform=True, statistics='average')
    a, b, found = (flat(variables(folder)) for folder in (runs / 'a', runs / 'b', tmp_path / 'merged'))
    assert a.keys() == b.keys() == found.keys()
    for name in found:
        np.testing.assert_allclose(found[name], (a[name] + b[name]) / 2, rtol=1e-6, atol=1e-7)


def test_statistics_are_those_of_the_training_images(runs, tmp_path):
    merge.merge([runs / 'a', runs / 'b'], tmp_path / 'merged', uniform=True)
    found = variables(tmp_path / 'merged')
    built = program.build(config_lib.settle(config_lib.complete(settings())))
    drawn = built.draw(0)
    assert len(drawn.train) > 8
    net, geometry, total = built.net, built.shared.geometry, 0.0
    old = jax.tree.map(jnp.ones_like, found['batch_stats'])
    for rows in np.array_split(drawn.train, -(-len(drawn.train) // 8)):
        image = augment.centre(jnp.asarray(built.sets.train.read(rows)), geometry)
        _, state = net.apply({'params': found['params'], 'batch_stats': old}, image, train=True)
        # The running statistics of this network move by a tenth.
        batch = jax.tree.map(lambda new: (np.asarray(new, np.float64) - 0.9) / 0.1, state['batch_stats'])
        share = len(rows) / len(drawn.train)
        part = {name: share * x for name, x in flat(batch).items()}
        total = part if total == 0.0 else {name: total[name] + x for name, x in part.items()}
    for name, x in flat(found['batch_stats']).items():
        np.testing.assert_allclose(x, total[name], rtol=1e-4, atol=1e-5)
        assert np.abs(x - flat(variables(runs / 'a')['batch_stats'])[name]).max() > 1e-3


# --- soups ------------------------------------------------------------------------------------------------------------


def test_a_greedy_soup_is_at_least_as_good_as_its_best_network(runs, tmp_path):
    out = merge.merge([runs / 'a', runs / 'b'], tmp_path / 'merged', command='mixjax merge')
    *alone, kept = out.tried
    assert [one.name for one in alone] == [str(runs / 'a'), str(runs / 'b')]
    assert kept.val['accuracy'] >= max(one.val['accuracy'] for one in alone)
    said = read(tmp_path / 'merged' / 'merge.json')
    assert (said['kind'], said['rule'], said['kept']['val']) == ('merge', 'greedy', kept.val)
    assert [one['run'] for one in said['merged_from']] == list(out.parts)
    assert sum(out.parts.values()) == 1
    model = read(tmp_path / 'merged' / 'model.json')
    assert model['merged_from'] == said['merged_from'] and model['command'] == 'mixjax merge'
    assert model['classes'] == read(runs / 'a' / 'model.json')['classes'] and 'config.json' not in model


def test_a_greedy_soup_leaves_out_what_lowers_the_accuracy(runs, tmp_path, monkeypatch):
    values = iter([-1.0])
    monkeypatch.setattr(merge.Judge, 'validated', lambda self, variables: next(values))
    out = merge.merge([runs / 'a', runs / 'b'], tmp_path / 'merged')
    best = max(out.tried[:2], key=lambda one: one.val['accuracy'])
    assert list(out.parts) == [best.name] and out.kept.val == best.val
    assert_trees_equal(variables(tmp_path / 'merged'), variables(best.name))


def test_seeds_come_from_their_checkpoints(runs, tmp_path):
    out = merge.merge(runs / 'a', tmp_path / 'merged', seeds=True, uniform=True, statistics='average')
    state = checkpoint.read(runs / 'a' / 'checkpoints' / '1', 10)
    second = flat({'params': state['params'], **state['model_state']})
    first, found = flat(variables(runs / 'a')), flat(variables(tmp_path / 'merged'))
    assert second.keys() == first.keys()
    for name in found:
        np.testing.assert_allclose(found[name], (first[name] + second[name]) / 2, rtol=1e-6, atol=1e-7)
    assert list(out.parts.values()) == [0.5, 0.5]
    # No image that one of the seeds has seen is tested on, and none that one has learned from validates.
    built = program.build(config_lib.settle(config_lib.complete(settings())))
    draws = [built.draw(seed).rows for seed in (0, 1)]
    known = np.union1d(*(draw.known for draw in draws))
    held = np.setdiff1d(np.union1d(*(draw.val for draw in draws)), np.union1d(*(draw.train for draw in draws)))
    assert out.test_examples == len(built.sets.train.labels) - len(known) > 0
    assert out.val_examples == len(held) > 0
    assert len(held) < sum(len(draw.val) for draw in draws)


def test_a_row_of_shares_keeps_the_best_on_the_validation_part(runs, tmp_path):
    out = merge.merge(runs / 'a', tmp_path / 'merged', start=True, share=(0, 0.5, 1))
    assert [one.share for one in out.tried] == [0, 0.5, 1]
    best = max(one.val['accuracy'] for one in out.tried)
    assert out.kept.share == max(one.share for one in out.tried if one.val['accuracy'] == best)
    assert list(out.parts) == ['random://160', str(runs / 'a')]
    assert list(out.parts.values()) == [1 - out.kept.share, out.kept.share]


def test_a_row_of_shares_without_a_validation_part_is_a_half(runs, tmp_path):
    out = merge.merge(runs / 'c', tmp_path / 'merged', start=True, share=(0, 1))
    assert [one.share for one in out.tried] == [0, 0.5, 1] and out.kept.share == 0.5
    assert out.kept.val is None and out.kept.test is not None and out.val_examples == 0


# --- the result, and what it is good for ------------------------------------------------------------------------------


def test_the_result_predicts_and_is_read_as_weights(runs, tmp_path):
    out = merge.merge([runs / 'a', runs / 'b'], tmp_path / 'merged', uniform=True)
    model, image = out.model(), np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), np.uint8)
    teacher = models.read(tmp_path / 'merged')
    found, _ = teacher.net.apply(teacher.variables, jnp.asarray(image / 255, jnp.float32) * 2 - 1, train=False)
    np.testing.assert_allclose(found.logits['target'], model.logits(image), atol=1e-4)
    assert model.classes == mixjax.load(runs / 'a').classes == teacher.about.classes
    config = settings(model__weights=str(tmp_path / 'merged'), steps=1, num_seeds=1, target__val=0.0)
    assert experiment.run(config, tmp_path / 'next', progress=False)['accuracy']['n'] == 1
    with pytest.raises(UserError, match=r'has no config.json, which names the images'):
        mixjax.inference.test_set(tmp_path / 'merged')


def test_weights_alone_are_merged_without_accuracies(runs, tmp_path, capsys):
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        for file in ('model.safetensors', 'model.json'):
            shutil.copy(runs / name / file, tmp_path / name / file)
    both = [str(tmp_path / 'a'), str(tmp_path / 'b')]
    assert cli.run('merge', [*both, '--uniform', '--import=tests.support.tiny_config']) == 0
    shown = capsys.readouterr().out
    assert 'no accuracies, and statistics of BatchNorm are averaged: ' in shown and 'has no config.json' in shown
    found, a, b = (flat(variables(tmp_path / name)) for name in ('a-merged', 'a', 'b'))
    for name in found:
        np.testing.assert_allclose(found[name], (a[name] + b[name]) / 2, rtol=1e-6, atol=1e-7)
    with pytest.raises(UserError, match='there is none .*has no config.json.* or take the mean of all'):
        merge.merge(both, tmp_path / 'other')
    with pytest.raises(UserError, match='which names the weights that a run began from'):
        merge.merge(both[0], tmp_path / 'other', start=True)
    with pytest.raises(UserError, match='is no run with seeds'):
        merge.merge(both[0], tmp_path / 'other', seeds=True)
    assert not (tmp_path / 'other').exists()


def test_the_command_tells_what_it_did(runs, tmp_path, capsys):
    words = [str(runs / 'a'), '--with=start', '--share=0,0.5,..,1', f'--workdir={tmp_path / "merged"}']
    assert cli.run('merge', words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ['network', 'validation', '%', 'test', '%']
    said = read(tmp_path / 'merged' / 'merge.json')
    for line, one in zip(lines[1:4], said['tried'], strict=True):
        numbers = [f'{100 * one[part]["accuracy"]:.2f}' for part in ('val', 'test')]
        assert line.split() == ['share', f'{one["share"]:g}', *numbers]
    assert lines[4] == f'validation: {said["val_examples"]} images, test: {said["test_examples"]} images'
    assert lines[-2].startswith('kept: ') and lines[-2].endswith('(the best on the validation part)')
    assert lines[-1] == f'model: {tmp_path / "merged" / "model.safetensors"}'
    assert said['command'].startswith('mixjax merge ') and '--share=0,0.5,..,1' in said['command']


# --- refusals ---------------------------------------------------------------------------------------------------------


def changed(runs, folder, **about):
    """A copy of the model of run a, described otherwise."""
    folder.mkdir()
    shutil.copy(runs / 'a' / 'model.safetensors', folder)
    said = read(runs / 'a' / 'model.json')
    (folder / 'model.json').write_text(json.dumps({**said, **about}))
    return folder


@pytest.mark.parametrize(
    ('key', 'change', 'sentence'),
    [
        ('classes', lambda names: [*names[1:], names[0]], 'know different classes, or in another order'),
        ('image', lambda image: {**image, 'mean': [0.4]}, r'see images differently \(config.image: mean\)'),
        ('channels', lambda channels: 3, r'see images differently \(config.image: channels\)'),
        ('model', lambda name: 'glyphnet', "their network is 'glyphnet' and 'tiny'"),
        ('dtype', lambda name: 'bfloat16', "their dtype is 'bfloat16' and 'float32'"),
    ],
)
def test_networks_of_different_kinds_are_refused(runs, tmp_path, key, change, sentence):
    other = changed(runs, tmp_path / 'other', **{key: change(read(runs / 'a' / 'model.json')[key])})
    with pytest.raises(UserError, match=f'cannot be merged: .*{sentence}'):
        merge.merge([runs / 'a', other], tmp_path / 'merged')
    assert not (tmp_path / 'merged').exists()


def test_runs_and_full_folders_are_never_overwritten(runs, tmp_path):
    before = {path.name: path.stat().st_mtime_ns for path in (runs / 'a').iterdir()}
    with pytest.raises(UserError, match='is there and not empty; give another --workdir'):
        merge.merge([runs / 'a', runs / 'b'], runs / 'a', uniform=True)
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='is there and not empty'):
        merge.merge([runs / 'a', runs / 'b'], tmp_path / 'file', uniform=True)
    assert before == {path.name: path.stat().st_mtime_ns for path in (runs / 'a').iterdir()}


def test_a_checkpoint_that_is_gone_is_named(runs, tmp_path):
    shutil.copytree(runs / 'a', tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '1' / 'step_10')
    with pytest.raises(UserError, match='the checkpoint of seed 1 at step 10 is gone'):
        merge.merge(tmp_path / 'run', tmp_path / 'merged', seeds=True)


def test_what_does_not_go_together_is_refused(runs, tmp_path):
    with pytest.raises(UserError, match=r'is one network; name another run .*--seeds.*--with=start'):
        merge.merge(runs / 'a', tmp_path / 'merged')
    with pytest.raises(UserError, match='is of one network, and these are 2'):
        merge.merge([runs / 'a', runs / 'b'], tmp_path / 'merged', start=True)
    with pytest.raises(UserError, match='hold one out in training'):
        merge.merge([runs / 'c', runs / 'c'], tmp_path / 'merged')
    with pytest.raises(UserError, match='give one of them'):
        merge.merge(runs / 'a', tmp_path / 'merged', start=True, uniform=True)
    with pytest.raises(UserError, match='share must be from 0 to 1'):
        merge.merge(runs / 'a', tmp_path / 'merged', start=True, share=2)
    with pytest.raises(UserError, match='is not a folder'):
        merge.merge(tmp_path / 'nowhere', tmp_path / 'merged')


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['a', '--share=0.5'], '--share goes with --with=start'),
        (['a', '--with=start', '--uniform'], 'give one of them'),
        (['a', '--with=start', '--seeds'], 'leave --seeds out'),
        (['a', '--with=end'], '--with must be start, or left out'),
        (['a', '--with=start', '--share=1.5'], 'must be numbers from 0 to 1'),
        (['a', '--with=start', '--share=half'], 'must be numbers from 0 to 1'),
        (['a', '--with=start', '--share='], 'needs a number from 0 to 1'),
        (['a', '--with=start', '--share=0,..,1'], 'write the first two and the last number'),
        (['a', '--with=start', '--share=0,0.3,..,1'], 'do not lead to the last one in equal steps'),
        (['a', '--statistics=none'], 'must be recompute or average'),
        ([], 'give at least one WORKDIR'),
    ],
)
def test_wrong_flags_end_in_one_sentence(words, sentence, capsys):
    assert cli.run('merge', words) == 2
    shown = capsys.readouterr().err
    assert sentence in shown and shown.count('\n') == 1


def test_rows_of_shares():
    assert shares('0.5') == (0.5,) and shares('0,.25,1') == (0.0, 0.25, 1.0)
    assert shares('0,0.1,..,1') == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
    assert shares('0.2,0.4,..,0.8') == (0.2, 0.4, 0.6, 0.8)
