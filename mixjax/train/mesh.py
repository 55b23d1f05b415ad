"""Devices: one mesh with the axes `trial` and `data`, and how arrays lie on it.

Seeds of a run are trials: independent, each on its own row of the mesh, with no traffic between them.
A tree of all trials has a leading axis, sharded over `trial`; along `data` a batch is shared out.

The devices may be those of several processes. What lies on them is then in no process whole: `put` takes a tree that
each process has on its host, `whole` and `take` bring one back (`mixjax.train.transfer`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mixjax.errors import UserError
from mixjax.train.transfer import here as here
from mixjax.train.transfer import put
from mixjax.train.transfer import take as take
from mixjax.train.transfer import whole as whole

Array = jax.Array
Tree = Any
SMALL = 1 << 14  # numbers; an array of fewer is not worth its traffic


def make(batch: int, trials: int = 1, devices: int = 0, available: Sequence[Any] = ()) -> Mesh:
    """A mesh of t x d of the devices (at most `devices`, 0 for all) that are `available`: by default all there are.

    t: how many of the trials are trained at once; as few rounds as the devices allow, and these as
    even as can be (10 trials on 8 devices: twice 5). d: the most of what is left for each that
    divide the batch.

    The axes are of type Auto: with jax's default, Explicit, a permutation of a sharded batch is a
    type error.
    """
    available = available or jax.devices()
    limit = min(devices or len(available), len(available))
    rounds = -(-trials // limit)
    t = -(-trials // rounds)
    d = max(n for n in range(1, limit // t + 1) if batch % n == 0)
    grid = np.array(chosen(available, t * d)).reshape(t, d)
    return Mesh(grid, ('trial', 'data'), axis_types=(AxisType.Auto, AxisType.Auto))


def chosen(available: Sequence[Any], many: int) -> list[Any]:
    """So many devices, those of a process side by side; each process has some of them.

    A seed lies within one process where it can.
    """
    ordered = sorted(available, key=lambda device: device.process_index)
    owners = list(dict.fromkeys(device.process_index for device in ordered))
    if many < len(owners):
        raise UserError(
            f'{len(owners)} processes have {len(ordered)} devices, and this run can use {many}: config.num_seeds and '
            'the parts that config.batch_size / config.accumulate can be shared out in; start fewer processes'
        )
    if len({device.process_index for device in ordered[:many]}) == len(owners):
        return ordered[:many]
    shares = [many // len(owners) + (i < many % len(owners)) for i in range(len(owners))]
    own = {owner: [device for device in ordered if device.process_index == owner] for owner in owners}
    return [device for owner, share in zip(owners, shares, strict=True) for device in own[owner][:share]]


def accelerated(mesh: Mesh) -> bool:
    """Whether its devices are other than processors; of devices that are only planned for, too."""
    return mesh.devices.flat[0].platform != 'cpu'


def shard_batch(x: Array) -> Array:
    """Inside `each_trial`: lay an array out over `data` by its first axis."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec('data'))


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """From the host: a tree whole on every device."""
    return put(tree, NamedSharding(mesh, PartitionSpec()))


def of_trials(mesh: Mesh) -> NamedSharding:
    """The sharding of what has a leading axis of trials."""
    return NamedSharding(mesh, PartitionSpec('trial'))


def shard_over_trials(mesh: Mesh, trees: list[Tree], shard_state: bool = False) -> Tree:
    """One tree for each trial, as one tree with a leading axis; each on its own devices.

    shard_state: large arrays are cut along `data`, and not whole on each of those devices.
    """
    stacked = jax.tree.map(_stack, *trees)
    return put(stacked, of_states(mesh, stacked) if shard_state else of_trials(mesh))


def of_states(mesh: Mesh, tree: Tree) -> Tree:
    """Shardings that cut the large arrays of states, which have an axis of trials, along `data` too."""
    return jax.tree.map(lambda x: NamedSharding(mesh, state_spec(x.shape, mesh.shape['data'])), tree)


