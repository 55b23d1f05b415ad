"""One seed of a run: its labelled examples, the result of its method's `prepare`, its state at step 0."""

from __future__ import annotations

import contextlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.config import method_registry
from mixjax.config.defaults import base
from mixjax.data.dataset import Dataset
from mixjax.data.datasets import resolve
from mixjax.data.feed import batches, plan
from mixjax.data.feed.batches import Images, Lazy
from mixjax.data.feed.stream import Planner, examples
from mixjax.data.labelled import splits
from mixjax.data.labelled.run_data import Sets
from mixjax.data.pixels import decoded_cache
from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.processes import by_first, from_first
from mixjax.host.progress import duration
from mixjax.host.storage import Place
from mixjax.method import Data, Prepared
from mixjax.rundir import checkpoint
from mixjax.train import contract, export, init, prepare, program, step
from mixjax.train.program import Program
from mixjax.train.shared import Shared

Array = jax.Array
Tree = Any

WORTH_SAYING = 5.0  # seconds


class SeedData(NamedTuple):
    """The data of one seed, on the host.

    train: its labelled images.
    test: its test images; None if all seeds share them.
    val: its validation images; None if there are none, or all seeds share them.
    inputs: the inputs of its training program.
    state: the `TrainState` at step 0.
    """

    seed: int
    train: Images
    test: Images | None
    prepared: Prepared
    inputs: Tree
    state: step.TrainState
    val: Images | None = None


def seeds_of(config: Any) -> list[int]:
    """Return the seeds of a run."""
    return [config.seed + i for i in range(config.num_seeds)]


# --- before anything is trained ---------------------------------------------------------------------------------------


def build_and_try(config: Any, folder: Place, shared: Shared | None = None) -> Program:
    """Build a run and try what can fail in it, without writing to its folder."""
    built = program.build(config, shared)
    for seed in seeds_of(config):
        if built.sets.test is None and len(built.draw(seed).rows.known) == len(built.sets.train.labels):
            raise UserError(
                'every example is labelled, so none is left to test on; lower config.target.'
                + ('per_class' if config.target.per_class else 'rate')
            )
    _try(built, folder)
    return built


def _try(built: Program, folder: Place) -> None:
    """Trace a step of the first seed, after one of the first stage if there is one."""
    seed = built.config.seed
    if from_first((folder / f'prepared-{seed}.npz').exists):
        made = prepared(built, seed, folder)
    else:
        made = built.prepared[seed] = from_first(lambda: _prepare(built, seed))
    init.try_step(built, made, method_data(built, seed)[0])
    if built.method.first is not None:
        _try(first_stage(built, made), folder / 'first')


# --- the result of `prepare` ------------------------------------------------------------------------------------------


def method_data(built: Program, seed: int) -> tuple[Data, Array]:
    """Return a seed's data as its method sees them, and the key for `prepare`."""
    config, sets, shared = built.config, built.sets, built.shared
    rows = built.draw(seed).train
    key_t, key_s, key = jax.random.split(step.keys(jax.random.key(seed)).prepare, 3)
    _, features = shared.view
    labels = built.task.fed(sets.train.labels[rows], built.scale(seed))
    labelled = sets.train._replace(labels=labels, read=decoded_cache.Subset(sets.train.read, rows))
    batch = config.eval_batch_size
    target = prepare.part(
        labelled, features, shared.geometry, batch=batch, key=key_t, cache=shared.features(sets.train, rows)
    )
    target = target._replace(names=splits.Some(sets.train.ids, rows) if len(sets.train.ids) else ())
    unlabelled = unlabelled_images(built, seed)
    if unlabelled is not None:
        key_u = jax.random.fold_in(key_t, 1)
        whole = (sets.train, built.draw(seed).rows.unlabelled) if sets.unlabelled is None else (unlabelled, None)
        more = prepare.part(
            unlabelled, features, shared.geometry, batch=batch, key=key_u, cache=shared.features(*whole)
        )
        unlabelled = more._replace(names=unlabelled.ids)
    mean, std = shared.geometry.mean, shared.geometry.std
    if sets.source is None:
        return Data(target, None, unlabelled, built.task.loss, mean, std), key
    # Only the images that are drawn are read again, so a pass over the source stores nothing.
    source = prepare.part(
        sets.source._replace(read=decoded_cache.passing(sets.source.read)), features, shared.geometry,
        batch=batch, key=key_s, sizes=class_sizes(config, sets.source), cache=shared.features(sets.source, None),
    )  # fmt: skip
    return Data(target, source._replace(names=sets.source.ids), unlabelled, built.task.loss, mean, std), key


def unlabelled_images(built: Program, seed: int) -> Dataset | None:
    """Return the unlabelled images of a seed, with the label -1; None if `config.unlabelled` names none."""
    sets, rows = built.sets, built.draw(seed).rows.unlabelled
    if sets.unlabelled is not None or not len(rows):
        return sets.unlabelled
    ids = splits.Some(sets.train.ids, rows) if len(sets.train.ids) else ()
    labels, read = np.full(len(rows), -1, np.int32), decoded_cache.Subset(sets.train.read, rows)
    return Dataset(f'{sets.train.name}:unlabelled', (), labels, read, ids)


