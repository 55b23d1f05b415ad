"""The queue: batches, their limits, errors, and the end."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from mixjax.serve.batcher import Batcher


class Slow:
    """Squares of numbers, computed when it is let go on; `batches` are those that it was given."""

    def __init__(self):
        self.batches, self.go, self.inside = [], threading.Semaphore(0), threading.Event()

    def __call__(self, items):
        self.inside.set()
        assert self.go.acquire(timeout=30)
        self.batches.append(list(items))
        return [item**2 for item in items]


def test_what_waits_is_computed_at_once_and_no_more_than_fits():
    slow = Slow()
    batcher = Batcher(slow, most=4, patience=0.0)
    first = batcher.submit(1)
    assert slow.inside.wait(30)  # the thread is busy with the first
    others = [batcher.submit(k) for k in range(2, 9)]
    assert batcher.waiting == 7
    for _ in range(3):
        slow.go.release()
    assert [one.result(30) for one in [first, *others]] == [k**2 for k in range(1, 9)]
    assert slow.batches == [[1], [2, 3, 4, 5], [6, 7, 8]]
    batcher.close()
    assert not batcher.alive and batcher.waiting == 0


def test_a_batch_waits_a_while_for_others():
    batches = []
    batcher = Batcher(lambda items: batches.append(list(items)) or items, most=3, patience=5.0)
    began = time.monotonic()
    found = [batcher.submit(k) for k in range(3)]
    assert [one.result(30) for one in found] == [0, 1, 2]
    assert batches == [[0, 1, 2]] and time.monotonic() - began < 4  # a full batch does not wait on
    batcher.close()


def test_an_error_is_of_its_batch_and_the_thread_goes_on():
    def compute(items):
        if 'bad' in items:
            raise ValueError('no')
        return items

    batcher = Batcher(compute, most=1, patience=0.0)
    bad, good = batcher.submit('bad'), batcher.submit('good')
    with pytest.raises(ValueError, match='no'):
        bad.result(30)
    assert good.result(30) == 'good' and batcher.alive
    batcher.close()


def test_cancelled_items_are_not_computed():
    slow = Slow()
    batcher = Batcher(slow, most=8, patience=0.0)
    first = batcher.submit(1)
    assert slow.inside.wait(30)
    gone, kept = batcher.submit(2), batcher.submit(3)
    assert gone.cancel()
    slow.go.release()
    slow.go.release()
    assert (first.result(30), kept.result(30)) == (1, 9)
    with pytest.raises(CancelledError):
        gone.result(30)
    assert slow.batches == [[1], [3]]
    batcher.close()


def test_what_is_in_the_queue_is_computed_before_the_end():
    slow = Slow()
    batcher = Batcher(slow, most=2, patience=0.0)
    found = [batcher.submit(k) for k in range(3)]
    for _ in range(3):
        slow.go.release()
    batcher.close()
    assert [one.result(0) for one in found] == [0, 1, 4] and not batcher.alive
