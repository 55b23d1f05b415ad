"""Devices: one mesh with the axes `trial` and `data`, and how arrays lie on it.

Seeds of a run are trials: independent, each on its own row of the mesh, with no traffic between them.
A tree of all trials has a leading axis, sharded over `trial`; along `data` a batch is shared out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Array = jax.Array
Tree = Any


def make(batch: int, trials: int = 1, devices: int = 0) -> Mesh:
    """A mesh of t x d of the devices (at most `devices`, 0 for all).

    t: how many of the trials are trained at once; as few rounds as the devices allow, and these as
    even as can be (10 trials on 8 devices: twice 5). d: the most of what is left for each that
    divide the batch.

    The axes are of type Auto: with jax's default, Explicit, a permutation of a sharded batch is a
    type error.
    """
    available = jax.devices()
    limit = min(devices or len(available), len(available))
    rounds = -(-trials // limit)
    t = -(-trials // rounds)
    d = max(n for n in range(1, limit // t + 1) if batch % n == 0)
    grid = np.array(available[: t * d]).reshape(t, d)
    return Mesh(grid, ('trial', 'data'), axis_types=(AxisType.Auto, AxisType.Auto))


def shard_batch(x: Array) -> Array:
    """Inside `each_trial`: lay an array out over `data` by its first axis."""
    return jax.lax.with_sharding_constraint(x, PartitionSpec('data'))


def replicate(mesh: Mesh, tree: Tree) -> Tree:
    """From the host: a tree whole on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def of_trials(mesh: Mesh) -> NamedSharding:
    """The sharding of what has a leading axis of trials."""
    return NamedSharding(mesh, PartitionSpec('trial'))


def spread(mesh: Mesh, trees: list[Tree]) -> Tree:
    """One tree for each trial, as one tree with a leading axis; each on its own devices."""
    return jax.device_put(jax.tree.map(_stack, *trees), of_trials(mesh))


def _stack(*leaves: Any) -> Any:
    """Host arrays are stacked on the host: a device need not hold what it will not keep."""
    if all(isinstance(leaf, np.ndarray) for leaf in leaves):
        return np.stack(leaves)
    return jax.numpy.stack([jax.numpy.asarray(leaf) for leaf in leaves])


def take(tree: Tree, trial: int) -> Tree:
    """The part of one trial, in memory of its own."""
    return jax.tree.map(lambda x: x[trial], tree)


def each_trial(mesh: Mesh, function: Callable, shared: tuple[bool, ...]) -> Callable:
    """`function` of one trial, as a function of all: trees have a leading axis, the `shared` ones none.

    Manual over `trial`, automatic over `data`: the compiler sees the program of one trial. A vmap
    would turn its convolutions into grouped ones and gather kernels across trials.
    """

    def one(*trees: Tree) -> Tree:
        mine = [tree if whole else take(tree, 0) for tree, whole in zip(trees, shared, strict=True)]
        return jax.tree.map(lambda x: jax.numpy.asarray(x)[None], function(*mine))

    specs = tuple(PartitionSpec() if whole else PartitionSpec('trial') for whole in shared)
    # What varies between trials is not tracked: a method's loop may begin with a constant.
    return jax.shard_map(
        one, mesh=mesh, in_specs=specs, out_specs=PartitionSpec('trial'), axis_names={'trial'}, check_vma=False
    )