def class_sizes(config: Any, source: Dataset) -> np.ndarray | None:
    """Return the images of each source class; for made-up ones, the average number of the true data set."""
    if not config.synthetic.per_class:
        return None
    true = resolve.entry(config.source, storage.kept(config.cache_dir), made_up=True)
    return np.full(len(source.classes), true.train // true.classes)


def _prepare(built: Program, seed: int) -> Prepared:
    """Call `prepare` for a seed, and check its result; it may take minutes, so print a line before and after."""
    data, key = method_data(built, seed)
    name, began, say = method_registry.title(built.config.method), time.monotonic(), built.shared.say
    has_one = not contract.is_default(built.method, 'prepare')
    if has_one:
        say(f'{name}: preparing seed {seed}')
    made = built.method.prepare(built.shared.view[0], data, key)
    took = time.monotonic() - began
    if has_one and took >= WORTH_SAYING:
        say(f'{name}: prepared seed {seed} in {duration(took)}')
    source = built.sets.source
    return contract.prepared(
        built.method, made, len(built.sets.train.classes), None if source is None else len(source.labels)
    )


@by_first
def prepared(built: Program, seed: int, folder: Place) -> Prepared:
    """Return the result of `prepare` for this seed: read from the work directory, or made and saved there."""
    path = folder / f'prepared-{seed}.npz'
    if not path.exists():
        made = built.prepared.pop(seed, None)
        if made is None:
            made = _prepare(built, seed)
        prepare.save_prepared(path, made)
    # Always by way of the file, so that a restart sees the same types and values.
    return prepare.load_prepared(path)


# --- a seed that is about to be trained -------------------------------------------------------------------------------


def open_seed(built: Program, seed: int, folder: Place, trunk: Tree | None = None) -> SeedData:
    """Select the images of a seed and make its initial state.

    Args:
      built: the run's programs.
      seed: the seed.
      folder: the run's folder.
      trunk: variables of a first stage, to start from.
    """
    shared = built.shared
    made = prepared(built, seed, folder)
    train, inputs = program_inputs(built, seed, made)
    test = None if built.one_test else fed(built, seed, test_images(built, seed))
    val = None if built.one_val else val_images(built, seed)
    val = val and fed(built, seed, val)
    data, _ = method_data(built, seed)
    key = jax.random.key(seed)
    state = init.initial_state(shared.view[0], shared.start_here, built, key, made, data, trunk)
    return SeedData(seed, train, test, made, inputs, state, val)


def program_inputs(built: Program, seed: int, made: Prepared) -> tuple[Images, Tree]:
    """Return the labelled images of a seed, and the inputs of its training program."""
    config, sets, draw = built.config, built.sets, built.draw(seed)
    train, drawn, law = fed(built, seed, images(sets.train, draw.train)), None, None
    # If there is a first stage, the drawn images are its data, and the run itself has none.
    if made.draw is not None and built.method.first is None:
        if sets.source is None:
            raise UserError('the method draws source images: set config.source.name')
        rows_s, law = made.draw.rows, plan.Draw(made.draw.start, made.draw.count, made.draw.rounds, made.draw.union)
        if config.mix.shards > 1:
            rows_s, law = plan.deal(rows_s, law, config.mix.shards)
        drawn = images(sets.source, rows_s)
    unlabelled = None
    if built.method.unlabelled:
        found = unlabelled_images(built, seed)
        if found is None:
            raise UserError(
                'the method learns from unlabelled images: set config.unlabelled.name (rest, folder or a data set)'
            )
        unlabelled = everything(found).image
    return train, batches.seed_inputs(train, drawn, law, draw.epoch, unlabelled)


def images(dataset: Dataset, rows: np.ndarray) -> Images:
    """Return some examples; their pixels are read on demand."""
    return Images(Lazy(dataset.read, rows), dataset.labels[rows])


def fed(built: Program, seed: int, some: Images) -> Images:
    """Return examples with their labels as they are in a batch of a seed."""
    return some._replace(label=built.task.fed(some.label, built.scale(seed)))


def everything(dataset: Dataset) -> Images:
    """Return all examples of a data set."""
    return images(dataset, np.arange(len(dataset.labels)))


def remaining(sets: Sets, known: np.ndarray) -> Images:
    """Return the examples of the train part that were not drawn."""
    return images(sets.train, splits.rest(len(sets.train.labels), known))


def test_images(built: Program, seed: int) -> Images:
    """Return the test examples of a seed, in the order of evaluation."""
    sets = built.sets
    return everything(sets.test) if sets.test is not None else remaining(sets, built.draw(seed).rows.known)


def val_images(built: Program, seed: int) -> Images | None:
    """Return the validation examples of a seed, in the order of evaluation; None if there are none."""
    sets, rows = built.sets, built.draw(seed).rows.val
    if sets.val is not None:
        return everything(sets.val)
    return images(sets.train, rows) if len(rows) else None


# --- seeds that are trained at once -----------------------------------------------------------------------------------


def group_seeds(built: Program, folder: Place) -> list[list[int]]:
    """Return the seeds of a run, in the groups that are trained at once.

    Seeds may differ in the values that `prepare` returned and in their source images; if they differ in the width of
    a head or in the number of examples, they need other programs.
    """
    config, together = built.config, built.mesh.shape['trial']
    if together == 1:
        return [[seed] for seed in seeds_of(config)]
    groups: dict[Any, list[int]] = {}
    for seed in seeds_of(config):
        # Seeds go on together only from one step: a run may have been begun on other devices.
        at = [checkpoint.newest(folder / part / 'checkpoints' / str(seed)) for part in ('', 'first')]
        groups.setdefault((_shapes(built, seed, prepared(built, seed, folder)), *at), []).append(seed)
    return [seeds[i : i + together] for seeds in groups.values() for i in range(0, len(seeds), together)]


def _shapes(built: Program, seed: int, made: Prepared) -> Any:
    """Return everything that must be equal for seeds to share a program."""
    draw, start = built.draw(seed), built.shared.start
    classes_s = 0 if start is None else init.width(start)
    heads = init.heads(built.method, len(built.sets.train.classes), classes_s, made)
    frozen = [(jax.tree_util.keystr(path), np.shape(x)) for path, x in jax.tree_util.tree_leaves_with_path(made.frozen)]
    first = None if built.method.first is None else len(selected(built, made).labels)
    widths = tuple((name, head.width) for name, head in heads.items())
    unlabelled = len(draw.rows.unlabelled) if built.method.unlabelled else 0
    return (len(draw.train), draw.epoch_length, unlabelled), widths, tuple(frozen), first


# --- a stage before the run -------------------------------------------------------------------------------------------


def selected(built: Program, made: Prepared) -> Dataset:
    """Return the source images that `draw` selects, as a separate data set: the target of a `First`."""
    source = built.sets.source
    if made.draw is None or source is None:
        raise UserError("a method with a first stage needs source images: prepare() must make a 'draw'")
    rows = np.unique(made.draw.rows)
    chosen, labels = np.unique(source.labels[rows], return_inverse=True)
    return Dataset(
        f'{source.name}:selected', tuple(source.classes[c] for c in chosen), labels.astype(np.int32),
        decoded_cache.Subset(source.read, rows),
    )  # fmt: skip


def first_steps(built: Program) -> int:
    """Return the number of steps of a method's first stage, which come before those of the run; 0 without one."""
    first = built.method.first
    return 0 if first is None else max(1, round(first.share * built.config.steps))


def first_stage(built: Program, made: Prepared) -> Program:
    """Return the program of a method's `First` on these selected images; compiled once for each size."""
    first, chosen = built.method.first, selected(built, made)
    assert first is not None
    sets, classes = Sets(chosen, None, None), len(chosen.classes)
    size = (classes, len(chosen.labels))  # the length of an epoch is part of the program
    if size not in built.firsts:
        config = built.config.copy_and_resolve_references().unlock()
        config.steps, config.snapshots = first_steps(built), ()
        config.target.update(base().target)  # all of the selected images
        config.unlabelled.update(base().unlabelled)
        shared = built.shared._replace(sets=sets)
        built.firsts[size] = program.build_program(shared, config.lock(), first.method(classes))
    return built.firsts[size].on(sets)


# --- pictures for the report ------------------------------------------------------------------------------------------


@by_first
def pictures(built: Program, one: SeedData, folder: Place) -> None:
    """Keep pictures of the first seed: of the class pairs, and of the images that enter the network."""
    source, draw = built.sets.source, one.prepared.draw
    if draw is not None and source is not None:
        labelled = Dataset('', built.sets.train.classes, one.train.label, lambda rows: one.train.image[rows])
        export.pairs(folder, one.seed, one.prepared, labelled, source)
    frozen, config, shared = jax.tree.map(jnp.asarray, one.prepared.frozen), built.config, built.shared
    planner = Planner(
        step.keys(one.state.key).data, one.inputs, batch=config.batch_size, groups=config.mix.groups,
        unlabelled=built.method.unlabelled * config.batch_size,
    )  # fmt: skip

    def look(step: int) -> Tree:
        found = examples(one.inputs, planner, step)
        inputs = {**{name: x[None] for name, x in found.items()}, 'first': np.int32(step)}
        return built.seen(one.state._replace(step=jnp.asarray(step, jnp.int32)), shared.start_here, frozen, inputs)

    # A method may forward inside a transformation; a run does not need the picture.
    with contextlib.suppress(jax.errors.UnexpectedTracerError):
        export.samples(folder / 'samples.npz', look)
