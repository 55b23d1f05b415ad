"""The predictions of a run's networks on the test examples, `predictions.npz`, and the confused classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import UserError
from mixjax.host import untrusted
from mixjax.host.storage import Place

FILE = 'predictions.npz'
AWAY = 'remove it, the report does without'


class Predictions(NamedTuple):
    """The predictions of some seeds.

    seeds: those whose kept step is in the file.
    predicted, probability, label: (seeds, n).
    shown: (m,) the examples of the first seed with pictures, its most confident mistakes.
    image: (m, H, W, C) uint8, the pictures; none if the file has none.
    """

    seeds: tuple[int, ...]
    predicted: np.ndarray
    probability: np.ndarray
    label: np.ndarray
    shown: np.ndarray
    image: np.ndarray


class Confused(NamedTuple):
    """A pair of confused classes.

    true, taken: indices of the true and the predicted class.
    times: number of such mistakes.
    of: number of examples of the true class.
    """

    true: int
    taken: int
    times: int
    of: int


def read(folder: Place, results: Mapping[str, Any]) -> Predictions | None:
    """Read the predictions of a run with these results; None without such a file, or if it is of other steps."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        arrays = untrusted.arrays(path)
        found = _of(arrays, results)
    except KeyError as error:
        raise UserError(f'{path} is damaged: {error} is missing; {AWAY}') from error
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read ({error}); {AWAY}') from error
    steps = {one['seed']: one.get('step', results['steps']) for one in results['seeds']}
    there = [i for i, step in enumerate(arrays['step'].tolist()) if steps.get(found.seeds[i]) == step]
    right = {one['seed']: one['accuracy'] for one in results['seeds']}
    for i in there:
        share = np.count_nonzero(found.predicted[i] == found.label[i]) / found.label.shape[1]
        if abs(share - right[found.seeds[i]]) > 1e-9:
            raise UserError(
                f'{path} does not fit results.json: the accuracy of seed {found.seeds[i]} is '
                f'{right[found.seeds[i]]:.6f} there, and {share:.6f} here; {AWAY}'
            )
    if not there:
        return None
    pictures = found.shown if results['seeds'][0]['seed'] in [found.seeds[i] for i in there] else found.shown[:0]
    return Predictions(
        tuple(found.seeds[i] for i in there), found.predicted[there], found.probability[there], found.label[there],
        pictures, found.image[: len(pictures)],
    )  # fmt: skip


def _of(arrays: Mapping[str, np.ndarray], results: Mapping[str, Any]) -> Predictions:
    """Check and return the arrays; a `ValueError` names the problem."""
    classes, n = len(results['classes']), results['test_examples']
    seed, step, predicted, probability = (arrays[name] for name in ('seed', 'step', 'predicted', 'probability'))
    label = arrays['label']
    _require_integers('seed', seed, (len(seed) if seed.ndim else 0,), -(2**53), 2**53)
    _require_integers('step', step, seed.shape, 0, 2**53)
    _require_integers('predicted', predicted, (len(seed), n), 0, classes)
    _require_integers('label', label, predicted.shape if label.ndim > 1 else (n,), 0, classes)
    if len(set(seed.tolist())) < len(seed):
        raise ValueError('a seed is listed twice')
    if probability.dtype.kind != 'f' or probability.shape != predicted.shape:
        raise ValueError("'probability' is not one number for each prediction")
    if not ((probability >= 0) & (probability <= 1.001)).all():  # rounded; NaN is neither
        raise ValueError("'probability' holds values that are not probabilities")
    shown, image = arrays.get('shown', np.zeros(0, int)), arrays.get('image', np.zeros((0, 1, 1, 1), np.uint8))
    _require_integers('shown', shown, (len(image) if image.ndim == 4 else -1,), 0, n)
    if image.dtype != np.uint8 or image.shape[-1] not in (1, 3) or 0 in image.shape[1:]:
        raise ValueError(f"'image' holds no pictures ({image.dtype} {image.shape})")
    whole = np.broadcast_to(label.astype(np.int64), predicted.shape)
    return Predictions(tuple(seed.tolist()), predicted.astype(np.int64), probability, whole, shown.astype(int), image)


def _require_integers(name: str, array: np.ndarray, shape: tuple[int, ...], low: int, high: int) -> None:
    """Refuse anything but integers of that shape from low to below high."""
    if array.dtype.kind not in 'iu' or array.shape != shape:
        raise ValueError(f'{name!r} is {array.dtype} {array.shape}, and not whole numbers {shape}')
    if array.size and not (int(array.min()) >= low and int(array.max()) < high):
        raise ValueError(f'{name!r} is out of range')


# --- confused classes -------------------------------------------------------------------------------------------------


def matrix(found: Predictions, classes: int) -> np.ndarray:
    """Return (classes, classes) counts over all seeds; rows are true classes, columns predicted ones."""
    places = found.label * classes + found.predicted
    return np.bincount(places.ravel(), minlength=classes**2).reshape(classes, classes)


def confused(found: Predictions, classes: int) -> list[Confused]:
    """Return the confused pairs of classes, the most frequent first."""
    wrong = found.label != found.predicted
    places = found.label[wrong] * classes + found.predicted[wrong]
    pairs, times = np.unique(places, return_counts=True)
    there = dict(zip(*(part.tolist() for part in np.unique(found.label, return_counts=True)), strict=True))
    each = zip(pairs.tolist(), times.tolist(), strict=True)
    out = [Confused(pair // classes, pair % classes, many, there[pair // classes]) for pair, many in each]
    return sorted(out, key=lambda one: (-one.times, one.true, one.taken))
