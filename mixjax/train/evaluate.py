"""Accuracy on the test examples, each counted exactly once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import losses
from mixjax.data.feed import augment, tta
from mixjax.data.feed.batches import Images
from mixjax.method import Method
from mixjax.models.net import Net
from mixjax.train import transfer
from mixjax.train.step import Layout

Array = jax.Array
Tree = Any


class Sums(NamedTuple):
    """The counts of correct predictions over some examples.

    correct, seen: (classes,) numbers of correct examples, and of all examples, of each class.
    near: number of examples with their class among the five likeliest.
    """

    correct: Any
    seen: Any
    near: Any
    loss: Any


class Each(NamedTuple):
    """The predicted class of each example, (B,), and its probability, (B,)."""

    predicted: Any
    probability: Any


class Found(NamedTuple):
    """The result of evaluating a batch."""

    sums: Sums
    each: Each


def rank(logits: Array, label: Array) -> Array:
    """Return how many classes are likelier than the label, (B,); of equal ones the lower counts, as in argmax.

    A row with a nan has no likeliest classes: its rank is c.

    Args:
      logits: (B, c).
      label: (B,).
    """
    own = jnp.take_along_axis(logits, label[:, None], axis=-1)
    before = jnp.arange(logits.shape[-1]) < label[:, None]
    likelier = (logits > own) | ((logits == own) & before)
    return jnp.where(jnp.isnan(logits).any(-1), logits.shape[-1], likelier.sum(-1))


def make(
    net: Net,
    method: Method,
    geometry: augment.Geometry,
    layout: Layout = Layout(),  # noqa: B008, a constant
    views: str = '',
) -> Callable[[Tree, Array, Array, Array], Found]:
    """Make the evaluation of one batch: (variables, image, label, mask) -> `Sums` over the mask, and `Each`.

    Args:
      net: the network.
      method: the method, for its `predict`.
      geometry: preprocessing of the images.
      layout: layout of arrays on the devices.
      views: `config.image.tta`; '' evaluates the centre crop alone.
    """

    def forward(variables: Tree, image: Array) -> Array:
        """Return the logits of stored images."""
        whole = layout.whole(variables)

        def predict(inputs: Array) -> Array:
            return method.predict(net.apply(whole, inputs, train=False)[0])

        return tta.logits(predict, layout.shard(image), geometry, views)

    def batch(variables: Tree, image: Array, label: Array, mask: Array) -> Found:
        logits = forward(variables, image)
        predicted = jnp.argmax(logits, axis=-1)
        correct = (predicted == label) & mask
        near = (rank(logits, label) < 5) & mask
        each = jnp.zeros(logits.shape[-1], jnp.int32)
        sums = Sums(
            each.at[label].add(correct),
            each.at[label].add(mask),
            near.sum(),
            jnp.where(mask, losses.cross_entropy(logits, label), 0.0).sum(),
        )
        return Found(sums, Each(predicted, jax.nn.softmax(logits, axis=-1).max(-1)))

    return batch


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
        yield image, np.pad(label, (0, short)), mask


def run(evaluate: Callable, variables: Tree, test: Sequence[Tree], count: int) -> list[dict[str, float]]:
    """Return {'accuracy', 'loss', 'mean_per_class'} of each trial over all `count` test examples.

    With more than five classes also 'top5'. 'mean_per_class': the mean of the accuracies of the classes that
    have test examples.

    Args:
      evaluate: the compiled result of `make` for all trials.
      variables: the variables of all trials.
      test: the batches, (image, label, mask) each.
      count: number of test examples.
    """
    # The result of a batch is fetched when the next one is on its way.
    found = itertools.chain((evaluate(variables, *batch).sums for batch in test), [None])
    return _over(count, [transfer.whole(one) for one, _ in itertools.pairwise(found)])


def run_each(
    evaluate: Callable, variables: Tree, test: Sequence[Tree], count: int
) -> tuple[list[dict[str, float]], list[Each]]:
    """Return the measures of `run`, and for each trial the predictions of each test example, (count,) arrays."""
    found = itertools.chain((evaluate(variables, *batch) for batch in test), [None])
    whole = [transfer.whole(one) for one, _ in itertools.pairwise(found)]
    columns = (np.concatenate(parts, axis=1)[:, :count] for parts in zip(*(one.each for one in whole), strict=True))
    return _over(count, [one.sums for one in whole]), [Each(*row) for row in zip(*columns, strict=True)]


def _over(count: int, sums: Sequence[Sums]) -> list[dict[str, float]]:
    """Return the measures of each trial."""
    correct, seen, near = (np.sum([one[k].astype(np.int64) for one in sums], axis=0) for k in range(3))
    loss = np.sum([one.loss.astype(np.float64) for one in sums], axis=0)
    return [_means(*each, count) for each in zip(correct, seen, near, loss, strict=True)]


def _means(correct: np.ndarray, seen: np.ndarray, near: int, loss: float, count: int) -> dict[str, float]:
    """Return the measures of one trial from its sums."""
    there = seen > 0
    out = {
        'accuracy': int(correct.sum()) / count,
        'loss': float(loss) / count,
        'mean_per_class': float(np.mean(correct[there] / seen[there])),
    }
    return out | ({'top5': int(near) / count} if len(seen) > 5 else {})
