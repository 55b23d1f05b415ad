"""What is written follows no link, and is there whole or not at all; and a stranger's settings name no place for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax import inference
from mixjax.analysis import folders
from mixjax.analysis.measures import Asked
from mixjax.commands import cli, predict
from mixjax.commands.train import main as train_command
from mixjax.errors import UserError
from mixjax.host import disk_full, storage
from mixjax.report import sections
from mixjax.report import write as write_report
from mixjax.rundir import checkpoint, files, integrity, lock
from tests.hostile import strangers
from tests.support import fake
from tests.support.common import ROOT, environment

KEY = b'ssh-ed25519 AAAA of the user\n'


@pytest.fixture
def victim(tmp_path):
    """A file of the user's, outside of every folder that a command is given."""
    path = tmp_path / 'home' / 'authorized_keys'
    path.parent.mkdir()
    path.write_bytes(KEY)
    return path


@contextlib.contextmanager
def untouched(folder: Path):
    before = strangers.seen(folder)
    yield
    assert strangers.seen(folder) == before


# --- one place for writing --------------------------------------------------------------------------------------------


def written(place):
    storage.write(place, b'new')


def written_as_array(place):
    with storage.open_atomic(place) as file:
        np.savez(file, a=1)


@pytest.mark.parametrize('write', [written, written_as_array])
@pytest.mark.parametrize('name', ['report.html', 'report.html.part', 'new'])
def test_a_link_in_place_of_a_file_is_replaced(write, name, tmp_path, victim):
    folder = tmp_path / 'st'
    folder.mkdir()
    (folder / name).symlink_to(victim if name != 'new' else victim.with_name('not there'))
    with untouched(victim.parent):
        write(folder / 'report.html')
        write(folder / name)
    assert (folder / 'report.html').is_file() and not (folder / name).is_symlink()
    assert sorted(path.name for path in folder.iterdir()) == sorted({'report.html', name})


def test_appending_does_not_follow_links(tmp_path, victim):
    folder = tmp_path / 'st'
    folder.mkdir()
    (folder / 'link').symlink_to(victim)
    (folder / 'dangling').symlink_to(victim.with_name('not there'))
    os.mkfifo(folder / 'fifo')
    os.link(victim, folder / 'second name')
    with untouched(victim.parent):
        for name in ('link', 'dangling'):
            with pytest.raises(storage.IsLink, match=f'{name} is a link, and nothing is written through links'):
                storage.append(folder / name, b'line\n')
            with pytest.raises(storage.IsLink):
                storage.open_append(folder / name)
            assert not storage.create_exclusive(folder / name, b'line\n')
        with pytest.raises(OSError):
            storage.append(folder / 'fifo', b'line\n')
        storage.append(folder / 'second name', b'line\n')
        storage.append(folder / 'second name', b'line\n')
    assert (folder / 'second name').read_bytes() == KEY + b'line\nline\n'
    reader = os.open(folder / 'fifo', os.O_RDONLY | os.O_NONBLOCK)  # somebody waits for what is written
    with pytest.raises(OSError, match='not a regular file'):
        storage.append(folder / 'fifo', b'line\n')
    os.close(reader)


def test_no_folder_is_reached_through_a_link_but_for_the_one_that_a_person_names(tmp_path, victim):
    run = tmp_path / 'run'
    run.mkdir()
    (run / 'first').symlink_to(victim.parent)
    (run / 'deep').mkdir()
    (run / 'deep' / '5').symlink_to('../../home')
    with untouched(victim.parent):
        for place in (run / 'first' / 'x', run / 'deep' / '5' / 'x'):
            for how in (storage.write, storage.append, storage.create_exclusive):
                with pytest.raises(storage.IsLink, match='is a link'):
                    how(place, b'')
            with pytest.raises(storage.IsLink):
                storage.make_folder(place)
            with pytest.raises(UserError, match='cannot be written to: .* is a link'):
                files.create(place.parent)
    (tmp_path / 'named').symlink_to(run)
    assert storage.resolve_links(run) is run and storage.resolve_links(tmp_path / 'named' / 'a') == run / 'a'
    storage.write(storage.resolve_links(tmp_path / 'named') / 'a', b'x')
    storage.write(storage.resolve_file(tmp_path / 'named' / 'b'), b'x')
    assert (run / 'a').exists() and (run / 'b').exists()


