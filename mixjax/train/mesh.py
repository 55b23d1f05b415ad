"""Devices: one mesh with the axes `trial` and `data`, and how arrays lie on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = Any


def make(batch: int, devices: int = 0) -> Mesh:
    """A mesh of 1 x d devices, d the most (at most `devices`, 0 for all) that divide the batch.

    The axes are of type Auto: with jax's default, Explicit, a permutation of a sharded batch is a
    type error.
    """
    available = jax.devices()
    limit = min(devices or len(available), len(available))
    d = max(n for n in range(1, limit + 1) if batch % n == 0)
    grid = np.array(available[:d]).reshape(1, d)
    return Mesh(grid, ('trial', 'data'), axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole: parameters, tables, resident images."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Inside jit: lay an array out over `data` by its first axis."""
    sharding = NamedSharding(mesh, PartitionSpec('data'))
    return lambda x: jax.lax.with_sharding_constraint(x, sharding)


def replicate(mesh: Mesh) -> Callable[[Tree], Tree]:
    """From the host: place a tree whole on every device."""
    return lambda tree: jax.device_put(tree, replicated(mesh))
