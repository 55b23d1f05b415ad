"""The cost of a precision: what an exported file predicts, beside what the network predicted before."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import require


class Cost(NamedTuple):
    """Two predictions of the same labelled images compared.

    images: number of images.
    measure: 'accuracy', 'share of right labels' or 'mean absolute error'.
    before, after: the measure of both.
    lost, gained: how many predictions were right before only, and after only; 0 for numbers. Of several labels an image
        each label counts.
    changed: how many predictions differ, right or wrong; of numbers, in how many images more than 1 % of the label's
        standard deviation.
    largest: the largest difference of a probability, or of a number.
    """

    images: int
    measure: str
    before: float
    after: float
    lost: int
    gained: int
    changed: int
    largest: float

    def words(self) -> str:
        """Return it as a sentence without its end."""
        if self.measure == 'mean absolute error':
            change = f'{self.measure} {self.before:.4g} before and {self.after:.4g} after'
        else:
            change = f'{self.measure} {100 * self.before:.1f} % before and {100 * self.after:.1f} % after'
        return f'Cost of the precision on {self.images} images: {change}; {self.changed} predictions changed'


def cost(labels: Any, before: np.ndarray, after: np.ndarray, task: str = 'classification') -> Cost:
    """Return what changes between two predictions.

    Args:
      labels: (n,) class indices; of another task (n, k) rows of 0 and 1, or numbers.
      before: (n, k) probabilities or numbers of the network.
      after: (n, k) those of the file.
      task: name of the task.

    Example:
      >>> import numpy as np
      >>> found = cost([0, 1], np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.8, 0.2], [0.6, 0.4]]))
      >>> found.before, found.after, found.lost, found.gained, found.changed
      (1.0, 0.5, 1, 0, 1)
    """
    require(len(labels) > 0, 'the cost of a precision is measured on labelled images, and there are none')
    labels, largest = np.asarray(labels), float(np.abs(after - before).max())
    if task == 'regression':
        errors = [float(np.abs(one - labels).mean()) for one in (before, after)]
        changed = (np.abs(after - before) > 0.01 * np.std(labels, axis=0)).any(1)
        return Cost(len(labels), 'mean absolute error', errors[0], errors[1], 0, 0, int(changed.sum()), largest)
    several = task == 'multi_label'
    first, second = (one > 0.5 if several else one.argmax(1) for one in (before, after))
    right, still = (one == (labels > 0.5 if several else labels) for one in (first, second))
    return Cost(
        len(labels),
        'share of right labels' if several else 'accuracy',
        float(right.mean()),
        float(still.mean()),
        int((right & ~still).sum()),
        int((~right & still).sum()),
        int((first != second).sum()),
        largest,
    )
