"""Co-Tuning's relation p(y_s | y_t), the similarity of source classes to target classes (You et al. 2020).

It is computed once a seed, before training, in float64: numpy on the host, and the regression of `reverse` in jax on
the device. m source classes, c target classes, n examples. P is (n, m): the pretrained network's calibrated
probabilities of the source classes, one row an example. There are two ways:

    direct    R_y = mean of P over the examples of class y
    reverse   R_y[k] ~ p(y | k) p(k): q = p(y_t | y_s) by a regression of y_t on P, p the mean of P

Every row of R, (c, m), sums to 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.errors import require

GRID = tuple(float(f'{a}e{b}') for b in range(4, -5, -1) for a in (3, 1))[1:]  # 1e4, 3e3, 1e3, .., 3e-4, 1e-4
CHUNK = 4096  # rows at a time: a source set's logits are large


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Return log softmax over the last axis, in float64."""
    z = logits.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return softmax over the last axis, in float64."""
    return np.exp(log_softmax(logits))


# --- calibration ------------------------------------------------------------------------------------------------------


def calibrate(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the scale s > 0 that minimises mean CE(s z, y): Guo et al. 2017, s = 1 / temperature.

    The loss is convex in s; the root of its derivative is found by Newton's method between two bounds, to the last
    digits of float64. It has no minimum in two cases, and there s is bounded. If the label has the largest logit in
    every row, the loss decreases for ever: s is doubled until the loss is below min(1e-6, 1/(2n)), which no other data
    can reach. If even a small s is worse than s = 0, s is 1e-3 over the standard deviation of the logits, which gives
    nearly uniform probabilities.

    Args:
      logits: (n, m), z.
      labels: (n,) int, y.
    """
    spread = _spread(logits)
    if spread == 0:
        return 1.0  # the loss does not depend on s
    enough = min(1e-6, 0.5 / len(labels))
    low, high = 1e-3 / spread, 1 / spread
    if _along(logits, labels, low)[1] >= 0:
        return low
    while (found := _along(logits, labels, high))[1] < 0:
        if found[0] <= enough:
            return high
        low, high = high, 2 * high
    s = high
    for _ in range(200):
        _, slope, bend = _along(logits, labels, s)
        low, high = (s, high) if slope < 0 else (low, s)
        step = s - slope / bend if bend > 0 else low
        new = step if low < step < high else (low + high) / 2
        if abs(new - s) <= 1e-14 * s:
            return new
        s = new
    return s


def _spread(logits: np.ndarray) -> float:
    """Return the root mean square of the logits around their row's mean."""
    total = 0.0
    for at in range(0, len(logits), CHUNK):
        z = logits[at : at + CHUNK].astype(np.float64)
        total += np.square(z - z.mean(1, keepdims=True)).sum()
    return float(np.sqrt(total / logits.size))


def _along(logits: np.ndarray, labels: np.ndarray, s: float) -> tuple[float, float, float]:
    """Return mean CE(s z, y) and its first and second derivative in s."""
    value = slope = bend = 0.0
    for at in range(0, len(labels), CHUNK):
        z, y = logits[at : at + CHUNK].astype(np.float64), labels[at : at + CHUNK]
        z -= z[np.arange(len(y)), y][:, None]  # keeps the precision of small slopes
        log_p = log_softmax(s * z)
        p = np.exp(log_p)
        mean = (p * z).sum(1)
        value -= log_p[np.arange(len(y)), y].sum()
        slope += mean.sum()
        bend += (p * np.square(z - mean[:, None])).sum()
    n = len(labels)
    return value / n, slope / n, bend / n


# --- the two relations ------------------------------------------------------------------------------------------------


