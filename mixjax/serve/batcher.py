"""A queue in front of a function of several items: a thread computes what waits, up to a batch, at once."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')


class _Waiting(NamedTuple):
    """An item of the queue with the future of its result."""

    item: object
    future: Future


class Batcher(Generic[Item, Result]):
    """Computes items in batches, in a thread of its own.

    A batch is what waits when the thread is free, at most `most` items; if that is fewer, the thread waits for others,
    but not longer than `patience` seconds. The queue is not bounded here: whoever submits bounds it (`room`).

    Args:
      compute: items -> their results, in order. An exception is the result of every item of the batch.
      most: items of a batch, at most.
      patience: seconds.
      name: the name of the thread.
    """

    def __init__(
        self, compute: Callable[[Sequence[Item]], Sequence[Result]], most: int, patience: float, name: str = 'batcher'
    ) -> None:
        self._compute, self._most, self._patience = compute, most, patience
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Future[Result]:
        """Put an item into the queue, and return the future of its result; a cancelled one is not computed."""
        future: Future[Result] = Future()
        self._queue.put(_Waiting(item, future))
        return future

    @property
    def waiting(self) -> int:
        """The number of items in the queue."""
        return self._queue.qsize()

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    def close(self, seconds: float = 10.0) -> None:
        """Compute what is in the queue, and end the thread."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = self._batch(first)
            batch = [one for one in batch if one.future.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)
            if last:
                return

    def _batch(self, first: _Waiting) -> tuple[list[_Waiting], bool]:
        """Return a batch, and whether the queue has ended."""
        batch, until = [first], time.monotonic() + self._patience
        while len(batch) < self._most:
            try:
                one = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if one is None:
                return batch, True
            batch.append(one)
        return batch, False

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        try:
            results = self._compute([one.item for one in batch])  # pyright: ignore[reportArgumentType]
        except Exception as error:
            for one in batch:
                one.future.set_exception(error)
            return
        for one, result in zip(batch, results, strict=True):
            one.future.set_result(result)
