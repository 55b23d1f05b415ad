"""Stand-ins for data and weights: their true shapes and numbers, without pixels.

Data sets of the catalogue have the number of images of their entry, spread evenly over the classes; a user's folder is
read, if it exists. The pretrained network is its shapes only. The features and images that `prepare` asks for are made
up, so only the sizes of its result are meaningful.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.data.dataset import Dataset
from mixjax.data.datasets import catalog, folder
from mixjax.data.datasets import resolve as sets_lib
from mixjax.data.labelled import run_data, split_file, splits
from mixjax.method import Data, Part, Prepared
from mixjax.models import weights
from mixjax.models.net import Net, Out, bind
from mixjax.train import prepare, seeds
from mixjax.train import start as start_lib
from mixjax.train.program import Program, Sets
from mixjax.train.shared import float_type

Array = jax.Array
Tree = Any
LARGE = 2**20  # number of elements; a larger array is all zeros, and takes no memory


# --- data -------------------------------------------------------------------------------------------------------------


def sets(config: Any) -> tuple[Sets, list[str]]:
    """Return the data sets of a config, and a line on each."""
    nodes = [node for node in (config.target, config.source) if node.name]
    parts = [_parts(config, node) for node in nodes]
    source = parts[1].train if len(parts) > 1 else None
    notes = [f'{node.name}: {_how(config, node, one)}' for node, one in zip(nodes, parts, strict=True)]
    found = run_data.chosen_sets(config, parts[0], source)
    if config.unlabelled.name not in ('', splits.REST):
        more = _parts(config, config.unlabelled).train
        labels = np.full(len(more.labels), -1, np.int32)
        found = found._replace(unlabelled=more._replace(labels=labels, classes=()))
    return found, notes


def _here(config: Any, node: Any) -> bool:
    """Return whether the labels are available: of a folder, of shipped data, of made-up sets."""
    known = node.name != folder.NAME and catalog.entry(node.name).reader == 'prepared'
    return bool(config.synthetic.per_class) or not known


def _parts(config: Any, node: Any) -> sets_lib.Parts:
    """Return the parts of a data set with blank images."""
    if _here(config, node):
        kept = config.copy_and_resolve_references().unlock()
        kept.store = False
        found = run_data.load(kept, node)
        shape = found.train.read(np.arange(1)).shape[1:]
    else:
        facts = catalog.entry(node.name)
        side = config.image.resize
        shape = (side, side, min(run_data.colours(config), facts.image[2]))
        names = catalog.class_names(node.name)
        every = [_even(node.name, names, count) for count in (facts.train, facts.test)]
        found = sets_lib.Parts(every[0], None, every[1] if facts.test else None)
    blank = {
        name: part._replace(read=partial(_blank, shape))
        for name in ('train', 'val', 'test')
        if (part := getattr(found, name)) is not None
    }
    return found._replace(**blank)


def _even(name: str, classes: tuple[str, ...], count: int) -> Dataset:
    """Return a data set of so many examples, spread evenly over the classes."""
    labels = np.sort(np.arange(count, dtype=np.int32) % len(classes))
    return Dataset(name, classes, labels, lambda rows: np.empty(0))


def _blank(shape: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
    """Return images that take no memory."""
    return np.broadcast_to(np.uint8(0), (len(rows), *shape))


def _how(config: Any, node: Any, parts: sets_lib.Parts) -> str:
    count = f'{len(parts.train.labels):,} images of {len(parts.train.classes)} classes to learn from'
    if _here(config, node):
        return f'{count}, as they are here'
    return f'{count}, by the catalogue, spread evenly over the classes'


def without_splits(config: Any) -> Any:
    """Return the config with `config.target.splits` replaced by the same numbers of examples and classes."""
    target = config.target
    if not target.splits or _here(config, target):
        return config
    found = split_file.read(target.splits)
    kinds = [found[f'{kind} rows'] for kind in ('labelled', 'added') if f'{kind} rows' in found]
    many = max(sum(len(rows[seed]) for rows in kinds) for seed in kinds[0])
    classes = split_file.count(target.splits, catalog.entry(target.name).classes)
    out = config.copy_and_resolve_references().unlock()
    out.target.splits, out.target.images, out.target.classes = '', many, float(max(classes, 2))
    return out.lock()


# --- the pretrained network -------------------------------------------------------------------------------------------


def start(config: Any, net: Net, image: Array, data: Sets) -> Tree | None:
    """Return the shapes of the variables that training starts from; None from scratch."""
    spec = config.model.weights
    if not spec:
        return None
    if spec.startswith(weights.RANDOM):
        width = int(spec.removeprefix(weights.RANDOM))
    elif data.source is not None:
        width = len(data.source.classes)  # a run refuses any other number
    else:
        width = weights.classes(spec, config.model.name)
    heads = {'source': width} if width else {}
    made = jax.eval_shape(lambda key: net.init(key, image, heads), jax.random.key(0))
    dtype = float_type(config)
    made = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), made)
    return start_lib.apply_head_setting(spec, made, config.model.head, len(data.train.classes))


def dummy_network(net: Net, begin: Tree | None) -> tuple[Net, Callable[[Array], Array]]:
    """Return the network as `prepare` sees it, and its features: arbitrary numbers of the right shapes."""
    rng = np.random.default_rng(0)

    def numbers(wanted: Any) -> Any:
        if math.prod(wanted.shape) > LARGE or not jnp.issubdtype(wanted.dtype, jnp.floating):
            return np.broadcast_to(np.zeros((), wanted.dtype), wanted.shape)
        return rng.standard_normal(wanted.shape).astype(wanted.dtype)

    def apply(variables: Tree, image: Array, **options: Any) -> Any:
        shapes = jax.eval_shape(partial(net.apply, **options), variables, image)
        return jax.tree.map(numbers, shapes)

    if begin is None:
        bound = bind(net, None)._replace(apply=apply)
        return bound, lambda image: bound.source(image).features
    variables = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), begin)
    known: dict[Any, Any] = {}  # tracing a network takes a second

    def source(image: Array) -> Out:
        if image.shape not in known:
            known[image.shape] = jax.eval_shape(partial(net.apply, train=False), begin, image)[0]
        return jax.tree.map(numbers, known[image.shape])

    bound = net._replace(apply=apply, pretrained=lambda: variables, source=source)
    return bound, lambda image: source(image).features


# --- the result of `prepare` ------------------------------------------------------------------------------------------


def prepared(program: Program, per_class: int | None = None) -> tuple[Data, Prepared]:
    """Return the data of a seed as its method sees them, and the result of `prepare` on them.

    Args:
      program: the run's programs.
      per_class: maximum number of examples of a class for `prepare`, where a pass over all would take long.
    """
    config, data = program.config, program.sets
    rows = program.draw(config.seed).train
    target = _part(program, data.train, rows)
    source = None
    if data.source is not None:
        sizes = seeds.class_sizes(config, data.source)
        source = _part(program, data.source, np.arange(len(data.source.labels)), sizes)
    few = rows[prepare.some_of_each(data.train.labels[rows], len(data.train.classes), per_class)]
    more = seeds.unlabelled_images(program, config.seed)
    unlabelled = None if more is None else _part(program, more, np.arange(len(more.labels)))
    geometry = program.shared.geometry
    every = Data(target, source, unlabelled, program.task.loss, geometry.mean, geometry.std)
    looked_at = every if per_class is None else every._replace(target=_part(program, data.train, few))
    made = program.method.prepare(program.shared.view[0], looked_at, jax.random.key(config.seed))
    return every, made


def _part(program: Program, dataset: Dataset, rows: np.ndarray, sizes: np.ndarray | None = None) -> Part:
    """Make a `train.prepare.part` with black images and made-up means."""
    labels, classes = dataset.labels[rows], dataset.classes
    shape = program.shared.image.shape[1:]

    def batches(size: int, augmented: bool = False, per_class: int | None = None) -> Iterator[dict[str, Array]]:
        chosen = prepare.some_of_each(labels, len(classes), per_class)
        start = 0
        while augmented or start < len(chosen):
            here = chosen[np.arange(start, start + size) % len(chosen)] if augmented else chosen[start : start + size]
            image = jnp.zeros((len(here), *shape), jnp.float32)
            yield {'image': image, 'label': jnp.asarray(labels[here]), 'index': jnp.asarray(here)}
            start += size

    def features() -> np.ndarray:
        wide = np.asarray(program.shared.view[1](program.shared.image)).shape[-1]
        return np.broadcast_to(np.zeros((), np.float32), (len(labels), wide))

    def class_means(per_class: int | None = None) -> np.ndarray:
        del per_class
        wide = np.asarray(program.shared.view[1](program.shared.image)).shape[-1]
        return np.random.default_rng(len(classes)).standard_normal((len(classes), wide))

    counted = np.bincount(labels[labels >= 0], minlength=len(classes)) if sizes is None else sizes
    return Part(classes, labels, counted, batches, class_means, features)


def describe_draw(made: Prepared) -> str:
    """Return a line on the assumed draw of a method; '' if there is none."""
    return '' if made.draw is None else f'{len(made.draw.rows):,} source images are chosen, of classes of equal size'
