"""Which source classes a target class resembles: Co-Tuning's relation p(y_s | y_t) (You et al. 2020).

Host side, numpy and float64, once a seed. m source classes, c target classes, n examples. P is (n, m):
the pretrained network's calibrated probabilities of the source classes, one row an example. Two ways:

    direct    R_y = mean of P over the examples of class y
    reverse   R_y[k] ~ p(y | k) p(k): q = p(y_t | y_s) by a regression of y_t on P, p the mean of P

Every row of R, (c, m), sums to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mixjax.errors import require

GRID = tuple(float(f'{a}e{b}') for b in range(4, -5, -1) for a in (3, 1))[1:]  # 1e4, 3e3, 1e3, .., 3e-4, 1e-4
CHUNK = 4096  # rows at a time: a source set's logits are large


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    z = logits.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(log_softmax(logits))


# --- calibration ------------------------------------------------------------------------------------------------------


def calibrate(logits: np.ndarray, labels: np.ndarray) -> float:
    """The scale s > 0 that minimises mean CE(s z, y): Guo et al. 2017, s = 1 / temperature.

    It is convex in s; the root of its derivative is found by Newton's method between two bounds, to the
    last digits of float64. It has no minimum in two cases, and there s is bounded. Where the label has the
    largest logit in every row, the loss falls for ever: s is doubled until the loss is below
    min(1e-6, 1/(2n)), which no other data can reach. Where even a small s makes the logits worse than
    none, s is 1e-3 over their standard deviation: all but uniform.

    Args:
      logits: (n, m). labels: (n,) int.
    """
    spread = _spread(logits)
    if spread == 0:
        return 1.0  # every scale is as good
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
    """Root mean square of the logits around their row's mean."""
    total = 0.0
    for at in range(0, len(logits), CHUNK):
        z = logits[at : at + CHUNK].astype(np.float64)
        total += np.square(z - z.mean(1, keepdims=True)).sum()
    return float(np.sqrt(total / logits.size))


def _along(logits: np.ndarray, labels: np.ndarray, s: float) -> tuple[float, float, float]:
    """mean CE(s z, y) and its first and second derivative in s."""
    value = slope = bend = 0.0
    for at in range(0, len(labels), CHUNK):
        z, y = logits[at : at + CHUNK].astype(np.float64), labels[at : at + CHUNK]
        z -= z[np.arange(len(y)), y][:, None]  # so that small slopes keep their digits
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
    """The mean of P over the examples of each class: (n, m), (n,) -> (classes, m)."""
    _require_all(labels, classes, 'no labelled example')
    sums = np.zeros((classes, prob.shape[1]))
    np.add.at(sums, labels, prob.astype(np.float64))
    return sums / np.bincount(labels, minlength=classes)[:, None]


class Reverse(NamedTuple):
    """What `reverse_fit` found.

    relation: (c, m). weights: (c, m) W of the chosen regression. chosen: its place in the grid of C.
    scale: of its logits, calibrated on the validation part. accuracy: (grid,) on the validation part.
    """

    relation: np.ndarray
    weights: np.ndarray
    chosen: int
    scale: float
    accuracy: np.ndarray


def reverse(
    prob_train: np.ndarray, labels_train: np.ndarray, prob_val: np.ndarray, labels_val: np.ndarray, classes: int
) -> np.ndarray:
    """The relation of `reverse_fit`: (classes, m)."""
    return reverse_fit(prob_train, labels_train, prob_val, labels_val, classes).relation


def reverse_fit(
    prob_train: np.ndarray,
    labels_train: np.ndarray,
    prob_val: np.ndarray,
    labels_val: np.ndarray,
    classes: int,
    grid: Sequence[float] = GRID,
) -> Reverse:
    """Learn p(y_t | y_s) from examples, then turn it around by Bayes' rule.

        W = argmin C sum CE(P W^T, y) + ||W||^2 / 2      C: the first with the best validation accuracy
        q = softmax over target classes of s W^T         s: calibrated on the validation part
        R_y[k] ~ q[k, y] p[k]                            p: mean of P over all examples

    The regressions are solved exactly (see `Regression`), for every C at least so far that no
    validation prediction can change any more.
    """
    _require_all(labels_train, classes, 'no example to fit the relation on')
    require(len(labels_val) > 0, 'the relation is chosen on validation examples, and there are none')
    train, val = prob_train.astype(np.float64), prob_val.astype(np.float64)
    problem = Regression(train, labels_train, classes)
    seen = val @ problem.basis.T

    def settled(weights: np.ndarray, error: float) -> bool:
        top = np.sort(np.partition(seen @ weights.T, -2)[:, -2:]) if classes > 1 else np.array([[0, np.inf]])
        return bool((top[:, 1] - top[:, 0] > 2**0.5 * error * np.linalg.norm(seen, axis=1)).all())

    path, weights = {}, np.zeros((classes, len(problem.basis)))
    for c in sorted(grid):  # the small C are the easy ones; each starts from the one before
        path[c] = weights = problem.solve(c, weights, settled)
    accuracy = np.array([np.mean(np.argmax(seen @ path[c].T, axis=1) == labels_val) for c in grid])
    chosen = int(np.argmax(accuracy))
    weights = problem.solve(grid[chosen], path[grid[chosen]])
    scale = calibrate(seen @ weights.T, labels_val)
    weights = weights @ problem.basis

    marginal = (train.sum(0) + val.sum(0)) / (len(train) + len(val))
    # In logarithms: a row whose every product underflows still has a largest entry.
    with np.errstate(divide='ignore'):
        joint = log_softmax(scale * weights.T).T + np.log(marginal)
    return Reverse(softmax(joint), weights, chosen, scale, accuracy)


