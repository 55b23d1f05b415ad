"""Everything of a run that its seeds share: data, network, and the programs that are compiled once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import mixjax
from mixjax import method as method_lib
from mixjax import models
from mixjax.data import catalog, photo, splits
from mixjax.data import feed as feed_lib
from mixjax.data.augment import Geometry
from mixjax.data.catalog import Dataset
from mixjax.data.feed import Batch
from mixjax.errors import UserError
from mixjax.method import Method, Prepared, Run
from mixjax.models import weights
from mixjax.models.net import Net
from mixjax.train import cache, evaluate, export, mesh, optim, prepare, step, workdir
from mixjax.train import start as start_lib
from mixjax.train.cache import Cache

Array = jax.Array
Tree = Any


class Sets(NamedTuple):
    """The data sets of a run. `test` is None where all that is not labelled is the test set."""

    train: Dataset
    test: Dataset | None
    source: Dataset | None


class Ground(NamedTuple):
    """What the methods of a comparison share.

    start: the pretrained network's variables, and `told`, a line on what became of the file.
    image: zeros of a training image's shape.
    view: the net as `prepare` and `init` see it, and pretrained features of images.
    """

    sets: Sets
    net: Net
    geometry: Geometry
    mesh: Mesh
    start: Tree | None
    image: Array
    view: tuple[Net, Callable[[Array], Array]]
    means: Cache
    told: str


class Program(NamedTuple):
    """What the seeds of a run share: the ground, and the programs around one method.

    feed: the device side of the data, for one trial.
    advance(count), evaluate: compiled for all trials at once; seen: for one.
    """

    sets: Sets
    net: Net
    geometry: Geometry
    mesh: Mesh
    start: Tree | None
    image: Array
    view: tuple[Net, Callable[[Array], Array]]
    means: Cache
    told: str

    config: Any
    method: Method
    feed: Batch
    run: Run
    tx: Any
    advance: Callable[[int], Callable]
    evaluate: Callable
    seen: Callable
    initialisers: dict
    made: dict[int, Prepared]
    firsts: dict[tuple[int, int], Program]

    @property
    def ground(self) -> Ground:
        return Ground._make(self[: len(Ground._fields)])


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
        image = config.image
        rule = photo.Rule(image.resize, image.fit, image.interpolation, channels=catalog.entry(name).image[2])
        return catalog.load(name, split, data_dir=config.data_dir, rule=rule)

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


def ground(config: Any) -> Ground:
    """Load the data and the pretrained network; the config's method plays no part."""
    sets = load_sets(config)
    # float64 is the type of the variables, and the network follows it.
    dtype = 'bfloat16' if config.model.dtype == 'bfloat16' else 'float32'
    net = models.build(config.model.name, dtype=dtype, init=config.model.init)
    channels = check_images(config, sets)
    geometry = Geometry(
        config.image.crop, config.image.pad, config.image.flip, tuple(config.image.mean), tuple(config.image.std)
    )
    image = jnp.zeros((1, geometry.crop, geometry.crop, channels), jnp.float32)
    start, told = start_lib.pretrained(
        config.model.weights, net, config.model.name, image, sets.source.classes if sets.source else (),
        head=config.model.head, classes_t=sets.train.classes,
    )  # fmt: skip
    devices, floats = mesh.make(config.batch_size, config.num_seeds, config.devices), float_type(config)
    if start is not None:
        start = mesh.replicate(devices, jax.tree.map(lambda x: x.astype(floats), start))
    means = Cache(cache.folder(config.cache_dir), source_key(config, sets, start))
    return Ground(sets, net, geometry, devices, start, image, prepare.view(net, start), means, told)


def build(config: Any, on: Ground | None = None) -> Program:
    """The method that the config names, and the programs around it; nothing is compiled yet."""
    on = on or ground(config)
    knobs = {key: value for key, value in config.method.items() if key != 'name'}
    return around(on, config, method_lib.load(config.method.name)(len(on.sets.train.classes), **knobs))


def around(on: Ground, config: Any, method: Method) -> Program:
    """The programs of a method."""
    feed = partial(feed_lib.resident_batch, on.geometry, batch=config.batch_size, groups=config.mix.groups)
    examples = len(labelled(config, on.sets, 0))
    run = Run(config.steps, examples / config.batch_size, on.geometry.mean, on.geometry.std)

    def factor_of(params: Tree) -> Tree:
        return optim.factors(method.groups, on.net.group, params)

    tx, rate = optim.make(config.optim, config.steps, factor_of)
    one = step.make(on.net, method, feed(shard=mesh.shard_batch), run, tx, rate, factor_of)
    compiled: dict[int, Callable] = {}

    def advance(count: int) -> Callable:
        """The compiled program of `count` steps: (state, pretrained, frozen, inputs) -> (state, metrics)."""
        if count not in compiled:
            steps = one if count == 1 else step.several(one, count)
            every = mesh.each_trial(on.mesh, steps, shared=(False, True, False, False))
            # The state comes out as it went in: one program, not one for the first call and one for the rest.
            compiled[count] = jax.jit(every, donate_argnums=0, out_shardings=mesh.of_trials(on.mesh))
        return compiled[count]

    whole = config.eval_batch_size % on.mesh.shape['data'] == 0
    batch = evaluate.make(on.net, method, on.geometry, mesh.shard_batch if whole else lambda x: x)
    same = on.sets.test is not None  # all seeds are tested on the same images
    tested = jax.jit(mesh.each_trial(on.mesh, batch, shared=(False, same, same, same)))
    seen = export.seen(on.net, method, feed(), run, on.geometry)
    return Program(*on, config, method, feed(), run, tx, advance, tested, seen, {}, {}, {})


def check_images(config: Any, sets: Sets) -> int:
    """The number of colours, once it is sure that all images have one shape."""
    shape = sets.train.read(np.arange(1)).shape
    if sets.source is not None and sets.source.read(np.arange(1)).shape != shape:
        raise UserError(
            f'images of {sets.source.name} are {sets.source.read(np.arange(1)).shape[1:]} and those of '
            f'{sets.train.name} {shape[1:]}; source and target images must have one size and number of colours'
        )
    colours = len(config.image.mean)
    if 1 not in (colours, shape[-1]) and colours != shape[-1]:
        raise UserError(f'config.image.mean has {colours} colours and the images have {shape[-1]}')
    return max(shape[-1], colours)  # a grey image is given to a network for three colours three times


def source_key(config: Any, sets: Sets, start: Tree | None) -> Any:
    """What the source's class means depend on, for the cache; None where they are not worth keeping."""
    if sets.source is None or start is None or config.synthetic.per_class:
        return None
    return {
        'version': mixjax.__version__,
        'backend': jax.default_backend(),
        'network': config.model.name,
        'dtype': config.model.dtype,
        'weights': cache.digest(start),
        'data': sets.source.name,
        'split': 'train',
        'examples': cache.digest((sets.source.labels, sets.source.read(np.arange(min(8, len(sets.source.labels)))))),
        'classes': sets.source.classes,
        'image': workdir.as_data(config.image),
        'batch': config.eval_batch_size,
    }


def float_type(config: Any) -> Any:
    """Type of parameters and statistics."""
    if config.model.dtype != 'float64':
        return jnp.float32
    if not jax.config.read('jax_enable_x64'):
        raise UserError('config.model.dtype=float64 needs the environment variable JAX_ENABLE_X64=1')
    return jnp.float64
