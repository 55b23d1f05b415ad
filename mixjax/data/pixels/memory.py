"""A budget of memory that threads share, and the error for too little memory.

Decoders take memory in proportion to the pixels. A thread holds its share of the budget while it decodes, so the sum
over all threads of a process is bounded for any number of threads.
"""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from collections.abc import Iterator

import numpy as np

from mixjax.errors import UserError


class OutOfMemory(UserError):
    """Too little memory for something. It is not a property of a file, so it is not cached for one."""


class Budget:
    """Bytes that threads hold for some time, at most `total` at once; requests are served in order."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._reset()
        if hasattr(os, 'register_at_fork'):  # a child process has none of the threads that hold bytes
            os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._waiting: collections.deque[object] = collections.deque()
        self.held = 0

    @contextlib.contextmanager
    def hold(self, count: int) -> Iterator[None]:
        """Hold `count` bytes during the block; wait until they are available."""
        if count > self.total:
            raise ValueError(f'{count} bytes are more than the budget of {self.total}')
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self.held + count > self.total:
                    self._changed.wait()
                self.held += count
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.held -= count
                self._changed.notify_all()


def require(count: int, what: str) -> None:
    """Raise `OutOfMemory` unless `count` bytes can be allocated now; `what` needs them."""
    try:
        np.empty(count, np.uint8)
    except MemoryError:
        raise OutOfMemory(
            f'{what} takes up to {count / 1e6:,.0f} MB of memory, and this process cannot have that much; close other '
            'programs or raise its limit (ulimit -v), and give the same command again'
        ) from None
