"""Coordination of several processes that train one run: they agree on decisions and end together.

Each of them runs the same program on its devices. Decisions that depend on the files of the work directory are made
by the first process and sent to the others; only the first one writes. With one process none of this does anything.

Messages go through the key-value store of `jax.distributed`, not through the devices: they need no compilation, and a
process may wait for hours while the first one prepares something.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

# jax.distributed has no public name for its key-value store; jax's helpers use it under this one.
from jax._src import distributed

from mixjax.errors import Stopped, UserError
from mixjax.host import liveness

Made = TypeVar('Made')
FOREVER = 2**31 - 1  # milliseconds. A process that waits for a dead one is ended by jax.distributed.
ROOT = 'mixjax'
BOOK = 100  # messages that are kept until all have read them
EVERY = 1.0  # seconds between two checks whether another process has failed
LAST = 10.0  # seconds in which all processes notice it
TOGETHER = 3.0  # seconds in which an error that all processes share occurs in all of them

# Types that a message may contain besides Python's plain types.
KNOWN = {
    'numpy': ('ndarray', 'dtype'),
    'numpy._core.multiarray': ('_reconstruct', 'scalar'),
    'numpy._core.numeric': ('_frombuffer',),
    'jax._src.array': ('_reconstruct_array',),
    'mixjax.method': ('Prepared', 'Segments'),
    '_codecs': ('encode',),
    'builtins': ('set', 'frozenset', 'slice', 'complex'),
}

_number = itertools.count()
_ending = threading.Lock()  # only one thread ends this process
_alone = 0  # depth of nested calls that only the first process runs


def count() -> int:
    """Return the number of processes. Unlike jax.process_count() it does not initialise the devices."""
    return 1 if distributed.global_state.client is None else distributed.global_state.num_processes


def index() -> int:
    """Return the number of this process."""
    return 0 if distributed.global_state.client is None else distributed.global_state.process_id


def first() -> bool:
    """Return whether this is the first process, which writes files and prints."""
    return index() == 0


# --- agreement --------------------------------------------------------------------------------------------------------


def from_first(make: Callable[[], Made]) -> Made:
    """Run `make` in the first process and return its result in all of them.

    A `UserError` is raised in all of them. All must call this, in the same order.
    """
    global _alone
    if count() == 1 or _alone:
        return make()
    place = _place()
    if first():
        _alone += 1
        try:
            said: Any = True, make()
        except UserError as error:
            said = False, (str(error), error.code)
        finally:
            _alone -= 1
        client().key_value_set_bytes(place, pickle.dumps(said))
    else:
        said = decode_message(client().blocking_key_value_get_bytes(place, FOREVER))
    _tidy(place)
    well, made = said
    if not well:
        error = UserError(made[0])
        error.code = made[1]
        raise error
    return made


def by_first(function: Callable[..., Made]) -> Callable[..., Made]:
    """Wrap a function so that the first process runs it for all of them: see `from_first`."""

    @functools.wraps(function)
    def from_first_only(*args: Any, **kwargs: Any) -> Made:
        return from_first(lambda: function(*args, **kwargs))

    return from_first_only


def only_first(function: Callable[..., None]) -> Callable[..., None]:
    """Wrap a function so that only the first process runs it; the others do nothing and do not wait."""

    @functools.wraps(function)
    def done(*args: Any, **kwargs: Any) -> None:
        if first():
            function(*args, **kwargs)

    return done


def gather(value: Made) -> list[Made]:
    """Return the values of all processes, in all of them. All must call this, in the same order."""
    if count() == 1:
        return [value]
    place = _place()
    client().key_value_set_bytes(f'{place}/{index()}', pickle.dumps(value))
    found = [client().blocking_key_value_get_bytes(f'{place}/{i}', FOREVER) for i in range(count())]
    _tidy(place)
    return [decode_message(one) for one in found]


def agree(what: str, make: Callable[[], str]) -> None:
    """Refuse a thing that is not the same on all machines. All processes must call this.

    Args:
      what: the thing, for the message.
      make: returns a text that identifies it.
    """
    if count() > 1 and len(set(gather(make()))) > 1:
        raise UserError(f'{what} is not the same on all machines; bring the same files to each of them')


class _Listener(pickle.Unpickler):
    """Reader of messages, which hold plain data, arrays and values of `prepare`; any other type is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if name in KNOWN.get(module, ()):
            return super().find_class(module, name)
        raise UserError(f'another process said {module}.{name}, which is not a type that processes send each other')


def decode_message(message: bytes) -> Any:
    """Decode a message."""
    return _Listener(io.BytesIO(message)).load()


def client() -> Any:
    """Return the key-value store of `jax.distributed`."""
    return distributed.global_state.client


