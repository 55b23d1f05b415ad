"""Minimum-cost labels on a grid, on the device and for a whole batch at once.

    minimise over l in {0, 1, 2}^(n x n)   sum_i unary[i, l_i] + sum_(i, j) weight_ij (l_i - l_j)^2 / 4

with edges between neighbours. With weights >= 0 this is a minimum cut: the energy is submodular, and the dual
of its linear relaxation has no gap. So the dual is solved, and its value proves that the labels are optimal.

`sweeps` is sequential tree-reweighted message passing (Kolmogorov 2006, TRW-S); rows and columns are the trees.
The nodes of an anti-diagonal do not depend on each other, so a pass over the grid takes 2 n - 1 steps, each of
them a few elementwise operations on n B numbers. `exact` is dynamic programming over the 3^n labellings of a
row: for n <= 8, with any weights.

Everything is computed for 4 times the energy, which is an integer: labels less than 1 above a lower bound are
optimal.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

CHECK_EVERY = 4  # passes in both directions between two proofs
MOST_SWEEPS = 200
PROVEN = 0.5  # the other 1/2 is for the tilt that breaks ties


class Costs(NamedTuple):
    """Costs of a labelling problem, int32.

    Attributes:
      unary: (B, n, n, 3), the cost of each label of each node.
      down: (B, n - 1, n), the weights of the vertical edges.
      right: (B, n, n - 1), the weights of the horizontal edges.
    """

    unary: Array
    down: Array
    right: Array


def solve(costs: Costs) -> Array:
    """Return the labels (B, n, n) int32 of least energy."""
    n = costs.unary.shape[1]
    if n <= 4:
        return exact(costs)
    labels, gap = sweeps(costs)
    if n <= 8:
        # This is free as long as every proof succeeds.
        labels = jax.lax.cond(jnp.all(gap < PROVEN), lambda: labels, lambda: exact(costs))
    return labels


def distance(dtype: Any) -> Array:
    """Return (l - l')^2 for all pairs of labels: (3, 3)."""
    label = jnp.arange(3, dtype=dtype)
    return jnp.square(label[:, None] - label)


# --- message passing ---


class Grid(NamedTuple):
    """The problem, skewed: node (i, j) at [i + j, ..., j, :], so that each step of a scan is an anti-diagonal.

    Positions outside of the n x n nodes have no costs and no edges.

    Attributes:
      unary: (2n - 1, 3, n, B), 4 times the cost, minus that of label 1, and tilted.
      right: (2n - 1, n, B), the weight of the edge from the node to its right neighbour.
      down: (2n - 1, n, B), the same for the node below.
      left: (2n - 1, n, B), the same for the left neighbour.
      up: (2n - 1, n, B), the same for the node above.
    """

    unary: Array
    right: Array
    down: Array
    left: Array
    up: Array


def skewed(x: Array) -> Array:
    """Skew a grid, (n, n, ...) -> (2n - 1, n, ...), with node (i, j) at [i + j, j] and zeros elsewhere."""
    n, rest = x.shape[0], x.shape[2:]
    # Columns of length 2n, read as columns of length 2n - 1, so that each starts one element later than the last.
    wide = jnp.pad(jnp.swapaxes(x, 0, 1), [(0, 0), (0, n)] + [(0, 0)] * len(rest))
    flat = wide.reshape(2 * n * n, *rest)[: n * (2 * n - 1)]
    return jnp.swapaxes(flat.reshape(n, 2 * n - 1, *rest), 0, 1)


def straight(x: Array) -> Array:
    """Invert `skewed`."""
    n, rest = x.shape[1], x.shape[2:]
    flat = jnp.swapaxes(x, 0, 1).reshape(n * (2 * n - 1), *rest)
    wide = jnp.pad(flat, [(0, n)] + [(0, 0)] * len(rest)).reshape(n, 2 * n, *rest)
    return jnp.swapaxes(wide[:, :n], 0, 1)


def grid(costs: Costs) -> Grid:
    """Skew and scale the costs for `sweep`."""

    def last(x: Array) -> Array:
        """Move the batch to the last axis, along which every operation is vectorised."""
        return jnp.moveaxis(x, 0, -1).astype(jnp.float32)

    none, one = (0, 0), (0, 1)
    n = costs.unary.shape[1]
    # Differences, because they are small numbers. The tilt breaks ties, at which the messages would stall: of
    # several optima the one with the lowest labels is now the best. It changes no difference by more than 1/2.
    tilt = jnp.arange(-1, 2, dtype=jnp.float32)[:, None] / (4 * n * n)
    unary = last(4 * (costs.unary - costs.unary[..., 1:2])) + tilt
    right = last(jnp.pad(costs.right, (none, none, one)))
    down = last(jnp.pad(costs.down, (none, one, none)))
    left, up = jnp.roll(right, 1, axis=1), jnp.roll(down, 1, axis=0)
    return Grid(jnp.swapaxes(skewed(unary), 1, 2), skewed(right), skewed(down), skewed(left), skewed(up))


def next_column(x: Array) -> Array:
    """Shift (..., n, B) to the next column, filling with zeros."""
    return jnp.concatenate([jnp.zeros_like(x[..., :1, :]), x[..., :-1, :]], axis=-2)


def last_column(x: Array) -> Array:
    """Shift (..., n, B) to the previous column, filling with zeros."""
    return jnp.concatenate([x[..., 1:, :], jnp.zeros_like(x[..., :1, :])], axis=-2)


def across(cost: Array, weight: Array) -> Array:
    """Return the message over an edge, min_l cost[l] + weight (l - l')^2: (3, n, B), (n, B) -> (3, n, B)."""
    return jnp.min(cost[:, None] + distance(cost.dtype)[..., None, None] * weight, axis=0)


Messages = tuple[Array, Array]  # along rows and along columns, into each node: (2n - 1, 3, n, B)


def sweep(grid: Grid, against: Messages, *, back: bool) -> Messages:
    """Pass messages over the grid once, from its first node to its last or back.

    Every node adds up its costs and incoming messages, gives half to its row and half to its column, and passes on the
    least cost of each half with an edge.

    Args:
      grid: the problem.
      against: the messages in the other direction.
      back: pass from the last node to the first.
    """
    weights = (grid.left, grid.up) if back else (grid.right, grid.down)

    def step(here: Messages, x: Any) -> tuple[Messages, Messages]:
        unary, over_row, over_column, (row, column) = x
        half = (unary + here[0] + here[1] + row + column) / 2
        along_row, along_column = across(half - row, over_row), across(half - column, over_column)
        along_row, along_column = along_row - along_row[1], along_column - along_column[1]
        return ((last_column if back else next_column)(along_row), along_column), here

    nothing = jnp.zeros_like(grid.unary[0])
    _, messages = jax.lax.scan(step, (nothing, nothing), (grid.unary, *weights, against), reverse=back)
    return messages


def proof(grid: Grid, forth: Messages, back: Messages) -> tuple[Array, Array]:
    """Return labels, and the gap between their energy and a lower bound.

    A node takes the label that is best given those of the nodes above and to its left. The bound is the sum of the
    least costs of all rows and all columns with their halves of the nodes, each by dynamic programming.
    Its values are kept relative to those of the chosen labels, so that float32 loses almost no precision.

    Args:
      grid: the problem.
      forth: the messages from the first node to the last.
      back: the messages in the other direction.

    Returns:
      Labels (2n - 1, n, B) float32, skewed, and the gap (B,), four times that of the energy.
    """
    label = jnp.arange(3, dtype=grid.unary.dtype)[:, None, None]

    def step(carry: Any, x: Any) -> tuple[Any, Array]:
        (row, at_left), (column, at_top), gap = carry
        unary, _, _, left, up, (from_left, from_top), (from_right, from_below) = x
        edge_left, edge_top = left * jnp.square(label - at_left), up * jnp.square(label - at_top)
        conditional = unary + from_right + from_below + edge_left + edge_top
        at = jnp.argmin(conditional, axis=0).astype(label.dtype)

        def relative(cost: Array) -> Array:
            return cost - jnp.sum(jnp.where(label == at, cost, 0), axis=0)

        def chosen(cost: Array) -> Array:
            return jnp.sum(jnp.where(label == at, cost, 0), axis=0)

        half = (unary + from_left + from_top + from_right + from_below) / 2
        row = across(row, left) - chosen(edge_left) + relative(half - from_left)
        column = across(column, up) - chosen(edge_top) + relative(half - from_top)
        gap -= row[:, -1].min(axis=0)  # rows end at the last column
        row, column = row - relative(from_right), column - relative(from_below)
        return ((next_column(row), next_column(at)), (column, at), gap), at

    nothing = jnp.zeros_like(grid.unary[0])
    start = ((nothing, nothing[0]), (nothing, nothing[0]), nothing[0, 0])
    (_, (column, _), gap), labels = jax.lax.scan(step, start, (*grid, forth, back))
    return labels, gap - column.min(axis=0).sum(axis=0)


def sweeps(costs: Costs) -> tuple[Array, Array]:
    """Return labels (B, n, n) int32, and (B,) a bound on the excess of four times their energy over the minimum."""
    problem = grid(costs)

    def go_on(state: Any) -> Array:
        count, _, _, gap = state
        return (count < MOST_SWEEPS) & jnp.any(gap >= PROVEN)

    def improve(state: Any) -> Any:
        count, back, labels, gap = state
        forth = back
        for _ in range(CHECK_EVERY):
            forth = sweep(problem, back, back=False)
            back = sweep(problem, forth, back=True)
        labels_now, gap_now = proof(problem, forth, back)
        better = gap_now < gap
        return count + CHECK_EVERY, back, jnp.where(better, labels_now, labels), jnp.minimum(gap, gap_now)

    nothing = jnp.zeros_like(problem.unary)
    start = 0, (nothing, nothing), nothing[:, 0], nothing[0, 0, 0] + jnp.inf
    _, _, labels, gap = jax.lax.while_loop(go_on, improve, start)
    return jnp.moveaxis(straight(labels), -1, 0).astype(jnp.int32), gap


# --- dynamic programming ---


def exact(costs: Costs) -> Array:
    """Return optimal labels (B, n, n) int32, in n^2 steps over 3^n states: for n <= 8, with any weights.

    A state is the labels of the last n nodes, the digits of a number: its first digit belongs to the node above the
    next one, its last to the node to its left. A step drops the first digit and appends the new label.
    """
    n = costs.unary.shape[1]
    d = distance(jnp.int32)[..., None]

    def nodes(x: Array) -> Array:
        """Reshape (B, n, n, ...) to (n^2, ..., B)."""
        return jnp.moveaxis(x, 0, -1).reshape(n * n, *x.shape[3:], -1)

    up = nodes(jnp.pad(costs.down, ((0, 0), (1, 0), (0, 0))))
    left = nodes(jnp.pad(costs.right, ((0, 0), (0, 0), (1, 0))))

    def step(cost: Array, x: Any) -> tuple[Array, Array]:
        unary, up, left = x
        first, second, third = cost.reshape(3, 3 ** (n - 1), 1, -1) + (d * up)[:, None]
        best = jnp.minimum(jnp.minimum(first, second), third)  # (3^(n-1), label, B)
        above = jnp.where(first == best, 0, jnp.where(second == best, 1, 2)).astype(jnp.int8)
        best = best.reshape(3 ** (n - 2), 3, 3, -1) + (unary + d * left)  # (.., label at left, label, B)
        return best.reshape(cost.shape), above.reshape(cost.shape)

    def trace(state: Array, above: Array) -> tuple[Array, Array]:
        dropped = jnp.take_along_axis(above, state[None], axis=0)[0].astype(state.dtype)
        return dropped * 3 ** (n - 1) + state // 3, state % 3

    unary = nodes(4 * costs.unary)
    cost, above = jax.lax.scan(step, jnp.zeros((3**n, 1), jnp.int32) * up[0], (unary, up, left))
    _, labels = jax.lax.scan(trace, jnp.argmin(cost, axis=0).astype(jnp.int32), above, reverse=True)
    return jnp.moveaxis(labels.reshape(n, n, -1), -1, 0)
