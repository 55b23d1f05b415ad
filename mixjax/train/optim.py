"""Optimisers and schedules, with a learning rate and a weight decay factor for each part of the network.

SGD, Adam and AMSGrad are torch's: decay is added to the gradient. AdamW, Lion and Muon are optax's, and their decay is
decoupled: lr * weight_decay * p is taken from the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mixjax.config.validate import TINY
from mixjax.errors import UserError, nearest
from mixjax.method import Groups
from mixjax.models.net import EMBEDDINGS, depths

Array = jax.Array
Tree = Any
NETWORK = ('backbone', 'heads')  # the sub-trees of a network's parameters
DECOUPLED = ('adamw', 'lion', 'muon')
# Where `config.optim.betas` is (): Lion's of its paper, those of Muon's Adam of its author's code.
BETAS = {'lion': (0.9, 0.99), 'muon': (0.9, 0.95)}
MUON_MOMENTUM = 0.95  # its author's, and torch's and optax's default
MUON_RMS = 0.2  # root mean square of an update, which is AdamW's: https://arxiv.org/abs/2502.16982, Eq. 4
# torch's defaults of OneCycleLR: the share of the steps that rises, the first rate and the last one.
RISE, FIRST, LAST = 0.3, 1 / 25, 1 / 25 / 1e4


def schedule(optim: Any, steps: int) -> Callable[[Array], Array]:
    """Return the function step number -> learning rate. It depends on nothing else.

    `step`: multiplied by `factor` from the first step i with i >= share * steps on, for each of `drops`.
    `cosine`: lr (1 + cos(pi i / steps)) / 2.
    `linear`: lr (1 - i / steps).
    `one_cycle`: torch's OneCycleLR with its defaults, without the cycle of the momentum: along a cosine from lr / 25
    up to lr at step 0.3 steps - 1, and down to lr / 250000 at the last step.

    In the first w steps of `warmup` the rate is multiplied by (i + 1) / (w + 1), as torch's LinearLR with the
    start_factor 1 / (w + 1) does, so no step has a rate of 0. `cosine` and `linear` then take the remaining steps;
    the shares of `drops` are those of all steps.
    """
    warm = warmup_steps(optim.warmup, steps)
    rate = _main(optim, steps, warm)
    return (lambda step: jnp.minimum((step + 1) / (warm + 1), 1) * rate(step)) if warm else rate


def warmup_steps(warmup: float, steps: int) -> int:
    """Return the number of steps of a warm-up: a share up to 1 is rounded up, and there are never more than `steps`."""
    return min(max(math.ceil(warmup * steps - 1e-6), warmup > 0) if warmup <= 1 else int(warmup), steps)


def _main(optim: Any, steps: int, warm: int) -> Callable[[Array], Array]:
    """Return the schedule behind a warm-up of `warm` steps."""
    if optim.schedule == 'one_cycle':
        return _one_cycle(optim.lr, steps)
    if warm and optim.schedule in ('cosine', 'linear'):
        after = _main(optim, max(steps - warm, 1), 0)
        return lambda step: after(jnp.maximum(step - warm, 0))
    if optim.schedule == 'cosine':
        return lambda step: optim.lr * 0.5 * (1 + jnp.cos(jnp.pi * step / steps))
    if optim.schedule == 'linear':
        return lambda step: optim.lr * (1 - step / steps)
    # 2 / 3 of 9000 is 5999.9999999999991 or 6000.0000000000009 after rounding, and should be 6000.
    drops = [math.ceil(share * steps - 1e-6) for share in optim.drops] if optim.schedule == 'step' else []
    rates = [optim.lr * optim.factor**k for k in range(len(drops) + 1)]
    return lambda step: jnp.asarray(rates)[sum((step >= drop for drop in drops), jnp.zeros((), jnp.int32))]


def _one_cycle(lr: float, steps: int) -> Callable[[Array], Array]:
    top = RISE * steps - 1  # below 0 in a run of three steps, which then only falls

    def between(first: float, last: float, share: Array) -> Array:
        return lr * (last + (first - last) / 2 * (1 + jnp.cos(jnp.pi * share)))

    def rate(step: Array) -> Array:
        fall = between(1.0, LAST, (step - top) / (steps - 1 - top))
        return jnp.where(step <= top, between(FIRST, 1.0, step / top), fall) if top > 0 else fall

    return rate


def factors(groups: Groups, group: Callable[[tuple[str, ...]], str], params: Tree, optim: Any = None) -> Tree:
    """Return (learning rate factor, decay factor) for each parameter.

    A part's exact name (`stage1`, `head:target`) goes before its kind (`trunk`, `heads`); parts without
    an entry have (1, 1).

    Args:
      groups: the `groups` of a method or phase.
      group: maps a parameter's path to its part. Sub-trees that a method adds are parts of their name.
      params: the parameters.
      optim: the config's `freeze`, `factors`, `layer_decay` and `decayed`. All learning rate factors are multiplied,
        and a part that one of them freezes does not change.
    """
    given = {} if optim is None else dict(one.split('=') for one in optim.factors)
    own = {name: (float(factor), 1.0) for name, factor in given.items()}
    frozen = {} if optim is None else dict.fromkeys(optim.freeze, (0.0, 0.0))
    table = {} if callable(groups) else groups
    named = {'the method': table, 'config.optim.factors': own, 'config.optim.freeze': frozen}
    paths = [_keys(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]

    def part(path: tuple[str, ...]) -> str:
        return group(path) if path[0] in NETWORK else path[0]

    parts = {part(path) for path in paths} | {'trunk', 'heads'}
    for who, some in named.items():
        for name in some:
            if name not in parts:
                raise UserError(
                    f'{who} sets a factor for {name!r}{nearest(name, parts)}; this network has '
                    f'{", ".join(sorted(parts - {"trunk", "heads"}))}, and trunk and heads for all of a kind'
                )

    scale = {} if optim is None else _layer_scales(optim, [path for path in paths if path[0] in NETWORK])
    exempt = optim is not None and _exempts(optim)

    def of(keys: Any, leaf: Array) -> tuple[float, float]:
        path = _keys(keys)
        name = part(path)
        kind = 'heads' if name.startswith('head:') else 'trunk'
        found = [some.get(name, some.get(kind, (1.0, 1.0))) for some in (table, own)]
        if callable(groups):
            found.append(groups(path, params))
        found += [frozen[part] for part in (name, kind) if part in frozen]
        rate, decay = (math.prod(each) for each in zip(*found, strict=True))
        if rate and path in scale:
            rate *= scale[path]
            _require_a_rate(optim, rate, name)
        if exempt and (len(leaf.shape) <= 1 or path[-1] in EMBEDDINGS):
            decay = 0.0
        return (rate, decay) if rate else (0.0, 0.0)

    return jax.tree_util.tree_map_with_path(of, params)


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(key.key for key in path)


def _layer_scales(optim: Any, paths: list[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """Return layer_decay ** (largest depth - depth) for each parameter; nothing if it is off."""
    if optim.layer_decay == 1:
        return {}
    try:
        depth = depths(paths)
    except UserError as error:
        raise UserError(f'config.optim.layer_decay={optim.layer_decay:g}: {error}') from error
    most = max(depth.values(), default=0)
    return {path: optim.layer_decay ** (most - depth[path]) for path in paths}


def _require_a_rate(optim: Any, factor: float, part: str) -> None:
    if optim.lr * factor < TINY:
        raise UserError(
            f'config.optim.layer_decay={optim.layer_decay:g} gives {part} a learning rate that is 0 in float32; raise '
            f'it, or freeze parts by name (config.optim.freeze={part})'
        )


def _exempts(optim: Any) -> bool:
    """Return whether parameters of one dimension, and tokens and position embeddings, do not decay."""
    return (optim.decayed or ('matrices' if optim.name in DECOUPLED else 'all')) == 'matrices'


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
    """Make the optimiser and its schedule.

    The order: gradients of frozen parts become 0, those of all parts are clipped, decay is added (torch's optimisers),
    the optimiser transforms them, decay is added (decoupled), and the learning rate multiplies. The state is thus of
    plain gradients, and a drop of the rate takes effect at once, also as in torch.

    Args:
      optim: the config's settings.
      steps: number of steps of the run.
      factor_of: params -> the tree of `factors`.
      rate: step -> learning rate, in the place of the config's schedule.
    """
    rate = rate or schedule(optim, steps)
    core = CORES[optim.name](optim)
    decoupled = optim.name in DECOUPLED

    def decay(updates: Tree, params: Tree) -> Tree:
        return _each(lambda u, p, f: u + optim.weight_decay * f * p if f else u, factor_of(params), 1, updates, params)

    def scale(updates: Tree, step: Array, params: Tree) -> Tree:
        lr = rate(step)
        return _each(lambda u, f: (-lr * f * u).astype(u.dtype), factor_of(params), 0, updates)

    def init(params: Tree) -> Tree:
        return {'core': core.init(params), 'step': jnp.zeros((), jnp.int32)}

    def update(updates: Tree, state: Tree, params: Tree | None = None) -> tuple[Tree, Tree]:
        assert params is not None
        grads = clipped(freeze(updates, factor_of(params)), optim.clip)
        updates, inner = core.update(grads if decoupled else decay(grads, params), state['core'])
        updates = decay(updates, params) if decoupled else updates
        return scale(updates, state['step'], params), {'core': inner, 'step': state['step'] + 1}

    return optax.GradientTransformation(init, update), rate


def clipped(grads: Tree, most: float) -> Tree:
    """Return gradients whose norm over all parameters is at most `most`; 0 leaves them as they are."""
    return optax.clip_by_global_norm(most).update(grads, optax.EmptyState())[0] if most else grads


def _sgd(optim: Any) -> optax.GradientTransformation:
    return optax.trace(decay=optim.momentum, nesterov=optim.nesterov)


def _adam(optim: Any, *, amsgrad: bool) -> optax.GradientTransformation:
    """Return Adam in torch's form: m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps).

    AMSGrad takes the largest v so far, before its correction; optax takes it afterwards.
    """
    b1, b2 = _betas(optim)

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


def _betas(optim: Any) -> tuple[float, ...]:
    return tuple(optim.betas) or BETAS.get(optim.name, (0.9, 0.999))


def _adamw(optim: Any) -> optax.GradientTransformation:
    b1, b2 = _betas(optim)
    return optax.scale_by_adam(b1, b2, optim.eps)


def _lion(optim: Any) -> optax.GradientTransformation:
    b1, b2 = _betas(optim)
    return optax.scale_by_lion(b1, b2)


def _muon(optim: Any) -> optax.GradientTransformation:
    """Return Muon for the kernels inside the trunk, and Adam for everything else (`axes`).

    Updates have the root mean square of AdamW's, so both share the learning rate and the decay.
    """
    make = getattr(optax.contrib, 'scale_by_muon', None)
    if make is None:
        raise UserError('config.optim.name=muon needs an optax with optax.contrib.scale_by_muon; update optax')

    def dimensions(tree: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(lambda path, x: axes(path, x.shape), tree)

    def sized(updates: Tree, params: Tree | None = None) -> Tree:
        del params
        return jax.tree.map(lambda u: MUON_RMS * math.sqrt(max(u.size // u.shape[-1], u.shape[-1])) * u, updates)

    def label(tree: Tree) -> Tree:
        return jax.tree_util.tree_map_with_path(lambda path, x: 'muon' if axes(path, x.shape) else 'adam', tree)

    orthogonal = make(beta=MUON_MOMENTUM, nesterov=True, weight_dimension_numbers=dimensions)
    return optax.partition({'muon': optax.chain(orthogonal, optax.stateless(sized)), 'adam': _adamw(optim)}, label)


def axes(path: Any, shape: tuple[int, ...]) -> Any:
    """Return the axes by which a parameter is a matrix for Muon, or None.

    Matrices are the `kernel`s of linear layers, (in, out), and of convolutions, (h, w, in, out) as (h w in, out). As
    Muon's author says, the first layer (`stem`) and the classifiers (`heads`) are none; nor are depthwise
    convolutions, (h, w, 1, out), whose channels are independent of each other.
    """
    names = [str(getattr(key, 'key', key)) for key in path]
    inside = names[-1:] == ['kernel'] and names[0] != 'heads' and names[1:2] != ['stem']
    if not inside or len(shape) not in (2, 4) or len(shape) == 4 and shape[2] == 1:
        return None
    return optax.contrib.MuonDimensionNumbers(tuple(range(len(shape) - 1)), len(shape) - 1)


CORES: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    'sgd': _sgd,
    'adam': partial(_adam, amsgrad=False),
    'amsgrad': partial(_adam, amsgrad=True),
    'adamw': _adamw,
    'lion': _lion,
    'muon': _muon,
}
