"""One run at a time in a work directory."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax.config import variants
from mixjax.errors import Busy, UserError
from mixjax.rundir import files, lock
from mixjax.train import experiment, loop, results
from tests.support import harm, tiny_config
from tests.support.common import assert_same_run, call


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lock, 'BEAT', 0.05)
    monkeypatch.setattr(lock, 'LOST', 0.5)


def silent(_):
    pass


def written(folder, **changes):
    """The lock of somebody else."""
    folder.mkdir(exist_ok=True)
    other = {**lock.this_owner(), 'since': time.time() - 7200, 'beat': 5, 'token': 'other', **changes}
    (folder / files.LOCK).write_text(json.dumps(other))
    return other


def dead_process():
    process = subprocess.Popen([sys.executable, '-c', ''])
    process.wait()
    return process.pid


def test_lock_exists_only_while_a_run_trains(tmp_path):
    path = tmp_path / 'run' / files.LOCK
    with lock.hold(tmp_path / 'run', silent):
        first = json.loads(path.read_text())
        assert (first['pid'], first['host']) == (os.getpid(), os.uname().nodename)
        time.sleep(0.3)
        assert json.loads(path.read_text())['beat'] > first['beat']
        lock.check(tmp_path / 'run')
    assert not path.exists()


def test_second_run_is_refused_with_owner_and_time(tmp_path):
    with lock.hold(tmp_path, silent), pytest.raises(Busy) as error, lock.hold(tmp_path, silent):
        pass
    assert f'is in use: process {os.getpid()} on {os.uname().nodename}' in str(error.value) and error.value.code == 3
    written(tmp_path, pid=os.getppid(), started=lock._started(os.getppid()))
    with pytest.raises(Busy, match='2 h 00 min ago'):
        lock.acquire(tmp_path / files.LOCK, silent)


def test_lock_of_a_dead_local_process_is_taken_over_at_once(tmp_path):
    written(tmp_path, pid=dead_process(), started='123')
    began = time.monotonic()
    with lock.hold(tmp_path, silent):
        assert time.monotonic() - began < lock.LOST
    written(tmp_path, started='123')  # another process has our number since
    with lock.hold(tmp_path, silent):
        pass
    assert not list(tmp_path.iterdir())


def test_remote_owner_is_watched_before_takeover(tmp_path):
    said = []
    written(tmp_path, machine='another one', host='far-away', pid=1)
    with lock.hold(tmp_path, said.append):
        assert 'far-away' in said[0] and 'sign of life' in said[0]
    other = written(tmp_path, machine='another one', host='far-away', pid=1)

    def lives():
        time.sleep(0.2)
        (tmp_path / files.LOCK).write_text(json.dumps({**other, 'beat': 6}))

    thread = threading.Thread(target=lives)
    thread.start()
    with pytest.raises(Busy, match='process 1 on far-away'):
        lock.acquire(tmp_path / files.LOCK, said.append)
    thread.join()


@pytest.mark.parametrize('text', ['', '{', '[]', '{"pid": "x"}', 'null', '[' * 10**5])
def test_truncated_lock_is_taken_over(text, tmp_path):
    (tmp_path / files.LOCK).write_text(text)
    with lock.hold(tmp_path, silent):
        assert json.loads((tmp_path / files.LOCK).read_text())['pid'] == os.getpid()


def test_a_run_whose_lock_was_taken_saves_nothing_more(tmp_path):
    with lock.hold(tmp_path, silent):
        written(tmp_path, pid=77, host='far-away')
        time.sleep(0.3)
        with pytest.raises(UserError, match='process 77 on far-away has it now'):
            lock.check(tmp_path / 'metrics.jsonl')
    assert json.loads((tmp_path / files.LOCK).read_text())['token'] == 'other'  # not ours to remove


LINE = {'seed': 0, 'step': 1, 'kind': 'train'}
WRITES = {
    'a line': lambda folder: files.append(folder / 'metrics.jsonl', LINE),
    'results': lambda folder: files.write_json(folder / 'results.json', {}),
    'arrays': lambda folder: files.write_arrays(folder / 'predictions.npz', {'a': np.zeros(1)}),
    'the log again': lambda folder: files.rewind_log(folder / 'metrics.jsonl', [0], 0),
    'the log in order': lambda folder: files.sort_log(folder / 'metrics.jsonl'),
}


@pytest.mark.parametrize('what', WRITES)
def test_lock_is_checked_before_each_write(what, tmp_path, monkeypatch):
    """Not only when the next sign of life is due: a run that slept wakes up with a write, perhaps."""
    monkeypatch.setattr(lock, 'BEAT', 1000.0)
    folder, other = tmp_path / 'run', tmp_path / 'other'
    other.mkdir()
    with lock.hold(folder, silent), lock.hold(folder / 'inside', silent):
        (folder / 'metrics.jsonl').write_text(json.dumps({**LINE, 'seed': 7}) + '\n')
        written(folder, pid=77, host='far-away')
        before = {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}
        for place in (folder, folder / 'inside'):
            with pytest.raises(UserError, match=rf'lock of {folder} was taken from this run, and process 77'):
                WRITES[what](place)
        assert {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()} == before
        WRITES[what](other)
    WRITES[what](folder)  # what is written later, a report say, is not of the run


def sweep_of_comparisons(**changes):
    out = tiny_config.get_config()
    out.method, out.compare = {'name': ''}, {'a': {'name': 'finetune'}, 'b': {'name': 'seqtrain'}}
    out.sweep.key, out.sweep.numbers = 'target.per_class', (1, 2)
    out.steps = 2
    out.update(changes)
    return config_lib.settle(config_lib.complete(out).unlock())


def test_each_folder_that_is_trained_in_is_locked(tmp_path, monkeypatch):
    """Of a sweep of comparisons its own, the value's, the label's and the first stage's, each as long as needed."""
    seen, run = [], tmp_path / 'run'

    def train(programs, together, folder, progress):
        if programs[0].method.first is not None:
            loop.train_first_stage(programs[0], together, folder, progress)
        seen.append(sorted(str(path.parent.relative_to(run)) for path in run.rglob(files.LOCK)))

    monkeypatch.setattr(loop, 'train_seeds', train)
    monkeypatch.setattr(results, 'summary', lambda *_: {'accuracy': {'mean': 1, 'std': None, 'n': 1}, 'seeds': []})
    monkeypatch.setattr(results, 'differences', lambda *_: {})
    experiment.run(sweep_of_comparisons(), run)
    assert seen == [
        locks
        for k in (1, 2)
        for inside in ('a', 'b/first', 'b')
        for locks in [sorted({'.', f'per_class={k}', f'per_class={k}/{inside[0]}', f'per_class={k}/{inside}'})]
    ]
    assert not list(run.rglob(files.LOCK))


