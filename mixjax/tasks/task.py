"""The contract of a task: `Task`, a value of pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

Array = jax.Array
Tree = Any


class Scale(NamedTuple):
    """The standardisation of labels that are numbers: mean and std of each output, (k,) float64."""

    mean: np.ndarray
    std: np.ndarray


class Task(NamedTuple):
    """A task as a value.

    The outputs of a head are the classes, the labels or the numbers; a data set has their names as its `classes`.
    Labels on the host are (n,) int32 class indices, or rows (n, k) of a number for each output.

    name: as in `Method.tasks`, and but for classification in `config.target.task`.
    rows: whether labels are rows of numbers.
    scaled: whether a run learns labels that are standardised by a `Scale`.
    primary: name of the measure by which networks and methods are compared.
    higher: whether more of it is better.
    named: names of all measures, beside those of each output.
    loss: (logits, label) -> (B,), differentiable.
    tally: (logits, label, mask) -> tree of sums over the examples of the mask, on the devices.
    each: (logits) -> tree of (B, ..), what is kept of each example, on the devices.
    measures: (tally, each, label, names of the outputs) -> {name: value} of one seed, on the host; the primary first.
        Of a task with rows `each` and `label` are (n, k), in the units of the labels on the host.
    values: (logits, scale) -> what a user sees, (n, k) on the host: probabilities, or numbers in their units.
    """

    name: str
    rows: bool
    scaled: bool
    primary: str
    higher: bool
    named: tuple[str, ...]
    loss: Callable[[Array, Array], Array]
    tally: Callable[[Array, Array, Array], Tree]
    each: Callable[[Array], Tree]
    measures: Callable[[Tree, Tree, Any, Sequence[str]], dict[str, float]]
    values: Callable[[np.ndarray, Scale | None], np.ndarray]

    @property
    def setting(self) -> str:
        """The value of `config.target.task`."""
        return self.name if self.rows else ''

    def scale(self, labels: np.ndarray) -> Scale | None:
        """Return the standardisation by these labels, those that a seed learns from; None where there is none.

        An output that is the same for all of them is only shifted.
        """
        if not self.scaled:
            return None
        std = np.std(labels, axis=0, dtype=np.float64)
        return Scale(np.asarray(np.mean(labels, axis=0, dtype=np.float64)), np.where(std > 0, std, 1.0))

    def fed(self, labels: np.ndarray, scale: Scale | None) -> np.ndarray:
        """Return labels as they are in a batch: (n,) int32, or (n, k) float32, standardised if there is a scale."""
        if not self.rows:
            return labels
        return np.asarray(labels if scale is None else (labels - scale.mean) / scale.std, np.float32)

    def reported(self, each: Tree, scale: Scale | None) -> Tree:
        """Return the kept outputs of the devices in the units of the labels; others as they are."""
        return each if scale is None else self.values(each, scale)

    def better(self, one: float | None, other: float | None) -> bool:
        """Return whether one value of the primary measure is better than another; None is worse than any."""
        if one is None or other is None:
            return one is not None
        return one > other if self.higher else one < other
