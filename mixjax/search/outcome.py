"""What a search found out: the accuracy to expect, the lead, calibration, doubtful labels, the worth of more labels.

Everything is of predictions for images that were left out. `summary` makes the contents of `best.json`, and the arrays
of `best.npz`:

  shown       (m,) rows of the images whose label is doubtful, the most doubtful first
  image       (m, H, W, C) uint8, their pictures
  confusion   (k, 3) true class, class that it is taken for, and how often
  pair        (p, 2, H, W, C) uint8, pictures that are alike, of two classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mixjax.data.dataset import Dataset
from mixjax.maths import probe as probes
from mixjax.maths import selection
from mixjax.rundir.thumbnail import shrink
from mixjax.search.backbones import Backbone
from mixjax.search.entries import Entry
from mixjax.search.folds import Folds

SHARES = (0.25, 0.5, 1.0)  # of the labelled images
SHOWN, SIDE = 24, 96  # pictures of doubtful labels, and their largest side
PAIRS = 8


class Facts(NamedTuple):
    """Everything that a summary is made of.

    Attributes:
      train: the labelled images.
      groups: (n,) int, equal for images that are alike.
      folds: the folds.
      backbones: the networks.
      every: all entries.
      whole: those that were measured on whole repeats.
      scores: of these.
      winner: the best of them.
      probe: the best probe.
      features: of the winner's network, or None.
      unknown: share of the images that may be called unknown.
    """

    train: Dataset
    groups: np.ndarray
    folds: Folds
    backbones: Sequence[Backbone]
    every: Sequence[Entry]
    whole: Sequence[Entry]
    scores: selection.Scores
    winner: Entry
    probe: Entry
    features: np.ndarray | None
    unknown: float


def left_out(entry: Entry, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits of an entry for all images that a fold left out, of all repeats, and their labels."""
    logits = entry.logits
    there = ~np.isnan(logits[..., 0])
    return logits[there], np.broadcast_to(labels, there.shape)[there]


def calibrate(entry: Entry, labels: np.ndarray, unknown: float) -> dict[str, float]:
    """Return the temperature of an entry, and with a share of unknowns the least probability of a known class."""
    return fitted(*left_out(entry, labels), unknown)


def fitted(logits: np.ndarray, known: np.ndarray, unknown: float) -> dict[str, float]:
    """Return the temperature for logits (n, c) of examples (n,) that were not learned from, and the threshold.

    Args:
      logits: of the examples.
      known: their classes.
      unknown: share of the examples that may be called unknown; 0 for no threshold.
    """
    temperature = selection.fit_temperature(logits, known)
    before, after = (selection.calibration(logits, known, t).brier for t in (1.0, temperature))
    temperature = 1.0 if before <= after else temperature  # votes of neighbours are no softmax of anything
    out = {'temperature': temperature}
    if unknown:
        out['threshold'] = selection.rejection_threshold(logits, unknown, temperature)
    return out


def name_of(data: Dataset, row: int) -> str:
    """Return the name of an image: its path in the folder."""
    return data.ids[int(row)] if len(data.ids) else f'image {row}'


