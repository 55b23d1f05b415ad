"""Several processes that train one run together: how they agree, and how they end together.

Each of them runs the same program on its own devices. What is decided by the files of the work directory is decided
by the first process, and told to the others; only the first one writes. With one process all of this is nothing.

Messages go through the service by which the processes found each other (`jax.distributed`), not through the
devices: they need no compilation, and a process may wait for hours while the first one prepares something.
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

# jax.distributed has no public name for its store of messages; its own helpers use it by this one.
from jax._src import distributed

from mixjax.errors import Stopped, UserError
from mixjax.host import liveness

Made = TypeVar('Made')
FOREVER = 2**31 - 1  # milliseconds. A process that waits for one that died is ended by the service.
ROOT = 'mixjax'
BOOK = 100  # messages that are kept until all have read them
EVERY = 1.0  # seconds between two looks at whether another process has failed
LAST = 10.0  # seconds in which they hear of it
TOGETHER = 3.0  # seconds in which an error that all have in common reaches all

# What a message may be made of besides Python's own plain types.
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
_ending = threading.Lock()  # the first thread that ends this process does it alone
_alone = 0  # how deep we are in what only the first process does


def count() -> int:
    """How many processes there are. Unlike jax.process_count() it does not wake the devices."""
    return 1 if distributed.global_state.client is None else distributed.global_state.num_processes


def index() -> int:
    """Which of them this is."""
    return 0 if distributed.global_state.client is None else distributed.global_state.process_id


def first() -> bool:
    """Whether this is the process that writes, and talks."""
    return index() == 0


# --- what all agree on ------------------------------------------------------------------------------------------------


def from_first(make: Callable[[], Made]) -> Made:
    """What the first process makes, in all of them; so is a `UserError`. All must ask, in the same order."""
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
        said = heard(client().blocking_key_value_get_bytes(place, FOREVER))
    _tidy(place)
    well, made = said
    if not well:
        error = UserError(made[0])
        error.code = made[1]
        raise error
    return made


def by_first(function: Callable[..., Made]) -> Callable[..., Made]:
    """A function that the first process carries out for all of them: see `from_first`."""

    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> Made:
        return from_first(lambda: function(*args, **kwargs))

    return told


def only_first(function: Callable[..., None]) -> Callable[..., None]:
    """A function that does nothing in the other processes; nobody waits for it."""

    @functools.wraps(function)
    def done(*args: Any, **kwargs: Any) -> None:
        if first():
            function(*args, **kwargs)

    return done


def gather(value: Made) -> list[Made]:
    """The value of each process, in all of them. All must ask, in the same order."""
    if count() == 1:
        return [value]
    place = _place()
    client().key_value_set_bytes(f'{place}/{index()}', pickle.dumps(value))
    found = [client().blocking_key_value_get_bytes(f'{place}/{i}', FOREVER) for i in range(count())]
    _tidy(place)
    return [heard(one) for one in found]


def agree(what: str, make: Callable[[], str]) -> None:
    """Refuse what is not the same on all machines. All must ask. make: a text that tells it from others."""
    if count() > 1 and len(set(gather(make()))) > 1:
        raise UserError(f'{what} is not the same on all machines; bring the same files to each of them')


class _Listener(pickle.Unpickler):
    """Messages hold plain data, arrays and what methods prepare; whatever else one names is not looked up."""

    def find_class(self, module: str, name: str) -> Any:
        if name in KNOWN.get(module, ()):
            return super().find_class(module, name)
        raise UserError(f'another process said {module}.{name}, which is no part of what processes tell each other')


def heard(message: bytes) -> Any:
    """What a message says."""
    return _Listener(io.BytesIO(message)).load()


def client() -> Any:
    """The service by which the processes tell each other."""
    return distributed.global_state.client


def _place() -> str:
    number = next(_number)
    return f'{ROOT}/said/{number // BOOK}/{number % BOOK}'


def _tidy(place: str) -> None:
    """Forget a book of messages once all have read it."""
    book, _, page = place.rpartition('/')
    if page == str(BOOK - 1):
        client().wait_at_barrier(book, FOREVER)
        if first():
            client().key_value_delete(f'{book}/')


# --- how they end -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What ends this process ends all of them; an error that all have is told once."""
    try:
        yield
        liveness.bye()
    except BaseException as error:
        if count() == 1:
            raise
        if isinstance(error, UserError) and alike(str(error)):
            liveness.bye()
            if first():
                raise
            raise SystemExit(error.code) from None
        if isinstance(error, Stopped):  # all have it
            if first():
                print(f'mixjax: {error}', file=sys.stderr)
            end(error.code)
        code, sentence = _why(error)
        if code == 1:  # it may come of another one's end, which the thread of `watch` hears of by now
            time.sleep(2 * EVERY)
        with _ending:
            if code == 1 and 'Gloo' not in sentence:
                traceback.print_exc()
            print(f'mixjax: process {index()}: {sentence}', file=sys.stderr)
            fail(code, sentence)