def state_spec(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """Along the longest axis that can be cut evenly; what is small, or cannot, stays whole."""
    axes = [axis for axis in range(1, len(shape)) if shape[axis] % parts == 0]
    if not axes or math.prod(shape[1:]) < SMALL:
        return PartitionSpec('trial')
    longest = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec('trial', *(None,) * (longest - 1), 'data')


def with_sharded_state(mesh: Mesh, steps: Callable) -> Callable:
    """A training program whose states come out as `of_states` has them."""

    def every(*trees: Tree) -> tuple[Tree, Tree]:
        states, metrics = steps(*trees)
        return jax.lax.with_sharding_constraint(states, of_states(mesh, states)), metrics

    return every


def gathered(tree: Tree) -> Tree:
    """Inside `each_trial`: the arrays of a tree whole on every device."""
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def _stack(*leaves: Any) -> Any:
    """Host arrays are stacked on the host: a device need not hold what it will not keep."""
    if all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return np.stack(leaves)
    return jax.numpy.stack([jax.numpy.asarray(leaf) for leaf in leaves])


def of_steps(mesh: Mesh, tree: Tree) -> Tree:
    """From the host: what a streamed feed hands over, (t, count, B, ..) arrays, with the batch along `data`."""

    return jax.tree_util.tree_map_with_path(lambda path, leaf: put(leaf, NamedSharding(mesh, step_spec(path))), tree)


def step_spec(path: Any) -> PartitionSpec:
    """How an array of a streamed feed lies; path: its place in the tree."""
    whole = jax.tree_util.keystr(path, simple=True) in ('first', 'partner')
    return PartitionSpec('trial') if whole else PartitionSpec('trial', None, 'data')


def parts_of(mesh: Mesh, batch: int) -> int:
    """Into how many parts a batch of that size is shared out along `data`: all of them or 1."""
    return mesh.shape['data'] if batch % mesh.shape['data'] == 0 else 1


def to_evaluate(mesh: Mesh, trees: list[Tree], *, same: bool) -> Tree:
    """From the host: a batch of each trial, shared out along `data`; with `same` the one batch of all, without axis."""
    (size,) = {len(leaf) for leaf in jax.tree.leaves(trees)}
    tree = trees[0] if same else jax.tree.map(_stack, *trees)
    return put(tree, NamedSharding(mesh, evaluated_spec(mesh, size, same=same)))


def evaluated_spec(mesh: Mesh, size: int, *, same: bool) -> PartitionSpec:
    """How a batch of that size lies that is evaluated."""
    data = ('data',) if parts_of(mesh, size) > 1 else ()
    return PartitionSpec(*data) if same else PartitionSpec('trial', *data)


def shares(mesh: Mesh, spec: PartitionSpec, size: int) -> list[slice]:
    """Which places of each trial's batch of `size` this process must have; all of them, if there is no other.

    spec: of an array (trials, size), or (size,) where all trials have the same.
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
    """`function` of one trial, as a function of all: trees have a leading axis, the `shared` ones none.

    Manual over `trial`, automatic over `data`: the compiler sees the program of one trial. A vmap
    would turn its convolutions into grouped ones and gather kernels across trials.
    """

    def one(*trees: Tree) -> Tree:
        mine = [
            tree if alike else jax.tree.map(lambda x: x[0], tree) for tree, alike in zip(trees, shared, strict=True)
        ]
        return jax.tree.map(lambda x: jax.numpy.asarray(x)[None], function(*mine))

    one.__name__ = function.__name__  # by which profiles and kept programs call it
    specs = tuple(PartitionSpec() if alike else PartitionSpec('trial') for alike in shared)
    # What varies between trials is not tracked: a method's loop may begin with a constant.
    return jax.shard_map(
        one, mesh=mesh, in_specs=specs, out_specs=PartitionSpec('trial'), axis_names={'trial'}, check_vma=False
    )


# --- source images that are dealt out ---------------------------------------------------------------------------------


def shards_of(mesh: Mesh, shards: int) -> int:
    """Into how many parts source images are dealt: `data`, where every device can have whole shards, else 1."""
    return mesh.shape['data'] if shards > 1 and shards % mesh.shape['data'] == 0 else 1


def shard_spec(mesh: Mesh, shards: int) -> PartitionSpec:
    """How source images lie: dealt out over `data`, or all on each device."""
    return PartitionSpec('trial', 'data') if shards_of(mesh, shards) > 1 else PartitionSpec('trial')
