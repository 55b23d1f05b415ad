"""The arguments of a training program as shapes with their sharding over its mesh as in a run, and their bytes."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mixjax.data.feed import batches, plan, stream
from mixjax.data.labelled import run_data
from mixjax.method import Data, Prepared
from mixjax.models.net import bind
from mixjax.train import init, mesh, placement, schedule, seeds, step
from mixjax.train.program import Program

Tree = Any
Shape = jax.ShapeDtypeStruct


def _laid(program: Program, shape: tuple[int, ...], dtype: Any, spec: PartitionSpec) -> Shape:
    # int64 and float64 of the host become narrower types on a device.
    known = jnp.issubdtype(dtype, jax.dtypes.extended)
    dtype = dtype if known else jax.dtypes.canonicalize_dtype(dtype)
    return Shape(shape, dtype, sharding=NamedSharding(program.mesh, spec))


def _type(x: Any) -> Any:
    return x.dtype if hasattr(x, 'dtype') else np.asarray(x).dtype


def everywhere(program: Program, tree: Tree) -> Tree:
    """Return the shapes of arrays that are whole on every device."""
    return jax.tree.map(lambda x: _laid(program, np.shape(x), _type(x), PartitionSpec()), tree)


def of_trials(program: Program, tree: Tree) -> Tree:
    """Return the shapes of all trials from those of one, each trial on its devices."""
    t = program.mesh.shape['trial']
    return jax.tree.map(lambda x: _laid(program, (t, *np.shape(x)), _type(x), PartitionSpec('trial')), tree)


def state(program: Program, data: Data, made: Prepared) -> Tree:
    """Return the shapes of one trial's state at step 0."""

    fresh = program._replace(shared=program.shared._replace(initialisers={}))

    def initial(start: Tree | None) -> Tree:
        net = bind(program.net, start, jax.random.key(0))
        return init.initial_state(net, start, fresh, jax.random.key(0), made, data)

    try:
        return jax.eval_shape(initial, program.shared.start)
    except jax.errors.JAXTypeError:  # the method's `init` works on the host
        return initial(jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), program.shared.start))


def inputs(program: Program, given: Tree, kind: str) -> Tree:
    """Return the shapes of the data inputs of the program of one step.

    Args:
      program: the run's programs.
      given: the inputs of `seeds.program_inputs`.
      kind: 'resident' or 'stream'.
    """
    config = program.config
    if kind == 'resident':
        out = of_trials(program, given)
        for name in [name for name in placement.IMAGES if name in given]:
            spec = mesh.shard_spec(program.mesh, config.mix.shards if name == 'source' else 1)
            image = out[name]['image']
            out[name]['image'] = _laid(program, image.shape, image.dtype, spec)
        size = program.sizes.unlabelled
        epochs = {'orders': (config.batch_size, len(batches.of_epoch(given)))}
        epochs |= {'unlabelled_orders': (size, len(given['unlabelled']['image']))} if size else {}
        for name, (batch, count) in epochs.items():
            if placement.orders_apart(config, count, batch):
                _, many = plan.touched(0, 1, batch, count)
                orders = plan.Orders(Shape((), jnp.uint32), Shape((many, count), jnp.int32))
                out[name] = of_trials(program, orders)
        return out
    key = step.keys(jax.random.key(config.seed)).data
    planner = stream.Planner(key, given, program.sizes)
    found: dict[str, Any] = {name: x[None] for name, x in stream.examples(given, planner, 0).items()}
    found['first'] = np.zeros((), np.int32)
    t = program.mesh.shape['trial']
    return jax.tree_util.tree_map_with_path(
        lambda path, x: _laid(program, (t, *x.shape), x.dtype, mesh.step_spec(path)), found
    )


def where(program: Program, given: Tree, room: int | None) -> placement.Where:
    """Return the placement of images in a run.

    Args:
      program: the run's programs.
      given: the inputs of a seed's training program.
      room: bytes of images that a device may hold.
    """
    return placement.choose(program, [given], [_tests(program)], room)


def _tests(program: Program) -> Any:
    data = program.sets
    if data.test is not None:
        return seeds.all_images(data.test)
    return seeds.undrawn_images(data, run_data.draw_rows(program.config, data, program.config.seed).known)


# --- bytes ------------------------------------------------------------------------------------------------------------


def size(tree: Tree) -> int:
    """Return the bytes on one device."""
    return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def _size(leaf: Shape) -> int:
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    # A key of jax's default generator is two numbers of 32 bits.
    return math.prod(shape) * (8 if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else leaf.dtype.itemsize)


def array_bytes(
    program: Program, ts: Tree, start: Tree, frozen: Tree, given: Tree, images: placement.Where
) -> dict[str, int]:  # fmt: skip
    """Return {part: bytes} of the arrays on a device during training, inputs of the step's program or not.

    Args:
      program: the run's programs.
      ts, start, frozen, given: shapes of the state, the pretrained network, the result of `prepare` and the images.
      images: placement of the images.
    """
    config, test = program.config, _tests(program).image
    ahead = stream.AHEAD + 1  # calls of the program whose images are held, including the current one
    most = schedule.steps_a_call(config, program.method.period, program.starts) if mesh.accelerated(program.mesh) else 1
    steps = 1 if images.train == 'resident' else ahead * (config.dispatch or most)
    one = test.nbytes // max(len(test), 1)
    tested = test.nbytes if images.test == 'resident' else ahead * config.eval_batch_size * one
    return {
        'parameters': size(ts.params),
        'optimiser': size(ts.opt_state),
        "statistics and the method's state": size((ts.step, ts.key, ts.model_state, ts.state, frozen)),
        'pretrained network': size(start),
        'training images': steps * size(given),
        'test images': tested // mesh.count_parts(program.mesh, config.eval_batch_size),
    }
