"""Transfer of arrays between the host and the devices, which may be those of several processes.

With one process, everything is as jax does it. With several, jax compares the arrays that they put (a collective, which
a thread that reads ahead must not begin), and returns no array that is not whole in one of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mixjax.host import processes

Array = jax.Array
Tree = Any


def to_devices(tree: Tree, sharding: Tree) -> Tree:
    """Put a tree from the host: each process puts the parts that its devices hold, and ignores the rest.

    Args:
      tree: arrays on the host.
      sharding: the sharding of all arrays, or a tree of shardings.
    """
    if processes.count() == 1:
        return jax.device_put(tree, sharding)

    def one(x: Any, how: NamedSharding) -> Array:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x), how), impl=jax.random.key_impl(x))
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, how, lambda place: x[place])

    each = sharding if not isinstance(sharding, NamedSharding) else jax.tree.map(lambda _: sharding, tree)
    return jax.tree.map(one, tree, each)


def to_local_device(tree: Tree) -> Tree:
    """Return replicated arrays as arrays on one device of this process, to compute with alone."""
    return jax.tree.map(lambda x: x if x.is_fully_addressable else x.addressable_data(0), tree)


def to_host(tree: Tree) -> Tree:
    """Bring sharded arrays to the host, whole in every process. All processes must call this."""
    if processes.count() == 1:
        return jax.tree.map(np.asarray, tree)
    return jax.tree.map(np.asarray, to_local_device(_gathered(_everywhere(tree))(tree)))


def take_trial(tree: Tree, trial: int) -> Tree:
    """Return the part of one trial in separate memory; with several processes, whole on every device."""
    if processes.count() == 1:
        return jax.tree.map(lambda x: x[trial], tree)
    return _taken(_everywhere(tree))(tree, trial)


def _everywhere(tree: Tree) -> NamedSharding:
    return NamedSharding(jax.tree.leaves(tree)[0].sharding.mesh, PartitionSpec())


@functools.cache
def _gathered(sharding: NamedSharding) -> Callable[[Tree], Tree]:
    return jax.jit(lambda tree: tree, out_shardings=sharding)


@functools.cache
def _taken(sharding: NamedSharding) -> Callable[[Tree, int], Tree]:
    def one(x: Array, trial: int) -> Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x[trial]
        # The devices of the other trials add their zeros, and -0.0 + 0.0 is 0.0; integers keep their bits.
        bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * x.dtype.itemsize}'))
        return jax.lax.bitcast_convert_type(bits[trial], x.dtype)

    def every(tree: Tree, trial: int) -> Tree:
        return jax.tree.map(lambda x: one(x, trial), tree)

    return jax.jit(every, static_argnums=1, out_shardings=sharding)
