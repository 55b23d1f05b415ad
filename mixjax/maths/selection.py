"""Statistics of a choice among classifiers by cross-validation: what the chosen one is worth, and how sure that is.

The accuracy of the best of many is flattered by the choice. `bias_corrected` removes that as BBC-CV does (Tsamardinos,
Greasidou and Borboudakis 2018, https://doi.org/10.1007/s10994-018-5714-4): from bootstrap samples of the examples'
out-of-fold results, the best is chosen again by each sample, and measured on the examples that are not in it. Nothing
is trained again. Everything here is numpy on the host.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mixjax.errors import require

DRAWS = 1000  # bootstrap samples
Z90 = 1.6448536269514722  # the 95 % quantile of the normal distribution: half of a 90 % interval


class Scores(NamedTuple):
    """Out-of-fold results of several classifiers on the same examples.

    Attributes:
      correct: (n, k), share of an example's repeats in which it was right.
      loss: (n, k), its mean log loss over them.
      groups: (n,) int, equal for examples that are not independent, as two pictures of one thing.
    """

    correct: np.ndarray
    loss: np.ndarray
    groups: np.ndarray


def grouped(values: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of (n, ..) values over each group, (g, ..), and the sizes of the groups, (g,)."""
    _, place = np.unique(groups, return_inverse=True)
    sums = np.zeros((place.max() + 1, *values.shape[1:]))
    np.add.at(sums, place, values)
    return sums, np.bincount(place)


def choose(scores: Scores) -> int:
    """Return the place of the best classifier: by accuracy, and where that cannot tell, by log loss.

    Of those whose accuracy is within a standard error of the highest one (of the paired difference), it is the one with
    the lowest log loss, of equal ones the first. A lead of one image is chance, and probabilities are of use too.

    Example:
      >>> import numpy as np
      >>> right = np.array([[1, 1], [1, 1], [1, 0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1]], float)
      >>> choose(Scores(right, np.array([0.2, 0.9]) + 0 * right, np.arange(9)))
      1
      >>> choose(Scores(right[:5], np.array([0.2, 0.9]) + 0 * right[:5], np.arange(5)))
      0
    """
    right, size = grouped(scores.correct, scores.groups)
    return _choose(right, grouped(scores.loss, scores.groups)[0], size, np.ones(len(size)))


def _choose(right: np.ndarray, loss: np.ndarray, size: np.ndarray, weight: np.ndarray) -> int:
    """`choose` of sums over groups (g, k), their sizes (g,), and how often each is counted (g,)."""
    count = weight @ size
    gap = right[:, [int(np.argmax(weight @ right))]] - right
    mean = weight @ gap / count
    groups = weight.sum()
    stderr = np.sqrt(weight @ (gap - size[:, None] * mean) ** 2 * groups / max(groups - 1, 1)) / count
    close = np.flatnonzero(mean <= stderr + 1e-12)
    return int(close[np.argmin((weight @ loss)[close])])


