"""SIGTERM: a run that is told to end saves its state at a step that all its processes agree on, and ends with 42.

The training loop calls `tick` after each call of the training program. Of one process, the next tick after the signal
is where it stops. Of several, any of them may be told. Each then says how far it will go without an answer: no
further than the call that it may be beginning just now. The greatest of these numbers is where all of them stop.
Threads say it, so that no process waits for another one that waits for the devices of the first.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from mixjax.errors import Stopped
from mixjax.host import processes

EVERY = 0.5  # seconds between two looks at what the other processes say
PLACE = f'{processes.ROOT}/stop'
SENTENCE = 'told to stop; the same command goes on from the last checkpoint'


class _State:
    """asked: this process was told. inside: the training loop runs. ticks: calls of the training program so far.

    limit: how far this process goes before it has heard of `last`, the tick at which all stop.
    """

    def __init__(self) -> None:
        self.asked = self.inside = False
        self.ticks = 0
        self.limit: int | None = None
        self.last: int | None = None


_changed = threading.Condition()
_state = _State()


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """In the block SIGTERM ends the run as described above; for commands, in their main thread."""
    global _state
    _state = _State()
    if threading.current_thread() is not threading.main_thread():  # only that one can listen
        yield
        return
    before = signal.signal(signal.SIGTERM, _told)
    if processes.count() > 1:
        threading.Thread(target=_attend, args=(processes.client(),), name='mixjax-stop', daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _told(*_: Any) -> None:
    _state.asked = True
    if processes.count() == 1 and not _state.inside:  # nothing to save
        raise Stopped(SENTENCE)


@contextlib.contextmanager
def training() -> Iterator[None]:
    """The block is the training loop: it looks at `tick`, and saves before it ends."""
    before, _state.inside = _state.inside, True
    try:
        yield
    finally:
        _state.inside = before
    if processes.count() == 1 and _state.asked:
        raise Stopped(SENTENCE)


def tick() -> bool:
    """After each call of the training program: whether to stop here."""
    with _changed:
        _state.ticks += 1
        if processes.count() > 1 and _state.limit is not None and _state.ticks >= _state.limit:
            _changed.wait_for(lambda: _state.last is not None)
        return stopping()


def stopping() -> bool:
    """Whether the last tick was the one to stop at."""
    if processes.count() == 1:
        return _state.asked
    return _state.last is not None and _state.ticks >= _state.last


def stop(step: int) -> None:
    """End the run; its state at this step is saved."""
    raise Stopped(f'told to stop; saved at step {step}, and the same command goes on from there')


# --- several processes ------------------------------------------------------------------------------------------------


def _attend(client: Any) -> None:
    """Hear of the wish to stop, say how far this process goes, and hear how far all go."""
    while not _wished(client):
        if processes.client() is not client:
            return
        time.sleep(EVERY)
    with _changed:
        _state.limit = _state.ticks + 1
        mine = [_state.limit, _state.inside]
    client.key_value_set(f'{PLACE}/at/{processes.index()}', json.dumps(mine))
    while len(said := client.key_value_dir_get(f'{PLACE}/at')) < processes.count():
        time.sleep(EVERY)
    every = [json.loads(value) for _, value in said]
    if not any(inside for _, inside in every):  # nobody trains, so there is nothing to save
        if processes.first():
            print(f'mixjax: {SENTENCE}', file=sys.stderr, flush=True)
        processes.end(Stopped.code)
    with _changed:
        _state.last = max(limit for limit, _ in every)
        _changed.notify_all()


def _wished(client: Any) -> bool:
    """Whether a process was told to end; if it is this one, the others hear of it."""
    if _state.asked:
        with contextlib.suppress(Exception):  # another one was faster
            client.key_value_set(f'{PLACE}/wished', '')
    with contextlib.suppress(Exception):  # not there
        client.key_value_try_get(f'{PLACE}/wished')
        return True
    return False
