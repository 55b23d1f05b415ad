"""A lock on a work directory, so that one run at a time trains in it: a file with its owner and a heartbeat.

On the owner's machine the system knows whether the owner is alive. Another machine watches the heartbeat: no clocks
are compared. The lock of a dead owner is taken over.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from mixjax.errors import Busy, UserError
from mixjax.host import storage, untrusted
from mixjax.host.processes import by_first, first, from_first
from mixjax.host.progress import duration
from mixjax.host.storage import Place
from mixjax.rundir import files

BEAT = 10.0  # seconds between two heartbeats
LOST = 45.0  # seconds without one after which an owner on another machine counts as dead
MOST_BYTES = 1 << 20  # maximum size of a lock that is read
SETTLED = 2.0  # seconds after which all who took over the same lock at once have written theirs

# Folders that this process trains in: {lock: its token}, and the message after another run has taken one.
_tokens: dict[Place, str] = {}
_lost: dict[Place, str] = {}


@contextlib.contextmanager
def hold(folder: Place, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a folder during the block; with several processes the first one holds it.

    `rundir.files` writes in the folder only as long as the lock is this run's.
    """
    path = folder / files.LOCK
    mine = acquire(path, say)
    if first():
        _tokens[path] = mine['token']
        _lost.pop(path, None)
    done = threading.Event()
    beating = threading.Thread(target=_heartbeat, args=(path, mine, done), name='mixjax-lock', daemon=True)
    if first():
        beating.start()
    try:
        yield
    finally:
        done.set()
        if first():
            beating.join()
            del _tokens[path]
            if (_read(path) or {}).get('token') == mine['token']:
                with contextlib.suppress(OSError):
                    path.unlink()


def refuse_locked(folders: Iterable[Place], say: Callable[[str], None]) -> None:
    """Refuse to begin if another run trains in one of these folders; remove the lock of a dead process."""
    for folder in folders:
        if from_first((folder / files.LOCK).exists):
            with hold(folder, say):
                pass


def check(place: Place) -> None:
    """End the run, before it writes there, if another one has taken its lock of that folder, or above it."""
    for path in [path for path in _tokens if path.parent == place or path.parent in place.parents]:
        _check_ours(path)
        if path in _lost:
            raise UserError(_lost[path])


files.before_writing.append(check)


def _check_ours(path: Place) -> None:
    """Check that a lock is still this run's. In a store the heartbeat does that: each check is a request."""
    if path not in _lost and not storage.is_remote(path):
        _compare(path, _tokens[path])


def _compare(path: Place, token: str) -> bool:
    """Return whether a lock has this token; if not, the run has lost it. An incomplete one is being written."""
    found = _read(path)
    if found is not None and found['token'] in (token, ''):
        return True
    owner = 'nobody' if found is None else f'process {found["pid"]} on {found["host"]}'
    _lost[path] = (
        f'the lock of {path.parent} was taken from this run, and {owner} has it now: this process gave no '
        'sign of life for too long, or the file was removed; nothing more is written'
    )
    return False


@by_first
def acquire(path: Place, say: Callable[[str], None]) -> dict[str, Any]:
    """Take the lock; return its contents."""
    files.create(path.parent)
    mine = {**this_owner(), 'since': time.time(), 'beat': 0, 'token': secrets.token_hex(8)}
    while not _create(path, mine):
        found = _read(path)
        if found is None:
            time.sleep(0.01)  # it was released just now
            continue
        if alive(path, found, say):
            raise _busy(path, found)
        if _replace(path, found, mine):
            break
    return mine


def _busy(path: Place, found: dict[str, Any]) -> Busy:
    since = time.strftime('%Y-%m-%d %H:%M', time.localtime(found['since']))
    return Busy(
        f'{path.parent} is in use: process {found["pid"]} on {found["host"]} has been training in it since '
        f'{since} ({duration(time.time() - found["since"])} ago); wait for it, end it, or use another --workdir'
    )


@by_first
def refuse_part(folder: Place, say: Callable[[str], None]) -> None:
    """Refuse to train one run of a sweep or comparison that is being trained and will reach it."""
    inner = storage.absolute(folder)
    for outer in [*inner.parents][:2]:  # a comparison, and the sweep that it is a value of
        path, name = outer / files.LOCK, inner.relative_to(outer).parts[0]
        found = _read(path) if name in files.run_folders(outer) else None
        if found is not None and alive(path, found, say):
            raise _busy(path, found)


