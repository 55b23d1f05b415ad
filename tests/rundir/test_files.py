import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax.config import variants
from mixjax.errors import UserError
from mixjax.method import Prepared, Segments
from mixjax.rundir import files
from mixjax.train import prepare, results
from tests.support.common import assert_trees_equal


def config(**changes):
    out = config_lib.load('quickstart').unlock()
    out.update(changes)
    return out.lock()


def test_only_more_steps_of_a_finished_run_may_differ(tmp_path):
    run = tmp_path / 'run'
    assert files.check_folder(run, config()) is False and not run.exists()
    files.claim(run, config())
    assert files.check_folder(run, config()) is False
    with pytest.raises(UserError, match='batch_size: 48 there, 16 now'):
        files.check_folder(run, config(batch_size=16))
    with pytest.raises(UserError, match='of 400 steps that is not finished'):
        files.check_folder(run, config(steps=500))
    files.write_json(run / 'results.json', {'steps': 400})
    with pytest.raises(UserError, match='steps: 400 there, 300 now'):
        files.check_folder(run, config(steps=300))
    with pytest.raises(UserError, match='seed'):
        files.check_folder(run, config(steps=600, seed=1))
    assert files.finished(run, 400) == {'steps': 400}
    assert files.check_folder(run, config(steps=500)) is True
    files.claim(run, config(steps=500))
    assert json.loads((run / 'config.json').read_text())['steps'] == 500
    # Stopped before the new steps were done: the old results do not count, and it goes on.
    assert files.finished(run, 500) is None and files.check_folder(run, config(steps=500)) is False


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its config lacks the settings that have been added since, and has betas where there are none now."""
    now = files.flatten(files.to_data(config_lib.base()))
    assert {key: now[key] for key in files.ADDED} == files.ADDED
    written = files.to_data(config())
    for key in files.ADDED:
        *groups, name = key.split('.')
        del (written[groups[0]] if groups else written)[name]
    del written['unlabelled']
    written['optim']['betas'] = [0.9, 0.999]
    files.create(tmp_path / 'run')
    files.write_json(tmp_path / 'run' / 'config.json', written)
    assert files.check_folder(tmp_path / 'run', config()) is False
    other = config().copy_and_resolve_references().unlock()
    other.optim.warmup = 0.1
    with pytest.raises(UserError, match=r'optim.warmup: .\(absent\). there, 0.1 now'):
        files.check_folder(tmp_path / 'run', other.lock())


def test_leftovers_of_an_aborted_start_are_not_foreign_files(tmp_path):
    (tmp_path / 'config.json.part').write_text('{')
    (tmp_path / 'write.part').touch()
    assert files.check_folder(tmp_path, config()) is False
    (tmp_path / 'thesis.txt').touch()
    with pytest.raises(UserError, match='is not a work directory'):
        files.check_folder(tmp_path, config())


def test_workdir_that_is_a_file_is_refused(tmp_path):
    (tmp_path / 'file').write_text('x')
    with pytest.raises(UserError, match='cannot be written to'):
        files.claim(tmp_path / 'file', config())
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'config.json').write_text('{"steps": ')
    with pytest.raises(UserError, match='cannot be read'):
        files.check_folder(tmp_path / 'run', config())


def test_rewind_drops_later_lines_of_one_seed_and_a_half_written_one(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    for seed in (0, 1):
        for step in (10, 20, 30):
            files.append(path, {'seed': seed, 'step': step})
    with path.open('a') as file:
        file.write('{"seed": 1, "st')
    files.rewind_log(path, [1], 20)
    assert [(x['seed'], x['step']) for x in files.read_lines(path)] == [(0, 10), (0, 20), (0, 30), (1, 10), (1, 20)]
    files.rewind_log(tmp_path / 'absent.jsonl', [0], 0)


def test_a_finished_log_does_not_show_which_seeds_were_trained_at_once(tmp_path):
    """Two seeds at once, or one after the other: the same lines in the same order."""
    kinds = ('train', 'eval', 'val')
    at_once = [(seed, step, kind) for step in (5, 10) for kind in kinds for seed in (0, 1)]
    apart = [(seed, step, kind) for seed in (1, 0) for step in (5, 10) for kind in kinds]
    found = []
    for name, order in (('once.jsonl', at_once), ('apart.jsonl', apart)):
        for seed, step, kind in order:
            files.append(tmp_path / name, {'seed': seed, 'step': step, 'kind': kind})
        files.sort_log(tmp_path / name)
        found.append((tmp_path / name).read_bytes())
    assert found[0] == found[1]
    assert [tuple(line.values()) for line in files.read_lines(tmp_path / 'once.jsonl')] == [
        (seed, step, kind) for seed in (0, 1) for step in (5, 10) for kind in kinds
    ]
    files.sort_log(tmp_path / 'absent.jsonl')


def test_prepared_arrays_round_trip(tmp_path):
    path = tmp_path / 'prepared.npz'
    draw = Segments(*(np.arange(n, dtype=np.int32) for n in (5, 2, 2, 1)), np.array([[0.5]]), np.array(True))
    frozen = {'a': np.arange(3, dtype=np.int32), 'b': {'c': np.eye(2, dtype=np.float32)}}
    for made in (Prepared(frozen, draw), Prepared(), Prepared(frozen), Prepared((), draw)):
        prepare.save_prepared(path, made)
        assert_trees_equal(jax.tree.map(np.asarray, made), prepare.load_prepared(path))
    prepare.save_prepared(path, Prepared((), draw._replace(score=None)))
    assert prepare.load_prepared(path).draw.score is None


@pytest.mark.parametrize(
    ('frozen', 'sentence'),
    [
        ([np.zeros(2)], 'must be a dict'),
        ({'a/b': np.zeros(2)}, 'must have no /'),
        ({'a': jnp.zeros(2, jnp.bfloat16)}, 'float32 for bfloat16'),
        ({'a': np.array(['x'])}, 'frozen holds numbers'),
    ],
)
def test_prepared_values_that_cannot_be_stored_are_refused(frozen, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        prepare.save_prepared(tmp_path / 'prepared.npz', Prepared(frozen))


def test_damaged_prepared_file_is_refused(tmp_path):
    path = tmp_path / 'prepared.npz'
    prepare.save_prepared(path, Prepared({'a': np.arange(1000)}))
    whole = path.read_bytes()
    for bad in (b'', whole[:200], whole[:100] + b'xxxx' + whole[104:]):
        path.write_bytes(bad)
        with pytest.raises(UserError, match='is damaged'):
            prepare.load_prepared(path)


def test_spread_and_paired_differences():
    assert results.spread([0.5]) == {'mean': 0.5, 'std': None, 'n': 1}
    found = results.spread([0.8, 0.9, 1.0])
    np.testing.assert_allclose([found['mean'], found['std']], [0.9, 0.1])

    def run(*values):
        return {'seeds': [{'accuracy': value} for value in values]}

    out = results.differences({'a': run(0.5, 0.7, 0.6), 'b': run(0.6, 0.8, 0.8)}, 'a')
    np.testing.assert_allclose(
        [out['b']['mean'], out['b']['stderr']], [0.4 / 3, np.std([0.1, 0.1, 0.2], ddof=1) / 3**0.5]
    )
    assert list(out) == ['b'] and out['b']['n'] == 3


def test_the_baseline_runs_first_then_the_others_by_name():
    assert variants.labels(config()) == ['finetune', 'lamix', 'mixup', 'smile', 'xmixup']
    assert variants.labels(config(baseline='smile'))[0] == 'smile'
    assert variants.labels(config_lib.load('smile_cub')) == []
    one = variants.single(config(), 'xmixup')
    assert one.method.name == 'xmixup' and not one.compare


def test_recorded_environment_has_no_paths():
    text = json.dumps(files.environment())
    assert '/' not in text.replace('"commit"', '')
