"""One seed of a run: its labelled examples, what its method prepared, its state at step 0."""

from __future__ import annotations

import contextlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.config import base, method_registry
from mixjax.data.dataset import Dataset
from mixjax.data.datasets import resolve as sets_lib
from mixjax.data.feed import batches, plan
from mixjax.data.feed.batches import Images, Lazy
from mixjax.data.feed.stream import Planner, examples
from mixjax.data.labelled import run_data, splits
from mixjax.data.labelled.run_data import Sets
from mixjax.data.pixels import decoded_cache
from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.processes import by_first, from_first
from mixjax.host.progress import duration
from mixjax.host.storage import Place
from mixjax.method import Data, First, Prepared
from mixjax.train import contract, export, prepare, program, step
from mixjax.train.program import Ground, Program

Array = jax.Array
Tree = Any

WORTH_TELLING = 5.0  # seconds


class Seed(NamedTuple):
    """What one seed works on, on the host.

    train: its labelled images. test: the images it is tested on; None where all seeds share them. val: those
        it validates on, drawn for it alone; None where there are none.
    inputs: what its training program is given. state: the `TrainState` at step 0.
    """

    seed: int
    train: Images
    test: Images | None
    made: Prepared
    inputs: Tree
    state: step.TrainState
    val: Images | None = None


def ready(config: Any, folder: Place, on: Ground | None = None) -> Program:
    """Build a run and try what can go wrong with it, without a trace in its folder."""
    built = program.build(config, on)
    for seed in range(config.seed, config.seed + config.num_seeds):
        rows = run_data.drawn(config, built.sets, seed).known
        if built.sets.test is None and len(rows) == len(built.sets.train.labels):
            raise UserError(
                'every example is labelled, so none is left to test on; lower config.target.'
                + ('per_class' if config.target.per_class else 'rate')
            )
    _try(built, folder)
    return built


def _try(built: Program, folder: Place) -> None:
    """Trace a step of the first seed, and before it one of the first stage where there is one."""
    config = built.config
    _, data, _ = parts(built, config.seed)
    if from_first((folder / f'prepared-{config.seed}.npz').exists):
        made = prepared(built, config.seed, folder)
    else:
        made = built.made[config.seed] = from_first(lambda: _made(built, config.seed))
    prepare.try_step(
        built.view[0], built.method, built.run, built.image, made, data, built.own, config,
        program.float_type(config), built.initialisers,
    )  # fmt: skip
    if built.method.first is not None:
        _try(first_stage(built, made), folder / 'first')


def _made(built: Program, seed: int) -> Prepared:
    """What `prepare` returns for a seed, checked; it may take minutes, so a person is told before and after."""
    _, data, key = parts(built, seed)
    name, began = method_registry.title(built.config.method), time.monotonic()
    has_one = not contract.is_default(built.method, 'prepare')
    if has_one:
        built.say(f'{name}: preparing seed {seed}')
    made = built.method.prepare(built.view[0], data, key)
    took = time.monotonic() - began
    if has_one and took >= WORTH_TELLING:
        built.say(f'{name}: prepared seed {seed} in {duration(took)}')
    source = built.sets.source
    return contract.prepared(
        built.method, made, len(built.sets.train.classes), None if source is None else len(source.labels)
    )


def parts(built: Program, seed: int) -> tuple[np.ndarray, Data, Array]:
    """A seed's labelled rows, the data as its method sees them, and the key for `prepare`."""
    config, sets = built.config, built.sets
    rows = run_data.labelled(config, sets, seed)

    read = decoded_cache.Subset(sets.train.read, rows)
    key_t, key_s, key = jax.random.split(step.keys(jax.random.key(seed)).prepare, 3)
    _, features = built.view
    size = config.eval_batch_size
    target = prepare.part(
        sets.train.classes, sets.train.labels[rows], read, features, built.geometry, batch=size, key=key_t
    )
    if sets.source is None:
        return rows, Data(target), key
    # Only the images that are drawn are read again, so a pass over the source stores nothing.
    source = prepare.part(
        sets.source.classes, sets.source.labels, decoded_cache.passing(sets.source.read), features, built.geometry,
        batch=size, key=key_s, sizes=class_sizes(config, sets.source), cache=built.means,
    )  # fmt: skip
    return rows, Data(target, source), key


