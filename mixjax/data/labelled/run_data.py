"""The data sets of a run, and the examples that each seed draws from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixjax.data.dataset import Dataset
from mixjax.data.datasets import resolve as sets_lib
from mixjax.data.labelled import split_file, splits
from mixjax.data.pixels import photo
from mixjax.data.pixels.decoded_cache import Say, stamp_of, stored
from mixjax.errors import UserError
from mixjax.host import storage


class Sets(NamedTuple):
    """Data sets of a run.

    Attributes:
      train: the target's train part, with the chosen classes only.
      test: the target's test part; None if all examples that are not labelled are the test set.
      source: the source's train part, or None.
      val: the validation part that comes with the target, or None.
      rows: rows of `train` in the whole train part; None if it is the whole part.
      whole: all classes of the target.
      stamps: {part: text that identifies its examples}.
      digests: {part: digest of its examples and classes, and of its files if these determine the images}.
      notes: messages to show.
      unreadable: {file: reason} of files that were left out.
      unlabelled: a data set of images without labels, or None.
    """

    train: Dataset
    test: Dataset | None
    source: Dataset | None
    val: Dataset | None = None
    rows: np.ndarray | None = None
    whole: tuple[str, ...] = ()
    stamps: Mapping[str, str] = {}
    digests: Mapping[str, str] = {}
    notes: tuple[str, ...] = ()
    unreadable: Mapping[str, str] = {}
    unlabelled: Dataset | None = None


def load_sets(config: Any, say: Say | None = None) -> Sets:
    """Load the data sets of a config. say: see `decoded_cache.stored`."""
    target = load(config, config.target, say)
    source = load(config, config.source, say).train if config.source.name else None
    sets = chosen_sets(config, target, source)
    if config.unlabelled.name in ('', splits.REST):
        return sets
    more = load(config, config.unlabelled, say)
    images = more.train._replace(labels=np.full(len(more.train.labels), -1, np.int32), classes=())
    return sets._replace(unlabelled=images, notes=(*sets.notes, *more.notes))


def chosen_sets(config: Any, target: sets_lib.Parts, source: Dataset | None) -> Sets:
    """Return the target's parts with the chosen classes only, and the source's train part.

    Args:
      config: the config.
      target: all parts of the target.
      source: the source's train part, or None.
    """
    parts = {'train': target.train, 'test': target.test, 'val': target.val}
    if config.target.test:  # all that is used is drawn from the train part
        parts |= {'test': None, 'val': None}
    stamps = {name: split_file.stamp(part) for name, part in parts.items() if part is not None}
    digests = {name: digest(part) for name, part in parts.items() if part is not None}
    whole, rows = target.train.classes, None
    chosen = choose_classes(config, whole)
    if target.train.labels.ndim > 1 and len(chosen) < len(whole):
        raise UserError(f'config.target.splits: {config.target.splits} has other labels than {target.train.name}')
    if len(chosen) < len(whole):
        rows = splits.restrict(target.train, chosen)[1]
        parts = {name: part and splits.restrict(part, chosen)[0] for name, part in parts.items()}
    train = parts['train']
    assert train is not None
    if parts['test'] is not None and not len(parts['test'].labels):
        raise UserError(f'no example of the test part of {train.name} is of a chosen class ({len(chosen)} are chosen)')
    return Sets(
        train, parts['test'], source, parts['val'], rows, whole, stamps, digests, target.notes, target.unreadable
    )


def digest(data: Dataset) -> str:
    """Return a digest that identifies a part of a data set: by its name, labels, classes and image files."""
    about = json.dumps([split_file.stamp(data), list(data.classes), stamp_of(data.read)])
    return f'{data.name} {hashlib.sha256(about.encode()).hexdigest()}'


def fingerprint(sets: Sets) -> list[Any]:
    """Return plain data that differs if the data sets differ."""
    others = [digest(part) if part else '' for part in (sets.source, sets.unlabelled)]
    return [sorted(sets.digests.items()), *(others if others[1] else others[:1])]


def load(config: Any, node: Any, say: Say | None = None) -> sets_lib.Parts:
    """Load a data set with images as set by `config.image`, or with synthetic ones.

    Args:
      config: the config.
      node: `config.target` or `config.source`.
      say: see `decoded_cache.stored`.
    """
    known, image = storage.cache_folder(config.cache_dir), config.image
    if config.synthetic.per_class:
        return sets_lib.made_up(node, known, per_class=config.synthetic.per_class, side=config.synthetic.side)
    rule = photo.Rule(image.resize, image.fit, image.interpolation, channels=colours(config))
    parts = sets_lib.load(node, data_dir=config.data_dir, rule=rule, cache=known)
    if not config.store:
        return parts
    kept = {
        name: stored(part, name, known / 'images', say, config.cache_limit)
        for name in ('train', 'val', 'test')
        if (part := getattr(parts, name)) is not None
    }
    return parts._replace(**kept)


def colours(config: Any) -> int:
    """Return the number of colours of stored images: 1 if the network or a data set has only grey ones."""
    nodes = [node for node in (config.target, config.source) if node.name]
    nodes += [config.unlabelled] if config.unlabelled.name not in ('', splits.REST) else []
    return min([len(config.image.mean), *map(sets_lib.channels, nodes)])


def choose_classes(config: Any, names: Sequence[str]) -> np.ndarray:
    """Return the labels of the classes that a run uses, ascending; the same for all its seeds."""
    target = config.target
    if target.splits:
        return split_file.classes(target.splits, target.name, names)
    if target.task:
        return np.arange(len(names))
    return splits.choose_classes(len(names), target.classes, config.seed)


def draw_rows(config: Any, sets: Sets, seed: int) -> splits.Drawn:
    """Return the rows that a seed learns from and validates on, drawn or from the file `config.target.splits`."""
    target, data = config.target, sets.train
    if target.splits:
        tested = () if sets.test is None else sets.test.ids
        return with_unlabelled(config, sets, split_file.read_draw(target.splits, data, sets.rows, seed, tested), seed)
    labels, classes = splits.strata(data)
    chosen = splits.draw(
        labels, classes, seed=seed, per_class=target.per_class, rate=target.rate,
        counts=target.counts, images=target.images, sampler=target.sampler,
    )  # fmt: skip
    # If the data set has a validation part, none of the train part is held out.
    learned, val = splits.validation(labels, chosen, 0.0 if sets.val else target.val, seed)
    found = splits.Drawn(learned, val, splits.rest(len(data.labels) if target.add_rest else 0, chosen))
    return with_unlabelled(config, sets, found, seed)


def with_unlabelled(config: Any, sets: Sets, found: splits.Drawn, seed: int) -> splits.Drawn:
    """Return the draw of a seed with the rest of the train part, if that is what `config.unlabelled` names.

    If the rest is the test set too, a share of it is learned from without labels, and the others are tested on.
    """
    if config.unlabelled.name != splits.REST:
        return found
    share = config.unlabelled.share if sets.test is None else 1.0
    rows = splits.unlabelled(len(sets.train.labels), found, share, seed)
    if config.synthetic.per_class and not len(rows):
        rows = found.labelled  # a trial run has few images, and it does not matter which
    if not len(rows):
        raise UserError(
            'config.unlabelled.name=rest: every example of the train part is labelled, so no image is left to learn '
            'from without its label; label fewer (config.target.per_class), or name other images (config.unlabelled)'
        )
    return found._replace(unlabelled=rows)


class SeedDraw(NamedTuple):
    """Examples of the train part that one seed draws.

    Attributes:
      rows: the labelled, validation and added rows.
      train: the rows that it learns from.
      epoch: positions in `train` of the examples of an epoch; None if it has each of them once.
    """

    rows: splits.Drawn
    train: np.ndarray
    epoch: np.ndarray | None

    @property
    def epoch_length(self) -> int:
        return len(self.train if self.epoch is None else self.epoch)


def draw_seed(config: Any, sets: Sets, seed: int) -> SeedDraw:
    """Draw the examples of a seed and of its epochs."""
    found = draw_rows(config, sets, seed)
    balanced = config.target.balance == 'classes'
    epoch = splits.balanced(sets.train.labels[found.train], seed) if balanced else None
    return SeedDraw(found, found.train, epoch)


def check_images(config: Any, sets: Sets) -> int:
    """Return the number of colours of the network's input, after checking that all images have one shape."""
    shape = sets.train.read(np.arange(1)).shape
    if sets.source is not None and sets.source.read(np.arange(1)).shape != shape:
        raise UserError(
            f'images of {sets.source.name} are {sets.source.read(np.arange(1)).shape[1:]} and those of '
            f'{sets.train.name} {shape[1:]}; source and target images must have one size and number of colours'
        )
    if sets.unlabelled is not None and sets.unlabelled.read(np.arange(1)).shape != shape:
        raise UserError(
            f'unlabelled images are {sets.unlabelled.read(np.arange(1)).shape[1:]} and those of {sets.train.name} '
            f'{shape[1:]}; they must have one size and number of colours'
        )
    colours = len(config.image.mean)
    if 1 not in (colours, shape[-1]) and colours != shape[-1]:
        raise UserError(f'config.image.mean has {colours} colours and the images have {shape[-1]}')
    return max(shape[-1], colours)  # a network for three colours gets a grey image three times
