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
from mixjax.train import contract, export, init, prepare, step
from mixjax.train import program as program_lib
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
    program = program_lib.build(config, shared)
    for seed in seeds_of(config) if config.target.test != splits.NOTHING else ():
        if program.sets.test is None and len(program.draw(seed).rows.known) == len(program.sets.train.labels):
            raise UserError(
                'every example is labelled, so none is left to test on; lower config.target.'
                + ('per_class' if config.target.per_class else 'rate')
                + ', or learn from all of them and test on nothing (config.target.test=none)'
            )
    _try_first_step(program, folder)
    return program


def _try_first_step(program: Program, folder: Place) -> None:
    """Trace a step of the first seed, after one of the first stage if there is one."""
    seed = program.config.seed
    if from_first((folder / f'prepared-{seed}.npz').exists):
        made = load_or_prepare(program, seed, folder)
    else:
        made = program.prepared[seed] = from_first(lambda: _prepare(program, seed))
    init.try_step(program, made, method_data(program, seed)[0])
    if program.method.first is not None:
        _try_first_step(first_stage(program, made), folder / 'first')


# --- the result of `prepare` ------------------------------------------------------------------------------------------


def method_data(program: Program, seed: int) -> tuple[Data, Array]:
    """Return a seed's data as its method sees them, and the key for `prepare`."""
    config, sets, shared = program.config, program.sets, program.shared
    rows = program.draw(seed).train
    key_t, key_s, key = jax.random.split(step.keys(jax.random.key(seed)).prepare, 3)
    _, features = shared.view
    labels = program.task.fed(sets.train.labels[rows], program.scale(seed))
    labelled = sets.train._replace(labels=labels, read=decoded_cache.Subset(sets.train.read, rows))
    batch = config.eval_batch_size
    target = prepare.part(
        labelled, features, shared.geometry, batch=batch, key=key_t, cache=shared.features(sets.train, rows)
    )
    target = target._replace(names=splits.Some(sets.train.ids, rows) if len(sets.train.ids) else ())
    unlabelled = unlabelled_images(program, seed)
    if unlabelled is not None:
        key_u = jax.random.fold_in(key_t, 1)
        whole = (sets.train, program.draw(seed).rows.unlabelled) if sets.unlabelled is None else (unlabelled, None)
        more = prepare.part(
            unlabelled, features, shared.geometry, batch=batch, key=key_u, cache=shared.features(*whole)
        )
        unlabelled = more._replace(names=unlabelled.ids)
    mean, std = shared.geometry.mean, shared.geometry.std
    if sets.source is None:
        return Data(target, None, unlabelled, program.task.loss, mean, std), key
    # Only the images that are drawn are read again, so a pass over the source stores nothing.
    source = prepare.part(
        sets.source._replace(read=decoded_cache.passing(sets.source.read)), features, shared.geometry,
        batch=batch, key=key_s, sizes=class_sizes(config, sets.source), cache=shared.features(sets.source, None),
    )  # fmt: skip
    return Data(target, source._replace(names=sets.source.ids), unlabelled, program.task.loss, mean, std), key


def unlabelled_images(program: Program, seed: int) -> Dataset | None:
    """Return the unlabelled images of a seed, with the label -1; None if `config.unlabelled` names none."""
    sets, rows = program.sets, program.draw(seed).rows.unlabelled
    if sets.unlabelled is not None or not len(rows):
        return sets.unlabelled
    ids = splits.Some(sets.train.ids, rows) if len(sets.train.ids) else ()
    labels, read = np.full(len(rows), -1, np.int32), decoded_cache.Subset(sets.train.read, rows)
    return Dataset(f'{sets.train.name}:unlabelled', (), labels, read, ids)


