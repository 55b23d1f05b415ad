"""Evaluation by a moving average of the weights (Tarvainen & Valpola 2017, https://arxiv.org/abs/1703.01780).

    a <- d a + (1 - d) w   after each step t = 0, 1, ..,   d = min(decay, (1 + t) / (10 + t))

w are all parameters and BatchNorm's running statistics; a, which starts as they do, is evaluated, kept and exported.
Training is as without it.

At step t the average is over about the last t / 9 steps, until it is over 1 / (1 - decay) of them, here from step 9,000
on. So it fits short runs, where a constant decay would still hold the weights of the beginning. The rise of d is that
of TensorFlow's ExponentialMovingAverage with `num_updates`; 0.999 is the decay of Mean Teacher and FixMatch. timm has
0.9998 for runs of 10^5 steps and more. The statistics are averaged too, as in timm: those of the current weights belong
to other features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Data, Method, Net, Prepared, Tree


def wrap(method: Method, classes_t: int, *, decay: float = 0.999) -> Method:
    """Wrap a method in a moving average of its weights.

    Args:
      method: the method to wrap.
      classes_t: number of target classes.
      decay: the largest share of the average that a step keeps.
    """
    del classes_t
    require(0 <= decay < 1, f'decay must be at least 0 and below 1, not {decay}')

    def inner(ctx: Ctx) -> Ctx:
        return ctx._replace(state=ctx.state['method'])

    def init(net: Net, params: Tree, prepared: Prepared, data: Data) -> Tree:
        average = {'params': params, **data.model_state}
        return {'method': method.init(net, params, prepared, data), 'average': average}

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        return method.loss(net, params, inner(ctx))

    def after_step(net: Net, old: Tree, new: Tree, aux: Aux, ctx: Ctx) -> tuple[Tree, Tree]:
        params, state = method.after_step(net, old, new, aux, inner(ctx))
        moved = 1 - jnp.minimum(decay, (1 + ctx.step) / (10 + ctx.step))

        def follow(a: Array, w: Array) -> Array:
            return a + moved.astype(a.dtype) * (w - a) if jnp.issubdtype(a.dtype, jnp.floating) else w

        average = jax.tree.map(follow, ctx.state['average'], {'params': params, **aux.model_state})
        return params, {'method': state, 'average': average}

    def evaluated(net: Net, variables: Tree, state: Tree) -> Tree:
        del variables
        return method.evaluated(net, state['average'], state['method'])

    return method._replace(loss=loss, after_step=after_step, init=init, evaluated=evaluated)
