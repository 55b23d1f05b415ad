"""The train step: plan, batch, loss, gradient, optimiser, `after_step`. It is the same for every method.

metrics are of the parameters before the step; the order of operations is part of the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mixjax.data.feed import Batch
from mixjax.errors import UserError
from mixjax.method import Ctx, Method, Run
from mixjax.models.net import Net, bind
from mixjax.train import optim

Array = jax.Array
Tree = Any
RESERVED = ('seed', 'step', 'kind', 'loss', 'lr', 'grad_norm')  # names in a line of metrics


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


def check_metrics(metrics: Mapping[str, Array]) -> None:
    """Refuse what would spoil the log."""
    for name, metric in metrics.items():
        if name in RESERVED or jnp.shape(metric):
            raise UserError(f'the metric {name!r} must be a scalar, and not be called {", ".join(RESERVED)}')


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
) -> Callable[[TrainState, Tree, Tree, Tree], tuple[TrainState, dict[str, Array]]]:
    """train_step(state, pretrained, frozen, inputs) -> (state, metrics). Pure; the caller jits it."""

    def train_step(
        ts: TrainState, pretrained: Tree | None, frozen: Tree, inputs: Tree
    ) -> tuple[TrainState, dict[str, Array]]:
        ctx = context(feed, run, ts, frozen, inputs)
        stream = keys(ts.key)
        bound = bind(net, pretrained, jax.random.fold_in(stream.dropout, ts.step))

        def loss(params: Tree) -> tuple[Array, Any]:
            return method.loss(bound, params, ctx)

        (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(ts.params)
        grads = optim.freeze(grads, factor_of(ts.params))
        updates, opt_state = tx.update(grads, ts.opt_state, ts.params)
        new = optax.apply_updates(ts.params, updates)
        after = ctx._replace(rng=jax.random.fold_in(stream.after, ts.step))
        params, state = method.after_step(bound, ts.params, new, aux, after)

        check_metrics(aux.metrics)
        metrics = {'loss': value, 'lr': rate(ts.step), 'grad_norm': optax.tree.norm(grads), **aux.metrics}
        return TrainState(ts.step + 1, ts.key, params, aux.model_state, opt_state, state), metrics

    return train_step


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
