"""XMixup's selection of source images for each target class (https://arxiv.org/abs/2007.10252, section 3).

The XMixup paper selects the images of its Seq-Train and Co-Train in the same way, so the methods
share this. A selection is a `Prepared`: the distribution of the source images, and in `frozen`

    chosen: (k,) the source classes that have images in it, ascending
    column: (m,) source class -> its place among the chosen ones, -1 for the others
"""

from __future__ import annotations

import jax
import numpy as np

from mixjax.errors import UserError, require
from mixjax.maths import class_pairing
from mixjax.method import Data, Part, Prepared, Segments


def check(*, rounds: int, min_images: int, max_images: int, per_class: int) -> None:
    """Refuse impossible settings of `paired`."""
    require(rounds >= 1, f'rounds must be at least 1, not {rounds}')
    require(min(min_images, max_images, per_class) >= 0, 'min_images, max_images and per_class must be at least 0')
    require(not max_images or max_images >= min_images, 'max_images must be at least min_images, or 0 for no limit')


def _numpy(rng: jax.Array) -> np.random.RandomState:
    """Return numpy's generator for a key, for permutations on the host: numpy guarantees that they never change."""
    require(
        isinstance(rng, jax.Array),
        f'rng must be a jax key, such as jax.random.key(0), not a {type(rng).__name__}',
    )
    return np.random.RandomState(np.asarray(jax.random.bits(rng, (4,), 'uint32')))


def source_of(data: Data) -> Part:
    if data.source is None:
        raise UserError('this method trains on source images too: set config.source.name')
    return data.source


def paired(
    data: Data, *, rounds: int = 1, min_images: int = 0, max_images: int = 0, per_class: int = 50,
    exact: bool = False, union: bool = False, rng: jax.Array,
) -> Prepared:  # fmt: skip
    """Select source images by pairing each target class with the most similar source classes.

    Classes are compared by their mean pretrained features.

    Args:
      data: the seed's data.
      rounds, min_images: whole rounds of pairing, see `pairing.pair`.
      max_images: keep at most this many of the paired images, chosen at random (0: all).
      per_class: number of images used for a source class's mean (0: all, as in Eq. 1).
      exact: optimal assignment instead of greedy.
      union: see `Segments`.
      rng: jax key of the random choice.
    """
    random, source = _numpy(rng), source_of(data)
    class_pairing.require_enough(len(data.target.classes), len(source.classes))  # fails before anything is compiled
    score = class_pairing.cosine(data.target.class_means(), source.class_means(per_class or None))
    pairs = class_pairing.pair(score, source.sizes, rounds=rounds, min_images=min_images, exact=exact)
    by_class = [np.flatnonzero(source.labels == s) for s in pairs.mapping.T.ravel()]
    if max_images:
        by_class = thin_out(by_class, max_images, random)
    count = np.array([len(rows) for rows in by_class])
    shape = pairs.mapping.T.shape
    draw = Segments(
        rows=np.concatenate(by_class).astype(np.int32),
        start=(np.cumsum(count) - count).reshape(shape).astype(np.int32),
        count=count.reshape(shape).astype(np.int32),
        rounds=np.full(shape[0], shape[1], np.int32),
        score=pairs.score.T,
        union=union,
    )
    best = class_pairing.pair(score, source.sizes, rounds=len(pairs.mapping), exact=True)
    notes = {'source images': len(draw.rows), 'similarity': pairs.score.mean(), 'best similarity': best.score.mean()}
    return make_selection(source, draw, notes)


def at_random(data: Data, count: int, rng: jax.Array) -> Prepared:
    """Select `count` source images at random by `rng`, a jax key; every target class draws from all of them.

    Args:
      data: the seed's data.
      count: number of images.
      rng: a jax key.
    """
    source = source_of(data)
    rows = np.sort(_numpy(rng).permutation(len(source.labels))[:count])
    return make_selection(source, same_for_all(rows, len(data.target.classes)), {'source images': len(rows)})


def everything(data: Data) -> Prepared:
    """Return the selection of all source images for every target class."""
    source = source_of(data)
    rows = np.arange(len(source.labels))
    return make_selection(source, same_for_all(rows, len(data.target.classes)), {'source images': len(rows)})


def pooled(prepared: Prepared, data: Data) -> Prepared:
    """Return the selection with the same images, any of them for any target class."""
    assert prepared.draw is not None
    return prepared._replace(draw=same_for_all(np.sort(prepared.draw.rows), len(data.target.classes)))


def same_for_all(rows: np.ndarray, classes_t: int) -> Segments:
    """Return one list of rows that all target classes draw from."""
    one = np.ones((classes_t, 1), np.int32)
    return Segments(rows.astype(np.int32), 0 * one, len(rows) * one, one[:, 0])


def make_selection(source: Part, draw: Segments, notes: dict[str, float]) -> Prepared:
    """Return the selection with the tables that its source head needs."""
    chosen = np.unique(source.labels[draw.rows]).astype(np.int32)
    column = np.full(len(source.classes), -1, np.int32)
    column[chosen] = np.arange(len(chosen))
    return Prepared({'chosen': chosen, 'column': column}, draw, {name: float(value) for name, value in notes.items()})


def thin_out(by_class: list[np.ndarray], most: int, random: np.random.RandomState) -> list[np.ndarray]:
    """Return a random part of the rows, `most` in all, at least one of each class: every target class needs one."""
    if most < len(by_class):
        raise UserError(f'max_images={most}, and {len(by_class)} source classes were chosen: at least one of each')
    shuffled = [random.permutation(rows) for rows in by_class]
    rest = random.permutation(np.concatenate([rows[1:] for rows in shuffled]))[: most - len(by_class)]
    return [np.sort(np.concatenate([rows[:1], rows[1:][np.isin(rows[1:], rest)]])) for rows in shuffled]
