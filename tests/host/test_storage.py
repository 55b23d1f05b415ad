"""Work directories, data sets and weights in an object store: a small one on this machine, through the real clients."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mixjax import inference, models, report
from mixjax.data.datasets import bucket_copy, catalog, resolve
from mixjax.data.pixels import photo
from mixjax.errors import Busy, UserError
from mixjax.host import storage
from mixjax.models import weights
from mixjax.rundir import lock
from tests.support.common import ROOT, Tiny, call, command, environment
from tests.support.jobs import Job, made, run
from tests.support.miniature import picture
from tests.support.object_store import Store
from tests.support.photos import node
from tests.support.prepared import index, make

TINY = f'--config={ROOT / "tests" / "support" / "tiny_config.py"}'


def put(store: Store, folder: Path, name: str) -> None:
    """Bring a folder into the bucket, behind the back of all clients."""
    for path in folder.rglob('*'):
        if path.is_file():
            store.put('bucket', f'{name}/{path.relative_to(folder)}', path.read_bytes())


def bring(store: Store, name: str, folder: Path) -> Path:
    """The objects below a name as files."""
    for one in store.names('bucket'):
        if one.startswith(f'{name}/'):
            path = folder / one.removeprefix(f'{name}/')
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(store.objects['bucket', one].data)
    return folder


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('text', ['s3://bucket/runs', 'gs://', 'gs:///', 'file://runs'])
def test_invalid_places_are_refused(text):
    with pytest.raises(UserError, match='gs://BUCKET/FOLDER'):
        storage.to_place(text)


def test_missing_client_says_what_to_install(monkeypatch):
    monkeypatch.setattr(storage.importlib.util, 'find_spec', lambda name: None)
    storage._client.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'mixjax\[gcs\]'"):
        storage.to_place('gs://bucket/runs')
    storage._client.cache_clear()


def test_a_store_that_does_not_answer(store, monkeypatch):
    def refused(*_, **__):
        raise PermissionError('caller does not have storage.objects.get access')

    monkeypatch.setattr(type(storage.to_place('gs://bucket/a')), 'exists', refused)
    with pytest.raises(UserError, match=r'gs://bucket/a cannot be reached \(PermissionError: caller.*gcloud auth'):
        storage.reachable('gs://bucket/a')


@pytest.mark.parametrize('kind', ['disk', 'store'])
def test_files(kind, tmp_path, store):
    place = tmp_path if kind == 'disk' else storage.reachable(f'gs://bucket/{tmp_path.name}')
    assert not (place / 'a').exists() and storage.is_remote(place) == (kind == 'store')
    storage.write(place / 'a', b'one')
    storage.write(place / 'a', b'two')
    assert (place / 'a').read_bytes() == b'two' and [path.name for path in place.iterdir()] == ['a']
    with ThreadPoolExecutor(8) as pool:
        who = list(pool.map(lambda i: storage.create_exclusive(place / 'lock', str(i).encode()), range(8)))
    assert sum(who) == 1 and (place / 'lock').read_bytes() == str(who.index(True)).encode()
    assert str(storage.absolute(place)) == str(storage.realpath(place)) == str(place)


def test_writes_of_other_processes_are_visible(store):
    place = storage.reachable('gs://bucket/others')
    assert not place.exists() and not (place / 'a').exists()
    store.put('bucket', 'others/a', b'1')
    assert (place / 'a').exists() and [path.name for path in place.iterdir()] == ['a']
    store.put('bucket', 'others/b', b'22')
    assert sorted(path.name for path in place.iterdir()) == ['a', 'b'] and (place / 'b').read_bytes() == b'22'


def test_transient_store_errors_are_retried(store):
    store.refuse = 2
    storage.write(storage.to_place('gs://bucket/busy'), b'1')
    assert store.objects['bucket', 'busy'].data == b'1' and not store.refuse


# --- runs -------------------------------------------------------------------------------------------------------------


def same(a: Path, b: Path) -> None:
    """Two work directories hold the same, but for times and what names the place."""
    names = {path.relative_to(a) for path in a.rglob('*') if path.is_file() and 'checkpoints' not in path.parts}
    assert names == {p.relative_to(b) for p in b.rglob('*') if p.is_file() and 'checkpoints' not in p.parts}
    where = ('timing.jsonl', 'env.json', 'report.html', 'results.md', 'results.csv')
    for name in sorted(names - set(map(Path, where))):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert len(names) >= 9


@pytest.mark.faults
def test_a_run_in_a_store(store, tmp_path, monkeypatch):
    """Killed in the middle, continued, found finished; read by predict and report; its network is another's weights."""
    words = [f'{TINY}:finetune', '--config.log_every=1']
    assert (one := call(tmp_path, *words, '--workdir=run')).returncode == 0, one.stderr
    where = 'gs://bucket/runs/a'
    process = subprocess.Popen(command(*words, f'--workdir={where}'), cwd=tmp_path, env=environment())
    until = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < until:
        if 'runs/a/checkpoints/0/step_10/commit_success.txt' in store.names('bucket'):
            break
        time.sleep(0.01)
    assert process.poll() is None, 'it ended before it could be killed'
    process.kill()
    process.wait()
    assert 'runs/a/results.json' not in store.names('bucket')
    two = call(tmp_path, *words, f'--workdir={where}')
    assert two.returncode == 0 and f'report: {where}/report.html' in two.stdout, two.stderr
    same(tmp_path / 'run', bring(store, 'runs/a', tmp_path / 'copy'))
    # Two checkpoints are left, whole.
    assert {name.split('/')[4] for name in store.names('bucket') if '/checkpoints/' in name} == {'step_15', 'step_20'}
    three = call(tmp_path, *words, f'--workdir={where}')
    assert three.returncode == 0 and 'nothing was trained' in three.stdout, three.stderr
    assert call(tmp_path, *words, f'--workdir={where}', '--config.seed=3').returncode == 2
    # The others, in this process.
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))
    assert str(report.write(where, out=tmp_path / 'page.html')) == str(tmp_path / 'page.html')
    assert (tmp_path / 'page.html').read_bytes() == store.objects['bucket', 'runs/a/report.html'].data
    assert len(inference.load(where).classes) == 10
    left, right = weights.load(where), weights.load(str(tmp_path / 'run'))
    assert all(np.array_equal(left.tensors[name], right.tensors[name]) for name in right.tensors)