def direct(prob: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the mean of P over the examples of each class.

    Args:
      prob: (n, m), P.
      labels: (n,) int.
      classes: number of target classes.

    Returns:
      (classes, m)
    """
    _require_all(labels, classes, 'no labelled example')
    sums = np.zeros((classes, prob.shape[1]))
    np.add.at(sums, labels, prob.astype(np.float64))
    return sums / np.bincount(labels, minlength=classes)[:, None]


class Reverse(NamedTuple):
    """Result of `reverse_fit`.

    Attributes:
      relation: (c, m), R.
      weights: (c, m), W of the chosen regression.
      chosen: its index in the grid of C.
      scale: scale of its logits, calibrated on the validation part.
      accuracy: (grid,), on the validation part.
    """

    relation: np.ndarray
    weights: np.ndarray
    chosen: int
    scale: float
    accuracy: np.ndarray


def reverse(
    prob_train: np.ndarray, labels_train: np.ndarray, prob_val: np.ndarray, labels_val: np.ndarray, classes: int
) -> np.ndarray:
    """Return the relation of `reverse_fit`, (classes, m); see there for the arguments."""
    return reverse_fit(prob_train, labels_train, prob_val, labels_val, classes).relation


def reverse_fit(
    prob_train: np.ndarray,
    labels_train: np.ndarray,
    prob_val: np.ndarray,
    labels_val: np.ndarray,
    classes: int,
    grid: Sequence[float] = GRID,
) -> Reverse:
    """Fit p(y_t | y_s) to examples, then invert it by Bayes' rule.

        W = argmin C sum CE(P W^T, y) + ||W||^2 / 2      C: the first with the best validation accuracy
        q = softmax over target classes of s W^T         s: calibrated on the validation part
        R_y[k] ~ q[k, y] p[k]                            p: mean of P over all examples

    The regressions are solved exactly (see `Regression`), for every C at least so far that no validation
    prediction can become right or wrong any more.

    Args:
      prob_train: (n, m), P of the examples to fit.
      labels_train: (n,) int.
      prob_val: (v, m), P of the validation part.
      labels_val: (v,) int.
      classes: number of target classes.
      grid: values of C.
    """
    _require_all(labels_train, classes, 'no example to fit the relation on')
    require(len(labels_val) > 0, 'the relation is chosen on validation examples, and there are none')
    train, val = prob_train.astype(np.float64), prob_val.astype(np.float64)
    with _float64():
        problem = Regression.of(train, labels_train, classes, val, labels_val)
        # Small C converge fast, and each solution starts from those of the two C before it.
        path: dict[float, Solution] = {}
        last = before = problem.at(np.zeros((classes, train.shape[1])))
        for c in sorted(grid):
            path[c] = problem.solve(c, last, before, settle=True)
            last, before = path[c].point, last
        accuracy = np.array([np.asarray(path[c].correct).mean() for c in grid])
        chosen = int(np.argmax(accuracy))
        best = path[grid[chosen]].point
        weights = np.asarray(problem.solve(grid[chosen], best, best).point.weights)
    scale = calibrate(val @ weights.T, labels_val)

    marginal = (train.sum(0) + val.sum(0)) / (len(train) + len(val))
    # In logarithms, so that a row whose products all underflow still has a largest entry.
    with np.errstate(divide='ignore'):
        joint = log_softmax(scale * weights.T).T + np.log(marginal)
    return Reverse(softmax(joint), weights, chosen, scale, accuracy)


def held_out(labels: np.ndarray, classes: int, share: float, rng: jax.Array) -> np.ndarray:
    """Draw the validation part: `share` of each class's examples, at least one and at most all but one.

    Args:
      labels: (n,) int.
      classes: number of classes.
      share: share of the validation part.
      rng: a jax key.

    Returns:
      (n,) bool, true for the validation part.
    """
    require(isinstance(rng, jax.Array), f'rng must be a jax key, such as jax.random.key(0), not {rng!r}')
    draw = np.random.RandomState(jax.random.key_data(rng).tolist())  # numpy guarantees that its streams never change
    held = np.zeros(len(labels), bool)
    for c in range(classes):
        rows = np.flatnonzero(labels == c)
        require(
            len(rows) >= 2,
            f'the reverse relation is fitted and checked on examples of each class, and target class {c} has '
            f"{len(rows)}: set config.method.relation to 'direct', or label more examples",
        )
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        held[draw.permutation(rows)[:count]] = True
    return held


def _require_all(labels: np.ndarray, classes: int, what: str) -> None:
    empty = np.flatnonzero(np.bincount(labels, minlength=classes) == 0)
    require(len(empty) == 0, f'target class {empty[0] if len(empty) else 0} has {what}; {len(empty)} classes have none')


# --- the regression ---------------------------------------------------------------------------------------------------

MOST_STEPS = 100  # of Newton's method; it usually takes three to seven
# Starting points of the search on the line through the last two solutions. For small C, W is proportional to C: one
# step of `GRID` is then 20/7 or 7/2 of the one before. For large C, W grows more like log C.
AHEAD = (0.0, 0.7, 1.1, 1.8, 20 / 7, 7 / 2)


class Point(NamedTuple):
    """Weights (classes, m), with the logits of the examples (n, classes) and of the validation part (v, classes)."""

    weights: jax.Array
    logits: jax.Array
    val_logits: jax.Array


class Solution(NamedTuple):
    """Result of `Regression.solve`.

    Attributes:
      point: the weights and logits.
      error: an upper bound of the Frobenius distance of the weights from the exact minimiser.
      correct: (v,) bool, true for validation examples that are classified correctly.
    """

    point: Point
    error: jax.Array
    correct: jax.Array


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """Enable float64 in jax, on the default device, or on the CPU if that is a TPU, which has no float64."""
    device = jax.local_devices(backend='cpu')[0] if jax.default_backend() == 'tpu' else None
    with jax.enable_x64(True), jax.default_device(device):
        yield


class Regression(NamedTuple):
    """Multinomial logistic regression without intercept: the W that minimises C sum_i CE(W x_i, y_i) + ||W||^2 / 2.

    Newton's method, with preconditioned conjugate gradients for each step, compiled into one program for all C. A step
    need not be exact and is computed in float32; the objective and its gradient are in float64. The objective
    is 1-strongly convex, so ||W - W*|| <= ||gradient||, which is the error in `Solution`.

    Attributes:
      x: (n, m), the examples.
      y: (n, classes) bool, their labels, one-hot.
      val: (v, m), the validation part.
      val_y: (v, classes) bool, its labels, one-hot.
    """

    x: jax.Array
    y: jax.Array
    val: jax.Array
    val_y: jax.Array

    @classmethod
    def of(cls, x: np.ndarray, labels: np.ndarray, classes: int, val: np.ndarray, val_labels: np.ndarray) -> Regression:
        """Build the problem from features and class indices of the training and the validation part."""
        y, val_y = (one[:, None] == np.arange(classes) for one in (labels, val_labels))
        return cls(*(jnp.asarray(one) for one in (x, y, val, val_y)))

    def at(self, weights: np.ndarray) -> Point:
        """Evaluate the logits of both parts at the weights (classes, m)."""
        return _at(self, jnp.asarray(weights, self.x.dtype))

    def solve(self, c: float, start: Point, before: Point, *, settle: bool = False, most: int = MOST_STEPS) -> Solution:
        """Return the minimiser for C = `c`, to an error of 1e-8 (or that of rounding).

        Args:
          c: the weight C of the loss.
          start: the solution for a smaller C. The search starts at the best of a few points on the line through
            `start` and `before`.
          before: the solution for a still smaller C, or `start` again.
          settle: end as soon as no validation prediction can become right or wrong any more, and not earlier
            (unless only rounding errors are left).
          most: largest number of steps of Newton's method.
        """
        return _minimise(self, float(c), start, before, settle, most)


@jax.jit
def _at(problem: Regression, weights: jax.Array) -> Point:
    return Point(weights, problem.x @ weights.T, problem.val @ weights.T)


def _objective(logits: Any, square: Any, y: Any, c: Any) -> Any:
    """Return C sum CE + ||W||^2 / 2 from the logits (n, classes) and `square` = ||W||^2."""
    return square / 2 - c * jnp.sum(jnp.where(y, jax.nn.log_softmax(logits), 0))


@jax.jit
def _minimise(problem: Regression, c: Any, start: Point, before: Point, settle: Any, most: Any) -> Solution:
    """Minimise the objective: see `Regression.solve`."""
    x, y, val, val_y = problem
    narrow = x.astype(jnp.float32)
    digits = 4 * jnp.finfo(x.dtype).eps * jnp.linalg.norm(x)
    lengths = jnp.linalg.norm(val, axis=1)

    def moved(a: Point, t: Any, b: Point) -> Point:
        return jax.tree.map(lambda a, b: a + t * b, a, b)

    def along(at: Point, line: Point) -> Callable[[Any], Any]:
        """Return the objective at `at` + t `line` as a function of t; no matrix product, since logits are linear."""
        w, dw = at.weights, line.weights
        ww, wd, dd = jnp.sum(w * w), jnp.sum(w * dw), jnp.sum(dw * dw)
        return lambda t: _objective(at.logits + t * line.logits, ww + 2 * t * wd + t * t * dd, y, c)

    def looked_at(at: Point) -> Any:
        p = jax.nn.softmax(at.logits)
        gradient = c * ((p - y).T @ x) + at.weights
        error = jnp.linalg.norm(gradient)
        own = jnp.sum(jnp.where(val_y, at.val_logits, 0), axis=1)
        margin = own - jnp.max(jnp.where(val_y, -jnp.inf, at.val_logits), axis=1)
        settled = settle & jnp.all(jnp.abs(margin) > 2**0.5 * error * lengths)
        # Predictions may depend on less than 1e-8: for small C all logits are small.
        goal = jnp.where(settle, 0.0, 1e-8)
        done = settled | (error <= jnp.maximum(goal, c * digits * jnp.linalg.norm(p - y)))
        return p, gradient, error, done

    def step(state: Any) -> Any:
        count, at, (p, gradient, *_) = state
        line = _at(problem, _newton_step(narrow, gradient, p.astype(jnp.float32), c.astype(jnp.float32)))
        value, descent = along(at, line), jnp.sum(gradient * line.weights)
        now = value(0.0)

        def too_far(t: Any) -> Any:
            # The last term is for rounding: near the minimum the objective no longer decreases visibly.
            return (value(t) > now + 1e-4 * t * descent + 1e-13 * jnp.abs(now)) & (t >= 1e-6)

        at = moved(at, jax.lax.while_loop(too_far, lambda t: t / 2, jnp.ones((), x.dtype)), line)
        return count + 1, at, looked_at(at)

    line, ahead = moved(start, -1, before), jnp.array(AHEAD, x.dtype)
    at = moved(start, ahead[jnp.argmin(jax.lax.map(along(start, line), ahead))], line)
    _, at, (*_, error, _) = jax.lax.while_loop(
        lambda state: (state[0] < most) & ~state[-1][-1], step, (jnp.zeros((), jnp.int32), at, looked_at(at))
    )
    correct = jnp.any(val_y & (jnp.arange(y.shape[1]) == jnp.argmax(at.val_logits, axis=1)[:, None]), axis=1)
    return Solution(at, error, correct)


def _newton_step(x: Any, gradient: Any, p: Any, c: Any) -> Any:
    """Return d with H d = -gradient, to a tenth of its residual, by preconditioned conjugate gradients in float32.

    H = 1 + C sum_i (x_i x_i^T) (x) (diag p_i - p_i p_i^T). Probabilities x_i are mostly near 0, so x_i x_i^T is mostly
    diagonal. The preconditioner takes for each source class j the diagonal of H's block and, of the other terms, only
    that of the example with the largest x_ij: a diagonal minus a matrix of rank one, whose inverse is known
    (Sherman and Morrison). It is positive definite, with eigenvalues of at least 1.
    """
    heaviest = jnp.argmax(x, axis=0)
    weight = c * jnp.square(jnp.max(x, axis=0))  # (m,)
    rank_one = p[heaviest].T  # (classes, m)
    diagonal = 1 + c * ((p * (1 - p)).T @ jnp.square(x)) + weight * jnp.square(rank_one)
    scaled_one = rank_one / diagonal
    rest = jnp.maximum(1 - weight * jnp.sum(rank_one * scaled_one, axis=0), 1 / (1 + weight))  # its lower bound

    def scaled(residual: Any) -> Any:
        own = residual / diagonal
        return own + scaled_one * (weight * jnp.sum(rank_one * own, axis=0) / rest)

    def step(state: Any) -> Any:
        count, found, residual, direction, rho = state
        q = x @ direction.T
        q = p * (q - jnp.sum(p * q, axis=1, keepdims=True))
        curved = c * (q.T @ x) + direction
        alpha = rho / jnp.sum(direction * curved)
        found, residual = found + alpha * direction, residual - alpha * curved
        own = scaled(residual)
        new = jnp.sum(residual * own)
        return count + 1, found, residual, own + new / rho * direction, new

    unit = jnp.max(jnp.abs(gradient))  # the range of float32 is too small for a gradient
    residual = (-gradient / unit).astype(jnp.float32)
    goal = 0.1 * jnp.linalg.norm(residual)
    direction = scaled(residual)
    first = jnp.zeros((), jnp.int32), jnp.zeros_like(residual), residual, direction, jnp.sum(residual * direction)
    _, found, *_ = jax.lax.while_loop(lambda state: (state[0] < 1000) & (jnp.linalg.norm(state[2]) > goal), step, first)
    return found.astype(gradient.dtype) * unit
