"""The train step: plan, batch, loss, gradient, optimiser, `after_step`. It is the same for every method.

metrics are of the parameters before the step; the order of operations is part of the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mixjax.data.feed.batches import Batch
from mixjax.errors import UserError, user_code
from mixjax.method import Aux, Ctx, Method, Run
from mixjax.models.net import Net, bind, call_keys
from mixjax.train import contract, optim

Array = jax.Array
Tree = Any
AFTER = 2**32 - 1  # folded into the dropout key of a step for `after_step`; no call or part of a batch has this number


class TrainState(NamedTuple):
    """All that changes during training, and so all that a checkpoint holds.

    step: () int32, steps done. key: the seed's key; every random number comes from it and `step`.
    state: the method's own.
    """

    step: Array
    key: Array
    params: Tree
    model_state: Tree
    opt_state: Tree
    state: Tree


class Layout(NamedTuple):
    """How arrays lie on the devices of a seed. shard: lays a batch out. whole: brings cut parameters together.

    loop: as in `accumulated`.
    """

    shard: Callable[[Array], Array] = lambda x: x
    whole: Callable[[Tree], Tree] = lambda tree: tree
    loop: bool | None = None


def variables(ts: TrainState) -> Tree:
    """What a forward pass takes."""
    return {'params': ts.params, **ts.model_state}


class Keys(NamedTuple):
    """The streams of random numbers of a seed; `data` is the same for every method."""

    init: Array
    data: Array
    prepare: Array
    loss: Array
    after: Array
    dropout: Array


def keys(seed_key: Array) -> Keys:
    return Keys(*jax.random.split(seed_key, len(Keys._fields)))


def context(feed: Batch, run: Run, ts: TrainState, frozen: Tree, inputs: Tree) -> Ctx:
    """What the loss sees at this step."""
    stream = keys(ts.key)
    batch = feed(inputs, stream.data, ts.step)
    rng = jax.random.fold_in(stream.loss, ts.step)
    return Ctx(ts.model_state, ts.state, frozen, batch, rng, ts.step, run)


def make(
    net: Net,
    method: Method,
    feed: Batch,
    run: Run,
    tx: optax.GradientTransformation,
    rate: Callable[[Array], Array],
    factor_of: Callable[[Tree], Tree],
    micro: int = 1,
    layout: Layout = Layout(),  # noqa: B008, a constant
    skip: bool = False,
) -> Callable[[TrainState, Tree, Tree, Tree], tuple[TrainState, dict[str, Array]]]:
    """train_step(state, pretrained, frozen, inputs) -> (state, metrics). Pure; the caller jits it.

    micro: into how many parts, one after the other, the batch is cut.
    skip: a step whose loss or gradient is not finite changes nothing but the number of steps.
    """

    def train_step(
        ts: TrainState, pretrained: Tree | None, frozen: Tree, inputs: Tree
    ) -> tuple[TrainState, dict[str, Array]]:
        ctx = context(feed, run, ts, frozen, inputs)
        stream = keys(ts.key)
        dropout = jax.random.fold_in(stream.dropout, ts.step)
        bound = bind(net, pretrained, call_keys(jax.random.fold_in(dropout, AFTER)))

        def gradient(params: Tree, ctx: Ctx, dropout: Array) -> tuple[tuple[Array, Aux], Tree]:
            mine = bind(net, pretrained, call_keys(dropout))
            ctx = ctx._replace(state=layout.whole(ctx.state))

            def loss(params: Tree) -> tuple[Array, Aux]:
                returned = method.loss(mine, layout.whole(params), ctx)
                contract.loss(method, returned, ctx.model_state)
                return returned

            with user_code(contract.place(method.loss, 'loss'), method.loss):
                return jax.value_and_grad(loss, has_aux=True)(params)

        if micro == 1:
            (value, aux), grads = gradient(ts.params, ctx, dropout)
        else:
            (value, aux), grads = accumulated(gradient, ts.params, ctx, dropout, micro, layout.shard, layout.loop)
        grads = optim.freeze(grads, factor_of(ts.params))
        updates, opt_state = tx.update(grads, ts.opt_state, ts.params)
        new = optax.apply_updates(ts.params, updates)
        after = ctx._replace(rng=jax.random.fold_in(stream.after, ts.step))
        moved = method.after_step(bound, ts.params, new, aux, after)
        contract.after_step(method, moved, ts.params, ts.state)
        params, state = moved
        metrics = {'loss': value, 'lr': rate(ts.step), 'grad_norm': optax.tree.norm(grads), **aux.metrics}
        after_it = params, aux.model_state, opt_state, state
        if skip:
            good = jnp.isfinite(value) & jnp.isfinite(metrics['grad_norm'])
            metrics['skipped'] = 1.0 - good
            before = ts.params, ts.model_state, ts.opt_state, ts.state
            after_it = jax.tree.map(lambda new, old: jnp.where(good, new, old), after_it, before)
        return TrainState(ts.step + 1, ts.key, *after_it), metrics

    return train_step


def accumulated(
    gradient: Callable[[Tree, Ctx, Array], tuple[tuple[Array, Aux], Tree]],
    params: Tree, ctx: Ctx, dropout: Array, micro: int, shard: Callable[[Array], Array], loop: bool | None = None,
) -> tuple[tuple[Array, Aux], Tree]:  # fmt: skip
    """The means of loss, metrics and gradient over the parts of a batch.

    The running statistics go from part to part; each has random numbers of its own.

    loop: one part after the other in the memory of one, as accelerators do it. On a CPU, where convolution
        gradients in a loop are slow, the parts lie side by side in the program, and no memory is saved.
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
    """A batch as (micro, B/micro, ..) arrays: contiguous parts of whole groups, so all partners of a part are in it."""
    return {name: x.reshape(micro, x.shape[0] // micro, *x.shape[1:]) for name, x in batch.items()}


def check_carry(aux: Aux, micro: int) -> None:
    """Refuse to cut a batch whose forward pass hands something on that has no mean."""
    if micro > 1 and jax.tree.leaves(aux.carry):
        raise UserError(
            f'config.accumulate={micro}: with these settings the method remembers something of the whole batch, which '
            'cannot be cut; set accumulate to 1 (config.batch_size may be smaller)'
        )


def several(train_step: Callable, count: int) -> Callable:
    """`count` steps in one program by `lax.scan`, with the metrics of the last one.

    Only for accelerators: on a CPU, convolution gradients inside a loop are tens of times slower.
    """

    def steps(ts: TrainState, pretrained: Tree | None, frozen: Tree, inputs: Tree) -> tuple[TrainState, Any]:
        def body(ts: TrainState, _: None) -> tuple[TrainState, Any]:
            return train_step(ts, pretrained, frozen, inputs)

        ts, metrics = jax.lax.scan(body, ts, None, length=count)
        return ts, jax.tree.map(lambda x: x[-1], metrics)

    return steps