@pytest.mark.faults
def test_a_job_of_two_processes_in_a_store(store, tmp_path):
    """As a pod: no disk in common. Killed, continued by one process, and what the run on a disk gives."""
    words = [f'{TINY}:finetune', '--config.log_every=1', '--config.num_seeds=2']
    one = run(made(tmp_path / 'one'), 2, 2, *words)
    where = '--workdir=gs://bucket/runs/pod'
    with Job(made(tmp_path / 'killed'), 2, 2, *words, where) as job:
        until = time.monotonic() + 200
        while not all(
            f'runs/pod/checkpoints/{seed}/step_10/commit_success.txt' in store.names('bucket') for seed in (0, 1)
        ):
            assert time.monotonic() < until and job.every[0].poll() is None, job.says(0, 'err')
            time.sleep(0.01)
    with Job(made(tmp_path / 'again'), 2, 2, *words, where) as job:
        assert job.ends() == [0, 0], job.says(0, 'err')
    same(one, bring(store, 'runs/pod', tmp_path / 'copy'))


def test_the_lock_in_a_store(store):
    """One owner; that of a dead one is taken over; given back at the end."""
    where = storage.to_place('gs://bucket/locked')
    machine = lock.this_owner()['machine']
    dead = {'host': 'a', 'machine': machine, 'pid': 2**22 + 1, 'started': '1', 'since': 0.0, 'beat': 3}
    store.put('bucket', 'locked/lock.json', json.dumps({**dead, 'token': 'x'}).encode())
    with lock.hold(where, print):
        found = json.loads(store.objects['bucket', 'locked/lock.json'].data)
        assert found['pid'] == os.getpid() and found['token'] != 'x'
        with pytest.raises(Busy, match='gs://bucket/locked is in use'):
            lock.acquire(where / 'lock.json', print)
    assert store.names('bucket').count('locked/lock.json') == 0


