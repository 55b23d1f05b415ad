"""Runs that are killed and started again end bit for bit as if they had never stopped."""

from __future__ import annotations

import json
import os
import random
import time

import pytest

from tests.common import SHORT, assert_same_run, call, kill_after
from tests.faults import harm

MOMENTS = int(os.environ.get('MOMENTS', '1'))  # of each kind of run, in the long test
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
FILES = (
    'report.html', 'results.md', 'results.csv', 'predictions.npz', 'samples.npz', 'pairs.json', 'prepared-0.npz',
    'prepared-2.npz', 'model.json', 'data.json',
)  # fmt: skip


def moment(random_, run, seconds):
    """A moment to kill a run at: any, or one at which it writes. Returns a function for `harm.until`, and its name."""
    kind = random_.choice(['any', 'any', 'any', 'saving', 'evaluating', 'ending'])
    if kind == 'any':
        end = time.monotonic() + random_.uniform(0, 1.05 * seconds)
        return lambda: time.monotonic() > end
    if kind == 'saving':  # a checkpoint that has no name yet
        seed = random_.randrange(3)
        return lambda: any((run / 'checkpoints' / str(seed)).glob('*orbax-checkpoint-tmp*'))
    if kind == 'evaluating':
        seed, step = random_.randrange(3), random_.choice((5, 10, 15, 20))
        return harm.logged(run.parent, step, seed)
    names = ('results.json', 'model.safetensors', 'report.html', 'report.html.part', 'samples.npz', 'predictions.npz')
    name = random_.choice(names)
    return (run / name).exists


def killed(folder, given, random_, seconds) -> bool:
    """Start the command and kill it at some moment; False if it had ended before."""
    process = harm.start(folder, *given)
    happened = moment(random_, folder / 'run', seconds)
    try:
        while process.poll() is None and not happened():
            time.sleep(0.002)
        dead = process.poll() is None
        assert dead or process.returncode == 0, (folder / 'said').read_text()
    finally:
        process.kill()
        process.wait()
    return dead


def assert_equal(straight, run) -> None:
    assert_same_run(straight, run, range(3), 20)
    logged = [(line['seed'], line['kind'], line['step']) for line in lines(run)]
    assert len(logged) == len(set(logged)) == len(lines(straight))
    for name in FILES:
        assert (straight / name).exists() == (run / name).exists(), name
        assert not (run / name).exists() or (straight / name).read_bytes() == (run / name).read_bytes(), name
    left = {str(path.relative_to(run)) for path in run.rglob('*') if path.suffix == '.part' or path.name == 'lock.json'}
    assert not left


def lines(run) -> list[dict]:
    return [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]


def campaign(kind, moments, seed, folder) -> int:
    """So many kills, each run begun anew carried to its end; returns how many runs that took."""
    method, *more = KINDS[kind]
    given = harm.words(method, *more)
    began = time.monotonic()
    straight = harm.finished(folder / 'straight', *given)
    seconds = time.monotonic() - began
    random_, kills, runs = random.Random(f'{kind} {seed}'), 0, 0
    while kills < moments:
        runs += 1
        place = folder / f'{runs}'
        # One kill, or several in a row.
        for _ in range(min(random_.choice((1, 2, 2, 3)), moments - kills)):
            kills += killed(place, given, random_, seconds)
        harm.finished(place, *given)
        assert_equal(straight, place / 'run')
    print(f'{kind}: {kills} kills in {runs} runs, {seconds:.1f} s a run')
    return runs


@pytest.mark.faults
@pytest.mark.parametrize('kind', ['regsl self-labelling', 'seqtrain, two stages'])
def test_killed_once(kind, tmp_path):
    """Those with the most to lose; all of them are in the long test."""
    campaign(kind, 1, 0, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize('kind', KINDS)
def test_killed_at_random_moments(kind, tmp_path):
    campaign(kind, MOMENTS, int(os.environ.get('MOMENTS_SEED', '1')), tmp_path)


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
