"""Handling of SIGTERM: the run saves its state at a step that all its processes agree on, and exits with 42.

The training loop calls `tick` after each call of the training program. A single process stops at the next tick after
the signal. With several, any of them may get the signal. Each then publishes the tick up to which it may run without
an answer: that of the call that it may be starting just now. All of them stop at the largest of these ticks. Threads
publish it, so that no process waits for another one that waits for the devices of the first.
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

EVERY = 0.5  # seconds between two reads of the other processes' messages
PLACE = f'{processes.ROOT}/stop'
SENTENCE = 'stopped by SIGTERM; the same command goes on from the last checkpoint'


class _State:
    """State of a request to stop.

    Attributes:
      asked: this process got the signal.
      inside: the training loop is running.
      ticks: number of calls of the training program so far.
      limit: the tick at which this process waits for `last`; None without a request.
      last: the tick at which all processes stop; None until it is known.
    """

    def __init__(self) -> None:
        self.asked = self.inside = False
        self.ticks = 0
        self.limit: int | None = None
        self.last: int | None = None


_changed = threading.Condition()
_state = _State()


@contextlib.contextmanager
def handle_sigterm() -> Iterator[None]:
    """Handle SIGTERM in the block as described above; for commands, in their main thread."""
    global _state
    _state = _State()
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    if processes.count() > 1:
        threading.Thread(target=_attend, args=(processes.client(),), name='mixjax-stop', daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _on_sigterm(*_: Any) -> None:
    _state.asked = True
    if processes.count() == 1 and not _state.inside:  # nothing to save
        raise Stopped(SENTENCE)


@contextlib.contextmanager
def training() -> Iterator[None]:
    """Mark the block as the training loop, which calls `tick` and saves before it ends."""
    before, _state.inside = _state.inside, True
    try:
        yield
    finally:
        _state.inside = before
    if processes.count() == 1 and _state.asked:
        raise Stopped(SENTENCE)


def tick() -> bool:
    """Count a call of the training program, and return whether to stop after it."""
    with _changed:
        _state.ticks += 1
        if processes.count() > 1 and _state.limit is not None and _state.ticks >= _state.limit:
            _changed.wait_for(lambda: _state.last is not None)
        return stopping()


def stopping() -> bool:
    """Return whether the last tick was the one to stop at."""
    if processes.count() == 1:
        return _state.asked
    return _state.last is not None and _state.ticks >= _state.last


def stop(step: int) -> None:
    """Raise `Stopped` for a run whose state at this step is saved."""
    raise Stopped(f'stopped by SIGTERM; saved at step {step}, and the same command goes on from there')


# --- several processes ------------------------------------------------------------------------------------------------


def _attend(client: Any) -> None:
    """Wait for a request to stop, publish this process's limit, and read the limits of all."""
    while not _stop_requested(client):
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


def _stop_requested(client: Any) -> bool:
    """Return whether a process got the signal; if this one did, publish it to the others."""
    if _state.asked:
        with contextlib.suppress(Exception):  # another one was faster
            client.key_value_set(f'{PLACE}/wished', '')
    with contextlib.suppress(Exception):  # no such key yet
        client.key_value_try_get(f'{PLACE}/wished')
        return True
    return False
