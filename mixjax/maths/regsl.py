"""RegSL's mathematics: distances from the pretrained weights, and labels corrected by the network itself.

Li & Zhang 2021, https://arxiv.org/abs/2111.04578. Pure functions. Trees are laid out as in `mixjax.models.net`; a
*part* is `stage1` .. or `head:<name>`, as the network's `group` names the parts of a tree. Weights of parts without a
number here are not changed: the stem, biases, and normalisation without running statistics. The distance of trunk
weights is from their initial values, that of a classifier from zero. n labelled examples, B of them in a batch,
c classes.
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
EPS = 1e-6  # that of the released constraint; the networks use 1e-5


def parts(params: Tree, trunk: float, head: float, scale: float, *, group: Group) -> dict[str, float]:
    """Return a number for each part: trunk * (1, 1, scale, scale^2, ..) for the stages, `head` for a classifier.

    Args:
      params: the tree.
      trunk: the number of the first stage.
      head: the number of each classifier.
      scale: factor from each stage to the next one, from the second on.
      group: names the part of a leaf.
    """
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
    """Project each weight onto the ball around its initial value with the radius k of its part.

    Kernels: w <- w0 + d min(1, k / ||d||), d = w - w0; `row` takes ||d||_1 of each output channel separately.
    BatchNorm scales: the constraint is on the factor of the signal, q = gamma / sqrt(var + 1e-6) with the current
    running variance; q stays within k of the initial q0, in each channel.

    Args:
      params: the weights.
      start: the initial weights.
      batch_stats: the running statistics.
      start_stats: the initial running statistics.
      radius: {part: k}.
      norm: 'frobenius' or 'row'.
      group: names the part of a leaf.
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
    """Return whether `d` is outside the ball of radius k, and min(1, k / ||d||).

    Args:
      d: the difference of weights.
      k: the radius.
      norm: 'frobenius', or 'row' for ||d||_1 of each output channel, with results of shape (channels,).
    """
    if norm == 'row':
        size = jnp.sum(jnp.abs(d), axis=tuple(range(d.ndim - 1)))
    else:
        square = jnp.sum(jnp.square(d))
        size = jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0)  # no NaN in the derivative at 0
    outside = size > k
    return outside, jnp.where(outside, k / jnp.where(outside, size, 1), 1)


def penalty(
    params: Tree, start: Tree, weight: Mapping[str, float], norm: str = 'frobenius', *, group: Group
) -> dict[str, Array]:
    """Return for each part its factor times the sum over its weights of ||w - w0||^2, without biases.

    `row` sums the largest ||w - w0||_1 of an output channel instead; for a BatchNorm scale, the largest |w - w0|.

    Args:
      params: the weights.
      start: the initial weights.
      weight: {part: factor}.
      norm: 'frobenius' or 'row'.
      group: names the part of a leaf.
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
    """Return the epoch of a step; the first is 1. In integers, since a rounded quotient would miss the borders."""
    exact = Fraction(steps_per_epoch).limit_denominator(2**16)  # n / B
    passed = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(exact.denominator)
    return 1 + (passed // jnp.uint32(exact.numerator)).astype(jnp.int32)


def temperature(epoch: Array, start: float, adaptive_epoch: int = 5) -> Array:
    """Return start * max(1/2, exp(-k / 10)) in epoch e, with k = max(0, e - 1 - adaptive_epoch).

    Args:
      epoch: (), e.
      start: the temperature at the start.
      adaptive_epoch: the temperature falls from epoch `adaptive_epoch` + 2 on.
    """
    past = jnp.maximum(jnp.asarray(epoch) - 1 - adaptive_epoch, 0)
    return start * jnp.maximum(0.5, jnp.exp(-0.1 * past))


def adaptive_weights(loss: Array, temperature: Array | float) -> Array:
    """Return softmax(-loss / temperature) over the batch, a constant for the gradient: (B,) -> (B,), of sum 1."""
    return jax.lax.stop_gradient(jax.nn.softmax(-loss / temperature))


def correct(stored: Array, index: Array, logits: Array, threshold: float) -> Array:
    """Overwrite the stored labels of a batch where the network's prediction has more than `threshold` probability.

    If an example is in the batch several times its most certain view decides, and of equally certain views the lowest
    class, in any order.

    Args:
      stored: (n,) int, the labels of all examples.
      index: (B,), rows of `stored`.
      logits: (B, c), of the batch.
      threshold: smallest probability that overwrites a label.

    Returns:
      (n,) int
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
    """Return the leaf at `keys`, or None."""
    for key in keys:
        if key not in tree:
            return None
        tree = tree[key]
    return tree


def _centre(keys: tuple[str, ...], start: Tree, w: Array) -> Array:
    """Return the point that the distance of a weight is measured from."""
    return jnp.zeros_like(w) if keys[0] == 'heads' else _find(start, keys)
