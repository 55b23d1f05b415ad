"""The entries of a search: what was tried, with what it says of the images that it has not learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import UserError
from mixjax.host import untrusted
from mixjax.host.storage import Place
from mixjax.maths import probe as probes
from mixjax.maths import selection
from mixjax.search.folds import Folds
from mixjax.train import predictions

MOST = 5  # strengths of a probe that are compared with all others; they are the best by accuracy


class Entry(NamedTuple):
    """A classifier that was tried.

    Attributes:
      label: its name.
      network: the place of the network among those of the search.
      method: the settings of its method, as `config.method`.
      factor: of the learning rate.
      freeze: parts of the network that stay as they are.
      correct: (R, n), 1 where it was right on an example that a fold of this repeat left out; nan where none did.
      loss: (R, n), the log loss there, with the temperature that is best for all of them: the winner will have one.
      logits: its logits there, (R, n, c); nan where there are none.
      repeats: number of repeats of which all folds are there.
      seconds: how long it took.
    """

    label: str
    network: int
    method: dict[str, Any]
    factor: float
    freeze: tuple[str, ...]
    correct: np.ndarray
    loss: np.ndarray
    logits: np.ndarray
    repeats: int
    seconds: float

    @property
    def tuned(self) -> bool:
        """Whether the network itself was trained, and not only a classifier on its features."""
        return self.method['name'] != 'probe'


def dense(values: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Return values of held out examples by repeat and example: (m, ..), (n, R, F) -> (R, n, ..), else nan.

    Args:
      values: in the order of `np.nonzero` of the folds, one after the other.
      held: see `Folds`.
    """
    n, repeats, count = held.shape
    out = np.full((repeats, n, *values.shape[1:]), np.nan, np.float32)
    fold, row = np.nonzero(held.reshape(n, -1).T)
    out[fold // count, row] = values
    return out


def make(
    label: str, network: int, method: dict[str, Any], logits: np.ndarray, labels: np.ndarray, folds: Folds, *,
    factor: float = 1.0, freeze: tuple[str, ...] = (), seconds: float = 0.0,
) -> Entry:  # fmt: skip
    """Make an entry of its logits (R, n, c) for what the folds leave out; nan where they do not, or not yet."""
    there = ~np.isnan(logits[..., 0])
    correct, loss = np.full(there.shape, np.nan), np.full(there.shape, np.nan)
    some, known = logits[there], np.broadcast_to(labels, there.shape)[there]
    correct[there] = some.argmax(-1) == known
    loss[there] = selection.log_loss(some, known, selection.fit_temperature(some, known))
    repeats = int(np.cumprod((there == folds.measured).all(1)).sum())
    return Entry(label, network, method, factor, freeze, correct, loss, logits, repeats, seconds)


# --- probes -----------------------------------------------------------------------------------------------------------


def probe_entries(name: str, network: int, features: np.ndarray, labels: np.ndarray, classes: int, folds: Folds,
                  clock: Callable[[], float], strengths: tuple[float, ...]) -> list[Entry]:  # fmt: skip
    """Return the entries of the probes on a network's features: of each kind the best few strengths.

    Args:
      name: of the network, for the labels.
      network: see `Entry`.
      features: (n, d).
      labels: (n,).
      classes: number of classes.
      folds: the folds.
      clock: returns the seconds so far.
      strengths: of the logistic regression; () for none of it.
    """
    data = probes.examples(features, labels, classes)
    held = folds.held.reshape(len(labels), -1)
    out = []
    for kind, knob, title, most in (('logistic', 'strength', 'C', MOST), ('means', 'strength', '', 1),
                                    ('knn', 'k', 'k', MOST)):  # fmt: skip
        if kind == 'logistic' and not strengths:
            continue
        began = clock()
        settings = probes.of_kind(kind)  # as the method `probe`
        if isinstance(settings, probes.Logistic):
            settings = settings._replace(candidates=strengths)
        found = probes.cross_validate(settings, data, held)
        order = np.lexsort((found.log_loss, -found.accuracy))[:most]
        best = tuple(found.candidates[sorted(order)].tolist())
        every = probes.out_of_fold(settings, data, held, best)
        took = (clock() - began) / len(best)
        for candidate, values in zip(best, every, strict=True):
            logits = dense(values, folds.held)
            method = {'name': 'probe', 'kind': kind, knob: int(candidate) if knob == 'k' else float(candidate)}
            label = f'{name}, {kind}' + (f' {title}={candidate:.3g}' if title else '')
            out.append(make(label, network, method, logits, labels, folds, seconds=took))
    return out


# --- trials -----------------------------------------------------------------------------------------------------------


def read_trial(folders: Sequence[tuple[Place, Sequence[int]]], folds: Folds, labels: np.ndarray, classes: int
               ) -> np.ndarray:  # fmt: skip
    """Return the logits of a trial for what its folds leave out, (R, n, c), from the predictions of its runs.

    Args:
      folders: (folder of a run, its folds, which are its seeds).
      folds: the folds of the search.
      labels: (n,).
      classes: number of classes.
    """
    out = np.full((folds.repeats, len(labels), classes), np.nan, np.float32)
    for folder, mine in folders:
        try:
            found = untrusted.arrays(folder / predictions.FILE)
            place = {int(seed): k for k, seed in enumerate(found['seed'])}
            logits, said = found['logits'], np.broadcast_to(found['label'], found['predicted'].shape)
            for fold in mine:
                rows = folds.tested(fold)
                if not np.array_equal(said[place[fold]], labels[rows]):
                    raise ValueError('its examples are others')
                counted = folds.of(fold)[rows]
                out[fold // folds.count, rows[counted]] = logits[place[fold]][counted]
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise UserError(
                f'{folder / predictions.FILE} cannot be read ({error}); remove {folder} and go on'
            ) from error
    return out


def compare(entries: Sequence[Entry], groups: np.ndarray) -> selection.Scores:
    """Return the scores of several entries on the same examples, each over the whole repeats that it has.

    Args:
      entries: the entries, each with a whole repeat at least.
      groups: (n,), see `selection.Scores`.
    """
    there = ~np.isnan(entries[0].correct[0])
    correct, loss = (
        np.stack([getattr(one, name)[: one.repeats, there].mean(0) for one in entries], 1)
        for name in ('correct', 'loss')
    )
    return selection.Scores(correct, loss, groups[there])