def class_sizes(config: Any, source: Dataset) -> np.ndarray | None:
    """Return the images of each source class; for made-up ones, the average number of the true data set."""
    if not config.synthetic.per_class:
        return None
    true = resolve.entry(config.source, storage.cache_folder(config.cache_dir), made_up=True)
    return np.full(len(source.classes), true.train // true.classes)


def _prepare(program: Program, seed: int) -> Prepared:
    """Call `prepare` for a seed, and check its result; it may take minutes, so print a line before and after."""
    data, key = method_data(program, seed)
    name, began, say = method_registry.title(program.config.method), time.monotonic(), program.shared.say
    has_one = not contract.is_default(program.method, 'prepare')
    if has_one:
        say(f'{name}: preparing seed {seed}')
    made = program.method.prepare(program.shared.view[0], data, key)
    took = time.monotonic() - began
    if has_one and took >= WORTH_SAYING:
        say(f'{name}: prepared seed {seed} in {duration(took)}')
    source = program.sets.source
    return contract.prepared(
        program.method, made, len(program.sets.train.classes), None if source is None else len(source.labels)
    )


@by_first
def load_or_prepare(program: Program, seed: int, folder: Place) -> Prepared:
    """Return the result of `prepare` for this seed: read from the work directory, or made and saved there."""
    path = folder / f'prepared-{seed}.npz'
    if not path.exists():
        made = program.prepared.pop(seed, None)
        if made is None:
            made = _prepare(program, seed)
        prepare.save_prepared(path, made)
    # Always by way of the file, so that a restart sees the same types and values.
    return prepare.load_prepared(path)


# --- a seed that is about to be trained -------------------------------------------------------------------------------


def open_seed(program: Program, seed: int, folder: Place, trunk: Tree | None = None) -> SeedData:
    """Select the images of a seed and make its initial state.

    Args:
      program: the run's programs.
      seed: the seed.
      folder: the run's folder.
      trunk: variables of a first stage, to start from.
    """
    shared = program.shared
    made = load_or_prepare(program, seed, folder)
    train, inputs = program_inputs(program, seed, made)
    test = None if program.one_test else fed(program, seed, test_images(program, seed))
    val = None if program.one_val else val_images(program, seed)
    val = val and fed(program, seed, val)
    data, _ = method_data(program, seed)
    key = jax.random.key(seed)
    state = init.initial_state(shared.view[0], shared.start_here, program, key, made, data, trunk)
    return SeedData(seed, train, test, made, inputs, state, val)


def program_inputs(program: Program, seed: int, made: Prepared) -> tuple[Images, Tree]:
    """Return the labelled images of a seed, and the inputs of its training program."""
    config, sets, draw = program.config, program.sets, program.draw(seed)
    train, drawn, law = fed(program, seed, subset(sets.train, draw.train)), None, None
    # If there is a first stage, the drawn images are its data, and the run itself has none.
    if made.draw is not None and program.method.first is None:
        if sets.source is None:
            raise UserError('the method draws source images: set config.source.name')
        rows_s, law = made.draw.rows, plan.Draw(made.draw.start, made.draw.count, made.draw.rounds, made.draw.union)
        if config.mix.shards > 1:
            rows_s, law = plan.deal(rows_s, law, config.mix.shards)
        drawn = subset(sets.source, rows_s)
    unlabelled = None
    if program.method.unlabelled:
        found = unlabelled_images(program, seed)
        if found is None:
            raise UserError(
                'the method learns from unlabelled images: set config.unlabelled.name (rest, folder or a data set)'
            )
        unlabelled = all_images(found).image
    return train, batches.seed_inputs(train, drawn, law, draw.epoch, unlabelled)


def subset(dataset: Dataset, rows: np.ndarray) -> Images:
    """Return some examples; their pixels are read on demand."""
    return Images(Lazy(dataset.read, rows), dataset.labels[rows])


def fed(program: Program, seed: int, some: Images) -> Images:
    """Return examples with their labels as they are in a batch of a seed."""
    return some._replace(label=program.task.fed(some.label, program.scale(seed)))


def all_images(dataset: Dataset) -> Images:
    """Return all examples of a data set."""
    return subset(dataset, np.arange(len(dataset.labels)))


def undrawn_images(sets: Sets, known: np.ndarray) -> Images:
    """Return the examples of the train part that were not drawn."""
    return subset(sets.train, splits.rest(len(sets.train.labels), known))


def test_images(program: Program, seed: int) -> Images:
    """Return the test examples of a seed, in the order of evaluation."""
    sets = program.sets
    if program.config.target.test == splits.NOTHING:
        return subset(sets.train, np.arange(0))
    return all_images(sets.test) if sets.test is not None else undrawn_images(sets, program.draw(seed).rows.known)


def val_images(program: Program, seed: int) -> Images | None:
    """Return the validation examples of a seed, in the order of evaluation; None if there are none."""
    sets, rows = program.sets, program.draw(seed).rows.val
    if sets.val is not None:
        return all_images(sets.val)
    return subset(sets.train, rows) if len(rows) else None


# --- seeds that are trained at once -----------------------------------------------------------------------------------


def group_seeds(program: Program, folder: Place) -> list[list[int]]:
    """Return the seeds of a run, in the groups that are trained at once.

    Seeds may differ in the values that `prepare` returned and in their source images; if they differ in the width of
    a head or in the number of examples, they need other programs.
    """
    config, together = program.config, program.mesh.shape['trial']
    if together == 1:
        return [[seed] for seed in seeds_of(config)]
    groups: dict[Any, list[int]] = {}
    for seed in seeds_of(config):
        # Seeds go on together only from one step: a run may have been begun on other devices.
        at = [checkpoint.newest(folder / part / 'checkpoints' / str(seed)) for part in ('', 'first')]
        groups.setdefault((_shapes(program, seed, load_or_prepare(program, seed, folder)), *at), []).append(seed)
    return [seeds[i : i + together] for seeds in groups.values() for i in range(0, len(seeds), together)]


def _shapes(program: Program, seed: int, made: Prepared) -> Any:
    """Return everything that must be equal for seeds to share a program."""
    draw, start = program.draw(seed), program.shared.start
    classes_s = 0 if start is None else init.pretrained_classes(start)
    heads = init.heads(program.method, len(program.sets.train.classes), classes_s, made)
    frozen = [(jax.tree_util.keystr(path), np.shape(x)) for path, x in jax.tree_util.tree_leaves_with_path(made.frozen)]
    first = None if program.method.first is None else len(selected_source(program, made).labels)
    widths = tuple((name, head.width) for name, head in heads.items())
    unlabelled = len(draw.rows.unlabelled) if program.method.unlabelled else 0
    return (len(draw.train), draw.epoch_length, unlabelled), widths, tuple(frozen), first


# --- a stage before the run -------------------------------------------------------------------------------------------


def selected_source(program: Program, made: Prepared) -> Dataset:
    """Return the source images that `draw` selects, as a separate data set: the target of a `First`."""
    source = program.sets.source
    if made.draw is None or source is None:
        raise UserError("a method with a first stage needs source images: prepare() must make a 'draw'")
    rows = np.unique(made.draw.rows)
    chosen, labels = np.unique(source.labels[rows], return_inverse=True)
    return Dataset(
        f'{source.name}:selected', tuple(source.classes[c] for c in chosen), labels.astype(np.int32),
        decoded_cache.Subset(source.read, rows),
    )  # fmt: skip


def first_steps(program: Program) -> int:
    """Return the number of steps of a method's first stage, which come before those of the run; 0 without one."""
    first = program.method.first
    return 0 if first is None else max(1, round(first.share * program.config.steps))


def first_stage(program: Program, made: Prepared) -> Program:
    """Return the program of a method's `First` on these selected images; compiled once for each size."""
    first, chosen = program.method.first, selected_source(program, made)
    assert first is not None
    sets, classes = Sets(chosen, None, None), len(chosen.classes)
    size = (classes, len(chosen.labels))  # the length of an epoch is part of the program
    if size not in program.firsts:
        config = program.config.copy_and_resolve_references().unlock()
        config.steps, config.snapshots = first_steps(program), ()
        config.target.update(base().target)  # all of the selected images
        config.unlabelled.update(base().unlabelled)
        shared = program.shared._replace(sets=sets)
        program.firsts[size] = program_lib.build_program(shared, config.lock(), first.method(classes))
    return program.firsts[size].with_sets(sets)


# --- pictures for the report ------------------------------------------------------------------------------------------


@by_first
def write_pictures(program: Program, one: SeedData, folder: Place) -> None:
    """Keep pictures of the first seed: of the class pairs, and of the images that enter the network."""
    source, draw = program.sets.source, one.prepared.draw
    if draw is not None and source is not None:
        labelled = Dataset('', program.sets.train.classes, one.train.label, lambda rows: one.train.image[rows])
        export.write_pairs(folder, one.seed, one.prepared, labelled, source)
    frozen, shared = jax.tree.map(jnp.asarray, one.prepared.frozen), program.shared
    planner = Planner(step.keys(one.state.key).data, one.inputs, program.sizes)

    def view_step(step: int) -> Tree:
        found = examples(one.inputs, planner, step)
        inputs = {**{name: x[None] for name, x in found.items()}, 'first': np.int32(step)}
        state = one.state._replace(step=jnp.asarray(step, jnp.int32))
        return program.show_samples(state, shared.start_here, frozen, inputs)

    # A method may forward inside a transformation; a run does not need the picture.
    with contextlib.suppress(jax.errors.UnexpectedTracerError):
        export.write_samples(folder / 'samples.npz', view_step)
