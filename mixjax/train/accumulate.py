"""Gradient accumulation: the parts of a batch go through the network one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mixjax.errors import UserError
from mixjax.method import Aux, Ctx

Array = jax.Array
Tree = Any


def accumulated(
    gradient: Callable[[Tree, Ctx, Array], tuple[tuple[Array, Aux], Tree]],
    params: Tree, ctx: Ctx, dropout: Array, micro: int, shard: Callable[[Array], Array], loop: bool | None = None,
) -> tuple[tuple[Array, Aux], Tree]:  # fmt: skip
    """Return the means of loss, metrics and gradient over the parts of a batch.

    The running statistics go from part to part; each part has separate random numbers.

    Args:
      gradient: (params, ctx, dropout key) -> ((loss, aux), gradient) of one part.
      params: the parameters.
      ctx: the context of the whole batch.
      dropout: key of dropout for the step.
      micro: number of parts.
      shard: shards an array of a part over the devices.
      loop: True runs one part after the other in the memory of one; None does so on accelerators. On a CPU, where
        convolution gradients in a loop are slow, the parts are side by side in the program, and no memory is saved.
    """

    def one(model_state: Tree, part: tuple[Array, Tree]) -> tuple[Tree, Tree]:
        i, batch = part
        batch = {name: x if name == 'partner' else shard(x) for name, x in batch.items()}
        mine = ctx._replace(model_state=model_state, batch=batch, rng=jax.random.fold_in(ctx.rng, i))
        (value, aux), grads = gradient(params, mine, jax.random.fold_in(dropout, i))
        check_carry(aux, micro)
        return aux.model_state, (value, dict(aux.metrics), grads)

    def add(carried: tuple[Tree, Tree], part: tuple[Array, Tree]) -> tuple[tuple[Tree, Tree], None]:
        model_state, found = one(carried[0], part)
        return (model_state, jax.tree.map(jnp.add, carried[1], found)), None

    cut = jnp.arange(micro), parts(ctx.batch, micro)
    first, rest = jax.tree.map(lambda x: x[0], cut), jax.tree.map(lambda x: x[1:], cut)
    carried = one(ctx.model_state, first)
    if jax.default_backend() != 'cpu' if loop is None else loop:
        carried, _ = jax.lax.scan(add, carried, rest)
    else:
        for i in range(micro - 1):
            carried, _ = add(carried, jax.tree.map(lambda x, i=i: x[i], rest))
    value, metrics, grads = jax.tree.map(lambda x: x / micro, carried[1])
    return (value, Aux(carried[0], metrics)), grads


def parts(batch: Mapping[str, Array], micro: int) -> dict[str, Array]:
    """Return a batch as (micro, B/micro, ..) arrays of contiguous whole groups, so each part has all its partners."""
    return {name: x.reshape(micro, x.shape[0] // micro, *x.shape[1:]) for name, x in batch.items()}


def check_carry(aux: Aux, micro: int) -> None:
    """Refuse to split a batch whose forward pass has a `carry` that has no mean."""
    if micro > 1 and jax.tree.leaves(aux.carry):
        raise UserError(
            f'config.accumulate={micro}: with these settings the method remembers something of the whole batch, which '
            'cannot be cut; set accumulate to 1 (config.batch_size may be smaller)'
        )
