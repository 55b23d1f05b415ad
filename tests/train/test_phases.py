"""Phases: stretches of the steps with their own trainable parts, learning rate and statistics."""

import jax
import numpy as np
import pytest

from mixjax import models
from mixjax.errors import UserError
from mixjax.method import Phase
from mixjax.methods import finetune
from mixjax.models.layers import fixed_statistics
from mixjax.models.net import from_linen
from mixjax.rundir import checkpoint
from mixjax.train import mesh, schedule, seed_batch, seeds
from tests.support.common import Tiny, assert_trees_equal, lines, tiny_net
from tests.support.toy import given, opened, settings, train


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))


HEAD_FIRST = (Phase(0.4, {'trunk': (0.0, 0.0)}, lr=2.0, statistics=False), Phase(0.6, restart=True))


def in_phases(*phases):
    def make(classes_t):
        return finetune.make(classes_t)._replace(phases=phases)

    return make


def host(ts):
    return jax.tree.map(np.array, ts._replace(key=None))


def steps_of(built, data, ts, first, last):
    """(state, metrics) after the steps from `first` to `last`, each by the program of its phase."""
    out = []
    for step in range(first, last):
        ts, metrics = built.steps(step, 1)(ts, built.shared.start, data.frozen, data.inputs)
        out.append({name: float(value[0]) for name, value in metrics.items()})
    return ts, out


def test_phases_begin_at_rounded_shares_of_the_steps():
    phases = [Phase(0.1), Phase(0.4), Phase(0.5)]
    assert schedule.phase_starts(phases, 100) == (0, 10, 50)
    assert schedule.phase_starts(phases, 7) == (0, 1, 4)
    assert schedule.phase_starts(phases, 2) == (0, 0, 1)  # the first is too short to have a step
    assert [schedule.phase_at((0, 0, 1), step) for step in (0, 1)] == [1, 2]
    assert [schedule.phase_at((0, 10, 50), step) for step in (0, 9, 10, 49, 50, 99)] == [0, 0, 1, 1, 2, 2]


def test_no_call_of_the_program_crosses_a_phase():
    config = settings('finetune', steps=20, eval_every=20, checkpoint_every=20, log_every=20, dispatch=7)
    calls = [(0, 7), (7, 1), (8, 1), (9, 1), (10, 7), (17, 1), (18, 1), (19, 1)]
    assert list(schedule.calls(config, 0, 1, (0, 10))) == calls
    assert schedule.next_stop(config, 0, 1, (0, 10)) == 10 and schedule.next_stop(config, 10, 1, (0, 10)) == 20


def test_each_phase_trains_its_parts_at_its_rate(tmp_path):
    with given(in_phases(*HEAD_FIRST)) as name:
        config = settings(name, steps=20)
        with config.unlocked():
            config.optim.schedule = 'cosine'
        built, data, ts = opened(config, tmp_path)
        assert built.starts == (0, 8) and built.run.starts == (0, 8)
        begin = host(ts)
        ts, first = steps_of(built, data, ts, 0, 8)
        middle = host(ts)
        ts, second = steps_of(built, data, ts, 8, 20)
        end = host(ts)
    # The head learns alone, on the features of the pretrained network: its statistics do not move either.
    assert_trees_equal(begin.params['backbone'], middle.params['backbone'])
    assert_trees_equal(begin.model_state, middle.model_state)
    assert (begin.params['heads']['target']['kernel'] != middle.params['heads']['target']['kernel']).any()
    both = [jax.tree.leaves(one.params['backbone']) for one in (middle, end)]
    assert all((before != after).any() for before, after in zip(*both, strict=True))
    # The first phase has the run's schedule, times 2; the second a cosine of its own over its twelve steps.
    lr = config.optim.lr
    cosine = [lr * (1 + np.cos(np.pi * i / 20)) / 2 for i in range(8)]
    np.testing.assert_allclose([line['lr'] for line in first], 2 * np.array(cosine), rtol=1e-6)
    anew = [lr * (1 + np.cos(np.pi * i / 12)) / 2 for i in range(12)]
    np.testing.assert_allclose([line['lr'] for line in second], anew, rtol=1e-5, atol=1e-9)