def bias_corrected(scores: Scores, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Return the accuracy to expect of the classifier that `choose` picks, without the flattery of the choice.

    Args:
      scores: the results.
      draws: number of bootstrap samples.
      seed: of the samples.
    """
    require(scores.correct.shape[0] > 1, 'one example says nothing about a choice')
    right, size = grouped(scores.correct, scores.groups)
    loss, _ = grouped(scores.loss, scores.groups)
    random, found = np.random.RandomState(seed), []
    for _ in range(draws):
        weight = np.bincount(random.randint(0, len(size), len(size)), minlength=len(size))
        out = weight == 0
        if not out.any():
            continue
        best = _choose(right, loss, size, weight)
        found.append(right[out, best].sum() / size[out].sum())
    require(bool(found), 'all examples are of one group, so none is left to measure a choice on')
    return float(np.mean(found))


def wilson(share: float, count: float, z: float = Z90) -> tuple[float, float]:
    """Return Wilson's interval of a share that was measured on `count` examples; 90 % by default.

    Example:
      >>> tuple(round(end, 3) for end in wilson(0.9, 100))
      (0.84, 0.939)
    """
    centre = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


class Lead(NamedTuple):
    """The mean of paired differences, and its standard error."""

    mean: float
    stderr: float

    @property
    def clear(self) -> bool:
        """Whether the 90 % interval is above 0."""
        return self.mean > Z90 * self.stderr and self.mean > 0


def lead(one: np.ndarray, other: np.ndarray, groups: np.ndarray) -> Lead:
    """Return by how much one classifier is ahead of another on the same examples.

    Args:
      one, other: (n,), shares that are right.
      groups: (n,), see `Scores`.
    """
    gap, size = grouped((one - other)[:, None], groups)
    mean = float(gap.sum() / size.sum())
    rest = gap[:, 0] - mean * size
    count = len(size)
    spread = math.sqrt(float((rest**2).sum()) * count / max(count - 1, 1)) / float(size.sum())
    return Lead(mean, spread)


# --- probabilities ----------------------------------------------------------------------------------------------------


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log probabilities: (.., c) -> (.., c), in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def log_loss(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the log loss of each example: logits (n, c), labels (n,) -> (n,)."""
    return -log_softmax(logits / temperature)[np.arange(len(labels)), labels]


def fit_temperature(logits: np.ndarray, labels: np.ndarray, *, least: float = 0.05, most: float = 20.0) -> float:
    """Return the temperature whose division of the logits gives the lowest log loss (Guo et al. 2017).

    The loss has one minimum in 1 / T, which is found by golden sections. https://arxiv.org/abs/1706.04599

    Args:
      logits: (n, c), of examples that the classifier has not learned from.
      labels: (n,).
      least, most: where the minimum is looked for.
    """
    ratio = (math.sqrt(5) - 1) / 2
    low, high = math.log(1 / most), math.log(1 / least)

    def at(place: float) -> float:
        return float(log_loss(logits, labels, math.exp(-place)).mean())

    a, b = high - ratio * (high - low), low + ratio * (high - low)
    fa, fb = at(a), at(b)
    while high - low > 1e-4:
        if fa <= fb:
            high, b, fb = b, a, fa
            a = high - ratio * (high - low)
            fa = at(a)
        else:
            low, a, fa = a, b, fb
            b = low + ratio * (high - low)
            fb = at(b)
    return math.exp(-(low + high) / 2)


class Calibration(NamedTuple):
    """How far probabilities are from shares.

    Attributes:
      error: the expected calibration error: mean of |confidence - accuracy| over the bins, by their examples.
      brier: mean square distance of the probabilities from the truth.
      bins: (confidence, accuracy, examples) of each bin that has any.
    """

    error: float
    brier: float
    bins: tuple[tuple[float, float, int], ...]


def calibration(logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0, bins: int = 15) -> Calibration:
    """Return how well the probabilities of the likeliest class fit what is right, in bins of equal width."""
    p = np.exp(log_softmax(logits / temperature))
    sure, right = p.max(1), p.argmax(1) == labels
    place = np.minimum((sure * bins).astype(int), bins - 1)
    found = []
    for k in range(bins):
        mine = place == k
        if mine.any():
            found.append((float(sure[mine].mean()), float(right[mine].mean()), int(mine.sum())))
    error = sum(n * abs(confidence - share) for confidence, share, n in found) / len(labels)
    truth = np.eye(p.shape[1])[labels]
    return Calibration(error, float(((p - truth) ** 2).sum(1).mean()), tuple(found))


def rejection_threshold(logits: np.ndarray, share: float, temperature: float = 1.0) -> float:
    """Return the probability of the likeliest class that all but `share` of the examples reach."""
    sure = np.exp(log_softmax(logits / temperature)).max(1)
    return float(np.quantile(sure, share, method='lower'))


# --- more labels ------------------------------------------------------------------------------------------------------


class Growth(NamedTuple):
    """A power law of the error in the number of labelled images: error(n) = scale * n ** -rate."""

    scale: float
    rate: float

    def accuracy(self, count: float) -> float:
        """Return the accuracy with so many labelled images."""
        return 1 - min(1.0, self.scale * count**-self.rate)


def growth(counts: np.ndarray, accuracies: np.ndarray) -> Growth:
    """Fit a power law to accuracies at several numbers of labelled images, by least squares of the logarithms.

    An error of 0 counts as half an example. The rate is at least 0: more labels are not taken to harm.

    Args:
      counts: (k,), numbers of labelled images, k >= 2.
      accuracies: (k,).
    """
    counts, errors = np.asarray(counts, float), np.maximum(1 - np.asarray(accuracies, float), 0.5 / np.max(counts))
    rate, offset = np.polyfit(np.log(counts), np.log(errors), 1)
    if rate >= 0:
        return Growth(float(np.exp(np.log(errors).mean())), 0.0)
    return Growth(float(np.exp(offset)), float(-rate))
