"""Device meshes with the axes `trial` and `data`, and the sharding of arrays on them.

Seeds of a run are trials: independent, each on a separate row of the mesh, with no traffic between them.
A tree of all trials has a leading axis, sharded over `trial`; a batch is sharded over `data`.

The devices may be those of several processes. No process then has the whole arrays: `to_devices` takes a tree that each
process has on its host, `to_host` and `take_trial` bring one back (`mixjax.train.transfer`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mixjax.errors import UserError
from mixjax.train.transfer import take_trial as take_trial
from mixjax.train.transfer import to_devices
from mixjax.train.transfer import to_host as to_host
from mixjax.train.transfer import to_local_device as to_local_device

Array = jax.Array
Tree = Any
SMALL = 1 << 14  # numbers; a smaller array is not worth its traffic


def make(batch: int, trials: int = 1, devices: int = 0, available: Sequence[Any] = ()) -> Mesh:
    """Make a mesh of t x d of the available devices.

    t is the number of trials that are trained at once: as few rounds as the devices allow, and as even
    as possible (10 trials on 8 devices: twice 5). d is the largest number of the remaining devices for
    each trial that divides the batch.

    The axes are of type Auto: with jax's default, Explicit, a permutation of a sharded batch is a
    type error.

    Args:
      batch: number of examples of a batch.
      trials: number of trials.
      devices: maximum number of devices to use; 0 for all.
      available: the devices to choose from; by default all of them.
    """
    available = available or jax.devices()
    limit = min(devices or len(available), len(available))
    rounds = -(-trials // limit)
    t = -(-trials // rounds)
    d = max(n for n in range(1, limit // t + 1) if batch % n == 0)
    grid = np.array(choose_devices(available, t * d)).reshape(t, d)
    return Mesh(grid, ('trial', 'data'), axis_types=(AxisType.Auto, AxisType.Auto))


def choose_devices(available: Sequence[Any], many: int) -> list[Any]:
    """Return `many` of the devices, grouped by process; each process has some of them.

    A seed is within one process if possible.
    """
    ordered = sorted(available, key=lambda device: device.process_index)
    owners = list(dict.fromkeys(device.process_index for device in ordered))
    if many < len(owners):
        raise UserError(
            f'{len(owners)} processes have {len(ordered)} devices, and this run can use {many}: config.num_seeds and '
            'the parts that config.batch_size / config.accumulate can be split into; start fewer processes'
        )
    if len({device.process_index for device in ordered[:many]}) == len(owners):
        return ordered[:many]
    shares = [many // len(owners) + (i < many % len(owners)) for i in range(len(owners))]
    own = {owner: [device for device in ordered if device.process_index == owner] for owner in owners}
    return [device for owner, share in zip(owners, shares, strict=True) for device in own[owner][:share]]


def accelerated(mesh: Mesh) -> bool:
    """Return whether the devices are other than CPUs; also for devices that are only planned for."""
    return mesh.devices.flat[0].platform != 'cpu'


def shard_batch(x: Array) -> Array:
    """Shard an array over `data` by its first axis, inside `each_trial`."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec('data'))


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """Put a tree from the host whole on every device."""
    return to_devices(tree, NamedSharding(mesh, PartitionSpec()))


def trial_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of arrays with a leading axis of trials."""
    return NamedSharding(mesh, PartitionSpec('trial'))


def shard_over_trials(mesh: Mesh, trees: list[Tree], shard_state: bool = False) -> Tree:
    """Put one tree for each trial on its devices, as one tree with a leading axis.

    Args:
      mesh: the mesh.
      trees: the tree of each trial, on the host.
      shard_state: shard large arrays over `data`, instead of whole arrays on each of those devices.
    """
    stacked = jax.tree.map(_stack, *trees)
    return to_devices(stacked, state_shardings(mesh, stacked) if shard_state else trial_sharding(mesh))


def state_shardings(mesh: Mesh, tree: Tree) -> Tree:
    """Return shardings that also split the large arrays of states, with an axis of trials, over `data`."""
    return jax.tree.map(lambda x: NamedSharding(mesh, state_spec(x.shape, mesh.shape['data'])), tree)


def state_spec(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Return a spec that splits the longest axis that divides evenly; small or indivisible arrays stay whole."""
    axes = [axis for axis in range(1, len(shape)) if shape[axis] % parts == 0]
    if not axes or math.prod(shape[1:]) < SMALL:
        return PartitionSpec('trial')
    longest = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec('trial', *(None,) * (longest - 1), 'data')


def with_sharded_state(mesh: Mesh, steps: Callable) -> Callable:
    """Return a training program whose output states have the shardings of `state_shardings`."""

    def every(*trees: Tree) -> tuple[Tree, Tree]:
        states, metrics = steps(*trees)
        return jax.lax.with_sharding_constraint(states, state_shardings(mesh, states)), metrics

    return every