def class_sizes(config: Any, source: Dataset) -> np.ndarray | None:
    """Images of each source class; where they are made up, as many as the true data set has in the mean."""
    if not config.synthetic.per_class:
        return None
    true = sets_lib.entry(config.source, storage.kept(config.cache_dir), made_up=True)
    return np.full(len(source.classes), true.train // true.classes)


@by_first
def prepared(built: Program, seed: int, folder: Place) -> Prepared:
    """What the method makes for this seed: read from the work directory, or made and put there."""
    path = folder / f'prepared-{seed}.npz'
    if not path.exists():
        made = built.made.pop(seed, None)
        if made is None:
            made = _made(built, seed)
        prepare.save_prepared(path, made)
    # Always by way of the file, so that a restart sees the same types and values.
    return prepare.load_prepared(path)


def open_seed(built: Program, seed: int, folder: Place, trunk: Tree | None = None) -> Seed:
    """Draw the split, read the images, make the initial state. trunk: of a `First`, to start from."""
    config, sets = built.config, built.sets
    made = prepared(built, seed, folder)
    rows, data, _ = parts(built, seed)
    train, inputs = given(built, rows, made, seed)
    drawn_now = run_data.drawn(config, sets, seed)
    test = None if sets.test is not None else remaining(sets, drawn_now.known)
    val = images(sets.train, drawn_now.val) if len(drawn_now.val) else None
    state = prepare.initial_state(
        built.view[0], built.method, built.tx, built.image, jax.random.key(seed), made, data,
        built.own, program.float_type(config), built.initialisers, trunk,
    )  # fmt: skip
    return Seed(seed, train, test, made, inputs, state, val)


def given(built: Program, rows: np.ndarray, made: Prepared, seed: int) -> tuple[Images, Tree]:
    """The labelled images, and what the feed of the seed is made of."""
    config, sets = built.config, built.sets
    train, drawn, law = images(sets.train, rows), None, None
    # Where there is a first stage, the drawn images are its data, and the run itself has none.
    if made.draw is not None and built.method.first is None:
        if sets.source is None:
            raise UserError('the method draws source images: set config.source.name')
        rows_s, law = made.draw.rows, plan.Draw(made.draw.start, made.draw.count, made.draw.rounds, made.draw.union)
        if config.mix.shards > 1:
            rows_s, law = plan.deal(rows_s, law, config.mix.shards)
        drawn = images(sets.source, rows_s)
    return train, batches.seed_inputs(train, drawn, law, run_data.epoch(config, train.label, seed))


def images(dataset: Dataset, rows: np.ndarray) -> Images:
    """Some examples; their pixels are read when they are asked for."""
    return Images(Lazy(dataset.read, rows), dataset.labels[rows])


def everything(dataset: Dataset) -> Images:
    return images(dataset, np.arange(len(dataset.labels)))


def remaining(sets: Sets, known: np.ndarray) -> Images:
    """The examples that were not drawn."""
    return images(sets.train, splits.rest(len(sets.train.labels), known))


# --- a stage before the run -------------------------------------------------------------------------------------------


def selected(built: Program, made: Prepared) -> Dataset:
    """The source images that `draw` selects, as a data set of its own: the target of a `First`."""
    source = built.sets.source
    if made.draw is None or source is None:
        raise UserError("a method with a first stage needs source images: prepare() must make a 'draw'")
    rows = np.unique(made.draw.rows)
    chosen, labels = np.unique(source.labels[rows], return_inverse=True)
    return Dataset(
        f'{source.name}:selected', tuple(source.classes[c] for c in chosen), labels.astype(np.int32),
        decoded_cache.Subset(source.read, rows),
    )  # fmt: skip


def first_steps(first: First, config: Any) -> int:
    return max(1, round(first.share * config.steps))


def first_stage(built: Program, made: Prepared) -> Program:
    """The program of a method's `First` on these selected images; compiled once for each size."""
    first, images = built.method.first, selected(built, made)
    assert first is not None
    sets, classes = Sets(images, None, None), len(images.classes)
    size = (classes, len(images.labels))  # the length of an epoch is part of the program
    if size not in built.firsts:
        config = built.config.copy_and_resolve_references().unlock()
        config.steps, config.snapshots = first_steps(first, config), ()
        config.target.update(base().target)  # all of the selected images
        on = built.ground._replace(sets=sets)
        built.firsts[size] = program.around(on, config.lock(), first.method(classes))
    return built.firsts[size]._replace(sets=sets)


# --- what the report shows of it --------------------------------------------------------------------------------------


@by_first
def pictures(built: Program, one: Seed, folder: Place) -> None:
    """What the report shows of the first seed: class pairs, and what the network is given."""
    source, draw = built.sets.source, one.made.draw
    if draw is not None and source is not None:
        export.pairs(
            folder, one.seed, one.made,
            built.sets.train.classes, one.train.label, lambda rows: one.train.image[rows],
            source.classes, source.labels, source.read,
        )  # fmt: skip
    frozen, config = jax.tree.map(jnp.asarray, one.made.frozen), built.config
    planner = Planner(step.keys(one.state.key).data, one.inputs, batch=config.batch_size, groups=config.mix.groups)

    def look(step: int) -> Tree:
        found = examples(one.inputs, planner, step)
        inputs = {**{name: x[None] for name, x in found.items()}, 'first': np.int32(step)}
        return built.seen(one.state._replace(step=jnp.asarray(step, jnp.int32)), built.own, frozen, inputs)

    # A method may forward inside a transformation of its own; a run does not need the picture.
    with contextlib.suppress(jax.errors.UnexpectedTracerError):
        export.samples(folder / 'samples.npz', look)
