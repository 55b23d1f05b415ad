"""The data that a method's `prepare` sees, and the file that keeps its result."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mixjax.data.dataset import Dataset
from mixjax.data.feed import augment, plan
from mixjax.data.feed.augment import Geometry
from mixjax.data.pixels import decoded_cache
from mixjax.errors import UserError, require
from mixjax.host import untrusted
from mixjax.host.array_cache import Cache
from mixjax.host.progress import Bar
from mixjax.host.storage import Place
from mixjax.maths import class_pairing
from mixjax.method import Part, Prepared, Segments
from mixjax.rundir import files

Array = jax.Array
Tree = Any


# --- data for the method ----------------------------------------------------------------------------------------------


def part(
    data: Dataset, features: Callable[[Array], Array], geometry: Geometry, *, batch: int, key: Array,
    sizes: np.ndarray | None = None, cache: Cache | None = None,
) -> Part:  # fmt: skip
    """Make the method's view of one set of training examples.

    Args:
      data: the data set.
      features: images -> (B, d) pretrained features.
      geometry: the preprocessing of images.
      batch: size of the passes over the data.
      key: key of augmentation.
      sizes: (classes,) images of each class, if `data` does not have all of them.
      cache: cache of the features and means, shared by the seeds if they share the examples.
    """

    classes, labels, read = data.classes, data.labels, data.read

    def batches(size: int, augmented: bool = False, per_class: int | None = None) -> Iterator[dict[str, Array]]:
        def make(rows: np.ndarray, change: Callable[[Array], Array]) -> dict[str, Array]:
            image = change(jnp.asarray(read(rows)))
            return {'image': image, 'label': jnp.asarray(labels[rows]), 'index': jnp.asarray(rows)}

        chosen = some_of_each(labels, len(classes), per_class)
        if not augmented:
            for start in range(0, len(chosen), size):
                yield make(chosen[start : start + size], lambda x: augment.centred(x, geometry))
            return
        order, change = jax.random.split(key)
        step = 0
        while True:
            rows = chosen[np.asarray(plan.epochs(order, jnp.asarray(step), size, len(chosen)))]
            crop = jax.random.fold_in(change, step)
            yield make(rows, lambda x, crop=crop: augment.train(crop, x, geometry))
            step += 1

    def passed(rows: np.ndarray, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (features, labels) of these rows, a batch at a time, under a progress bar."""
        decoded_cache.ensure(read, rows, must=False)

        def forward() -> Iterator[tuple[Array, np.ndarray]]:
            for start in range(0, len(rows), batch):
                here = rows[start : start + batch]
                images = read(here)
                bar.add(len(here))
                filled = images[np.arange(batch) % len(here)]  # one shape, one compilation
                yield features(augment.centred(jnp.asarray(filled), geometry)), labels[here]

        bar = Bar(len(rows), what)
        try:
            # The next batch is read while the one before it is on its way through the network.
            end: list[Any] = [()]
            for (found, own), _ in itertools.pairwise(itertools.chain(forward(), end)):
                yield np.asarray(found)[: len(own)], own
        finally:
            bar.close()

    def means(per_class: int | None) -> np.ndarray:
        require(len(classes) > 0, 'unlabelled images have no class means')
        require(labels.ndim == 1, 'class_means needs one class for each image, and config.target.task has none')
        rows = some_of_each(labels, len(classes), per_class)
        return class_pairing.centroids_of(passed(rows, f'mean features of {len(classes):,} classes'), len(classes))

    def every() -> np.ndarray:
        rows = np.arange(len(labels))
        return np.concatenate([found for found, _ in passed(rows, f'features of {len(rows):,} images')])

    kept = Cache(Path(), None) if cache is None else cache

    def class_means(per_class: int | None = None) -> np.ndarray:
        return kept.get(f'class means of {per_class or "all"}', lambda: means(per_class or None))

    known = labels[labels >= 0] if labels.ndim == 1 else labels  # those of unlabelled images are -1
    counted = np.bincount(known, minlength=len(classes)) if labels.ndim == 1 else np.asarray((labels != 0).sum(0))
    counted = counted if sizes is None else sizes
    return Part(classes, labels, counted, batches, class_means, features=lambda: kept.get('features', every))


def some_of_each(labels: np.ndarray, classes: int, per_class: int | None) -> np.ndarray:
    """Return at most `per_class` rows of each class, always the same ones, ascending; None takes all."""
    if per_class is None:
        return np.arange(len(labels))
    if labels.ndim > 1:
        raise UserError('per_class needs one class for each image, and config.target.task has none')
    shuffled = np.random.RandomState(0).permutation(len(labels))
    by_class = [shuffled[labels[shuffled] == c][:per_class] for c in range(classes)]
    return np.sort(np.concatenate(by_class))


# --- the file of the result -------------------------------------------------------------------------------------------


def save_prepared(path: Place, prepared: Prepared) -> None:
    """Write frozen, draw and notes as one .npz of plain arrays, keys joined by '/'."""
    if prepared.frozen != () and not isinstance(prepared.frozen, dict):
        raise UserError('what prepare() makes as `frozen` must be a dict of arrays')
    arrays = {}
    if prepared.frozen != ():
        leaves = traverse_util.flatten_dict(prepared.frozen)
        if any('/' in str(part) for key in leaves for part in key):
            raise UserError('the keys of what prepare() makes as `frozen` must have no / in them')
        arrays |= {f'frozen/{"/".join(key)}': np.asarray(value) for key, value in leaves.items()}
    if prepared.draw is not None:
        fields = prepared.draw._asdict().items()
        arrays |= {f'draw/{key}': np.asarray(value) for key, value in fields if value is not None}
    arrays |= {f'notes/{key}': np.asarray(float(value)) for key, value in prepared.notes.items()}
    for key, array in arrays.items():
        if array.dtype.kind not in 'biuf':
            raise UserError(f'prepare() made {key} of type {array.dtype}; frozen holds numbers, float32 for bfloat16')
    files.write_arrays(path, arrays)


def load_prepared(path: Place) -> Prepared:
    try:
        arrays = untrusted.arrays(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f'{path} is damaged ({type(error).__name__}), and with it the run; use another --workdir'
        ) from error

    def group(name: str) -> dict[str, Any]:
        return {key.removeprefix(name): value for key, value in arrays.items() if key.startswith(name)}

    frozen, draw = group('frozen/'), group('draw/')
    needed = {'rows', 'start', 'count', 'rounds'}
    if draw and not needed <= draw.keys() <= set(Segments._fields):
        raise UserError(f'{path} is damaged, and with it the run; use another --workdir')
    return Prepared(
        traverse_util.unflatten_dict(frozen, sep='/') if frozen else (),
        Segments(**draw) if draw else None,
        {name: float(value) for name, value in group('notes/').items()},
    )
