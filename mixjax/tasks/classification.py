"""Classification: one class for each image. The primary measure is the accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import losses
from mixjax.tasks.task import Scale, Task

Array = jax.Array


class Counts(NamedTuple):
    """The counts of correct predictions over some examples.

    correct, seen: (classes,) numbers of correct examples, and of all examples, of each class.
    near: number of examples with their class among the five likeliest.
    """

    correct: Any
    seen: Any
    near: Any


class Each(NamedTuple):
    """The predicted class of each example, (B,), its probability, (B,), and the logits, (B, c)."""

    predicted: Any
    probability: Any
    logits: Any


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


def tally(logits: Array, label: Array, mask: Array) -> Counts:
    """Return the counts over the examples of the mask."""
    correct = (jnp.argmax(logits, axis=-1) == label) & mask
    near = (rank(logits, label) < 5) & mask
    each = jnp.zeros(logits.shape[-1], jnp.int32)
    return Counts(each.at[label].add(correct), each.at[label].add(mask), near.sum())


def each(logits: Array) -> Each:
    """Return the likeliest class of each example, and how likely all are."""
    return Each(jnp.argmax(logits, axis=-1), jax.nn.softmax(logits, axis=-1).max(-1), logits)


def measures(counts: Counts, each: Any, label: Any, names: Sequence[str]) -> dict[str, float]:
    """Return accuracy, mean over the classes with examples, and with more than five classes top-5."""
    del each, label, names
    correct, seen = counts.correct, counts.seen
    there = seen > 0
    out = {
        'accuracy': int(correct.sum()) / int(seen.sum()),
        'mean_per_class': float(np.mean(correct[there] / seen[there])),
    }
    return out | ({'top5': int(counts.near) / int(seen.sum())} if len(seen) > 5 else {})


def values(logits: np.ndarray, scale: Scale | None) -> np.ndarray:
    """Return the probabilities of all classes."""
    del scale
    return np.asarray(jax.nn.softmax(jnp.asarray(logits), axis=-1))


CLASSIFICATION = Task(
    'classification', rows=False, scaled=False, primary='accuracy', higher=True,
    named=('accuracy', 'mean_per_class', 'top5'), loss=losses.cross_entropy, tally=tally, each=each, measures=measures,
    values=values,
)  # fmt: skip
