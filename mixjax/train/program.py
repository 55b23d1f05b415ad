"""Everything of a run that its seeds share: data, network, and the programs that are compiled once."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixjax import models
from mixjax.config import method_registry
from mixjax.data.datasets import resolve as sets_lib
from mixjax.data.feed import batches as feed_lib
from mixjax.data.feed.augment import Geometry
from mixjax.data.feed.batches import Batch
from mixjax.data.labelled import run_data
from mixjax.data.labelled.run_data import Sets
from mixjax.data.pixels import decoded_cache
from mixjax.data.pixels.decoded_cache import Say
from mixjax.errors import UserError, user_code
from mixjax.host import array_cache, processes, storage
from mixjax.host.array_cache import Cache
from mixjax.method import Method, Prepared, Run
from mixjax.models import weights
from mixjax.models.net import Net
from mixjax.rundir import files
from mixjax.train import contract, evaluate, export, mesh, optim, prepare, step
from mixjax.train import start as start_lib
from mixjax.version import __version__

Array = jax.Array
Tree = Any


class Ground(NamedTuple):
    """What the methods of a comparison share.

    start: the pretrained network's variables, whole on every device; `told`, a line on what became of the file, and
        `weights`, the digest of its tensors ('' where there is no file).
    image: zeros of a training image's shape.
    view: the net as `prepare` and `init` see it, and pretrained features of images.
    initialisers, evaluators: compiled programs that methods have in common, by what makes them differ.
    say: takes a line for a person.
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
    weights: str
    initialisers: dict
    evaluators: dict
    say: Say


