"""SGD and Adam as in torch, with a learning rate and a weight decay factor for each part of the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mixjax.errors import UserError, nearest
from mixjax.method import Groups

Array = jax.Array
Tree = Any
NETWORK = ('backbone', 'heads')  # the sub-trees of a network's parameters


def schedule(optim: Any, steps: int) -> Callable[[Array], Array]:
    """Return the function step number -> learning rate.

    `step`: multiplied by `factor` from the first step i with i >= share * steps on, for each of `drops`.
    `cosine`: lr (1 + cos(pi i / steps)) / 2.
    """
    if optim.schedule == 'cosine':
        return lambda step: optim.lr * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))
    # 2 / 3 of 9000 is 5999.9999999999991 or 6000.0000000000009 after rounding, and should be 6000.
    drops = [math.ceil(share * steps - 1e-6) for share in optim.drops] if optim.schedule == 'step' else []
    rates = [optim.lr * optim.factor**k for k in range(len(drops) + 1)]
    return lambda step: jnp.asarray(rates)[sum((step >= drop for drop in drops), jnp.zeros((), jnp.int32))]


def factors(groups: Groups, group: Callable[[tuple[str, ...]], str], params: Tree, optim: Any = None) -> Tree:
    """Return (learning rate factor, decay factor) for each parameter.

    A part's exact name (`stage1`, `head:target`) goes before its kind (`trunk`, `heads`); parts without
    an entry have (1, 1).

    Args:
      groups: the `groups` of a method or phase.
      group: maps a parameter's path to its part. Sub-trees that a method adds are parts of their name.
      params: the parameters.
      optim: the config's `freeze` and `factors`. The learning rate factors of both are multiplied, and a part that
        either of them freezes does not change.
    """
    given = {} if optim is None else dict(one.split('=') for one in optim.factors)
    own = {name: (float(factor), 1.0) for name, factor in given.items()}
    frozen = {} if optim is None else dict.fromkeys(optim.freeze, (0.0, 0.0))
    table = {} if callable(groups) else groups
    named = {'the method': table, 'config.optim.factors': own, 'config.optim.freeze': frozen}
    leaves = jax.tree_util.tree_leaves_with_path(params)

    def part(path: tuple[str, ...]) -> str:
        return group(path) if path[0] in NETWORK else path[0]

    parts = {part(_keys(path)) for path, _ in leaves} | {'trunk', 'heads'}
    for who, some in named.items():
        for name in some:
            if name not in parts:
                raise UserError(
                    f'{who} sets a factor for {name!r}{nearest(name, parts)}; this network has '
                    f'{", ".join(sorted(parts - {"trunk", "heads"}))}, and trunk and heads for all of a kind'
                )

    def of(path: Any, leaf: Array) -> tuple[float, float]:
        del leaf
        name = part(_keys(path))
        kind = 'heads' if name.startswith('head:') else 'trunk'
        found = [some.get(name, some.get(kind, (1.0, 1.0))) for some in (table, own)]
        if callable(groups):
            found.append(groups(_keys(path), params))
        found += [frozen[part] for part in (name, kind) if part in frozen]
        rate, decay = (math.prod(each) for each in zip(*found, strict=True))
        return (rate, decay) if rate else (0.0, 0.0)

    return jax.tree_util.tree_map_with_path(of, params)


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(key.key for key in path)


def _each(function: Callable[..., Array], factor_tree: Tree, which: int, *trees: Tree) -> Tree:
    def one(*leaves: Any) -> Array:
        *arrays, factor = leaves
        return function(*arrays, factor[which])

    return jax.tree.map(one, *trees, factor_tree)


def freeze(grads: Tree, factor_tree: Tree) -> Tree:
    """Return gradients with zeros where the learning rate factor is 0, so that they count in no norm."""
    return _each(lambda g, f: g if f else jnp.zeros_like(g), factor_tree, 0, grads)


def make(
    optim: Any, steps: int, factor_of: Callable[[Tree], Tree], rate: Callable[[Array], Array] | None = None
) -> tuple[optax.GradientTransformation, Callable[[Array], Array]]:
    """Make the optimiser and its schedule. Decay is added to the gradient (torch), not decoupled.

    The optimiser's state is of plain gradients; the learning rate multiplies afterwards, so a drop takes
    effect at once, also as in torch.

    Args:
      optim: the config's settings.
      steps: number of steps of the run.
      factor_of: params -> the tree of `factors`.
      rate: step -> learning rate, in the place of the config's schedule.
    """
    rate = rate or schedule(optim, steps)
    core = _sgd(optim) if optim.name == 'sgd' else _adam(optim, amsgrad=optim.name == 'amsgrad')

    def decay(updates: Tree, params: Tree) -> Tree:
        return _each(lambda u, p, f: u + optim.weight_decay * f * p if f else u, factor_of(params), 1, updates, params)

    def scale(updates: Tree, step: Array, params: Tree) -> Tree:
        lr = rate(step)
        return _each(lambda u, f: (-lr * f * u).astype(u.dtype), factor_of(params), 0, updates)

    def init(params: Tree) -> Tree:
        return {'core': core.init(params), 'step': jnp.zeros((), jnp.int32)}

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        assert params is not None
        updates, inner = core.update(decay(freeze(updates, factor_of(params)), params), state['core'])
        return scale(updates, state['step'], params), {'core': inner, 'step': state['step'] + 1}

    return optax.GradientTransformation(init, update), rate


def _sgd(optim: Any) -> optax.GradientTransformation:
    return optax.trace(decay=optim.momentum, nesterov=optim.nesterov)


def _adam(optim: Any, *, amsgrad: bool) -> optax.GradientTransformation:
    """Return Adam in torch's form: m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps).

    AMSGrad takes the largest v so far, before its correction; optax takes it afterwards.
    """
    b1, b2 = optim.betas

    def init(params: Tree) -> Tree:
        zeros = jax.tree.map(jnp.zeros_like, params)
        state = {'count': jnp.zeros((), jnp.int32), 'mean': zeros, 'square': zeros}
        return {**state, 'most': zeros} if amsgrad else state

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        del params
        count = state['count'] + 1
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state['mean'], updates)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state['square'], updates)
        new = {'count': count, 'mean': mean, 'square': square}
        if amsgrad:
            square = new['most'] = jax.tree.map(jnp.maximum, state['most'], square)

        def step(m: Array, v: Array) -> Array:
            t = count.astype(m.dtype)
            return m / (1 - b1**t) / (jnp.sqrt(v / (1 - b2**t)) + optim.eps)

        return jax.tree.map(step, mean, square), new

    return optax.GradientTransformation(init, update)