def held_out(labels: np.ndarray, classes: int, share: float, seed: int | list[int]) -> np.ndarray:
    """(n,) bool, the validation part: `share` of each class's examples, at least one and at most all but one."""
    draw = np.random.RandomState(seed)  # numpy promises that its streams never change
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


class Regression:
    """Multinomial logistic regression without intercept: F(W) = C sum_i CE(W x_i, y_i) + ||W||^2 / 2.

    The minimiser lies in the span of the examples, so it is sought in the coordinates A of their right singular
    vectors, W = A V: as many as there are examples, at most m, and the scaling by the Hessian's diagonal
    works best there. Newton's method with conjugate gradients for each step; the step need not be
    exact, so it is computed in float32, and F and its gradient in float64.

    F is 1-strongly convex: ||A - A*|| <= ||gradient||. This is the error that `solve` speaks of.
    """

    def __init__(self, x: np.ndarray, labels: np.ndarray, classes: int):
        _, size, rows = np.linalg.svd(x, full_matrices=False)
        self.basis = rows[size > 1e-12 * size[0]]  # V, (r, m)
        self.x = x @ self.basis.T
        self.y = np.zeros((len(labels), classes))
        self.y[np.arange(len(labels)), labels] = 1
        self.digits = 4 * np.finfo(np.float64).eps * float(np.linalg.norm(self.x))
        self._x = self.x.astype(np.float32)

    def solve(
        self, c: float, start: np.ndarray, settled: Callable[[np.ndarray, float], bool] = lambda weights, error: False
    ) -> np.ndarray:
        """A* for C = `c`, to an error of 1e-8 (or of rounding), or so far that `settled(A, error)` holds."""
        a = start
        value, log_p = self.value(a, c)
        for _ in range(100):
            p = np.exp(log_p)
            gradient = c * ((p - self.y).T @ self.x) + a
            error = float(np.linalg.norm(gradient))
            noise = c * self.digits * float(np.linalg.norm(p - self.y))
            if error <= max(1e-8, noise) or settled(a, error):
                break
            step = self.newton_step(gradient, p, c)
            descent, t = float((gradient * step).sum()), 1.0
            while True:
                new = a + t * step
                new_value, log_p = self.value(new, c)
                # The last term: near the minimum F no longer shows the progress that the gradient does.
                if new_value <= value + 1e-4 * t * descent + 1e-13 * abs(value) or t < 1e-6:
                    break
                t /= 2
            a, value = new, new_value
        return a

    def value(self, a: np.ndarray, c: float) -> tuple[float, np.ndarray]:
        """F(A), and log softmax of the logits, (n, classes)."""
        log_p = log_softmax(self.x @ a.T)
        return float(-c * (self.y * log_p).sum() + 0.5 * (a * a).sum()), log_p

    def newton_step(self, gradient: np.ndarray, p: np.ndarray, c: float) -> np.ndarray:
        """d with H d = -gradient, to a tenth of its residual, by conjugate gradients scaled by the diagonal of H."""
        x, p = self._x, p.astype(np.float32)
        diagonal = 1 + c * ((p * (1 - p)).T @ np.square(x))
        unit = float(np.abs(gradient).max())  # float32 has not the range of a gradient
        residual = (-gradient / unit).astype(np.float32)
        step, goal = np.zeros_like(residual), 0.1 * np.linalg.norm(residual)
        scaled = residual / diagonal
        direction, rho = scaled, float((residual * scaled).sum())
        for _ in range(1000):
            q = x @ direction.T
            q = p * (q - (p * q).sum(1, keepdims=True))
            along = c * (q.T @ x) + direction
            alpha = np.float32(rho / float((direction * along).sum()))
            step = step + alpha * direction
            residual = residual - alpha * along
            if np.linalg.norm(residual) <= goal:
                break
            scaled = residual / diagonal
            rho, old = float((residual * scaled).sum()), rho
            direction = scaled + np.float32(rho / old) * direction
        return step.astype(np.float64) * unit