# --- data -------------------------------------------------------------------------------------------------------------


def test_a_prepared_set_in_a_store(store, tmp_path):
    index('mit_indoor67', make('mit_indoor67', tmp_path / 'disk'), check=True)
    put(store, tmp_path / 'disk', 'sets')
    rule = photo.Rule(32)

    def read(where: str) -> np.ndarray:
        data = catalog.load('mit_indoor67', 'train', data_dir=where, rule=rule, cache=tmp_path / 'cache')
        return data.read(np.arange(len(data.labels)))

    np.testing.assert_array_equal(read('gs://bucket/sets'), before := read(str(tmp_path / 'disk')))
    asked = len(store.requests)
    read('gs://bucket/sets')
    assert not [line for line in store.requests[asked:] if 'array_record' in line and 'alt=media' in line]
    # Prepared anew, of other images: the copy follows.
    shutil.rmtree(tmp_path / 'disk')
    index('mit_indoor67', make('mit_indoor67', tmp_path / 'disk', count=7), check=True)
    put(store, tmp_path / 'disk', 'sets')
    after = read('gs://bucket/sets')
    assert len(after) == 7 != len(before)
    np.testing.assert_array_equal(after, read(str(tmp_path / 'disk')))


def test_a_prepared_set_that_is_not_in_the_store(store, tmp_path):
    told = catalog.missing('mit_indoor67', 'gs://bucket/none')
    assert told and 'no such copy' in told and 'gcloud storage cp -r DIR/' in told and '--data-dir=DIR' in told
    with pytest.raises(UserError, match='prepared on a disk'):
        catalog.folder('mit_indoor67', 'gs://bucket/none')


def test_a_folder_in_a_store(store, tmp_path):
    for seed, name in enumerate(('cat/1.png', 'cat/2.png', 'dog/1.png', 'dog/2.png', 'dog/a b#ü.png')):
        (tmp_path / 'photos' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'photos' / name).write_bytes(picture(seed, 'PNG'))
    put(store, tmp_path / 'photos', 'my photos')

    def load(where: str):
        return resolve.load(node(dir=where, holdout=0.5), data_dir='', rule=photo.Rule(16), cache=tmp_path / 'cache')

    here, there = load(str(tmp_path / 'photos')), load('gs://bucket/my photos')
    assert list(here.train.ids) == list(there.train.ids) and here.train.classes == there.train.classes
    np.testing.assert_array_equal(here.train.read(np.arange(2)), there.train.read(np.arange(2)))
    del store.objects['bucket', 'my photos/dog/1.png']
    less = load('gs://bucket/my photos')
    assert less.test and not {'dog/1.png'} & {*less.train.ids, *less.test.ids}
    assert len(less.train.ids) + len(less.test.ids) == 4


def test_object_names_outside_of_the_copy_are_refused(store, tmp_path):
    store.put('bucket', 'evil/../../x', b'1')
    with pytest.raises(UserError, match='which is not a file name'):
        bucket_copy.local_copy('gs://bucket/evil', tmp_path / 'cache')
    assert not (tmp_path / 'x').exists() and not list((tmp_path / 'cache').rglob('x'))


def test_copy_without_disk_space_is_refused(store, tmp_path, monkeypatch):
    store.put('bucket', 'large/a', b'1')
    monkeypatch.setattr(bucket_copy.shutil, 'disk_usage', lambda _: type('', (), {'free': 10})())
    with pytest.raises(UserError, match=r'gs://bucket/large is .* and .* free; set config\.cache_dir'):
        bucket_copy.local_copy('gs://bucket/large', tmp_path / 'cache')
