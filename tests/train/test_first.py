"""A stage before the run: mid-tuning on the selected source images."""

import jax
import numpy as np
import pytest

from mixjax import models
from mixjax.errors import UserError
from mixjax.method import First, Method
from mixjax.methods import finetune
from mixjax.train import experiment, loop, mesh, program, seeds
from tests.support.common import Tiny, assert_trees_equal, final_state, kill_after, lines
from tests.support.toy import settings


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))


def short(**changes):
    method = {'name': 'seqtrain', 'rounds': 2, 'share': 0.5}
    return settings(method, steps=8, log_every=2, eval_every=4, checkpoint_every=4, **changes)


def test_the_selected_images_are_a_data_set_of_their_own(tmp_path):
    built = program.build(short())
    made = seeds.load_or_prepare(built, 0, tmp_path)
    images = seeds.selected_source(built, made)
    source = built.sets.source
    chosen = made.frozen['chosen']
    assert images.classes == tuple(source.classes[c] for c in chosen) and len(chosen) == 20
    rows = np.sort(made.draw.rows)
    np.testing.assert_array_equal(chosen[images.labels], source.labels[rows])
    np.testing.assert_array_equal(images.read(np.array([0, 7])), source.read(rows[[0, 7]]))
    first = seeds.first_stage(built, made)
    assert first.config.steps == 4 and first.run.total_steps == 4 and built.run.total_steps == 8
    assert seeds.first_stage(built, made).advance is first.advance  # compiled once


def test_the_run_starts_from_the_trunk_of_the_first_stage(tmp_path):
    experiment.run(short(), tmp_path / 'run')
    run = tmp_path / 'run'
    assert [line['step'] for line in lines(run / 'first' / 'metrics.jsonl')] == [2, 4]
    assert {line['kind'] for line in lines(run / 'first' / 'metrics.jsonl')} == {'train'}
    before = final_state(run / 'first', 0, 4)
    built = program.build(short())
    trunk = {
        'params': {'backbone': _tree(before, 'params', 'backbone')},
        'batch_stats': _tree(before, 'model_state', 'batch_stats'),
    }
    begun = seeds.open_seed(built, 0, run, trunk).state
    assert_trees_equal(jax.tree.map(np.asarray, begun.params['backbone']), trunk['params']['backbone'])
    assert set(begun.params['heads']) == {'target'} and begun.params['heads']['target']['bias'].shape == (10,)
    # It is not where the weights were, and the run itself has no source images.
    plain = seeds.open_seed(built, 0, run)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (plain.state.params, begun.params)), strict=True))
    assert set(plain.inputs) == {'target'}
    # Trained again from there, it ends where the run ended.
    ts, placed = loop.seed_batch.stack_states(built, [begun]), loop.seed_batch.place_seeds(built, [plain])
    for _ in range(8):
        ts, _ = built.advance(1)(ts, built.shared.start, placed.frozen, placed.inputs)
    ended = final_state(run, 0, 8)
    for name, leaf in jax.tree_util.tree_leaves_with_path(mesh.take_trial(ts.params, 0)):
        np.testing.assert_array_equal(ended["['params']" + jax.tree_util.keystr(name)], leaf)


@pytest.mark.slow
def test_an_extended_run_keeps_its_first_stage(tmp_path):
    experiment.run(short(), tmp_path)
    before = (tmp_path / 'first' / 'metrics.jsonl').read_bytes()
    longer = short()
    with longer.unlocked():
        longer.steps = 12
    assert experiment.run(longer, tmp_path)['steps'] == 12
    assert (tmp_path / 'first' / 'metrics.jsonl').read_bytes() == before
    assert lines(tmp_path / 'metrics.jsonl')[-1]['step'] == 12


def _tree(flat, *place):
    """The part of a flat checkpoint under `place`, nested again."""
    head = ''.join(f"['{part}']" for part in place)
    out = {}
    for key, value in flat.items():
        if key.startswith(head):
            *parents, last = key.removeprefix(head)[2:-2].split("']['")
            node = out
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = value
    return out


@pytest.mark.slow
def test_three_seeds_at_once_are_three_seeds(tmp_path):
    one = experiment.run(short(num_seeds=3), tmp_path / 'one')
    three = experiment.run(short(num_seeds=3, devices=8), tmp_path / 'three')
    assert [seed['accuracy'] for seed in one['seeds']] == [seed['accuracy'] for seed in three['seeds']]
    for seed in range(3):
        a, b = final_state(tmp_path / 'one', seed, 8), final_state(tmp_path / 'three', seed, 8)
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], atol=1e-4, err_msg=name)


def test_a_first_stage_needs_a_draw(tmp_path, monkeypatch):
    method = Method(finetune.make(10).loss, first=First(finetune.make))
    monkeypatch.setattr('mixjax.config.method_registry.load', lambda name, *_: lambda classes_t: method)
    with pytest.raises(UserError, match="prepare\\(\\) must make a 'draw'"):
        seeds.build_and_try(settings('mine'), tmp_path)


@pytest.mark.faults
def test_killed_in_the_first_stage_and_in_the_run(tmp_path):
    words = [
        '--config=quickstart', '--config.method.name=seqtrain', '--config.num_seeds=1', '--config.steps=60',
        '--config.eval_every=20', '--config.checkpoint_every=20', '--config.log_every=5',
    ]  # fmt: skip
    from tests.support.common import assert_same_run, call

    kill_after(tmp_path, 0, 25, *words, '--workdir=killed', run='killed/first')
    kill_after(tmp_path, 0, 25, *words, '--workdir=killed', run='killed')
    for name in ('killed', 'whole'):
        done = call(tmp_path, *words, f'--workdir={name}')
        assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / 'killed', tmp_path / 'whole', range(1), 60)
    assert (tmp_path / 'killed/first/metrics.jsonl').read_bytes() == (
        tmp_path / 'whole/first/metrics.jsonl'
    ).read_bytes()
