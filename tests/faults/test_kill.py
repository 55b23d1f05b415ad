"""Runs that are killed and started again end bit for bit as if they had never stopped."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections import Counter

import numpy as np
import pytest

from mixjax.train import integrity
from tests.common import SHORT, assert_same_run, call, final_state, kill_after
from tests.faults import harm, moments

MOMENTS = int(os.environ.get('MOMENTS', '1'))  # of each kind of run, at least
# The methods that keep something of their own from step to step, and a run of two stages.
SELF_LABELLING = [
    '--config.method.self_label=true', '--config.method.adaptive_epoch=1', '--config.method.correct_epoch=2',
    '--config.method.threshold=0.13',
]  # fmt: skip
KINDS = {
    'finetune': ['finetune'],
    'smile': ['smile'],
    'xmixup': ['xmixup'],
    'rifle': ['rifle'],
    'regsl self-labelling': ['regsl', *SELF_LABELLING],
    'seqtrain, two stages': ['seqtrain'],
}
COLD = 4  # each so manieth run finds no compiled programs


def killed(folder, given, random_, straight, seconds) -> str:
    """Start the command and kill it at some moment; what it was doing, '' if it had ended before."""
    process = harm.start(folder, *given)
    watched = moments.Watched(folder / 'run', process.pid)
    come = moments.moment(random_, watched, straight, seconds)
    try:
        while process.poll() is None and not come():
            watched.look()
            time.sleep(0.002)
        dead = process.poll() is None
        assert dead or process.returncode == 0, (folder / 'said').read_text()
    finally:
        process.kill()
        process.wait()
    watched.look()
    return watched.phase() if dead else ''


def written(run) -> dict[str, bytes]:
    """All files of a run but its times, and its checkpoints, whose files have names that are drawn."""
    names = {str(path.relative_to(run)): path for path in run.rglob('*') if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if path.name != 'timing.jsonl' and 'checkpoints' not in path.relative_to(run).parts
    }


def assert_equal(straight, run) -> None:
    """Every file but the times, and every checkpoint, of each stage."""
    assert_same_run(straight, run, range(3), 20)
    left, right = written(straight), written(run)
    assert left.keys() == right.keys() and len(left) > 10
    assert [name for name in left if left[name] != right[name]] == []
    for stage in moments.STAGES:
        logged = moments.logged(run, stage)
        assert len(logged) == len(set(logged)) == len(moments.logged(straight, stage))
        for place in (straight / stage / 'checkpoints').glob('*'):
            there = [path.name for path in (run / stage / 'checkpoints' / place.name).iterdir()]
            assert sorted(there) == sorted(path.name for path in place.iterdir())
            for step in integrity.steps(place):
                assert not integrity.fault(run / stage / 'checkpoints' / place.name / f'step_{step}')
                states = [final_state(one / stage, int(place.name), step) for one in (straight, run)]
                assert states[0].keys() == states[1].keys()
                assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0]), (stage, step)


def campaign(kind, wanted, start, folder) -> Counter:
    """At least so many kills, each run begun anew carried to its end; the number of a run decides its moments.

    Returns:
      How many kills fell into what the run was doing.
    """
    method, *more = KINDS[kind]
    given = harm.words(method, *more)
    began = time.monotonic()
    straight = harm.finished(folder / 'straight', *given)
    seconds, phases, number = time.monotonic() - began, Counter(), start
    while phases.total() < wanted:
        random_, place = random.Random(f'{kind} {number}'), folder / f'{number}'
        with pytest.MonkeyPatch.context() as patch:
            if number % COLD == 0:
                patch.setenv('MIXJAX_CACHE', str(place / 'cache'))
            # One kill, or several in a row.
            found = [killed(place, given, random_, straight, seconds) for _ in range(random_.choice((1, 2, 2, 3)))]
            harm.finished(place, *given)
        assert_equal(straight, place / 'run')
        shutil.rmtree(place)
        phases.update(filter(None, found))
        print(f'{kind}, run {number}: killed while {", ".join(filter(None, found))}', flush=True)
        number += 1
    about = ', '.join(f'{count} {phase}' for phase, count in sorted(phases.items()))
    spent = (time.monotonic() - began - seconds) / phases.total()
    print(f'{kind}: {phases.total()} kills in {number - start} runs ({about}), {spent:.1f} s a kill, nothing lost')
    print(f'{kind}: MOMENTS_FROM={number} goes on')
    return phases


@pytest.mark.faults
@pytest.mark.parametrize('kind', KINDS)
def test_killed_at_random_moments(kind, tmp_path):
    wanted = MOMENTS
    assert campaign(kind, wanted, int(os.environ.get('MOMENTS_FROM', '1')), tmp_path).total() >= wanted


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
    for name in ('samples.npz', 'prepared-0.npz', 'report.html', 'pairs.json'):
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
    for name in ('results.json', 'report.html', 'config.json'):
        assert (straight / 'run' / name).read_bytes() == (killed / 'run' / name).read_bytes()
    for label in json.loads((straight / 'run' / 'results.json').read_text())['runs']:
        assert_same_run(straight / 'run' / label, killed / 'run' / label, range(2), 24)
