"""A disk that is full, and a folder that cannot be written to: one sentence, and nothing that was saved is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest

from mixjax.errors import UserError
from mixjax.host import disk_full
from mixjax.rundir import integrity
from tests.support import harm
from tests.support.common import assert_same_run, command, environment


def own_mounts() -> bool:
    """Whether a process may have mounts of its own here."""
    try:
        return (
            subprocess.run(['unshare', '-rm', 'mount', '-t', 'tmpfs', 'none', '/mnt'], capture_output=True).returncode
            == 0
        )
    except OSError:
        return False


needs_mounts = pytest.mark.skipif(not own_mounts(), reason='a process may not mount anything here')
RUN = ' '.join(f"'{word}'" for word in command(*harm.words()))


def shell(folder, script: str) -> subprocess.CompletedProcess:
    """A script in a mount namespace of its own; `disk` is a folder in it."""
    (folder / 'disk').mkdir(parents=True)
    return subprocess.run(
        ['unshare', '-rm', 'bash', '-ec', script],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )


def told_well(said: str) -> None:
    assert '/mixjax/' not in said  # threads of Orbax may add what they know; nothing of ours does
    assert 'cannot be written to: No space left on device. What was saved before is whole' in said, said


@pytest.mark.faults
@needs_mounts
@pytest.mark.parametrize('free', [0, 40, 200])
def test_a_disk_that_is_full_in_mid_training(free, tmp_path):
    """After the first checkpoint all but `free` kilobytes are taken; with room again the run ends as it should."""
    straight = harm.finished(tmp_path / 'straight', *harm.words())
    script = f"""
        mount -t tmpfs -o size=60m none disk
        cd disk
        ( until ls run/checkpoints/0/step_5 >/dev/null 2>&1; do sleep 0.01; done
          dd if=/dev/zero of=ballast bs=1k 2>/dev/null || true
          truncate -s -{free}k ballast ) &
        status=0; {RUN} 2>../said || status=$?
        echo first $status; cat ../said >&2
        rm ballast
        {RUN} >/dev/null
        mkdir -p ../kept && cp -r run ../kept/run
    """
    done = shell(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'first 2', done.stdout
    told_well(done.stderr)
    assert_same_run(straight, tmp_path / 'kept' / 'run', range(3), 20)


@pytest.mark.faults
@needs_mounts
def test_a_disk_that_is_full_when_the_report_is_written(tmp_path):
    straight = harm.finished(tmp_path / 'straight', *harm.words())
    shutil.copytree(straight, tmp_path / 'copy')
    (tmp_path / 'copy' / 'report.html').unlink()
    script = f"""
        mount -t tmpfs -o size=60m none disk
        cp -r copy disk/run; cd disk
        dd if=/dev/zero of=ballast bs=1k 2>/dev/null || true
        status=0; {RUN} 2>../said >/dev/null || status=$?
        echo first $status; cat ../said >&2; ls -la >&2
        rm ballast
        {RUN} >/dev/null
        cp run/report.html ..
    """
    done = shell(tmp_path, script)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == 'first 2' and 'Traceback' not in done.stderr
    assert (tmp_path / 'report.html').read_bytes() == (straight / 'report.html').read_bytes()


@needs_mounts
def test_a_read_only_work_directory(tmp_path):
    script = f"""
        mount -t tmpfs none disk; mkdir disk/run; mount -o remount,ro disk
        cd disk; {RUN}
    """
    done = shell(tmp_path, script)
    assert done.returncode == 2, done.stderr
    assert done.stderr == 'mixjax: the work directory run cannot be written to: Read-only file system\n'


@pytest.mark.faults
def test_file_size_limit_is_reported(tmp_path):
    """A quota: no file of the run may be larger than 2 kB."""
    done = subprocess.run(
        ['bash', '-c', 'ulimit -f 2; exec "$@"', 'bash', *command(*harm.words())],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    assert 'cannot be written to: File too large' in done.stderr
    assert integrity.steps(tmp_path / 'run' / 'checkpoints' / '0') == []


def test_write_errors_are_explained():
    with (
        pytest.raises(UserError, match='run cannot be written to: No space left on device'),
        disk_full.explain_write_errors('run'),
    ):
        try:
            raise OSError(errno.ENOSPC, 'no room')
        except OSError as error:
            raise RuntimeError('saving failed') from error
    with pytest.raises(UserError, match='Disk quota exceeded'), disk_full.explain_write_errors('run'):
        raise ValueError(f'INTERNAL: write: {os.strerror(errno.EDQUOT)} [source locations]')
    with pytest.raises(UserError, match='too little memory'), disk_full.explain_write_errors('run'):
        raise MemoryError
    with pytest.raises(UserError, match='^as it was$'), disk_full.explain_write_errors('run'):
        raise UserError('as it was')
    with pytest.raises(KeyError), disk_full.explain_write_errors('run'):
        raise KeyError('a fault of ours is none of the disk')