def _place() -> str:
    number = next(_number)
    return f'{ROOT}/said/{number // BOOK}/{number % BOOK}'


def _tidy(place: str) -> None:
    """Delete a book of messages once all processes have read it."""
    book, _, page = place.rpartition('/')
    if page == str(BOOK - 1):
        client().wait_at_barrier(book, FOREVER)
        if first():
            client().key_value_delete(f'{book}/')


# --- ending together --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def end_together() -> Iterator[None]:
    """End all processes if this one ends with an error in the block; an error that all of them have is printed once."""
    try:
        yield
        liveness.bye()
    except BaseException as error:
        if count() == 1:
            raise
        if isinstance(error, UserError) and all_failed(str(error)):
            liveness.bye()
            if first():
                raise
            raise SystemExit(error.code) from None
        if isinstance(error, Stopped):  # all processes raise it
            if first():
                print(f'mixjax: {error}', file=sys.stderr)
            end(error.code)
        code, sentence = _why(error)
        if code == 1:  # it may be caused by another one's end, which the thread of `watch` notices in this time
            time.sleep(2 * EVERY)
        with _ending:
            if code == 1 and 'Gloo' not in sentence:
                traceback.print_exc()
            print(f'mixjax: process {index()}: {sentence}', file=sys.stderr)
            fail(code, sentence)


def _why(error: BaseException) -> tuple[int, str]:
    """Return the exit code for an error, and its message."""
    if isinstance(error, UserError):
        return error.code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, 'stopped; the same command goes on from the last checkpoint'
    line = str(error).partition('\n')[0]
    # CPUs communicate by Gloo; for accelerators jax.distributed notices a death.
    return 1, f'another task died ({line})' if 'Gloo' in line else f'{type(error).__name__}: {line}'


def watch(host: str) -> None:
    """From now on, end this process when another one reports a failure or dies.

    Args:
      host: host of the first process.
    """
    threading.Thread(target=_poll, args=(client(),), name='mixjax-watch', daemon=True).start()
    if first():
        liveness.listen(client(), f'{ROOT}/lifeline', count(), _died)
    else:
        liveness.connect(client(), f'{ROOT}/lifeline', host, index(), _died)


def _died(process: int) -> None:
    """End because another process has ended without notice; the first process informs the others."""
    with _ending:
        sentence = f'another task died (process {process}); the same command goes on from the last checkpoint'
        print(f'mixjax: {sentence}', file=sys.stderr, flush=True)
        if process == 0:  # and the key-value store with it
            os._exit(1)
        with contextlib.suppress(Exception):  # it cannot set this itself
            client().key_value_set(f'{ROOT}/ended/{process}', '')
        fail(1, sentence)


def _poll(client: Any) -> None:
    while distributed.global_state.client is client:
        with contextlib.suppress(Exception):  # no failure; or the key-value store is gone, and jax ends this process
            failed = json.loads(client.key_value_try_get(f'{ROOT}/failed'))
            if failed['process'] != index():
                with _ending:
                    if first():
                        print(f'mixjax: {failed["sentence"]}', file=sys.stderr, flush=True)
                    leave(failed['code'])
        time.sleep(EVERY)


def all_failed(sentence: str) -> bool:
    """Return whether all processes have an error now, as when the command or the config is wrong."""
    client().key_value_set(f'{ROOT}/error/{index()}', sentence)
    return _all(f'{ROOT}/error', TOGETHER)


def fail(code: int, sentence: str) -> NoReturn:
    """End all processes because of an error in this one."""
    failed = {'process': index(), 'code': code, 'sentence': f'process {index()}: {sentence}'}
    with contextlib.suppress(Exception):  # another one was faster, or the store is gone
        client().key_value_set(f'{ROOT}/failed', json.dumps(failed))
    leave(code, after=True)


def end(code: int) -> NoReturn:
    """End this process; the others end by themselves."""
    with _ending:
        leave(code)


def leave(code: int, after: bool = False) -> NoReturn:
    """End this process now, or after the others.

    The first one must wait because it holds the key-value store, and its end would abort the others. A failed one must
    wait because its end would raise errors in the others, which wait for its devices.

    Args:
      code: the exit code.
      after: wait for the others, up to `LAST` seconds; the first process always does.
    """
    liveness.bye()
    with contextlib.suppress(Exception):
        client().key_value_set(f'{ROOT}/ended/{index()}', '')
        if after or first():
            _all(f'{ROOT}/ended', LAST)
        if first():
            time.sleep(EVERY)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an orderly exit would wait for the others


def _all(folder: str, seconds: float) -> bool:
    """Wait up to `seconds` for a message of each process in `folder`; return whether all have left one."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if len(client().key_value_dir_get(folder)) == count():
            return True
        time.sleep(0.1)
    return False
