"""RegSL's mathematics: distances from the pretrained weights, and labels corrected by the network itself.

Li & Zhang 2021, https://arxiv.org/abs/2111.04578. Pure functions. Trees are laid out as in `mixjax.models.net`; a
*part* is `stage1` .. or `head:<name>`, as the network's `group` names the parts of a tree, and what has no number here
is left alone: the stem, biases, and normalisation without running statistics. Trunk weights are measured from where
they started, a classifier from zero. n labelled examples, B of them in a batch, c classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Tree = Any
Group = Callable[[tuple[str, ...]], str]
EPS = 1e-6  # of the released constraint; the networks' own is 1e-5


def parts(params: Tree, trunk: float, head: float, scale: float, *, group: Group) -> dict[str, float]:
    """A number for each part: trunk * (1, 1, scale, scale^2, ..) for the stages in order, `head` for a classifier."""
    names = {group(keys) for keys, _ in _leaves(params)}
    stages = {name: int(found[1]) for name in names if (found := re.fullmatch(r'stage(\d+)', name))}
    of_stages = {name: trunk * scale ** max(0, i - 2) for name, i in stages.items()}
    return {**of_stages, **{name: head for name in names if name.startswith('head:')}}


# --- the constraint ---------------------------------------------------------------------------------------------------


def project(
    params: Tree,
    start: Tree,
    batch_stats: Tree,
    start_stats: Tree,
    radius: Mapping[str, float],
    norm: str = 'frobenius',
    *,
    group: Group,
) -> Tree:
    """Each weight to the nearest point of the ball of its part's radius k around where it started.

    Kernels: w <- w0 + d min(1, k / ||d||), d = w - w0; `row` takes ||d||_1 of each output channel by itself.
    BatchNorm scales: what counts is what multiplies the signal, q = gamma / sqrt(var + 1e-6) with the
    running variance of now; q stays within k of q0, that of the start, in each channel.
    """

    def one(keys: tuple[str, ...], w: Array) -> Array:
        k = radius.get(group(keys))
        if k is None or keys[-1] == 'bias':
            return w
        if w.ndim > 1:
            w0 = _centre(keys, start, w)
            d = w - w0
            outside, factor = shrink(d, k, norm)
            return jnp.where(outside, w0 + factor * d, w)
        var, var0 = _find(batch_stats, (*keys[:-1], 'var')), _find(start_stats, (*keys[:-1], 'var'))
        if var is None or var0 is None:
            return w
        now, q0 = jnp.sqrt(var + EPS), _centre(keys, start, w) / jnp.sqrt(var0 + EPS)
        d = w / now - q0
        return jnp.where(jnp.abs(d) > k, (q0 + jnp.clip(d, -k, k)) * now, w).astype(w.dtype)

    return _map(one, params)


def shrink(d: Array, k: float, norm: str) -> tuple[Array, Array]:
    """Whether `d` lies outside the ball of radius k, and min(1, k / ||d||); of each output channel for 'row'."""
    if norm == 'row':
        size = jnp.sum(jnp.abs(d), axis=tuple(range(d.ndim - 1)))
    else:
        square = jnp.sum(jnp.square(d))
        size = jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0)  # no NaN in a derivative at 0
    outside = size > k
    return outside, jnp.where(outside, k / jnp.where(outside, size, 1), 1)


def penalty(
    params: Tree, start: Tree, weight: Mapping[str, float], norm: str = 'frobenius', *, group: Group
) -> dict[str, Array]:
    """For each part its weight times the sum over its weights of ||w - w0||^2, biases left out.

    `row`: of the largest ||.||_1 of an output channel instead; of a BatchNorm scale, the largest |w - w0|.
    """
    total: dict[str, Array] = {}
    for keys, w in _leaves(params):
        part = group(keys)
        if part not in weight or keys[-1] == 'bias':
            continue
        d = w - _centre(keys, start, w)
        size = jnp.sum(jnp.square(d))
        if norm == 'row':
            size = jnp.max(jnp.sum(jnp.abs(d), axis=tuple(range(d.ndim - 1))))
        total[part] = total.get(part, jnp.zeros((), size.dtype)) + weight[part] * size
    return total


# --- self-labelling ---------------------------------------------------------------------------------------------------


def epoch(step: Array, steps_per_epoch: float) -> Array:
    """The epoch that a step lies in; the first is 1. In integers: a rounded quotient would miss the borders."""
    exact = Fraction(steps_per_epoch).limit_denominator(2**16)  # n / B
    passed = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(exact.denominator)
    return 1 + (passed // jnp.uint32(exact.numerator)).astype(jnp.int32)


def temperature(epoch: Array, start: float, adaptive_epoch: int = 5) -> Array:
    """start * max(1/2, exp(-k / 10)) in epoch e, with k = e - 1 - adaptive_epoch and at least 0."""
    past = jnp.maximum(jnp.asarray(epoch) - 1 - adaptive_epoch, 0)
    return start * jnp.maximum(0.5, jnp.exp(-0.1 * past))


def adaptive_weights(loss: Array, temperature: Array | float) -> Array:
    """softmax over the batch of -loss / temperature, a constant for the gradient: (B,) -> (B,), of sum 1."""
    return jax.lax.stop_gradient(jax.nn.softmax(-loss / temperature))


def correct(stored: Array, index: Array, logits: Array, threshold: float) -> Array:
    """The stored labels with those overwritten that the network contradicts with more than `threshold` probability.

    Where an example is several times in the batch its most certain view decides, and of views
    equally certain the lowest class, whatever the order.

    Args:
      stored: (n,) int. index: (B,) rows of `stored`. logits: (B, c) of the batch.
    """
    prob = jax.lax.stop_gradient(jax.nn.softmax(logits))
    sure, said = prob.max(axis=-1), prob.argmax(axis=-1).astype(stored.dtype)
    surest = jnp.zeros(stored.shape, sure.dtype).at[index].max(sure)
    decides = (sure > threshold) & (sure == surest[index])
    unsaid = jnp.iinfo(stored.dtype).max
    new = jnp.full_like(stored, unsaid).at[index].min(jnp.where(decides, said, unsaid))
    return jnp.where(new < unsaid, new, stored)


# --- trees ------------------------------------------------------------------------------------------------------------


def _leaves(tree: Tree) -> list[tuple[tuple[str, ...], Array]]:
    return [(_keys(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _map(function: Callable[[tuple[str, ...], Array], Array], tree: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_keys(path), leaf), tree)


def _keys(path: Any) -> tuple[str, ...]:
    return tuple(key.key for key in path)


def _find(tree: Tree, keys: tuple[str, ...]) -> Any:
    """The leaf at `keys`, or None."""
    for key in keys:
        if key not in tree:
            return None
        tree = tree[key]
    return tree


def _centre(keys: tuple[str, ...], start: Tree, w: Array) -> Array:
    """Where a weight is measured from."""
    return jnp.zeros_like(w) if keys[0] == 'heads' else _find(start, keys)
