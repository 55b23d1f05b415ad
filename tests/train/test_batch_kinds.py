"""A method that alternates between kinds of batch: each kind is logged apart, whatever `log_every` is."""

import functools
import json

import pytest

from mixjax import models
from mixjax.errors import UserError
from mixjax.host.progress import Progress
from mixjax.method import Method
from mixjax.methods import finetune, lamix
from mixjax.train import experiment, program, schedule
from tests.support.common import Tiny, lines
from tests.support.toy import settings


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(4))


def short(method='lamix', **changes):
    return settings(method, **{'steps': 10, 'log_every': 4, 'eval_every': 5, 'checkpoint_every': 5, **changes})


def trained(folder):
    return [line for line in lines(folder / 'metrics.jsonl') if line['kind'] == 'train']


@pytest.mark.parametrize(
    ('log_every', 'period', 'expected'),
    [
        (4, 1, [4, 8, 10]),
        (4, 2, [3, 4, 7, 8, 9, 10]),
        (5, 2, [4, 5, 9, 10]),
        (4, 3, [2, 3, 4, 6, 7, 8, 9, 10]),
        (1, 2, list(range(1, 11))),
        (100, 2, [9, 10]),
    ],
)
def test_the_last_steps_up_to_each_logged_one_are_logged(log_every, period, expected):
    config = short(log_every=log_every, eval_every=10, checkpoint_every=10)
    assert [step for step in range(1, 11) if schedule.logged(config, step, period)] == expected
    stops = [0]
    while stops[-1] < 10:
        stops.append(schedule.next_stop(config, stops[-1], period))
    assert stops[1:] == expected


@pytest.mark.parametrize('log_every', [4, 5])
def test_both_kinds_of_lamix_are_logged_for_every_seed(log_every, tmp_path):
    experiment.run(short(log_every=log_every, num_seeds=2), tmp_path)
    ends = [4, 8, 10] if log_every == 4 else [5, 10]
    for seed in (0, 1):
        found = [(line['step'], line['batch_kind'], line['lam']) for line in trained(tmp_path) if line['seed'] == seed]
        assert [step for step, *_ in found] == [step for end in ends for step in (end - 1, end)]
        for step, batch_kind, lam in found:
            # The loss counts steps from 0, the log from 1: originals have lam 1.
            assert batch_kind == ('original' if step % 2 else 'mixed') and (lam == 1) == (batch_kind == 'original')
        assert {batch_kind for _, batch_kind, _ in found} == {'original', 'mixed'}


def test_several_steps_a_call_log_the_same_steps(tmp_path):
    for dispatch in (1, 3):
        experiment.run(short(dispatch=dispatch), tmp_path / str(dispatch))
    one, three = (trained(tmp_path / str(dispatch)) for dispatch in (1, 3))
    assert [(a['step'], a['batch_kind']) for a in one] == [(b['step'], b['batch_kind']) for b in three]
    for a, b in zip(one, three, strict=True):
        assert a['loss'] == pytest.approx(b['loss'], rel=1e-4) and a['lam'] == pytest.approx(b['lam'], rel=1e-6)


class Killed(Progress):
    """Ends the run after a step, as a kill does: without a checkpoint of it."""

    def step(self, name, step, *rest):
        if step == 9:
            raise KeyboardInterrupt


@pytest.mark.parametrize('checkpoint_every', [3, 7])
def test_a_restart_logs_the_same_lines(checkpoint_every, tmp_path):
    """7: the checkpoint lies between the two steps of a pair."""
    config = short(checkpoint_every=checkpoint_every)
    experiment.run(config, tmp_path / 'straight')
    with pytest.raises(KeyboardInterrupt):
        experiment.run(config, tmp_path / 'killed', progress=Killed(0, quiet=True))
    assert [line['step'] for line in trained(tmp_path / 'killed')] == [3, 4, 7, 8]
    experiment.run(config, tmp_path / 'killed')
    for name in ('metrics.jsonl', 'results.json', 'model.safetensors'):
        assert (tmp_path / 'killed' / name).read_bytes() == (tmp_path / 'straight' / name).read_bytes()


@pytest.mark.parametrize('method', ['finetune', {'name': 'lamix', 'originals': False}])
def test_a_method_that_does_not_alternate_logs_one_line(method, tmp_path):
    experiment.run(short(method), tmp_path)
    assert [line['step'] for line in trained(tmp_path)] == [4, 8, 10]
    assert not any('batch_kind' in line for line in trained(tmp_path))


def test_logging_more_lines_changes_no_number_of_training(tmp_path, monkeypatch):
    experiment.run(short(), tmp_path / 'both')
    plain = lamix.make

    @functools.wraps(plain)
    def make(*args, **kwargs):
        return plain(*args, **kwargs)._replace(batch_kinds=())

    monkeypatch.setattr(lamix, 'make', make)
    experiment.run(short(), tmp_path / 'last')
    assert [line['step'] for line in trained(tmp_path / 'last')] == [4, 8, 10]
    both = {line['step']: line for line in trained(tmp_path / 'both')}
    for line in trained(tmp_path / 'last'):
        assert {**line, 'batch_kind': 'mixed'} == both[line['step']]
    for name in ('results.json', 'model.safetensors'):
        assert (tmp_path / 'both' / name).read_bytes() == (tmp_path / 'last' / name).read_bytes()


@pytest.mark.parametrize('batch_kinds', ['ab', ('a', 'a'), ('a', 1), ('a',), ('a', '')])
def test_batch_kinds_are_names(batch_kinds, monkeypatch):
    method = Method(finetune.make(10).loss, batch_kinds=batch_kinds)
    monkeypatch.setattr('mixjax.config.method_registry.load', lambda name, *_: lambda classes_t: method)
    with pytest.raises(UserError, match='batch_kinds of a method are two or more different names'):
        program.build(settings('mine'))


def test_user_method_with_three_batch_kinds(tmp_path, monkeypatch):
    method = Method(finetune.make(10).loss, batch_kinds=('a', 'b', 'c'))
    monkeypatch.setattr('mixjax.config.method_registry.load', lambda name, *_: lambda classes_t: method)
    experiment.run(short('mine'), tmp_path)
    found = [(line['step'], line['batch_kind']) for line in trained(tmp_path)]
    assert found == [(s, 'abc'[(s - 1) % 3]) for s in (2, 3, 4, 6, 7, 8, 9, 10)]
    assert json.loads((tmp_path / 'results.json').read_text())['steps'] == 10