def _why(error: BaseException) -> tuple[int, str]:
    """The exit code, and a sentence."""
    if isinstance(error, UserError):
        return error.code, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, 'stopped; the same command goes on from the last checkpoint'
    line = str(error).partition('\n')[0]
    # Gloo is what processors talk by; of accelerators it is the service that notices a death.
    return 1, f'another task died ({line})' if 'Gloo' in line else f'{type(error).__name__}: {line}'


def watch(host: str) -> None:
    """From now on this process ends when another one says that it has failed, or dies. host: of the first process."""
    threading.Thread(target=_look, args=(client(),), name='mixjax-watch', daemon=True).start()
    if first():
        liveness.listen(client(), f'{ROOT}/lifeline', count(), _died)
    else:
        liveness.connect(client(), f'{ROOT}/lifeline', host, index(), _died)


def _died(process: int) -> None:
    """End, because another process has ended without a word; the first process tells the others."""
    with _ending:
        sentence = f'another task died (process {process}); the same command goes on from the last checkpoint'
        print(f'mixjax: {sentence}', file=sys.stderr, flush=True)
        if process == 0:  # and with it the service
            os._exit(1)
        with contextlib.suppress(Exception):  # it will not say so itself
            client().key_value_set(f'{ROOT}/ended/{process}', '')
        fail(1, sentence)


def _look(client: Any) -> None:
    while distributed.global_state.client is client:
        with contextlib.suppress(Exception):  # nothing there; or the service is gone, and with it this process
            failed = json.loads(client.key_value_try_get(f'{ROOT}/failed'))
            if failed['process'] != index():
                with _ending:
                    if first():
                        print(f'mixjax: {failed["sentence"]}', file=sys.stderr, flush=True)
                    leave(failed['code'])
        time.sleep(EVERY)


def alike(sentence: str) -> bool:
    """Whether all processes have an error now, as they do where the command or the config is wrong."""
    client().key_value_set(f'{ROOT}/error/{index()}', sentence)
    return _all(f'{ROOT}/error', TOGETHER)


def fail(code: int, sentence: str) -> NoReturn:
    """End all processes, because of something that happened in this one only."""
    failed = {'process': index(), 'code': code, 'sentence': f'process {index()}: {sentence}'}
    with contextlib.suppress(Exception):  # another one was faster, or the service is gone
        client().key_value_set(f'{ROOT}/failed', json.dumps(failed))
    leave(code, after=True)


def end(code: int) -> NoReturn:
    """End this process, as the others do by themselves."""
    with _ending:
        leave(code)


def leave(code: int, after: bool = False) -> NoReturn:
    """End this process now, or after the others.

    The end of the first one, which holds the service, would abort them; that of the one that has failed would be an
    error in the others, who wait for its devices.
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
    """Whether each process has left a message there, after so many seconds at most."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if len(client().key_value_dir_get(folder)) == count():
            return True
        time.sleep(0.1)
    return False
