"""A loss or a gradient that is no number: the run ends there and keeps what was good, or leaves the step out."""

from __future__ import annotations

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax.errors import UserError
from mixjax.rundir import integrity
from mixjax.train import experiment, nan_guard
from tests.support import harm
from tests.support.common import call, lines

# A method whose loss is no number at one step, or from one step on.
METHOD = """
import jax.numpy as jnp
from mixjax import losses
from mixjax.method import Aux, Method

def make(classes_t, *, at=13, until=13, what='loss'):
    def loss(net, params, ctx):
        out, state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        good = losses.cross_entropy(out.logits['target'], ctx.batch['label']).mean()
        bad = (ctx.step + 1 >= at) & (ctx.step + 1 <= until)
        term = jnp.where(bad & (what == 'loss'), jnp.nan, 0.25)
        # The square root of 0 has no derivative: a finite loss with a gradient that is none.
        if what == 'gradient':
            total = good + jnp.sqrt(jnp.where(bad, 0.0, 1.0) * jnp.abs(good))
        else:
            total = good + term
        return total, Aux(state, {'term': term})
    return Method(loss)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / 'broken.py').write_text(f'# {tmp_path}\n')
    package = tmp_path / 'stranger'
    package.mkdir()
    (package / '__init__.py').touch()
    (package / 'broken.py').write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def config(**changes):
    from tests.support import tiny_config

    out = tiny_config.get_config()
    out.method = {'name': 'stranger.broken', **changes.pop('method', {})}
    out.log_every, out.devices = 20, 1
    for key, value in changes.items():
        out[key] = value
    return out


def test_nonfinite_loss_ends_the_run_and_keeps_the_last_checkpoint(folder):
    """Step 13 of 20: nothing is due there, and the next look is at 15, where a checkpoint would be saved."""
    with pytest.raises(UserError) as error:
        experiment.run(config(), folder / 'run')
    said = str(error.value)
    assert said.startswith('loss and term of seed 0 are not finite at step 13 (loss nan,')
    assert '; at step 12 there was loss' in said and 'term 0.25' in said and '\n' not in said
    assert 'config.optim.lr' in said and 'config.on_nan=skip' in said
    assert integrity.steps(folder / 'run' / 'checkpoints' / '0') == [10, 5]
    assert not any(math.isnan(value) for line in lines(folder / 'run' / 'metrics.jsonl') for value in line.values()
                   if isinstance(value, float))  # fmt: skip
    with pytest.raises(UserError, match='at step 13'):  # the same again, from the checkpoint of step 10
        experiment.run(config(), folder / 'run')


@pytest.mark.faults
def test_nonfinite_gradient_ends_the_run(folder):
    with pytest.raises(UserError, match=r'^grad_norm of seed 0 is not finite at step 13 \(loss \d'):
        experiment.run(config(method={'what': 'gradient'}), folder / 'run')


@pytest.mark.faults
def test_nonfinite_steps_are_skipped_on_request(folder):
    left = experiment.run(config(on_nan='skip', log_every=1), folder / 'run')
    found = [line for line in lines(folder / 'run' / 'metrics.jsonl') if line['kind'] == 'train']
    assert [line['step'] for line in found if line['skipped']] == [13] and len(found) == 20
    assert found[12]['loss'] is None and found[12]['term'] is None and all(line['loss'] for line in found[13:])
    assert math.isfinite(left['accuracy']['mean'])
    with pytest.raises(UserError, match='^loss and term of seed 0 are not finite at step 32, the 20th in a row'):
        experiment.run(config(on_nan='skip', method={'until': 999}, log_every=5, steps=40), folder / 'longer')
    assert json.loads((folder / 'run' / 'results.json').read_text())['steps'] == 20


def test_parameters_that_overflow_are_not_saved():
    """The loss and the gradient of the last step were fine; what the optimiser made of them is not."""
    from mixjax.train.step import TrainState

    watch = nan_guard.NanGuard([4, 7], 'stop', 'run')
    watch.add(3, {'loss': jnp.ones(2), 'grad_norm': jnp.ones(2)})
    assert watch.check() == 1.0
    params = {'w': jnp.ones((2, 3)).at[1, 2].set(jnp.inf)}
    ts = TrainState(jnp.zeros(2, jnp.int32), jnp.zeros(2), params, {}, (), ())
    with pytest.raises(UserError, match='parameters of seed 7 are not finite after step 3; at step 3 there was loss 1'):
        watch.check_state(ts, 3)
    watch.check_state(ts._replace(params={'w': jnp.ones((2, 3))}), 3)


def test_nan_guard_fetches_only_when_due(monkeypatch):
    """The metrics of steps are kept where they are."""
    monkeypatch.setattr(nan_guard, 'to_host', lambda tree: pytest.fail('a look at the devices'))
    watch = nan_guard.NanGuard([0], 'stop', 'run')
    for step in range(5):
        watch.add(step, {'loss': jnp.array([np.nan]), 'grad_norm': jnp.ones(1)})


def test_the_setting_is_checked():
    with pytest.raises(UserError, match='config.on_nan must be one of stop, skip'):
        config_lib.load('quickstart', [('on_nan', 'ignore')])


@pytest.mark.faults
def test_as_a_command(folder):
    words = [harm.CONFIG, '--workdir=run', '--config.optim.lr=1e30', '--config.log_every=5']
    done = call(folder, *words)
    assert done.returncode == 2 and 'not finite at step' in done.stderr and done.stderr.count('\n') == 1