def this_owner() -> dict[str, Any]:
    """Return the owner that this process would be. machine: the scope in which process numbers are unique."""
    try:
        machine = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        machine = f'{machine} {os.stat("/proc/self/ns/pid").st_ino}'  # containers have separate process numbers
    except OSError:
        machine = platform.node()
    return {'host': platform.node(), 'machine': machine, 'pid': os.getpid(), 'started': _started(os.getpid())}


def _started(pid: int) -> str:
    """Return the start time of a process in the system's units; '' if it has ended, '?' if unknown."""
    if not Path('/proc/self/stat').exists():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ''
        except OSError:
            pass
        return '?'
    try:
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return ''
    return '' if fields[0] in 'ZX' else fields[19]  # dead, but not yet reaped by its parent


def alive(path: Place, found: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Return whether the owner of a lock is alive."""
    if found['machine'] == this_owner()['machine']:
        return _started(found['pid']) == found['started'] != ''
    say(
        f'{path.parent} was in use by process {found["pid"]} on {found["host"]}; '
        f'waiting {LOST:.0f} s for a sign of life'
    )
    until = time.monotonic() + LOST
    while time.monotonic() < until:
        time.sleep(min(1.0, LOST / 10))
        now = _read(path)
        if now is None:
            return False
        if (now['token'], now['beat']) != (found['token'], found['beat']):
            return True
    return False


def _create(path: Place, lock: dict[str, Any]) -> bool:
    """Write the lock if there is none."""
    with _explain_write_errors(path):
        return storage.create_exclusive(path, json.dumps(lock).encode())


@contextlib.contextmanager
def _explain_write_errors(path: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f'the work directory {path.parent} cannot be written to: {error.strerror or error}') from error


def _read(path: Place) -> dict[str, Any] | None:
    """Return the contents of the lock; None if there is none.

    An incomplete lock names no live owner, and is watched: it may be half-written. Anything that no run writes, such
    as a link, a FIFO or a file of gigabytes, counts as a dead owner's: it is replaced, and never followed.
    """
    nobody = {'host': '?', 'machine': '?', 'pid': -1, 'started': '', 'since': 0.0, 'beat': -1, 'token': ''}
    dead = {**nobody, 'machine': this_owner()['machine']}
    if not storage.is_remote(path) and path.is_symlink():
        return dead
    try:
        data = untrusted.read_regular(path, MOST_BYTES)
    except FileNotFoundError:
        return None
    except (untrusted.NotRegularFile, ValueError):
        return dead
    except OSError:
        return nobody
    try:
        found = untrusted.parse(data)
    except ValueError:
        return nobody
    fits = isinstance(found, dict) and all(type(found.get(key)) is type(value) for key, value in nobody.items())
    return found if fits and 0 <= found['since'] < 2**40 else nobody


def _replace(path: Place, found: dict[str, Any], mine: dict[str, Any]) -> bool:
    """Replace the lock of a dead owner; return False if another run was faster. There is always a lock meanwhile."""
    with _explain_write_errors(path), _exclusive(path.parent) as sure:
        now = _read(path)
        if now is None or now['token'] != found['token']:
            return False
        storage.write(path, json.dumps(mine).encode())
    if not sure:  # several processes may have come this far, and one was the last to write
        time.sleep(SETTLED)
    return (_read(path) or {}).get('token') == mine['token']


@contextlib.contextmanager
def _exclusive(folder: Place) -> Iterator[bool]:
    """Yield whether no other process is in this block for the folder; the system releases it when this one ends."""
    with contextlib.ExitStack() as stack:
        try:
            if storage.is_remote(folder):
                raise OSError('a store has no such locks')
            place = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, place)
            fcntl.flock(place, fcntl.LOCK_EX)
        except OSError:  # as on some network disks
            yield False
        else:
            yield True


def _heartbeat(path: Place, mine: dict[str, Any], done: threading.Event) -> None:
    """Write the heartbeat again and again, as long as this run has the lock."""
    beat = 0
    while not done.wait(BEAT):
        beat += 1
        if not _compare(path, mine['token']):
            return
        with contextlib.suppress(OSError):  # a full disk is reported where it matters
            storage.write(path, json.dumps({**mine, 'beat': beat}).encode())