@pytest.mark.parametrize('inside', ['per_class=2', 'per_class=2/b'])
def test_a_sweep_does_not_begin_where_a_run_of_it_is_trained_alone(inside, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, 'run_sweep', lambda *_: pytest.fail('it began'))
    given = sweep_of_comparisons()
    files.record(tmp_path / 'run', given)
    files.record(tmp_path / 'run' / 'per_class=2', config_lib.swept(given)['per_class=2'])
    told = pytest.raises(Busy, match=rf'{inside} is in use: process {os.getpid()}')
    with lock.hold(tmp_path / 'run' / inside, silent), told:
        experiment.run(given, tmp_path / 'run')
    assert not list(tmp_path.rglob(files.LOCK))


@pytest.mark.parametrize('inside', ['per_class=1', 'per_class=2', 'per_class=2/a'])
def test_a_run_of_a_sweep_is_not_trained_alone_meanwhile(inside, tmp_path, monkeypatch):
    """Neither the one that is being trained, nor one that the sweep will come to."""
    value, _, label = inside.partition('/')
    alone, tried = config_lib.swept(sweep_of_comparisons())[value], []
    alone = variants.single(alone, label) if label else alone

    def one(*_):
        with pytest.raises(Busy, match=f'run is in use: process {os.getpid()}'):
            experiment.run(alone, tmp_path / 'run' / inside)
        tried.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, 'run_training', one)
    with pytest.raises(KeyboardInterrupt):
        experiment.run(sweep_of_comparisons(), tmp_path / 'run')
    assert tried and not list(tmp_path.rglob(files.LOCK))


