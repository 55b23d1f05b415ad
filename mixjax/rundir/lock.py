"""One run at a time in a work directory: a file that says who has it, and again and again that its owner is alive.

On the owner's machine the system knows whether the owner lives. On another one its signs of life are watched: no
clocks are compared. The lock of an owner that is dead is taken over.
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

BEAT = 10.0  # seconds between two signs of life
LOST = 45.0  # seconds without one after which an owner on another machine counts as dead
MOST_BYTES = 1 << 20  # of a lock that is read
SETTLED = 2.0  # seconds after which all who took over the same lock at once have written theirs

# Of the folders that this process trains in: {lock: its token}, and what to say once another run has taken one.
_tokens: dict[Place, str] = {}
_lost: dict[Place, str] = {}


@contextlib.contextmanager
def held(folder: Place, say: Callable[[str], None]) -> Iterator[None]:
    """Nobody else trains in the folder during the block; of several processes the first one sees to that.

    What `rundir.files` writes in the folder is written only as long as the lock is this run's.
    """
    path = folder / files.LOCK
    mine = taken(path, say)
    if first():
        _tokens[path] = mine['token']
        _lost.pop(path, None)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(path, mine, done), name='mixjax-lock', daemon=True)
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


def try_all(folders: Iterable[Place], say: Callable[[str], None]) -> None:
    """Refuse to begin if somebody trains in one of these folders; a lock that a dead process has left is removed."""
    for folder in folders:
        if from_first((folder / files.LOCK).exists):
            with held(folder, say):
                pass


def check(place: Place) -> None:
    """Before something is written there: end the run if another one has taken its lock of that folder, or above it."""
    for path in [path for path in _tokens if path.parent == place or path.parent in place.parents]:
        _look(path)
        if path in _lost:
            raise UserError(_lost[path])


files.before_writing.append(check)


def _look(path: Place) -> None:
    """See whether a lock is still this run's. In a store that is left to the signs of life: each look is a request."""
    if path not in _lost and not storage.remote(path):
        _compare(path, _tokens[path])


def _compare(path: Place, token: str) -> bool:
    """Whether a lock has this token; if not, the run has lost it. One that is not whole is being written."""
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
def taken(path: Place, say: Callable[[str], None]) -> dict[str, Any]:
    """Take the lock; returns what it says."""
    files.create(path.parent)
    mine = {**me(), 'since': time.time(), 'beat': 0, 'token': secrets.token_hex(8)}
    while not _put(path, mine):
        found = _read(path)
        if found is None:
            time.sleep(0.01)  # it was given back just now
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
    """Refuse to train by itself a run of a sweep or comparison that is being trained and will come to it."""
    inner = storage.absolute(folder)
    for outer in [*inner.parents][:2]:  # a comparison, and the sweep that it is a value of
        path, name = outer / files.LOCK, inner.relative_to(outer).parts[0]
        found = _read(path) if name in files.parts_of(outer) else None
        if found is not None and alive(path, found, say):
            raise _busy(path, found)


def me() -> dict[str, Any]:
    """The owner that this process would be. machine: where process numbers mean the same."""
    try:
        machine = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        machine = f'{machine} {os.stat("/proc/self/ns/pid").st_ino}'  # containers count their processes themselves
    except OSError:
        machine = platform.node()
    return {'host': platform.node(), 'machine': machine, 'pid': os.getpid(), 'started': _started(os.getpid())}


def _started(pid: int) -> str:
    """When a process began, as the system counts it; '' if it has ended, '?' if that cannot be known."""
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
    return '' if fields[0] in 'ZX' else fields[19]  # dead, but its parent has not looked yet


def alive(path: Place, found: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Whether the owner of a lock lives."""
    if found['machine'] == me()['machine']:
        return _started(found['pid']) == found['started'] != ''
    say(
        f'{path.parent} was in use by process {found["pid"]} on {found["host"]}; '
        f'{LOST:.0f} s are waited for a sign of life'
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


def _put(path: Place, lock: dict[str, Any]) -> bool:
    """Write the lock if there is none."""
    with _told(path):
        return storage.create(path, json.dumps(lock).encode())


@contextlib.contextmanager
def _told(path: Place) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f'the work directory {path.parent} cannot be written to: {error.strerror or error}') from error


def _read(path: Place) -> dict[str, Any] | None:
    """What the lock says; None if there is none.

    One that is not whole says nothing of an owner that lives, and is watched: it may be half-written. What no run
    leaves, such as a link, a FIFO or a file of gigabytes, counts as a dead owner's: it is replaced, and never followed.
    """
    nobody = {'host': '?', 'machine': '?', 'pid': -1, 'started': '', 'since': 0.0, 'beat': -1, 'token': ''}
    dead = {**nobody, 'machine': me()['machine']}
    if not storage.remote(path) and path.is_symlink():
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
    """Put a lock in the place of a dead owner's; False if another run was faster. There is always one meanwhile."""
    with _told(path), _alone(path.parent) as sure:
        now = _read(path)
        if now is None or now['token'] != found['token']:
            return False
        storage.write(path, json.dumps(mine).encode())
    if not sure:  # several may have come so far, and one was the last to write
        time.sleep(SETTLED)
    return (_read(path) or {}).get('token') == mine['token']


@contextlib.contextmanager
def _alone(folder: Place) -> Iterator[bool]:
    """Whether no other process is in this block for the folder; the system frees it, however this one ends."""
    with contextlib.ExitStack() as stack:
        try:
            if storage.remote(folder):
                raise OSError('a store has no such locks')
            place = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, place)
            fcntl.flock(place, fcntl.LOCK_EX)
        except OSError:  # as on some network disks
            yield False
        else:
            yield True


def _beat(path: Place, mine: dict[str, Any], done: threading.Event) -> None:
    """Say again and again that the owner lives, as long as the lock is its own."""
    beat = 0
    while not done.wait(BEAT):
        beat += 1
        if not _compare(path, mine['token']):
            return
        with contextlib.suppress(OSError):  # a full disk is told where it matters
            storage.write(path, json.dumps({**mine, 'beat': beat}).encode())