def gathered(tree: Tree) -> Tree:
    """Gather the arrays of a tree whole on every device, inside `each_trial`."""
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def _stack(*leaves: Any) -> Any:
    """Stack host arrays on the host: a device need not hold arrays that it will not keep."""
    if all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return np.stack(leaves)
    return jax.numpy.stack([jax.numpy.asarray(leaf) for leaf in leaves])


def put_steps(mesh: Mesh, tree: Tree) -> Tree:
    """Put the (t, count, B, ..) arrays of a streamed feed from the host, with the batch sharded over `data`."""

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: to_devices(leaf, NamedSharding(mesh, step_spec(path))), tree
    )


def step_spec(path: Any) -> PartitionSpec:
    """Return the spec of an array of a streamed feed at this path in the tree."""
    whole = jax.tree_util.keystr(path, simple=True) in ('first', 'partner')
    return PartitionSpec('trial') if whole else PartitionSpec('trial', None, 'data')


def count_parts(mesh: Mesh, batch: int) -> int:
    """Return the number of parts into which a batch of that size is split over `data`: all of them or 1."""
    return mesh.shape['data'] if batch % mesh.shape['data'] == 0 else 1


def put_eval_batch(mesh: Mesh, trees: list[Tree], *, same: bool) -> Tree:
    """Put a batch of each trial, sharded over `data`; with `same`, one batch of all trials, without that axis.

    Args:
      mesh: the mesh.
      trees: the batch of each trial, on the host; one with `same`.
      same: whether all trials have the same batch.
    """
    (size,) = {len(leaf) for leaf in jax.tree.leaves(trees)}
    tree = trees[0] if same else jax.tree.map(_stack, *trees)
    return to_devices(tree, NamedSharding(mesh, evaluated_spec(mesh, size, same=same)))


def evaluated_spec(mesh: Mesh, size: int, *, same: bool) -> PartitionSpec:
    """Return the spec of a batch of that size in an evaluation."""
    data = ('data',) if count_parts(mesh, size) > 1 else ()
    return PartitionSpec(*data) if same else PartitionSpec('trial', *data)


def trial_places(mesh: Mesh, spec: PartitionSpec, size: int) -> list[slice]:
    """Return the places of each trial's batch of `size` that this process needs; all, if it is the only process.

    Args:
      mesh: the mesh.
      spec: that of an array (trials, size), or (size,) if all trials have the same batch.
      size: number of examples of a batch.
    """
    trials = mesh.shape['trial']
    shape = (trials, size) if spec and spec[0] == 'trial' else (size,)
    held: list[list[tuple[int, int]]] = [[] for _ in range(trials)]
    for index in NamedSharding(mesh, spec).addressable_devices_indices_map(shape).values():
        assert index is not None
        *of, (first, last) = (part.indices(n)[:2] for part, n in zip(index, shape, strict=True))
        for trial in range(*of[0]) if of else range(trials):
            held[trial].append((first, last))
    return [slice(min(a for a, _ in each), max(b for _, b in each)) if each else slice(0, 0) for each in held]


def each_trial(mesh: Mesh, function: Callable, shared: tuple[bool, ...]) -> Callable:
    """Return `function` of one trial as a function of all: trees have a leading axis, the `shared` ones none.

    It is manual over `trial` and automatic over `data`: the compiler sees the program of one trial. A
    vmap would turn its convolutions into grouped ones and gather kernels across trials.

    Args:
      mesh: the mesh.
      function: the function of one trial.
      shared: for each argument, whether all trials share it.
    """

    def one(*trees: Tree) -> Tree:
        mine = [
            tree if alike else jax.tree.map(lambda x: x[0], tree) for tree, alike in zip(trees, shared, strict=True)
        ]
        return jax.tree.map(lambda x: jax.numpy.asarray(x)[None], function(*mine))

    one.__name__ = function.__name__  # its name in profiles and kept programs
    specs = tuple(PartitionSpec() if alike else PartitionSpec('trial') for alike in shared)
    # Values that vary between trials are not tracked: a method's loop may begin with a constant.
    return jax.shard_map(
        one, mesh=mesh, in_specs=specs, out_specs=PartitionSpec('trial'), axis_names={'trial'}, check_vma=False
    )


# --- sharded source images --------------------------------------------------------------------------------------------


def count_shards(mesh: Mesh, shards: int) -> int:
    """Return the number of parts of the source images: `data`, if every device can have whole shards, else 1."""
    return mesh.shape['data'] if shards > 1 and shards % mesh.shape['data'] == 0 else 1


def shard_spec(mesh: Mesh, shards: int) -> PartitionSpec:
    """Return the spec of source images: sharded over `data`, or all on each device."""
    return PartitionSpec('trial', 'data') if count_shards(mesh, shards) > 1 else PartitionSpec('trial')
