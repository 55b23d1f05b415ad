"""Everything of a run that its seeds share: data, network, and the programs that are compiled once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixjax import method as method_lib
from mixjax import models
from mixjax.data import catalog, plan, splits
from mixjax.data import feed as feed_lib
from mixjax.data.augment import Geometry
from mixjax.data.catalog import Dataset
from mixjax.data.feed import Batch, Images, Inputs
from mixjax.errors import UserError
from mixjax.method import Data, Method, Prepared, Run
from mixjax.models import weights
from mixjax.models.net import Net
from mixjax.train import evaluate, export, mesh, optim, prepare, step, workdir

Array = jax.Array
Tree = Any


class Sets(NamedTuple):
    """The data sets of a run. `test` is None where all that is not labelled is the test set."""

    train: Dataset
    test: Dataset | None
    source: Dataset | None


class Program(NamedTuple):
    """What the seeds of a run share."""

    config: Any
    net: Net
    method: Method
    feed: Batch
    run: Run
    geometry: Geometry
    mesh: Mesh
    sets: Sets
    start: Tree | None
    image: Array
    tx: Any
    advance: Callable[[int], Callable]
    evaluate: Callable
    seen: Callable
    view: tuple[Net, Callable[[Array], Array]]
    source_means: dict
    initialisers: dict
    made: dict[int, Prepared]


class Seed(NamedTuple):
    """What one seed of a run works on."""

    train: Images
    test: list[Tree]
    made: Prepared
    data: Data
    inputs: Inputs
    frozen: Tree


def preflight(config: Any) -> None:
    """Refuse a run whose data or weights are not here, all in one message, before anything is read or made."""
    problems = [weights.missing(config.model.weights)]
    if not config.synthetic.per_class:
        names = dict.fromkeys([config.target.name, config.source.name])
        problems += [catalog.missing(name, config.data_dir) for name in names if name]
    found = [problem for problem in problems if problem]
    if found:
        trial = 'to try the config without them, add :smoke to its name'
        raise UserError('cannot start, something is missing:\n\n' + '\n\n'.join(found) + f'\n\n{trial}')


def load_sets(config: Any) -> Sets:
    def one(name: str, split: str) -> Dataset:
        if config.synthetic.per_class:
            made_up = config.synthetic
            return catalog.synthetic_like(name, split, per_class=made_up.per_class, side=made_up.side)
        return catalog.load(name, split, data_dir=config.data_dir)

    has_test = bool(config.synthetic.per_class) or catalog.entry(config.target.name).test > 0
    return Sets(
        train=one(config.target.name, 'train'),
        test=one(config.target.name, 'test') if has_test else None,
        source=one(config.source.name, 'train') if config.source.name else None,
    )


def labelled(config: Any, sets: Sets, seed: int) -> np.ndarray:
    """Rows of the examples that this seed may learn from."""
    target = config.target
    return splits.draw(sets.train.labels, sets.train.classes, per_class=target.per_class, rate=target.rate, seed=seed)


def build(config: Any) -> Program:
    """Load the data, build the network and the method, and the programs around them; nothing is compiled yet."""
    sets = load_sets(config)
    knobs = {key: value for key, value in config.method.items() if key != 'name'}
    method = method_lib.load(config.method.name)(len(sets.train.classes), **knobs)
    # float64 is the type of the variables, and the network follows it.
    dtype = 'bfloat16' if config.model.dtype == 'bfloat16' else 'float32'
    net = models.build(config.model.name, dtype=dtype)
    shape = sets.train.read(np.arange(1)).shape
    channels = shape[-1]
    if sets.source is not None and sets.source.read(np.arange(1)).shape != shape:
        raise UserError(
            f'images of {sets.source.name} are {sets.source.read(np.arange(1)).shape[1:]} and those of '
            f'{sets.train.name} {shape[1:]}; source and target images must have one size and number of colours'
        )
    if channels % len(config.image.mean):
        raise UserError(f'config.image.mean has {len(config.image.mean)} colours and the images have {channels}')
    geometry = Geometry(
        config.image.crop, config.image.pad, config.image.flip, tuple(config.image.mean), tuple(config.image.std)
    )
    image = jnp.zeros((1, geometry.crop, geometry.crop, channels), jnp.float32)
    classes_s = sets.source.classes if sets.source else ()
    start = prepare.pretrained(config.model.weights, net, config.model.name, image, classes_s)

    devices, floats = mesh.make(config.batch_size, config.devices), float_type(config)
    if start is not None:
        start = mesh.replicate(devices)(jax.tree.map(lambda x: x.astype(floats), start))
    shard = mesh.shard_batch(devices)
    feed = feed_lib.resident_batch(geometry, batch=config.batch_size, groups=config.mix.groups, shard=shard)
    run = Run(config.steps, len(labelled(config, sets, 0)) / config.batch_size, geometry.mean, geometry.std)

    def factor_of(params: Tree) -> Tree:
        return optim.factors(method.groups, net.group, params)

    tx, rate = optim.make(config.optim, config.steps, factor_of)
    one = step.make(net, method, feed, run, tx, rate, factor_of)
    compiled: dict[int, Callable] = {}

    def advance(count: int) -> Callable:
        """The compiled program of `count` steps."""
        if count not in compiled:
            compiled[count] = jax.jit(one if count == 1 else step.several(one, count), donate_argnums=0)
        return compiled[count]

    whole = mesh.shard_batch(devices) if config.eval_batch_size % devices.size == 0 else lambda x: x
    return Program(
        config, net, method, feed, run, geometry, devices, sets, start, image, tx, advance,
        evaluate.make(net, method, geometry, whole), export.seen(net, method, feed, run, geometry),
        prepare.view(net, start), {}, {}, {},
    )  # fmt: skip


def float_type(config: Any) -> Any:
    """Type of parameters and statistics."""
    if config.model.dtype != 'float64':
        return jnp.float32
    if not jax.config.read('jax_enable_x64'):
        raise UserError('config.model.dtype=float64 needs the environment variable JAX_ENABLE_X64=1')
    return jnp.float64


def parts(program: Program, seed: int) -> tuple[np.ndarray, Data, Array]:
    """A seed's labelled rows, the data as its method sees them, and the key for `prepare`."""
    config, sets = program.config, program.sets
    rows = labelled(config, sets, seed)

    def read(places: np.ndarray) -> np.ndarray:
        return sets.train.read(rows[places])

    key_t, key_s, key = jax.random.split(step.keys(jax.random.key(seed)).prepare, 3)
    _, features = program.view
    size = config.eval_batch_size
    target = prepare.part(
        sets.train.classes, sets.train.labels[rows], read, features, program.geometry, batch=size, key=key_t
    )
    if sets.source is None:
        return rows, Data(target), key
    source = prepare.part(
        sets.source.classes, sets.source.labels, sets.source.read, features, program.geometry,
        batch=size, key=key_s, sizes=class_sizes(config, sets.source), cache=program.source_means,
    )  # fmt: skip
    return rows, Data(target, source), key


