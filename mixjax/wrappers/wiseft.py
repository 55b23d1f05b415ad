"""WiSE-FT: evaluation between the first and the last weights (Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).

    w = (1 - share) w_start + share w_trained

w are the parameters and BatchNorm's running statistics; it is evaluated, kept and exported, and training is as without.
w_start are the weights at step 0, or, of a method with phases, those at the start of its last phase: for a linear probe
and then fine-tuning that is the probe. `share` is the paper's alpha, 0.5 as it recommends where nothing is known.

The paper starts from a classifier that fits the target. Weights of a head that were drawn at random are no such start,
and half of them would be noise: with `heads='auto'` a class of a head is interpolated if it starts from weights that
mean something (a phase before, a pretrained or fitted classifier, `config.model.head=keep`), and is the trained one
otherwise. As a method of its own, `wiseft` is this wrapper around `lpft`. The paper has networks without BatchNorm;
averaged statistics are only near those of the network between.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Data, Head, Method, Net, Prepared, Tree

AROUND = 'lpft'  # as a method of its own: the start has a classifier that fits the target, as in the paper
HEADS = ('auto', 'interpolate', 'trained')


def wrap(method: Method, classes_t: int, *, share: float = 0.5, heads: str = 'auto') -> Method:
    """Wrap a method in WiSE-FT.

    Args:
      method: the method to wrap.
      classes_t: number of target classes.
      share: the share of the trained weights.
      heads: 'auto' interpolates the classes of heads that do not start at random, 'interpolate' and 'trained' all and
        none of them.
    """
    del classes_t
    require(0 <= share <= 1, f'share must be between 0 and 1, not {share}')
    require(heads in HEADS, f'heads must be one of {", ".join(HEADS)}, not {heads!r}')
    phases = len(method.phases)

    def inner(ctx: Ctx) -> Ctx:
        return ctx._replace(state=ctx.state['method'])

    def begins(net: Net, prepared: Prepared, data: Data) -> dict[str, Array]:
        """Return, for each class of each head, 1 if it starts from weights that mean something, else 0."""
        source = net.pretrained()['params']['heads']
        classes_s = source['source']['bias'].shape[0] if 'source' in source else 0
        made = method.heads(len(data.target.classes), classes_s, prepared)
        known = {}
        for name, head in made.items():
            head = head if isinstance(head, Head) else Head(head)
            everywhere = heads == 'interpolate' or phases > 1 or head.kernel is not None
            everywhere |= head.rows is None and name == 'target' and 'target' in source
            rows = np.zeros(head.width) if head.rows is None else np.asarray(head.rows) >= 0
            known[name] = jnp.ones(head.width) if everywhere else jnp.asarray(rows, jnp.float32)
            known[name] = known[name] * (heads != 'trained')
        return known

    def init(net: Net, params: Tree, prepared: Prepared, data: Data) -> Tree:
        state = method.init(net, params, prepared, data)
        start = method.evaluated(net, {'params': params, **data.model_state}, state)
        return {'method': state, 'start': start, 'heads': begins(net, prepared, data)}

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        return method.loss(net, params, inner(ctx))

    def after_step(net: Net, old: Tree, new: Tree, aux: Aux, ctx: Ctx) -> tuple[Tree, Tree]:
        params, state = method.after_step(net, old, new, aux, inner(ctx))
        start = ctx.state['start']
        if ctx.run.phase < len(ctx.run.starts) - 1:  # the last of these steps leaves what the last phase starts from
            start = method.evaluated(net, {'params': params, **aux.model_state}, state)
        return params, {**ctx.state, 'method': state, 'start': start}

    def evaluated(net: Net, variables: Tree, state: Tree) -> Tree:
        start, trained = state['start'], method.evaluated(net, variables, state['method'])

        def between(a: Array, b: Array, part: float | Array = share) -> Array:
            return (a + part * (b - a)).astype(a.dtype) if jnp.issubdtype(a.dtype, jnp.floating) else b

        def head(name: str, a: Tree, b: Tree) -> Tree:
            part = 1 - state['heads'][name] * (1 - share)
            return jax.tree.map(lambda x, y: between(x, y, part), a, b)

        out = jax.tree.map(between, start, trained)
        first, last = (variables['params']['heads'] for variables in (start, trained))
        mixed = {name: head(name, first[name], last[name]) for name in last}
        return {**out, 'params': {**out['params'], 'heads': mixed}}

    return method._replace(loss=loss, after_step=after_step, init=init, evaluated=evaluated)
