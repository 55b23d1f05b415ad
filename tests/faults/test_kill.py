"""Runs that are killed and started again end bit for bit as if they had never stopped."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess

import pytest

from mixjax.rundir import integrity
from tests.support import harm, kills
from tests.support.common import SHORT, assert_same_run, call, command, environment, kill_after

MOMENTS = os.environ.get('MOMENTS', '30')  # of each kind of run, at least
MOMENTS_FROM = os.environ.get('MOMENTS_FROM', '1')  # the number of the first run


def killed(kind, moments, start, folder, *words):
    """Kill runs of a kind so many times at least, from a number on."""
    done = subprocess.run(
        command(kind, f'--moments={moments}', f'--start={start}', *words, module='tests.support.kills'),
        cwd=folder, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    *_, told, _ = done.stdout.splitlines()
    assert told.startswith(kind) and told.endswith('nothing lost')
    assert int(told.removeprefix(f'{kind}: ').split()[0]) >= int(moments)


@pytest.mark.faults
def test_killed_once(tmp_path):
    """With an average beside the parameters; tables, a second data set and two stages are killed by night."""
    killed('smile', 1, 1, tmp_path, '--seconds=3')


@pytest.mark.faults
@pytest.mark.parametrize('kind', kills.KINDS)
def test_killed_at_random_moments(kind, tmp_path):
    killed(kind, MOMENTS, MOMENTS_FROM, tmp_path)


@pytest.mark.faults
def test_harness_detects_lost_work(tmp_path):
    """What the test above compares by: a line less, a line twice, a file more, a checkpoint less, another number."""
    straight = harm.finished(tmp_path / 'straight', *harm.words('finetune'))

    def without_a_line(run):
        text = (run / 'metrics.jsonl').read_text().splitlines(keepends=True)
        (run / 'metrics.jsonl').write_text(''.join(text[:5] + text[6:]))

    def with_a_line_twice(run):
        text = (run / 'metrics.jsonl').read_text().splitlines(keepends=True)
        (run / 'metrics.jsonl').write_text(''.join([*text, text[-1]]))

    def with_a_half_written_file(run):
        (run / 'report.html.part').touch()

    def without_a_checkpoint(run):
        shutil.rmtree(run / 'checkpoints' / '1' / 'step_15')

    def with_the_state_of_another_seed(run):
        shutil.rmtree(run / 'checkpoints' / '1' / 'step_15')
        shutil.copytree(run / 'checkpoints' / '0' / 'step_15', run / 'checkpoints' / '1' / 'step_15')

    kills.assert_equal(straight, harm.copied(straight, tmp_path / 'same'))
    for harmed in (without_a_line, with_a_line_twice, with_a_half_written_file, without_a_checkpoint,
                   with_the_state_of_another_seed):  # fmt: skip
        run = harm.copied(straight, tmp_path / harmed.__name__)
        harmed(run)
        with pytest.raises((AssertionError, FileNotFoundError)):
            kills.assert_equal(straight, run)


BETWEEN = """
import os, signal
from mixjax.rundir import checkpoint
from tests.support.tiny_config import get_config

real, saved = checkpoint.save, []

def save(manager, step, state):
    if step == 10 and manager.directory.name == '1':
        checkpoint.finish(saved)
        os.kill(os.getpid(), signal.SIGKILL)
    saved.append(manager)
    real(manager, step, state)

checkpoint.save = save
"""


@pytest.mark.faults
def test_killed_between_the_checkpoints_of_two_seeds_that_are_trained_at_once(tmp_path):
    """From then on they go on one after the other; the log does not show it."""
    env = {**environment(), 'XLA_FLAGS': f'{environment()["XLA_FLAGS"]} --xla_force_host_platform_device_count=2'}

    def train(folder, config):
        words = [f'--config={config}:finetune', '--config.num_seeds=2', '--config.log_every=1', '--workdir=run']
        return subprocess.run(command(*words), cwd=folder, env=env, capture_output=True, text=True)

    straight, killed = tmp_path / 'straight', tmp_path / 'killed'
    for folder in (straight, killed):
        folder.mkdir()
    done = train(straight, harm.CONFIG.removeprefix('--config='))
    assert done.returncode == 0, done.stderr
    (killed / 'between.py').write_text(BETWEEN)
    assert train(killed, 'between.py').returncode == -signal.SIGKILL
    at = [integrity.steps(killed / 'run' / 'checkpoints' / seed) for seed in '01']
    assert at == [[10, 5], [5]]
    done = train(killed, harm.CONFIG.removeprefix('--config='))
    assert done.returncode == 0, done.stderr
    assert_same_run(straight / 'run', killed / 'run', range(2), 20)
    left, right = kills.written(straight / 'run'), kills.written(killed / 'run')
    assert left.keys() == right.keys()
    # The command that began it is another file's, and these three show it.
    assert {name for name in left if left[name] != right[name]} <= {'env.json', 'report.html', 'results.md'}
    tables = [(folder / 'run' / 'results.md').read_text().splitlines() for folder in (straight, killed)]
    other = [pair for pair in zip(*tables, strict=True) if len(set(pair)) > 1]
    assert len(other) == 1 and all('--config=' in line for line in other[0])


@pytest.mark.faults
@pytest.mark.parametrize('method', ['finetune', 'mixup', 'xmixup', 'lamix'])
def test_killed_in_mid_training(method, tmp_path):
    words = ['--config=quickstart', f'--config.method.name={method}', *SHORT, '--workdir=run']
    straight, killed = tmp_path / 'straight', tmp_path / 'killed'
    straight.mkdir()
    killed.mkdir()
    assert call(straight, *words).returncode == 0
    kill_after(killed, 0, 12, *words)
    kill_after(killed, 0, 20, *words)
    assert call(killed, *words).returncode == 0
    assert_same_run(straight / 'run', killed / 'run', range(1), 24)
    for name in ('samples.npz', 'predictions.npz', 'prepared-0.npz', 'report.html', 'pairs.json'):
        if name == 'pairs.json' and not (straight / 'run' / name).exists():
            continue  # only of a method that draws source images
        assert (straight / 'run' / name).read_bytes() == (killed / 'run' / name).read_bytes()


@pytest.mark.faults
def test_a_comparison_killed_in_its_second_method(tmp_path):
    words = ['--config=quickstart', '--config.num_seeds=2', *SHORT, '--workdir=run']
    straight, killed = tmp_path / 'straight', tmp_path / 'killed'
    straight.mkdir()
    killed.mkdir()
    assert call(straight, *words).returncode == 0
    kill_after(killed, 1, 12, *words, run='run/lamix')
    assert call(killed, *words).returncode == 0
    for name in ('results.json', 'report.html', 'results.md', 'results.csv', 'config.json'):
        assert (straight / 'run' / name).read_bytes() == (killed / 'run' / name).read_bytes()
    for label in json.loads((straight / 'run' / 'results.json').read_text())['runs']:
        assert_same_run(straight / 'run' / label, killed / 'run' / label, range(2), 24)