def class_sizes(config: Any, source: Dataset) -> np.ndarray | None:
    """Images of each source class; where they are made up, as many as the true data set has in the mean."""
    if not config.synthetic.per_class:
        return None
    true = catalog.entry(config.source.name)
    return np.full(len(source.classes), true.train // true.classes)


def ready(config: Any, folder: Path) -> Program:
    """Build a run and try what can go wrong with it, without a trace in its folder."""
    built = build(config)
    for seed in range(config.seed, config.seed + config.num_seeds):
        rows = labelled(config, built.sets, seed)
        if built.sets.test is None and len(rows) == len(built.sets.train.labels):
            raise UserError(
                'every example is labelled, so none is left to test on; lower config.target.'
                + ('per_class' if config.target.per_class else 'rate')
            )
    if not (folder / f'prepared-{config.seed}.npz').exists():
        _, data, key = parts(built, config.seed)
        bound, _ = built.view
        made = built.made[config.seed] = built.method.prepare(bound, data, key)
        prepare.try_state(bound, built.method, built.image, made, data, built.start)
    return built


def open_seed(program: Program, seed: int, folder: Path) -> tuple[Seed, step.TrainState]:
    """Draw the split, prepare the method, place everything on the devices: a seed, and its state at step 0."""
    config, sets = program.config, program.sets
    seed_key = jax.random.key(seed)
    rows, data, key = parts(program, seed)
    bound, _ = program.view
    path = folder / f'prepared-{seed}.npz'
    if not path.exists():
        made = program.made.pop(seed, None) or program.method.prepare(bound, data, key)
        workdir.save_prepared(path, made)
    # Always by way of the file, so that a restart sees the same types and values.
    made = workdir.load_prepared(path)

    put = mesh.replicate(program.mesh)
    train = Images(sets.train.read(rows), sets.train.labels[rows])
    drawn, law = None, None
    if made.draw is not None:
        if sets.source is None:
            raise UserError('the method draws source images: set config.source.name')
        drawn = Images(sets.source.read(made.draw.rows), sets.source.labels[made.draw.rows])
        law = plan.Draw(made.draw.start, made.draw.count, made.draw.rounds, made.draw.union)
    inputs = feed_lib.resident_inputs(train, drawn, law, put)
    frozen = put(jax.tree.map(jnp.asarray, made.frozen))
    test = evaluate.batches(test_images(sets, rows), config.eval_batch_size, put)
    ts = prepare.initial_state(
        bound, program.method, program.tx, program.image, seed_key, made, data, program.start, float_type(config),
        program.initialisers,
    )  # fmt: skip
    return Seed(train, test, made, data, inputs, frozen), put(ts)


def test_images(sets: Sets, labelled: np.ndarray) -> Images:
    if sets.test is not None:
        everything = np.arange(len(sets.test.labels))
        return Images(sets.test.read(everything), sets.test.labels)
    rows = splits.rest(len(sets.train.labels), labelled)
    return Images(sets.train.read(rows), sets.train.labels[rows])
