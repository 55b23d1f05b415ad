"""The training step: batch, loss, gradient, optimiser, `after_step`. It is the same for every method.

The order of operations is part of the contract of a method (docs/methods.md). Metrics are those of the parameters
before the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mixjax.data.feed.batches import Batch
from mixjax.errors import user_code
from mixjax.method import Aux, Ctx, Method, Run
from mixjax.models.net import Net, bind, call_keys
from mixjax.train import contract, optim
from mixjax.train.accumulate import accumulated

Array = jax.Array
Tree = Any
TrainStep = Callable[['TrainState', Tree, Tree, Tree], tuple['TrainState', dict[str, Array]]]
AFTER = 2**32 - 1  # folded into the dropout key of a step for `after_step`; no call or part of a batch has this number


class TrainState(NamedTuple):
    """Everything that changes during training, and so everything in a checkpoint.

    step: () int32, steps done. key: the seed's key; every random number comes from it and `step`.
    state: the method's state, such as an EMA teacher.
    """

    step: Array
    key: Array
    params: Tree
    model_state: Tree
    opt_state: Tree
    state: Tree


class Keys(NamedTuple):
    """The streams of random numbers of a seed; `data` is the same for every method."""

    init: Array
    data: Array
    prepare: Array
    loss: Array
    after: Array
    dropout: Array


class Optimiser(NamedTuple):
    """The optimiser: tx (optax), rate (step -> learning rate), factors (params -> those of each parameter)."""

    tx: optax.GradientTransformation
    rate: Callable[[Array], Array]
    factors: Callable[[Tree], Tree]


class Layout(NamedTuple):
    """The layout of arrays on the devices of a seed.

    shard: shards a batch. whole: gathers sharded parameters. loop: see `accumulated`.
    """

    shard: Callable[[Array], Array] = lambda x: x
    whole: Callable[[Tree], Tree] = lambda tree: tree
    loop: bool | None = None


def variables(ts: TrainState) -> Tree:
    """Return the variables of a forward pass."""
    return {'params': ts.params, **ts.model_state}


def keys(seed_key: Array) -> Keys:
    """Split a seed's key into its streams."""
    return Keys(*jax.random.split(seed_key, len(Keys._fields)))


def context(feed: Batch, run: Run, ts: TrainState, frozen: Tree, inputs: Tree) -> Ctx:
    """Return the context of the loss at this step, with its batch."""
    # The batch is a pure function of (data key, step): nothing about data has to be checkpointed, and all methods of
    # a comparison see the same images in the same order.
    stream = keys(ts.key)
    batch = feed(inputs, stream.data, ts.step)
    rng = jax.random.fold_in(stream.loss, ts.step)
    return Ctx(ts.model_state, ts.state, frozen, batch, rng, ts.step, run)


def make(
    net: Net, method: Method, feed: Batch, run: Run, optimiser: Optimiser, layout: Layout = Layout(), *,  # noqa: B008
    accumulate: int = 1, skip: bool = False,
) -> TrainStep:  # fmt: skip
    """Make train_step(state, pretrained, frozen, inputs) -> (state, metrics). It is pure; the caller jits it.

    Args:
      feed: (inputs, key, step) -> batch. layout: that of arrays on the devices.
      accumulate: number of parts, one after the other, into which the batch is split.
      skip: leave out a step whose loss or gradient is not finite; only the number of steps goes on.
    """

    def train_step(
        ts: TrainState, pretrained: Tree | None, frozen: Tree, inputs: Tree
    ) -> tuple[TrainState, dict[str, Array]]:
        ctx = context(feed, run, ts, frozen, inputs)
        stream = keys(ts.key)
        dropout = jax.random.fold_in(stream.dropout, ts.step)

        def gradient(params: Tree, ctx: Ctx, dropout: Array) -> tuple[tuple[Array, Aux], Tree]:
            """Return ((loss, aux), gradient) of a batch, or of a part of it."""
            # `bind` gives the loss the pretrained network, and each of its forward passes a separate dropout key.
            bound = bind(net, pretrained, call_keys(dropout))
            ctx = ctx._replace(state=layout.whole(ctx.state))

            def loss(params: Tree) -> tuple[Array, Aux]:
                returned = method.loss(bound, layout.whole(params), ctx)
                contract.loss(method, returned, ctx.model_state)
                return returned

            with user_code(contract.place(method.loss, 'loss'), method.loss):
                return jax.value_and_grad(loss, has_aux=True)(params)

        # 1. Loss and gradient. Sharded parameters are gathered for the passes only, so their gradient is sharded.
        if accumulate == 1:
            (value, aux), grads = gradient(ts.params, ctx, dropout)
        else:
            (value, aux), grads = accumulated(gradient, ts.params, ctx, dropout, accumulate, layout.shard, layout.loop)

        # 2. The optimiser. Gradients of frozen parts are zero before it sees them, so momentum does not move them.
        grads = optim.freeze(grads, optimiser.factors(ts.params))
        updates, opt_state = optimiser.tx.update(grads, ts.opt_state, ts.params)
        new = optax.apply_updates(ts.params, updates)

        # 3. The method's `after_step`: an EMA teacher follows, a constraint projects, labels are corrected.
        bound = bind(net, pretrained, call_keys(jax.random.fold_in(dropout, AFTER)))
        after = ctx._replace(rng=jax.random.fold_in(stream.after, ts.step))
        moved = method.after_step(bound, ts.params, new, aux, after)
        contract.after_step(method, moved, ts.params, ts.state)
        params, state = moved

        metrics = {'loss': value, 'lr': optimiser.rate(ts.step), 'grad_norm': optax.tree.norm(grads), **aux.metrics}
        after_it = params, aux.model_state, opt_state, state
        if skip:
            good = jnp.isfinite(value) & jnp.isfinite(metrics['grad_norm'])
            metrics['skipped'] = 1.0 - good
            before = ts.params, ts.model_state, ts.opt_state, ts.state
            after_it = jax.tree.map(lambda new, old: jnp.where(good, new, old), after_it, before)
        return TrainState(ts.step + 1, ts.key, *after_it), metrics

    return train_step
