"""The measures of a task, and of a method, over the test examples, each counted exactly once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.data.feed import augment, tta
from mixjax.data.feed.batches import Images
from mixjax.method import Method
from mixjax.models.net import Net
from mixjax.tasks import CLASSIFICATION, Scale, Task
from mixjax.train import transfer
from mixjax.train.step import Layout

Array = jax.Array
Tree = Any


class Sums(NamedTuple):
    """Sums over some examples.

    tally: what the task counts.
    loss: () sum of the losses.
    measures: {name: () sum} of the method's own measures.
    """

    tally: Any
    loss: Any
    measures: Any = {}


class Labels(NamedTuple):
    """The labels of one seed's examples on the host, of a task whose labels are rows.

    rows: (n, k). scale: their standardisation, if there is one. names: those of the outputs.
    """

    rows: np.ndarray
    scale: Scale | None
    names: Sequence[str]


class Evaluated(NamedTuple):
    """The result of evaluating a batch: sums, and what the task keeps of each example, (B, ..)."""

    sums: Sums
    each: Any


def make(
    net: Net,
    method: Method,
    geometry: augment.Geometry,
    layout: Layout = Layout(),  # noqa: B008, a constant
    views: str = '',
    task: Task = CLASSIFICATION,
) -> Callable[[Tree, Array, Array, Array], Evaluated]:
    """Make the evaluation of one batch: (variables, image, label, mask) -> `Evaluated`, its sums over the mask.

    Args:
      net: the network.
      method: the method, for its `predict` and `measures`.
      geometry: preprocessing of the images.
      layout: layout of arrays on the devices.
      views: `config.image.tta`; '' evaluates the centre crop alone.
      task: the task.
    """

    def forward(variables: Tree, image: Array) -> Array:
        """Return the logits of stored images, over all views."""

        def predict(inputs: Array) -> Array:
            return method.predict(net.apply(variables, inputs, train=False)[0])

        return tta.logits(predict, image, geometry, views)

    def batch(variables: Tree, image: Array, label: Array, mask: Array) -> Evaluated:
        whole, seen = layout.whole(variables), layout.shard(image)
        out = None
        if not views or method.measures is not None:
            out, _ = net.apply(whole, augment.centre(seen, geometry), train=False)
        logits = forward(whole, seen) if views or out is None else method.predict(out)
        sums = Sums(
            task.tally(logits, label, mask),
            jnp.where(mask, task.loss(logits, label), 0.0).sum(),
            {} if method.measures is None or out is None else own_sums(method.measures(out, label), mask),
        )
        return Evaluated(sums, task.each(logits))

    return batch


def own_sums(found: Mapping[str, Array], mask: Array) -> dict[str, Array]:
    """Return the sums of a method's measures over the examples of the mask.

    Args:
      found: {name: (B,)}.
      mask: (B,) bool.
    """
    # Half precision and whole numbers are summed as float32.
    each = {name: jnp.asarray(value, jnp.promote_types(value.dtype, jnp.float32)) for name, value in found.items()}
    return {name: jnp.where(mask, value, 0).sum() for name, value in each.items()}


def batches(test: Images, size: int, part: slice | None = None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield the test set as (image, label, mask), in batches of one size; the last is filled up and masked.

    Args:
      test: the test images.
      size: number of examples of a batch.
      part: the places of a batch whose images are needed; the others are undefined. None for all.
    """
    first, last = (0, size) if part is None else (part.start, part.stop)
    for start in range(0, len(test.label), size):
        label = test.label[start : start + size]
        short = size - len(label)
        mask = np.arange(size) < len(label)
        read = test.image[start + first : min(start + last, len(test.label))]
        image = np.empty((size, *read.shape[1:]), read.dtype)  # takes memory only where it is written to
        image[first : first + len(read)], image[first + len(read) : last] = read, 0
        yield image, np.pad(label, [(0, short), *[(0, 0)] * (label.ndim - 1)]), mask


def measure(
    evaluate: Callable, variables: Tree, test: Sequence[Tree], count: int, task: Task = CLASSIFICATION,
    labels: Sequence[Labels] = (),
) -> list[dict[str, float]]:  # fmt: skip
    """Return the measures of each trial over all `count` test examples.

    The task's primary measure comes first, then 'loss', its other ones, and the method's own by their names.

    Args:
      evaluate: the compiled result of `make` for all trials.
      variables: the variables of all trials.
      test: the batches, (image, label, mask) each.
      count: number of test examples.
      task: the task.
      labels: those of each trial, if the task's labels are rows; there may be fewer than trials.
    """
    if task.rows:  # whose measures are not sums over the examples
        return measure_each(evaluate, variables, test, count, task, labels)[0]
    # The result of a batch is fetched when the next one is on its way.
    found = itertools.chain((evaluate(variables, *batch).sums for batch in test), [None])
    sums = _over(count, [transfer.to_host(one) for one, _ in itertools.pairwise(found)])
    return [_line(task.measures(one.tally, None, None, ()), one) for one in sums]


def measure_each(
    evaluate: Callable, variables: Tree, test: Sequence[Tree], count: int, task: Task = CLASSIFICATION,
    labels: Sequence[Labels] = (),
) -> tuple[list[dict[str, float]], list[Any]]:  # fmt: skip
    """Return the measures of `measure`, and for each trial what the task keeps of each example, (count, ..) arrays."""
    found = itertools.chain((evaluate(variables, *batch) for batch in test), [None])
    whole = [transfer.to_host(one) for one, _ in itertools.pairwise(found)]
    sums = _over(count, [one.sums for one in whole])
    columns = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1)[:, :count], *(one.each for one in whole))
    each = [jax.tree.map(lambda column, trial=trial: column[trial], columns) for trial in range(len(sums))]
    if not task.rows:
        return [_line(task.measures(one.tally, None, None, ()), one) for one in sums], each
    lines = [
        _line(task.measures(one.tally, task.reported(mine, known.scale), known.rows, known.names), one)
        for one, mine, known in zip(sums, each, labels, strict=False)
    ]
    return lines, each[: len(lines)]


def _over(count: int, sums: Sequence[Sums]) -> list[Sums]:
    """Return the tally of each trial, and its means of the loss and of the method's measures."""
    tally = jax.tree.map(lambda *parts: np.sum([x.astype(np.int64) for x in parts], axis=0), *(x.tally for x in sums))
    means = {'loss': [one.loss for one in sums]}
    own = {name: [one.measures[name] for one in sums] for name in sums[0].measures}
    totals, mine = (
        {name: np.sum([x.astype(np.float64) for x in parts], axis=0) for name, parts in some.items()}
        for some in (means, own)
    )
    return [
        Sums(
            jax.tree.map(lambda x, trial=trial: x[trial], tally),
            float(totals['loss'][trial]) / count,
            {name: float(total[trial]) / count for name, total in mine.items()},
        )
        for trial in range(len(totals['loss']))
    ]


def _line(found: dict[str, float], means: Sums) -> dict[str, float]:
    """Return the measures of one trial in their order."""
    (first, value), *rest = found.items()
    return {first: value, 'loss': means.loss, **dict(rest), **means.measures}
