"""The host side of a streamed feed, which reads images ahead while the devices train.

The plan of a step is computed here by the same functions as on the devices. Several steps are read at once by threads
(grain), and one more thread puts the images on the devices, two calls of the program ahead.
"""

from __future__ import annotations

import functools
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mixjax.data.feed import plan
from mixjax.data.feed.plan import Sizes

Array = jax.Array
Tree = Any
AHEAD = 2  # calls of the program
MOST = 1 << 30  # bytes of images that are read ahead on the host, besides the calls above


class Epochs:
    """`plan.epochs` on the host: the same numbers, with a cache of the orders of epochs.

    Args:
      key: the key of the orders.
      batch: B.
      count: number of examples in an epoch.
    """

    def __init__(self, key: Array, batch: int, count: int) -> None:
        self._batch, self._count = batch, count
        span = (batch - 1) // count + 2
        self._order = functools.lru_cache(span + 1)(lambda epoch: np.asarray(_order(key, epoch, count)))

    def __call__(self, step: int) -> np.ndarray:
        """Return the rows of a step's batch, (B,)."""
        first = step * self._batch % 2**32
        place = first % self._count + np.arange(self._batch)
        epochs = place // self._count
        orders = [self._order(np.uint32(first // self._count + epoch)) for epoch in range(int(epochs[-1]) + 1)]
        return np.stack(orders)[epochs, place % self._count]


class Planner:
    """`plan.rows` of one seed on the host: the same numbers.

    Args:
      key: the seed's key for the data.
      inputs: of `batches.seed_inputs`.
      sizes: of a batch.
    """

    def __init__(self, key: Array, inputs: Tree, sizes: Sizes) -> None:
        self._label = np.asarray(inputs['target']['label'])
        self._epoch = inputs.get('epoch', np.arange(len(self._label), dtype=np.int32))
        self._groups, self.unlabelled = sizes.groups, sizes.unlabelled
        self._key, self._draw = jax.device_put((key, inputs.get('draw')), _processor())
        self._target = Epochs(plan.streams(self._key).order, sizes.batch, len(self._epoch))
        if sizes.unlabelled:
            count = len(inputs['unlabelled']['image'])
            self.more = Epochs(plan.unlabelled_order(self._key), sizes.unlabelled, count)

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return (target, partner, source) of `plan.Rows` for a step."""
        target = self._epoch[self._target(step)]
        rest = _rest(self._key, np.int32(step), target, self._label[target], self._draw, self._groups)
        partner, source = jax.tree.map(np.asarray, rest)
        return target, partner.astype(np.int32), source


_order = jax.jit(plan.order, static_argnums=2)


@functools.partial(jax.jit, static_argnums=5)
def _rest(key: Array, step: Any, target: Any, label: Any, draw: Any, groups: int) -> tuple[Array, Array | None]:
    rows = plan.of_target(key, step, target, label, groups=groups, draw=draw)
    return rows.partner, rows.source


@functools.cache
def _processor() -> Any:
    """Return the device of the host's CPU, which does no training."""
    try:
        return jax.local_devices(backend='cpu')[0]
    except RuntimeError:  # jax is configured not to use it
        return jax.local_devices()[0]


def examples(inputs: Tree, planner: Planner, step: int, part: slice = slice(None)) -> dict[str, np.ndarray]:
    """Read the examples of a step of one seed; the names are those of a batch.

    Args:
      inputs: of `batches.seed_inputs`.
      planner: the plan of the seed.
      step: the step.
      part: the places of the batch whose images are read.
    """
    target, partner, place = planner(step)
    found = {'image': inputs['target']['image'][target[part]], 'label': inputs['target']['label'][target]}
    found |= {'index': target, 'partner': partner}
    if planner.unlabelled:
        rows = planner.more(step)
        times = len(rows) // len(target)  # of each position of the batch
        first, last, _ = part.indices(len(target))
        some = rows[first * times : last * times]
        found |= {'unlabelled_image': inputs['unlabelled']['image'][some], 'unlabelled_index': rows}
    if place is not None:
        source, shards = inputs['source'], inputs['source']['label'].shape[:-1]
        if shards:
            # Position i of the batch draws from the shard of its part of the batch.
            shard = np.arange(len(place)) * shards[0] // len(place)
            found['source_image'] = source['image'][shard[part], place[part]]
            found['source_label'] = source['label'][shard, place]
        else:
            found |= {'source_image': source['image'][place[part]], 'source_label': source['label'][place]}
    return found


def covering_slice(parts: Sequence[slice]) -> slice:
    """Return the smallest slice that covers these parts of a batch; empty ones do not count."""
    there = [part for part in parts if part.stop > part.start]
    return slice(min(part.start for part in there), max(part.stop for part in there)) if there else slice(0, 0)


class Stream:
    """The host side of a streamed feed, for the seeds that are trained at once.

    inputs(step, count) may be called for any step; in the order of `calls` the images have been read ahead.

    Args:
      trees: `batches.seed_inputs` of each trial.
      keys: the seeds' keys for the data.
      sizes: of a batch.
      steps: number of steps of the run.
      calls: step -> (step, count) of the calls of the program from that step on.
      put: puts a tree of (t, count, B, ..) arrays on the devices.
      shares: places of each trial's batch that need images; () for all. Other places have arbitrary values.
    """

    def __init__(
        self, trees: list[Tree], keys: list[Array], sizes: Sizes, *, steps: int,
        calls: Callable[[int], Iterable[tuple[int, int]]], put: Callable[[Tree], Tree], shares: Sequence[slice] = (),
    ) -> None:  # fmt: skip
        # Trials that only fill up the mesh repeat the last seed, which is read once.
        found = {id(tree['target']): (tree, key) for tree, key in zip(trees, keys, strict=True)}
        self._trials = [list(found).index(id(tree['target'])) for tree in trees]
        self._shares = list(shares) or [slice(0, sizes.batch)] * len(trees)
        needed = [
            [share for share, i in zip(self._shares, self._trials, strict=True) if i == k] for k in range(len(found))
        ]
        self._seeds = [
            (tree, Planner(key, tree, sizes), covering_slice(those))
            for (tree, key), those in zip(found.values(), needed, strict=True)
        ]
        self._steps, self._calls, self._put, self._batch = steps, calls, put, sizes.batch
        # Images of each position of the batch, if not one.
        self._times = {'unlabelled': sizes.unlabelled // sizes.batch}
        self._bytes = sum(
            (part.stop - part.start) * self._times.get(name, 1) * int(np.prod(table['image'].shape[-3:]))
            for tree, _, part in self._seeds
            for name, table in tree.items()
            if isinstance(table, dict)
        )  # of one step
        self._ahead: Ahead | None = None
        self._readers: set[threading.Thread] = set()

    def inputs(self, step: int, count: int) -> Tree:
        found = next(self._ahead, None) if self._ahead is not None else None
        if found is None or found[:2] != (step, count):
            self.close()
            self._ahead = Ahead(self._from(step, count), AHEAD)
            found = next(self._ahead)
        return found[2]

    def close(self) -> None:
        """End the threads."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None

    def read(self, step: int) -> list[dict[str, np.ndarray]]:
        """Read the examples of one step for each seed, with only the images that are needed."""
        self._readers.add(threading.current_thread())
        return [examples(tree, planner, step, part) for tree, planner, part in self._seeds]

    def laid_out(self, read: list[list[dict[str, np.ndarray]]]) -> Tree:
        """Return the examples of several steps as (t, count, B, ..) arrays."""

        def one(name: str) -> np.ndarray:
            image, times = name.endswith('image'), self._times.get(name.removesuffix('_image'), 1)
            some = read[0][0][name]
            # Places that are not needed are not written to, so they take no memory.
            out = np.empty(
                (len(self._trials), len(read), *((times * self._batch,) if image else some.shape[:1]), *some.shape[1:]),
                some.dtype,
            )
            for t, k in enumerate(self._trials):
                part = self._seeds[k][2]
                for i, step in enumerate(read):
                    place = slice(part.start * times, part.stop * times) if image else slice(None)
                    out[t, i][place] = step[k][name]
            return out

        return {name: one(name) for name in read[0][0]}

    def _from(self, step: int, count: int) -> Iterator[tuple[int, int, Tree]]:
        """Yield the calls of the program from this one on, with their inputs on the devices."""
        import grain

        def calls() -> Iterator[tuple[int, int]]:
            yield step, count
            yield from self._calls(step + count)

        threads = os.cpu_count() or 1
        many = max(2, min(MOST // max(self._bytes, 1), max(threads, AHEAD * count)))
        steps = grain.MapDataset.range(max(self._steps, step + count)).map(self.read)[step:]
        reader = iter(steps.to_iter_dataset(grain.ReadOptions(min(threads, many), many)))
        try:
            for first, length in calls():
                read = [next(reader) for _ in range(length)]
                whole = self.laid_out(read)
                whole['first'] = np.full(len(self._trials), first, np.int32)
                yield first, length, self._put(whole)
        finally:
            reader.close()
            for thread in self._readers:  # grain's threads, which end now
                thread.join()
            self._readers.clear()


class Ahead:
    """An iterator whose items are made by another thread, at most `size` of them ahead.

    An error there is raised here. `close` ends the thread; it has ended too once the iterator is exhausted or failed.
    """

    def __init__(self, items: Iterator[Any], size: int) -> None:
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(size)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._make, args=(items,), name='mixjax-ahead', daemon=True)
        self._thread.start()

    def _make(self, items: Iterator[Any]) -> None:
        try:
            for item in items:
                if not self._hand('item', item):
                    return
            self._hand('end', None)
        except BaseException as error:  # raised again in the thread that iterates
            self._hand('error', error)
        finally:
            close = getattr(items, 'close', None)
            if close is not None:
                close()

    def _hand(self, kind: str, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put((kind, item), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._stop.is_set():
            raise StopIteration
        kind, item = self._queue.get()
        if kind == 'item':
            return item
        self.close()
        if kind == 'error':
            raise item
        raise StopIteration

    def close(self) -> None:
        self._stop.set()
        self._thread.join()


class Batches(Sequence):
    """A sequence that can only be iterated over; its items are made again each time, a few of them ahead.

    Args:
      make: returns an iterator of the items.
      count: number of items.
    """

    def __init__(self, make: Callable[[], Iterator[Any]], count: int) -> None:
        self._make, self._count = make, count
        self._ahead: Ahead | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: Any) -> Any:
        raise TypeError('batches that are read as they are needed come in order only')

    def __iter__(self) -> Iterator[Any]:
        self.close()
        self._ahead = Ahead(self._make(), AHEAD)
        try:
            yield from self._ahead
        finally:
            self.close()

    def close(self) -> None:
        """End the thread."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