def test_a_phase_takes_the_step_of_its_rate(tmp_path):
    """With the rate halved by the phase, the first step goes half as far."""
    moved = []
    for lr in (1.0, 0.5):
        (tmp_path / str(lr)).mkdir()
        with given(in_phases(Phase(1.0, lr=lr))) as name:
            built, data, ts = opened(settings(name), tmp_path / str(lr))
            before = np.array(ts.params['heads']['target']['kernel'])
            ts, _ = steps_of(built, data, ts, 0, 1)
            moved.append(np.array(ts.params['heads']['target']['kernel']) - before)
    np.testing.assert_allclose(moved[1], 0.5 * moved[0], rtol=1e-5, atol=6e-8)  # weights below 1 are rounded to 3e-8


@pytest.mark.parametrize('at', [3, 8, 13])
def test_a_restart_in_any_phase_goes_on_bit_for_bit(at, tmp_path):
    with given(in_phases(*HEAD_FIRST)) as name:
        built, data, ts = opened(settings(name, steps=20), tmp_path)
        ts, _ = steps_of(built, data, ts, 0, at)
        with checkpoint.open_folder(tmp_path / 'checkpoints') as manager:
            checkpoint.save(manager, at, mesh.take_trial(ts, 0))
            manager.wait_until_finished()
            fresh = seeds.open_seed(built, 0, tmp_path)
            resumed = seed_batch.stack_states(built, [checkpoint.restore(manager, at, fresh.state)])
        straight, rest = steps_of(built, data, ts, at, 20)
        again, rest_again = steps_of(built, data, resumed, at, 20)
    assert_trees_equal(straight, again)
    assert rest == rest_again


def test_one_phase_is_the_method_without_phases(tmp_path):
    found = []
    for name, phases in (('plain', ()), ('whole', (Phase(1.0),)), ('halves', (Phase(0.5), Phase(0.5)))):
        with given(in_phases(*phases)) as method:
            train(settings(method, steps=6, log_every=1, eval_every=3, checkpoint_every=3), tmp_path / name)
        found.append(lines(tmp_path / name / 'metrics.jsonl'))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize('name', ['tiny', 'glyphnet'])
def test_fixed_statistics_are_those_of_evaluation_in_train_mode(name):
    net = tiny_net(8) if name == 'tiny' else models.build('glyphnet')
    image = jax.random.normal(jax.random.key(0), (6, 16, 16, 1))
    variables = net.init(jax.random.key(1), image, {'target': 3})
    _, moved = net.apply(variables, image, train=True)
    variables = {**variables, **moved}  # so that they are not those of a fresh network
    expected, _ = net.apply(variables, image, train=False)
    found, state = fixed_statistics(net).apply(variables, image, train=True)
    np.testing.assert_array_equal(found.logits['target'], expected.logits['target'])
    assert_trees_equal(state, moved)


class Dropping(Tiny):
    dropout: float = 0.5


def test_dropout_stays_on_with_fixed_statistics():
    net = fixed_statistics(from_linen(Dropping(8)))
    image = jax.random.normal(jax.random.key(0), (4, 16, 16, 1))
    variables = net.init(jax.random.key(1), image, {'target': 3})
    one, two, none = (
        net.apply(variables, image, train=True, rng=key)[0].logits['target']
        for key in (jax.random.key(1), jax.random.key(2), None)
    )
    assert (one != two).any() and (one != none).any()


@pytest.mark.parametrize(
    ('phases', 'sentence'),
    [
        ((Phase(0.5), Phase(0.4)), 'the shares of the phases must sum to 1, not 0.9'),
        ((Phase(0.0), Phase(1.0)), 'the share of a phase must be a number above 0'),
        ((0.5, 0.5), r'Method\(phases=..\) must be a tuple'),
        ((Phase(1.0, {'trunk': 0.1}),), r"groups\['trunk'\] must be"),
        ((Phase(1.0, {'trunc': (0.0, 0.0)}),), "sets a factor for 'trunc'; did you mean 'trunk'"),
    ],
)
def test_wrong_phases_are_refused_in_a_sentence(phases, sentence, tmp_path):
    with given(in_phases(*phases)) as name, pytest.raises(UserError, match=sentence):
        train(settings(name), tmp_path / 'run')


def test_phases_that_freeze_everything_are_refused(tmp_path):
    frozen = {'trunk': (0.0, 0.0), 'heads': (0.0, 0.0)}
    nothing = pytest.raises(UserError, match='nothing would be trained')
    with given(in_phases(Phase(0.5, frozen), Phase(0.5, frozen))) as name, nothing:
        train(settings(name), tmp_path / 'run')