class Program(NamedTuple):
    """What the seeds of a run share: the ground, and the programs around one method.

    feed: the device side of the data, for one trial.
    advance(count), evaluate, validate: compiled for all trials at once; seen: for one.
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
    weights: str
    initialisers: dict
    evaluators: dict
    say: Say

    config: Any
    method: Method
    feed: Batch
    run: Run
    tx: Any
    advance: Callable[[int], Callable]
    evaluate: Callable
    validate: Callable
    seen: Callable
    made: dict[int, Prepared]
    firsts: dict[tuple[int, int], Program]

    @property
    def own(self) -> Tree | None:
        """`start` as this process may compute with it for itself."""
        return mesh.here(self.start)

    @property
    def ground(self) -> Ground:
        return Ground._make(self[: len(Ground._fields)])


def preflight(config: Any) -> None:
    """Refuse a run whose data or weights are not here, all in one message, before anything is read or made."""
    problems = [weights.missing(config.model.weights)]
    if not config.synthetic.per_class:
        nodes = {node.name: node for node in (config.target, config.source) if node.name}
        problems += [sets_lib.missing(node, config.data_dir) for node in nodes.values()]
    found = [problem for problem in problems if problem]
    if found:
        trial = 'to try the config without them, add :smoke to its name'
        raise UserError('cannot start, something is missing:\n\n' + '\n\n'.join(found) + f'\n\n{trial}')


def ground(config: Any, say: Say | None = None) -> Ground:
    """Load the data and the pretrained network; the config's method plays no part. say: takes a line for a person."""
    sets = run_data.load_sets(config, say)
    net, geometry, image = shapes(config, sets)
    start, told, digest = start_lib.pretrained(
        config.model.weights, net, config.model.name, image, sets.source.classes if sets.source else (),
        head=config.model.head, classes_t=sets.train.classes,
    )  # fmt: skip
    # Each process has read them for itself.
    processes.agree('the data', lambda: json.dumps(run_data.told_apart(sets)))
    processes.agree('the pretrained network', lambda: digest or array_cache.digest(start))
    devices = mesh.make(config.batch_size // config.accumulate, config.num_seeds, config.devices)
    floats = float_type(config)
    if start is not None:
        start = mesh.replicate(devices, jax.tree.map(lambda x: x.astype(floats), start))
    own = mesh.here(start)
    means = Cache(storage.kept(config.cache_dir), source_key(config, sets, own, digest))
    return Ground(
        sets, net, geometry, devices, start, image, prepare.view(net, own), means, told, digest, {}, {}, say or silent
    )


def silent(line: str) -> None:
    """Says nothing."""
    del line


def shapes(config: Any, sets: Sets) -> tuple[Net, Geometry, Array]:
    """The network, how its images are made, and zeros of the shape of one."""
    # float64 is the type of the variables, and the network follows it.
    dtype = 'bfloat16' if config.model.dtype == 'bfloat16' else 'float32'
    net = models.build(config.model.name, dtype=dtype, init=config.model.init)
    channels = run_data.check_images(config, sets)
    side = config.image.crop
    if config.model.name not in models.SHIPPED:
        check_network(config.model.name, net, jnp.zeros((2, side, side, channels), jnp.float32))
    geometry = Geometry(
        config.image.crop, config.image.pad, config.image.flip, tuple(config.image.mean), tuple(config.image.std)
    )
    return net, geometry, jnp.zeros((1, geometry.crop, geometry.crop, channels), jnp.float32)


def check_network(name: str, net: Net, image: Array) -> None:
    """Refuse a network of the user's that does not keep to the contract of a backbone; shapes only."""

    def forward(key: Array, image: Array) -> Any:
        out, _ = net.apply(net.init(key, image, {'target': 2}), image, train=False)
        contract.network(name, out, len(image))
        return out.features

    with user_code(f'network {name}:', models.BACKBONES[name]):
        jax.eval_shape(forward, jax.random.key(0), image)


def build(config: Any, on: Ground | None = None) -> Program:
    """The method that the config names, and the programs around it; nothing is compiled yet."""
    on = on or ground(config)
    return around(on, config, method_registry.build(config.method, len(on.sets.train.classes)))


def around(on: Ground, config: Any, method: Method) -> Program:
    """The programs of a method."""
    feed = partial(feed_lib.batch, on.geometry, size=config.batch_size, groups=config.mix.groups)
    whole_batches(config, method)
    check_batch_kinds(method)
    examples = run_data.epoch_length(config, on.sets, config.seed)
    run = Run(config.steps, examples / config.batch_size, on.geometry.mean, on.geometry.std)

    def factor_of(params: Tree) -> Tree:
        return optim.factors(method.groups, on.net.group, params, config.optim)

    tx, rate = optim.make(config.optim, config.steps, factor_of)
    cut = config.shard_params and on.mesh.shape['data'] > 1
    layout = step.Layout(mesh.shard_batch, mesh.gathered if cut else lambda tree: tree, mesh.accelerated(on.mesh))
    one = step.make(
        on.net, method, feed(shard=mesh.shard_batch), run, tx, rate, factor_of, config.accumulate, layout,
        config.on_nan == 'skip',
    )  # fmt: skip
    compiled: dict[int, Callable] = {}

    def advance(count: int) -> Callable:
        """The compiled program of `count` steps: (state, pretrained, frozen, inputs) -> (state, metrics)."""
        if count not in compiled:
            steps = one if count == 1 else step.several(one, count)
            every = mesh.each_trial(on.mesh, steps, shared=(False, True, False, False))
            # The state comes out as it went in: one program, not one for the first call and one for the rest.
            if cut:
                compiled[count] = jax.jit(mesh.cut_states(on.mesh, every), donate_argnums=0)
            else:
                compiled[count] = jax.jit(every, donate_argnums=0, out_shardings=mesh.of_trials(on.mesh))
        return compiled[count]

    even = config.eval_batch_size % on.mesh.shape['data'] == 0
    placed = layout if even else layout._replace(shard=lambda x: x)

    def evaluator(same: bool) -> Callable:
        """The evaluation of a batch; same: of the same images for all seeds."""
        key = method.predict, even, cut, same
        if key not in on.evaluators:
            batch = evaluate.make(on.net, method, on.geometry, placed)
            on.evaluators[key] = jax.jit(mesh.each_trial(on.mesh, batch, shared=(False, same, same, same)))
        return on.evaluators[key]

    tested, validated = (evaluator(part is not None) for part in (on.sets.test, on.sets.val))
    seen = export.seen(on.net, method, feed(), run, on.geometry)
    return Program(*on, config, method, feed(), run, tx, advance, tested, validated, seen, {}, {})


def whole_batches(config: Any, method: Method) -> None:
    """Refuse to cut the batches of a method that needs them whole."""
    if config.accumulate > 1 and method.whole_batch:
        raise UserError(
            f'config.accumulate={config.accumulate}: the loss of {method_registry.title(config.method)} is not a mean '
            'over the examples of a batch, so with these settings that of its parts is another one; set '
            'config.accumulate=1 (and a smaller config.batch_size, to save memory)'
        )


def check_batch_kinds(method: Method) -> None:
    """Refuse names of kinds of batch that the log could not tell apart."""
    names = method.batch_kinds
    good = isinstance(names, tuple) and all(isinstance(name, str) and name for name in names)
    if not good or len(names) == 1 or len(set(names)) < len(names):
        raise UserError(
            f"the batch_kinds of a method are two or more different names in a tuple, as ('original', 'mixed'), or (), "
            f'not {names!r}'
        )


def source_key(config: Any, sets: Sets, start: Tree | None, digest: str) -> Any:
    """What the source's class means depend on, for the cache; None where they are not worth keeping.

    digest: of the file that the network was read from; '' of none.
    """
    if sets.source is None or start is None or config.synthetic.per_class:
        return None
    records = decoded_cache.stamp_of(sets.source.read)
    first = np.arange(min(8, len(sets.source.labels)))
    return {
        **({'records': records} if records else {}),
        'version': __version__,
        'backend': jax.default_backend(),
        'network': config.model.name,
        'dtype': config.model.dtype,
        'weights': digest or array_cache.digest(start),
        'data': sets.source.name,
        'split': 'train',
        'examples': array_cache.digest((sets.source.labels, sets.source.read(first))),
        'classes': sets.source.classes,
        'image': files.as_data(config.image),
        'batch': config.eval_batch_size,
    }


def float_type(config: Any) -> Any:
    """Type of parameters and statistics."""
    if config.model.dtype != 'float64':
        return jnp.float32
    if not jax.config.read('jax_enable_x64'):
        raise UserError('config.model.dtype=float64 needs the environment variable JAX_ENABLE_X64=1')
    return jnp.float64