def test_unrelated_lock_in_a_parent_folder_is_ignored(tmp_path):
    files.record(tmp_path, sweep_of_comparisons())
    with lock.hold(tmp_path, silent):
        lock.refuse_part(tmp_path / 'other', silent)
        with pytest.raises(Busy):
            lock.refuse_part(tmp_path / 'per_class=1', silent)
        (tmp_path / 'config.json').write_text('[]')
        lock.refuse_part(tmp_path / 'per_class=1', silent)
    lock.refuse_part(tmp_path / 'per_class=1', silent)


def race(folder, barrier, answers):
    barrier.wait()
    try:
        answers.put(lock.acquire(folder / files.LOCK, silent)['pid'])
    except Busy:
        answers.put(0)


@pytest.mark.parametrize('locks', [True, False], ids=['locks', 'no locks of files'])
def test_only_one_of_many_at_once_gets_the_lock(locks, tmp_path, monkeypatch):
    """Also where all of them have seen the dead owner's lock before the first one acts."""
    if not locks:
        monkeypatch.setattr(lock.fcntl, 'flock', refused)
        monkeypatch.setattr(lock, 'SETTLED', 0.3)
    together, replace = threading.Barrier(6), lock._replace
    monkeypatch.setattr(lock, '_replace', lambda *given: together.wait() is not None and replace(*given))
    for k in range(5 if locks else 2):
        folder = tmp_path / str(k)
        written(folder, pid=dead_process(), started='123')
        barrier, answers = threading.Barrier(6), queue.Queue()
        every = [threading.Thread(target=race, args=(folder, barrier, answers)) for _ in range(6)]
        for one in every:
            one.start()
        found = [answers.get(timeout=60) for _ in every]
        for one in every:
            one.join()
        assert sum(pid > 0 for pid in found) == 1
        assert [path.name for path in folder.iterdir()] == [files.LOCK]


def refused(*_):
    raise OSError('no locks here')


@pytest.mark.faults
def test_suspended_run_that_lost_its_lock_stops_writing(tmp_path):
    process = harm.start(tmp_path / 'slept', *harm.words('finetune', '--config.num_seeds=1', '--config.steps=100000'))
    run = tmp_path / 'slept' / 'run'
    try:
        harm.until(process, harm.logged(tmp_path / 'slept', 3))
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        written(run, pid=77, host='far-away')
        names = ('metrics.jsonl', 'timing.jsonl', files.LOCK)
        before = [(run / name).read_bytes() for name in names]
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == 2
        after = [(run / name).read_bytes() for name in names]
        # The line that was being written when it was stopped may be whole by now.
        assert after[2] == before[2]
        assert all(b.startswith(a) and b.count(b'\n') <= a.count(b'\n') + 1 for a, b in zip(before, after, strict=True))
        assert 'process 77 on far-away has it now' in (tmp_path / 'slept' / 'said').read_text()
    finally:
        process.kill()
        process.wait()


@pytest.mark.faults
def test_two_commands_at_once(tmp_path):
    """The second one ends with 3 and changes nothing; killed, the first one's lock is no hindrance."""
    straight = harm.finished(tmp_path / 'straight', *harm.words())
    folder = tmp_path / 'both'
    process = harm.start(folder, *harm.words('finetune', '--config.steps=20'))
    try:
        harm.until(process, harm.logged(folder, 3))
        process.send_signal(signal.SIGSTOP)
        second = call(folder, *harm.words())
        assert second.returncode == 3 and f'process {process.pid} on' in second.stderr, second.stderr
        other = call(folder, *harm.words('finetune', '--config.seed=9'))
        assert other.returncode == 2 and 'seed: 0 there, 9 now' in other.stderr
    finally:
        process.kill()
        process.wait()
    assert (folder / 'run' / files.LOCK).exists()
    done = call(folder, *harm.words())
    assert done.returncode == 0, done.stderr
    assert_same_run(straight, folder / 'run', range(3), 20)
    assert not (folder / 'run' / files.LOCK).exists()