def test_relative_places_count_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage.make_folder(Path('a/b'))
    storage.write(Path('a/b/c'), b'1')
    storage.write(Path('d'), b'2')
    storage.write(Path('a/../e'), b'3')
    assert [Path(name).read_bytes() for name in ('a/b/c', 'd', 'e')] == [b'1', b'2', b'3']
    with pytest.raises(FileNotFoundError):
        storage.write(Path('no/folder'), b'')


def test_failed_write_leaves_no_file(tmp_path):
    storage.write(tmp_path / 'a', b'old')
    with pytest.raises(ZeroDivisionError), storage.open_atomic(tmp_path / 'a') as file:
        file.write(b'new')
        file.write(bytes([1 // 0]))
    (tmp_path / 'folder').mkdir()
    with pytest.raises(IsADirectoryError):
        storage.write(tmp_path / 'folder', b'')
    assert (tmp_path / 'a').read_bytes() == b'old' and len(list(tmp_path.iterdir())) == 2


HALF = """
import sys, time
from pathlib import Path
from mixjax.host import storage
with storage.open_atomic(Path(sys.argv[1])) as file:
    file.write(b'half')
    file.flush()
    print('.', flush=True)
    time.sleep(60)
"""


def half_written(place: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, '-c', HALF, place], stdout=subprocess.PIPE, env=environment())
    assert process.stdout is not None and process.stdout.read(1) == b'.'
    return process


def test_only_temporaries_of_dead_processes_are_removed(tmp_path):
    victim = tmp_path / 'victim'
    victim.write_bytes(KEY)
    folder = tmp_path / 'run'
    folder.mkdir()
    with half_written(folder / 'a') as dead, half_written(folder / 'b') as alive:
        try:
            dead.kill()
            dead.wait()
            left = sorted(folder.glob('*.part'))
            assert len(left) == 2
            (folder / 'mixjax-0123456789abcdef.part').symlink_to(victim)
            os.mkfifo(folder / 'mixjax-0123456789abcde0.part')
            (folder / 'own.part').touch()
            storage.write(folder / 'c', b'')
            assert len(set(left) & set(folder.iterdir())) == 1
            assert {'own.part', 'c'} <= {path.name for path in folder.iterdir()} and victim.read_bytes() == KEY
        finally:
            alive.send_signal(signal.SIGKILL)


MANY = """
import sys
from mixjax.report import write
for _ in range(25):
    write(sys.argv[1])
"""


def test_six_processes_write_one_report_at_a_time(tmp_path):
    run = fake.make_run(tmp_path / 'run', 'smile', [0.9])
    page = write_report(run).read_bytes()
    every = [
        subprocess.Popen([sys.executable, '-c', MANY, run], stderr=subprocess.PIPE, env=environment()) for _ in range(6)
    ]
    said = [process.communicate(timeout=300)[1] for process in every]
    assert [process.returncode for process in every] == [0] * 6, said
    assert (run / 'report.html').read_bytes() == page and not list(run.glob('*.part'))


# --- folders of strangers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['report.html', 'results.md', 'results.csv'])
@pytest.mark.parametrize('ending', ['', '.part'])
def test_report_of_a_hostile_folder(name, ending, tmp_path, victim):
    run = fake.make_run(tmp_path / 'st', 'smile', [0.9])
    victim.write_bytes(b'')  # which a report may overwrite
    (run / f'{name}{ending}').symlink_to(victim)
    with untouched(victim.parent):
        assert cli.run('report', [str(run)]) == 0
    assert (run / name).read_bytes() and not (run / name).is_symlink()


def test_a_report_where_the_folder_is_named_by_a_link(tmp_path, capsys):
    run = fake.make_run(tmp_path / 'run', 'smile', [0.9])
    (tmp_path / 'latest').symlink_to('run')
    assert cli.run('report', [str(tmp_path / 'latest')]) == 0
    assert (run / 'report.html').is_file() and str(run / 'report.html') in capsys.readouterr().out


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """The work directory of a finished run."""
    run = tmp_path_factory.mktemp('tiny') / 'run'
    assert train(run) == 0
    return run


def train(run: Path) -> int:
    """Begin or continue a run of ten steps; the exit code of the command."""
    words = [f'--config={ROOT}/tests/support/tiny_config.py', f'--workdir={run}', '--config.steps=10']
    return train_command([*words, '--config.devices=1'])


def test_resuming_in_a_hostile_folder(tiny, tmp_path, victim):
    """Every file of it is a link to one outside, which is read; what is written is a file of its own."""
    import shutil

    run = shutil.copytree(tiny, tmp_path / 'run')
    (run / 'results.json').unlink()
    shutil.rmtree(run / 'checkpoints' / '0' / 'step_10')
    names = [path.name for path in run.iterdir() if path.is_file()]
    for name in names:
        strangers.put(run / name, 'link', victim.parent)
    for name in ('results.json', 'lock.json', 'report.html.part', 'metrics.jsonl.part'):
        strangers.put(run / name, 'dangling', victim.parent)
    with untouched(victim.parent):
        assert train(run) == 0
    assert not (run / 'metrics.jsonl').is_symlink() and len((run / 'metrics.jsonl').read_text().splitlines()) > 2
    assert json.loads((run / 'results.json').read_text()) == json.loads((tiny / 'results.json').read_text())


@pytest.mark.parametrize('name', ['checkpoints', 'checkpoints/0', 'checkpoints/0/step_10'])
def test_checkpoints_are_not_kept_through_links(name, tiny, tmp_path, victim):
    import shutil

    run = shutil.copytree(tiny, tmp_path / 'run')
    (run / 'results.json').unlink()
    shutil.move(run / name, victim.parent / 'moved')
    (run / name).symlink_to(victim.parent / 'moved')
    with untouched(victim.parent), pytest.raises(UserError, match='is a link'), disk_full.explain_write_errors(run):
        integrity.set_aside_damaged(run, [0], print)
        checkpoint.open_folder(run / 'checkpoints' / '0')


def test_plan_of_a_hostile_folder(tmp_path):
    """The campaign of `make fuzz`, in short: it may refuse in a sentence, and what lies outside stays as it is."""
    plans = [
        {name: kind} for name in ('metrics.jsonl', 'lock.json', 'first', 'checkpoints/0', 'report.html', 'samples.npz')
        for kind in strangers.KINDS
    ]  # fmt: skip
    for plan in plans:
        (tmp_path / 'plan').write_text(json.dumps(plan))
        for reader in strangers.READERS.values():
            began = time.monotonic()
            with contextlib.suppress(*reader.refuses):
                reader.read(tmp_path / 'plan')
            assert time.monotonic() - began < 10, plan


# --- the lock ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['dangling', 'self', 'link', 'fifo', '/dev/zero', 'sparse', 'link to a folder'])
def test_lock_that_is_not_a_regular_file_is_replaced(kind, tmp_path, victim):
    path = tmp_path / 'run' / files.LOCK
    strangers.put(path, kind, victim.parent)
    began = time.monotonic()
    with untouched(victim.parent), lock.hold(path.parent, lambda _: None):
        assert json.loads(path.read_text())['pid'] == os.getpid() and not path.is_symlink()
    assert time.monotonic() - began < 5 and not os.path.lexists(path)


def test_a_lock_that_is_a_folder(tmp_path):
    (tmp_path / files.LOCK).mkdir()
    with pytest.raises(UserError, match='cannot be written to: Is a directory'), lock.hold(tmp_path, lambda _: None):
        pass


# --- settings of strangers --------------------------------------------------------------------------------------------


def test_a_stored_config_names_no_place_to_write_to():
    config = config_lib.load('quickstart')
    data = json.loads(config.to_json())
    there = {'cache_dir': '/elsewhere', 'results': '/elsewhere/table.md', 'analyse': '--workdir=/elsewhere'}
    found = config_lib.from_data({**data, **there})
    assert [found[key] for key in there] == ['', '', '']
    assert found.to_json() == config.to_json()


def test_predict_does_not_write_where_a_strangers_config_says(tmp_path, monkeypatch):
    """The cache of decoded photographs and what is known of a folder."""
    from tests.support.photos import put

    photos = tmp_path / 'photos'
    put(photos, *(f'{name}/{k}.png' for name in ('cat', 'dog') for k in range(4)))
    config = config_lib.load('quickstart').unlock()
    config.target.update(name='folder', dir=str(photos), holdout=0.5, per_class=1)
    config.compare, config.baseline, config.cache_dir = type(config)(), '', str(tmp_path / 'elsewhere')
    run = tmp_path / 'st'
    files.create(run)
    files.write_json(run / 'config.json', files.to_data(config))
    cache = tmp_path / 'own'
    monkeypatch.setenv('MIXJAX_CACHE', str(cache))
    assert len(inference.test_set(run).label)
    assert not (tmp_path / 'elsewhere').exists() and cache.exists()


def test_run_names_outside_of_the_folder_are_not_measured(tmp_path):
    other = fake.make_run(tmp_path / 'other', 'smile', [0.9])
    for name in (str(other), '../other', '..', '.'):
        st = tmp_path / 'st'
        st.mkdir(exist_ok=True)
        (st / 'results.json').write_text(json.dumps({'kind': 'comparison', 'runs': {name: {}}}))
        with untouched(other), pytest.raises(UserError, match='cannot be the name of a sub-folder'):
            list(folders.measure(st, ['spectrum'], Asked()))
    for results in ({'kind': 'sweep'}, [], {'kind': 'x', 'runs': {}}, {'kind': 'sweep', 'runs': []}):
        (tmp_path / 'st' / 'results.json').write_text(json.dumps(results))
        with pytest.raises(UserError, match='is not a result of mixjax'):
            list(folders.measure(tmp_path / 'st', ['spectrum'], Asked()))


# --- files that a person names ----------------------------------------------------------------------------------------


def test_a_table_and_a_csv_are_put_in_place_of_a_link(tmp_path, victim):
    (tmp_path / 'table.md').symlink_to(victim)
    (tmp_path / 'found.csv').symlink_to(victim)
    answer = predict.Answer([], 0, 0, {}, 0)
    with untouched(victim.parent):
        sections.write(tmp_path / 'table.md', 'name', 'text')
        predict.write_csv(str(tmp_path / 'found.csv'), answer)
    assert (tmp_path / 'found.csv').read_text() == 'file,label\n' and 'text' in (tmp_path / 'table.md').read_text()


def test_a_device_is_not_replaced_by_a_file(tmp_path, capsys):
    run = fake.make_run(tmp_path / 'run', 'smile', [0.9])
    os.mkfifo(tmp_path / 'fifo.html')
    for name in ('/dev/null', str(tmp_path / 'fifo.html')):
        assert cli.run('report', [str(run), '--out', name]) == 2
        assert 'is not a regular file, and would be replaced by one' in capsys.readouterr().err
        with pytest.raises(UserError, match='not a regular file'):
            sections.write(name, 'a', 'b')
    assert Path('/dev/null').is_char_device() and (tmp_path / 'fifo.html').is_fifo()


def test_link_loops_are_refused(tmp_path, capsys):
    (tmp_path / 'self').symlink_to('self')
    long = tmp_path.joinpath(*['nested'] * 1200)
    for place in (tmp_path / 'self', tmp_path / 'self' / 'run', long):
        for words in (
            ['report', str(place)],
            ['report', '--out', str(place / 'x.html'), str(tmp_path)],
            ['predict', f'--workdir={place}', 'x.jpg'],
        ):
            assert cli.main(words) == 2, words
            said = capsys.readouterr().err
            assert said.startswith('mixjax: ') and 'Traceback' not in said, said


def test_a_run_in_a_loop_of_links(tmp_path):
    (tmp_path / 'self').symlink_to('self')
    with pytest.raises(UserError, match='cannot be written to: self is a link'), lock.hold(tmp_path / 'self', print):
        pass
