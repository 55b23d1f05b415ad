"""SIGTERM: the state is saved at a step that all processes agree on, the exit code is 42, and the run goes on."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from mixjax.commands.train import main
from mixjax.errors import Stopped
from mixjax.host import signals
from tests.support import harm
from tests.support.common import assert_same_run, final_state
from tests.support.jobs import Job, made, run

WITHIN = 20.0  # seconds, the promise
LONG = ['--config.steps=400', '--config.log_every=100', '--config.eval_every=400', '--config.checkpoint_every=400']


def test_a_stopped_run_goes_on_from_that_step(tmp_path, monkeypatch, capsys):
    """One seed, stopped in mid-training, where nothing else is due; the command in this process."""
    words = [f'{harm.CONFIG}:finetune', '--workdir=run', '--config.devices=1', *LONG]
    for name in ('straight', 'stopped'):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / 'straight')
    assert main(words) == 0
    folder = tmp_path / 'stopped'
    monkeypatch.chdir(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit, match='^42$'), harm.terminated(harm.logged(folder, 100)):
        main(words)
    said = capsys.readouterr().err
    assert 'stopped by SIGTERM; saved at step' in said and 'Traceback' not in said
    step = int(said.rpartition('saved at step ')[2].split(',')[0])
    assert 100 <= step < 400 and (folder / 'run' / 'checkpoints' / '0' / f'step_{step}').is_dir()
    assert not (folder / 'run' / 'lock.json').exists()
    assert main(words) == 0
    assert_same_run(tmp_path / 'straight' / 'run', folder / 'run', range(1), 400)


@pytest.mark.faults
@pytest.mark.parametrize('delay', [0.0, 3.0])
def test_the_embedded_benchmark_stops_in_time(delay, tmp_path):
    """At any moment, while it compiles too."""
    process = harm.start(tmp_path / 'run', '--config=quickstart', '--workdir=run')
    try:
        harm.until(process, (tmp_path / 'run' / 'run' / 'finetune' / 'config.json').exists)
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(120) == 42
        assert time.monotonic() - began < WITHIN
    finally:
        process.kill()


@pytest.mark.faults
def test_sigterm_before_training_ends_at_once(tmp_path):
    process = harm.start(tmp_path / 'run', *harm.words('xmixup'))
    try:
        time.sleep(6.0)  # Python has started, and the command listens
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (42, -signal.SIGTERM)  # -15: it did not listen yet
    finally:
        process.kill()


@pytest.mark.faults
@pytest.mark.parametrize('who', [0, 1])
def test_two_processes_stop_at_one_step(who, tmp_path):
    """Only one of them is told; each has a seed of its own, so nothing but the agreement keeps them together."""
    words = [f'{harm.CONFIG}:smile', '--config.num_seeds=2', '--config.eval_every=100', '--config.checkpoint_every=100']
    words += ['--config.steps=100', '--config.log_every=25']
    straight = run(made(tmp_path / 'straight'), 2, 1, *words)
    folder = made(tmp_path / 'stopped')
    with Job(folder, 2, 1, *words, '--workdir=run') as job:
        job.until(folder / 'run', 25)
        job.every[who].send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert job.ends(60) == [42, 42], [job.says(i, 'err') for i in range(2)]
        assert time.monotonic() - began < WITHIN
        assert job.says(0, 'err').count('stopped by SIGTERM; saved at step') == 1 and job.says(1, 'err') == ''
    steps = {path.name for path in (folder / 'run' / 'checkpoints').glob('*/step_*')}
    assert len(steps) == 1
    again = run(folder, 2, 1, *words)
    for seed in range(2):
        left, right = final_state(straight, seed, 100), final_state(again, seed, 100)
        assert left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)


# --- the agreement itself ---------------------------------------------------------------------------------------------


class Service:
    """What processes tell each other, for threads that play them."""

    def __init__(self):
        self.said = {}

    def key_value_set(self, key, value):
        self.said[key] = value

    def key_value_try_get(self, key):
        return self.said[key]

    def key_value_dir_get(self, folder):
        return [(key, value) for key, value in list(self.said.items()) if key.startswith(f'{folder}/')]


@pytest.mark.parametrize('paces', [(0.002, 0.002), (0.001, 0.01), (0.01, 0.001, 0.004)])
def test_agreed_stop_step_is_ahead_of_every_process(paces, monkeypatch):
    """`signals._attend` of several processes over one service, each process a thread."""
    service, found = Service(), {}
    local = threading.local()
    monkeypatch.setattr(signals, 'EVERY', 0.003)
    monkeypatch.setattr(signals.processes, 'count', lambda: len(paces))
    monkeypatch.setattr(signals.processes, 'index', lambda: local.index)
    monkeypatch.setattr(signals.processes, 'client', lambda: service)
    states = [signals._State() for _ in paces]

    class Current:
        def __getattr__(self, name):
            return getattr(states[local.index], name)

        def __setattr__(self, name, value):
            setattr(states[local.index], name, value)

    monkeypatch.setattr(signals, '_state', Current())
    monkeypatch.setattr(signals, '_changed', threading.Condition())

    def attend(index):
        local.index = index
        signals._attend(service)

    def train(index):
        local.index = index
        states[index].inside = True
        for step in range(1, 1000):
            time.sleep(paces[index])
            if signals.tick():
                found[index] = step
                return

    threads = [threading.Thread(target=target, args=(i,)) for i in range(len(paces)) for target in (attend, train)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    states[-1].asked = True
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(found) == len(paces) and len(set(found.values())) == 1 and 1 < found[0] < 999


def test_without_a_training_loop_the_signal_ends_the_command():
    with pytest.raises(Stopped, match='goes on from the last checkpoint'), signals.handle_sigterm():
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Stopped), signals.handle_sigterm(), signals.training():
        signal.raise_signal(signal.SIGTERM)
        assert signals.stopping() and signals.tick()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