def summary(facts: Facts) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return (the contents of `best.json`, the arrays of `best.npz`)."""
    labels, winner = facts.train.labels, facts.winner
    independent = len(np.unique(facts.scores.groups))
    expected = selection.bias_corrected(facts.scores) if independent > 1 else float(np.nanmean(winner.correct))
    place, first = (next(k for k, one in enumerate(facts.whole) if one is which) for which in (winner, facts.probe))
    ahead = selection.lead(facts.scores.correct[:, place], facts.scores.correct[:, first], facts.scores.groups)
    logits, known = left_out(winner, labels)
    calibrated = calibrate(winner, labels, facts.unknown)
    before = selection.calibration(logits, known)
    after = selection.calibration(logits, known, calibrated['temperature'])
    doubtful, arrays = doubts(facts, calibrated['temperature'])
    out = {
        'format': 1,
        'classes': list(facts.train.classes),
        'images': len(labels),
        'measured': int(facts.folds.measured.sum()),
        'independent': independent,
        'folds': facts.folds.count,
        'repeats': facts.folds.repeats,
        'learned': int(facts.folds.learned.shape[1]),
        'winner': row(facts, winner),
        'probe': row(facts, facts.probe),
        'expected': {
            'accuracy': expected,
            'interval': selection.wilson(expected, independent),
            'selected': float(facts.scores.correct[:, place].mean()),
        },
        'lead': {'mean': ahead.mean, 'stderr': ahead.stderr, 'clear': ahead.clear, 'tried': len(facts.whole)},
        'calibration': {
            **calibrated,
            'examples': len(known),
            'before': before._asdict(),
            'after': after._asdict(),
        },
        'tried': [row(facts, one) for one in facts.every],
        'doubtful': doubtful,
        'growth': more_labels(facts),
    }
    return out, arrays


def row(facts: Facts, entry: Entry) -> dict[str, Any]:
    """Return an entry as a line of the table."""
    there = ~np.isnan(entry.correct)
    counted = there.sum(1)
    return {
        'label': entry.label,
        'network': facts.backbones[entry.network].name,
        'weights': facts.backbones[entry.network].weights,
        'method': entry.method,
        'lr factor': entry.factor,
        'frozen': list(entry.freeze),
        'accuracy': float(np.nanmean(entry.correct)),
        'loss': float(np.nanmean(entry.loss)),
        'folds': int(sum((~np.isnan(entry.correct[r]) & facts.folds.held[:, r, f]).any()
                         for r in range(facts.folds.repeats) for f in range(facts.folds.count))),
        'examples': int(counted.sum()),
        'whole': bool(entry.repeats),
        'seconds': entry.seconds,
    }  # fmt: skip


def doubts(facts: Facts, temperature: float) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Return the images that are probably mislabelled, and the arrays of their pictures and of the confusions.

    An image is doubtful if the network, which had not learned from it, takes it for another class; it is the more so
    the less probable its own class is.
    """
    labels, logits = facts.train.labels, facts.winner.logits
    repeats = max(1, facts.winner.repeats)
    p = np.exp(selection.log_softmax(logits[:repeats] / temperature)).mean(0)  # nan where never left out
    measured = np.flatnonzero(~np.isnan(p[:, 0]))
    taken = np.where(np.isnan(p), -1, p).argmax(1)
    own = p[np.arange(len(labels)), labels]
    wrong = measured[taken[measured] != labels[measured]]
    wrong = wrong[np.argsort(own[wrong], kind='stable')][:SHOWN]
    names = facts.train.classes
    found = [
        {
            'image': name_of(facts.train, k), 'label': names[labels[k]], 'taken for': names[taken[k]],
            'own': float(own[k]), 'probability': float(p[k, taken[k]]),
        }
        for k in wrong
    ]  # fmt: skip
    places, times = np.unique(labels[measured] * len(names) + taken[measured], return_counts=True)
    counts = np.stack([places // len(names), places % len(names), times], 1)
    pairs = [
        (int(g), k) for k, g in enumerate(facts.groups) if labels[k] != labels[g]
    ][:PAIRS]  # fmt: skip
    arrays = {'shown': wrong.astype(np.int64), 'image': pictures(facts.train, wrong), 'confusion': counts}
    if pairs:
        flat = pictures(facts.train, np.array(pairs).ravel())
        arrays['pair'] = flat.reshape(len(pairs), 2, *flat.shape[1:])
    return found, arrays


def pictures(data: Dataset, rows: np.ndarray) -> np.ndarray:
    """Return small pictures of some images."""
    if not len(rows):
        return np.zeros((0, 1, 1, 1), np.uint8)
    return np.stack([shrink(image, SIDE) for image in data.read(np.asarray(rows))])


def more_labels(facts: Facts) -> dict[str, Any]:
    """Return the accuracy with fewer labelled images, by the same folds, and what twice as many may give.

    It is measured with the logistic regression on the winner's network, which is quick; {} if that was too large.
    """
    mine = [
        one for one in facts.every if one.network == facts.winner.network and one.method.get('kind') == 'logistic'
    ]
    if facts.features is None or not mine:
        return {}
    labels, folds = facts.train.labels, facts.folds
    strength = max(mine, key=lambda one: float(np.nanmean(one.correct))).method['strength']
    data = probes.examples(facts.features, labels, len(facts.train.classes))
    held = folds.held.reshape(len(labels), -1)
    random = np.random.RandomState(0)
    counts, shares, accuracies = [], [], []
    for share in SHARES:
        train = np.stack([some_of_each(labels, ~out, share, random) for out in held.T], 1)
        count = float(train.sum(0).mean())
        if counts and count < 1.2 * counts[-1]:  # a few images of each class: a share of them is not another number
            continue
        (row,) = probes.Logistic(standardize=True).classifiers(data, jnp.asarray(train, np.float32), (strength,))
        right = [
            np.asarray(one.log_probs(facts.features)).argmax(1)[out] == labels[out]
            for one, out in zip(row, held.T, strict=True)
        ]
        counts.append(count)
        shares.append(share)
        accuracies.append(float(np.concatenate(right).mean()))
    out: dict[str, Any] = {'images': counts, 'shares': shares, 'accuracy': accuracies}
    if len(counts) > 1:
        law = selection.growth(np.array(counts), np.array(accuracies))
        out['twice'] = {'images': 2 * len(labels), 'accuracy': law.accuracy(2 * len(labels))}
    return out


def some_of_each(labels: np.ndarray, there: np.ndarray, share: float, random: np.random.RandomState) -> np.ndarray:
    """Return (n,) bool: of each class the share of those that are there, rounded up."""
    out = np.zeros(len(labels), bool)
    for label in np.unique(labels[there]):
        rows = random.permutation(np.flatnonzero(there & (labels == label)))
        out[rows[: int(np.ceil(share * len(rows)))]] = True
    return out
