"""Multinomial logistic regression with an L2 penalty: many problems and a path of strengths in one program.

A problem p has weights u_ip of the examples; all problems share features X (n, d) and targets Y (n, c). For each
strength C the minimiser of scikit-learn's objective is found,

    f_p(W, b) = sum_i u_ip CE(W^T x_i + b, y_i) + ||W||^2 / (2 C)

by L-BFGS, for all problems at once: a step takes one product X W with the weights of all problems side by side and
one product X^T R with all residuals. What makes it fast:

* Strengths are solved from the smallest C to the largest. The search for each starts on the line through the last two
  solutions, at the minimum on that line.
* Logits are linear in the weights, so an exact line search takes no matrix product.
* The Hessian that L-BFGS starts from is h_k X^T X + 1/C for class k, with h_k the mean of p_k (1 - p_k), and X^T X
  reduced to its `RANK` largest eigenvalues and the mean of the others. Features of networks have few large directions,
  and L-BFGS alone would need most of its steps for them.
* With at most half as many examples as features, W lies in the span of the examples, and the problem is solved there.

f is 1/C-strongly convex in W, so f - min f <= C ||gradient||^2 / 2 (apart from the intercept, for which a Newton step's
gain is added). A problem is finished as soon as this bound is at most `tol` f, or no longer falls: rounding is all
that is left. Everything has the features' dtype; float32 is enough for 1e-5 of f.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

RANK = 64  # of the Hessian's first estimate: 64 to 1280 took the same number of steps, 0 more than twice as many
PAIRS = 5  # of steps and gradient differences that L-BFGS keeps
FAR = 10  # ratio of two strengths above which the search goes through others between them
PATIENCE = 20  # steps without a smaller bound before rounding is blamed
ABSENT = -1e4  # the intercept of a class without an example, whose minimiser would be minus infinity


class Path(NamedTuple):
    """Result of `path`: classifiers x @ kernel + bias, of S strengths and P problems.

    Attributes:
      kernel: (S, P, d, c), in the space of the features given, standardised or not.
      bias: (S, P, c), with mean 0 over the classes present; `ABSENT` for the others.
      gap: (S, P), bound of (f - min f) / f.
      steps: (S,), steps of L-BFGS.
    """

    kernel: Array
    bias: Array
    gap: Array
    steps: Array


class Moments(NamedTuple):
    """The shift and the scale of features: (x - mean) / std, each (d,)."""

    mean: Array
    std: Array


class _Problem(NamedTuple):
    """The problems in solved form.

    Attributes:
      x: (n, r + 1), features, centred, scaled and in the reduced basis; ones in the last column.
      y: (n, 1, c), targets.
      top: (n, 1, c) bool, the most likely class of each target.
      weights: (n, P, 1).
      closed: (P, c), 0, or very negative for a class without an example.
      penalised: (r + 1, 1), 1, and 0 for the intercept.
      basis: (r + 1, k + 1), orthonormal: the first eigenvectors of x^T x, and the intercept.
      squares: (k + 1,), their eigenvalues.
      rest: mean of the other eigenvalues.
      unit: root mean square length of the rows of x before it was divided by this. Weights are then multiplied by it,
        and 1 / C divided by its square.
    """

    x: Array
    y: Array
    top: Array
    weights: Array
    closed: Array
    penalised: Array
    basis: Array
    squares: Array
    rest: Array
    unit: Array


def moments(features: Array, used: Array, *, standardize: bool) -> Moments:
    """Return mean and standard deviation of the features of the examples used.

    Args:
      features: (n, d).
      used: (n,) bool.
      standardize: whether to take the standard deviation; otherwise it is 1, as that of a constant feature is.
    """
    count = jnp.maximum(jnp.sum(used), 1)
    mean = jnp.sum(jnp.where(used[:, None], features, 0), 0) / count
    std = jnp.ones_like(mean)
    if standardize:
        std = jnp.sqrt(jnp.sum(jnp.where(used[:, None], jnp.square(features - mean), 0), 0) / count)
        std = jnp.where(std > 1e-6 * jnp.abs(mean), std, 1.0)  # rounding of a constant is no deviation
    return Moments(mean, std)


@partial(jax.jit, static_argnames='standardize')
def path(
    features: Array, targets: Array, weights: Array, strengths: Array, *,
    standardize: bool = False, tol: Any = 1e-5, max_iter: Any = 1000,
) -> Path:  # fmt: skip
    """Fit every problem at every strength.

    Args:
      features: (n, d).
      targets: (n, c), rows that sum to 1.
      weights: (n, P), not negative; 0 leaves an example out of a problem.
      strengths: (S,), values of C. Ascending ones are fastest.
      standardize: whether each feature is first divided by its standard deviation, over the examples that any problem
        has; the penalty is then that of the divided features.
      tol: a problem is finished as soon as (f - min f) / f is certain to be at most this.
      max_iter: largest number of steps for a strength.
    """
    with jax.default_matmul_precision('highest'):
        used = jnp.any(weights > 0, 1)
        shift = moments(features, used, standardize=standardize)
        problem, back = _posed(features, targets, weights, used, shift)

        def found(w: Array, _: Array) -> tuple[Array, Array]:
            kernel = w[:, :-1] / problem.unit
            kernel = (kernel if back is None else jnp.einsum('dr,prc->pdc', back, kernel)) / shift.std[:, None]
            bias = w[:, -1] - jnp.einsum('d,pdc->pc', shift.mean, kernel)
            return kernel, centred(bias, problem.closed == 0)

        (kernel, bias), gap, steps = _along(problem, strengths, found, tol, max_iter)
        return Path(kernel, bias, gap, steps)


@partial(jax.jit, static_argnames='standardize')
def path_scores(
    features: Array, targets: Array, weights: Array, held: Array, strengths: Array, *,
    standardize: bool = False, tol: Any = 1e-5, max_iter: Any = 1000,
) -> tuple[Array, Array]:  # fmt: skip
    """Fit every problem at every strength, and evaluate it on other examples.

    Args:
      features, targets, weights, strengths, standardize, tol, max_iter: see `path`.
      held: (n, P), weights of the examples to evaluate each problem on.

    Returns:
      The weighted sums over the examples of correct predictions and of log losses, each (S, P).
    """
    with jax.default_matmul_precision('highest'):
        used = jnp.any((weights > 0) | (held > 0), 1)
        problem, _ = _posed(features, targets, weights, used, moments(features, used, standardize=standardize))

        def found(_: Array, logits: Array) -> tuple[Array, Array]:
            return scores(_log_softmax(problem, logits), targets, held)

        return _along(problem, strengths, found, tol, max_iter)[0]


def centred(bias: Array, present: Array) -> Array:
    """Return the intercepts (P, c) with mean 0 over the classes present (P, c), and `ABSENT` for the others."""
    count = jnp.maximum(jnp.sum(present, 1, keepdims=True), 1)
    return jnp.where(present, bias - jnp.sum(jnp.where(present, bias, 0), 1, keepdims=True) / count, ABSENT)


def scores(log_probs: Array, targets: Array, weights: Array) -> tuple[Array, Array]:
    """Return the weighted sums of correct predictions and of log losses over the examples, each (P,).

    Args:
      log_probs: (n, P, c).
      targets: (n, c).
      weights: (n, P).
    """
    right = jnp.argmax(log_probs, -1) == jnp.argmax(targets, -1)[:, None]
    loss = -jnp.sum(jnp.where(targets[:, None] > 0, targets[:, None] * log_probs, 0), -1)
    return jnp.sum(weights * right, 0), jnp.sum(jnp.where(weights > 0, weights * loss, 0), 0)


# --- the problem ------------------------------------------------------------------------------------------------------


def _posed(
    features: Array, targets: Array, weights: Array, used: Array, shift: Moments
) -> tuple[_Problem, Array | None]:
    """Return the problem in solved form, and the basis (d, r) of its features, if they are reduced."""
    x = jnp.where(used[:, None], (features - shift.mean) / shift.std, 0)
    back = None
    if 2 * x.shape[0] <= x.shape[1]:
        back = _span(x)
        x = x @ back
    unit = jnp.sqrt(jnp.sum(jnp.square(x)) / jnp.maximum(jnp.sum(used), 1))
    unit = jnp.where(unit > 0, unit, 1)
    x /= unit
    basis, squares, rest = _eigen(x, min(RANK, *x.shape))
    n, r = x.shape
    top = jnp.arange(targets.shape[1]) == jnp.argmax(targets, 1)[:, None]
    seen = jnp.einsum('np,nc->pc', weights, targets)
    return _Problem(
        jnp.concatenate([x, jnp.ones((n, 1), x.dtype)], 1),
        targets[:, None],
        top[:, None],
        weights[:, :, None],
        jnp.where(seen > 0, 0, -1e30).astype(x.dtype),
        jnp.ones((r + 1, 1), x.dtype).at[-1].set(0),
        jax.scipy.linalg.block_diag(basis, jnp.ones((1, 1), x.dtype)),
        jnp.append(squares, n),
        rest,
        unit,
    ), back


def _orthonormal(columns: Array) -> Array:
    """Return an orthonormal basis of nearly orthogonal columns of length about 1, by two rounds of Cholesky QR."""
    for _ in range(2):
        gram = columns.T @ columns
        lower = jnp.linalg.cholesky(gram + 1e-6 * jnp.eye(len(gram), dtype=gram.dtype))
        columns = jax.scipy.linalg.solve_triangular(lower, columns.T, lower=True).T
    return columns


def _span(x: Array) -> Array:
    """Return orthonormal columns (d, n) whose span has all rows of x (n, d), or zeros where x has a smaller rank."""
    vectors = jnp.linalg.eigh(x @ x.T)[1]
    columns = x.T @ vectors
    lengths = jnp.linalg.norm(columns, axis=0)
    kept = lengths > 100 * jnp.finfo(x.dtype).eps * jnp.max(lengths)
    unit = jnp.where(kept, columns / jnp.where(kept, lengths, 1), 0)
    return jnp.where(kept, _orthonormal(unit), 0)


def _eigen(x: Array, rank: int) -> tuple[Array, Array, Array]:
    """Return about the first `rank` eigenvectors of x^T x, their eigenvalues, and the mean of the other eigenvalues."""
    basis = jax.random.normal(jax.random.key(0), (x.shape[1], rank), x.dtype)
    for _ in range(4):
        basis = jnp.linalg.qr(x.T @ (x @ basis))[0]
    along = x @ basis
    squares, turn = jnp.linalg.eigh(along.T @ along)
    squares = jnp.maximum(squares, 0)
    rest = jnp.maximum(jnp.sum(jnp.square(x)) - jnp.sum(squares), 0) / max(x.shape[1] - rank, 1)
    return basis @ turn, squares, rest


def _softmax(problem: _Problem, logits: Array) -> tuple[Array, Array]:
    """Return p and 1 - p; the latter in full relative precision for the target class, where it may be tiny."""
    p = jax.nn.softmax(logits + problem.closed)
    others = jnp.sum(jnp.where(problem.top, 0, p), -1, keepdims=True)
    return p, jnp.where(problem.top, others, 1 - p)


def _log_softmax(problem: _Problem, logits: Array) -> Array:
    p, others = _softmax(problem, logits)
    precise = problem.top & (others < 0.5)
    return jnp.where(precise, jnp.log1p(-jnp.where(precise, others, 0)), jax.nn.log_softmax(logits + problem.closed))


def _residuals(problem: _Problem, p: Array) -> Array:
    """Return weights (p - y). They sum to 0 in each row, which gives that of the target class in full precision."""
    r = p - problem.y
    others = jnp.sum(jnp.where(problem.top, 0, r), -1, keepdims=True)
    return problem.weights * jnp.where(problem.top, -others, r)


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, (1, 2))


def _each(scalars: Array) -> Array:
    return scalars[:, None, None]


# --- L-BFGS -----------------------------------------------------------------------------------------------------------


class _State(NamedTuple):
    """The state of `_minimise`.

    Attributes:
      count: steps taken.
      w, logits, gradient: of the point, (P, r + 1, c), (n, P, c), (P, r + 1, c).
      gap: (P,), the bound of (f - min f) / f.
      least: (P,) each, gap and f when either last became smaller in earnest.
      quiet: (P,), steps since then.
      pairs: of steps s and gradient differences y, (s, y, 1 / s.y) each, the newest first; 1 / s.y is 0 if unset.
      scale: (P,), of the Hessian's first estimate.
    """

    count: Array
    w: Array
    logits: Array
    gradient: Array
    gap: Array
    least: tuple[Array, Array]
    quiet: Array
    pairs: tuple[tuple[Array, Array, Array], ...]
    scale: Array


class _Reached(NamedTuple):
    """How far `_along` has come: weights and logits of the last two solutions.

    there: whether the last one is that of the strength asked for. decay: 1 / C of the last one, in the units of the
    problem. gap, steps: see `Path`.
    """

    there: Array
    decay: Array
    last: tuple[Array, Array]
    before: tuple[Array, Array]
    gap: Array
    steps: Array


def _along(
    problem: _Problem, strengths: Array, found: Callable[[Array, Array], Any], tol: Any, max_iter: Any
) -> tuple[Any, Array, Array]:
    """Solve for one strength after the other: `found(w, logits)` at each, the bounds (S, P) and the steps (S,)."""
    x, y, weights = problem.x, problem.y, problem.weights
    sums = jnp.sum(weights * y, 0)  # (P, c)
    prior = jnp.log(jnp.where(sums > 0, sums, 1))
    prior = jnp.where(sums > 0, prior - jnp.mean(prior, 1, keepdims=True), 0)
    w = jnp.zeros((weights.shape[1], x.shape[1], y.shape[2]), x.dtype).at[:, -1].set(prior)

    def solve(carry: Any, strength: Array) -> tuple[Any, Any]:
        goal = 1 / (strength * problem.unit**2)

        def nearer(state: _Reached) -> _Reached:
            """Go on to `goal`, or a part of the way: L-BFGS finds no way from far below a large strength."""
            decay = jnp.maximum(goal, state.decay / FAR)
            last, before = state.last, state.before
            ahead = last[0] - before[0], last[1] - before[1]
            t = _search(problem, decay, last, ahead, None, jnp.zeros(len(last[0]), bool))
            there = decay == goal
            end = _minimise(problem, decay, last[0] + _each(t) * ahead[0], jnp.where(there, tol, 1e-2), max_iter)
            return _Reached(there, decay, (end.w, end.logits), last, end.gap, state.steps + end.count)

        begin = carry._replace(there=jnp.zeros((), bool), steps=jnp.zeros((), jnp.int32))
        end = jax.lax.while_loop(lambda state: ~state.there, nearer, begin)
        return end, (found(*end.last), end.gap, end.steps)

    first = w, _product(problem, w)
    decay = jnp.max(sums.sum(1)).astype(x.dtype)  # rows have length 1: the kernel is nearly 0
    start = _Reached(jnp.zeros((), bool), decay, first, first, jnp.zeros(len(w), w.dtype), jnp.zeros((), jnp.int32))
    _, (out, gap, steps) = jax.lax.scan(solve, start, strengths)
    return out, gap, steps


def _product(problem: _Problem, w: Array) -> Array:
    return jnp.einsum('nd,pdc->npc', problem.x, w)


def _minimise(problem: _Problem, decay: Array, w: Array, tol: Any, max_iter: Any) -> _State:
    """Minimise every f_p from `w`, with `decay` = 1 / C in the units of the problem."""
    x, penalised, basis = problem.x, problem.penalised, problem.basis
    logits = _product(problem, w)
    p, rest = _softmax(problem, logits)
    total = jnp.sum(problem.weights, 0)
    bend = jnp.sum(problem.weights * p * rest, 0) / len(x)  # (P, c), h
    others = decay + bend * problem.rest  # (P, c)
    first = bend[:, None] * problem.squares[:, None]  # (P, k + 1, c)
    first = first.at[:, :-1].add(decay).at[:, -1].add(1e-12 * total)

    def newton(g: Array) -> Array:
        """Return the inverse of the Hessian's first estimate times g."""

        def inside(g: Array) -> Array:
            return jnp.einsum('dk,pdc->pkc', basis, g)

        def out(g: Array) -> Array:
            return jnp.einsum('dk,pkc->pdc', basis, g)

        # The projection twice: it stays positive semidefinite if the basis is orthonormal but for rounding.
        along = inside(g)
        behind = (g - out(along)) / others[:, None]
        return behind + out(along / first - inside(behind))

    def looked_at(w: Array, logits: Array) -> tuple[Array, Array, Array]:
        """Return the gradient, the bound of (f - min f) / f, and f."""
        p, _ = _softmax(problem, logits)
        g = jnp.einsum('nd,npc->pdc', x, _residuals(problem, p)) + decay * penalised * w
        loss = jnp.where(problem.y > 0, problem.y * _log_softmax(problem, logits), 0)
        f = decay / 2 * _dot(penalised * w, w) - jnp.sum(problem.weights * loss, (0, 2))
        bound = _dot(penalised * g, g) / decay + jnp.sum(jnp.square(g[:, -1]) / first[:, -1], -1)
        return g, bound / 2 / jnp.maximum(f, jnp.finfo(f.dtype).tiny), f

    def done(state: _State) -> Array:
        return (state.gap <= tol) | (state.quiet >= PATIENCE)

    def step(state: _State) -> _State:
        direction, weights = -state.gradient, []
        for s, y, inverse in state.pairs:
            weights.append(inverse * _dot(s, direction))
            direction -= _each(weights[-1]) * y
        direction = _each(state.scale) * newton(direction)
        for (s, y, inverse), weight in zip(state.pairs[::-1], weights[::-1], strict=True):
            direction += _each(weight - inverse * _dot(y, direction)) * s
        slope = _dot(state.gradient, direction)
        line = _product(problem, direction)
        t = _search(problem, decay, (state.w, state.logits), (direction, line), slope, done(state))
        s = _each(t) * direction
        w, logits = state.w + s, state.logits + _each_row(t) * line
        gradient, gap, f = looked_at(w, logits)
        y = gradient - state.gradient
        curved = _dot(s, y)
        good = curved > 0
        scale = jnp.where(good, curved / jnp.where(good, _dot(y, newton(y)), 1), 1)
        # Without progress along the line, the next step starts from the first estimate again.
        kept = [(s, y, jnp.where(good, inverse, 0)) for s, y, inverse in state.pairs[:-1]]
        pairs = ((s, y, jnp.where(good, 1 / jnp.where(good, curved, 1), 0)), *kept)
        # From far away, where f falls by decades, the bound may rise.
        better = (gap < 0.9 * state.least[0]) | (f < (1 - 1e-4) * state.least[1])
        least = jnp.where(better, gap, state.least[0]), jnp.where(better, f, state.least[1])
        quiet = jnp.where(better, 0, state.quiet + 1)
        return _State(state.count + 1, w, logits, gradient, gap, least, quiet, pairs, scale)

    g, gap, f = looked_at(w, logits)
    unset = (jnp.zeros_like(w), jnp.zeros_like(w), jnp.zeros_like(total[:, 0]))
    quiet, scale = jnp.zeros(len(w), jnp.int32), jnp.ones(len(w), w.dtype)
    start = _State(jnp.zeros((), jnp.int32), w, logits, g, gap, (gap, f), quiet, (unset,) * PAIRS, scale)
    return jax.lax.while_loop(lambda state: (state.count < max_iter) & ~jnp.all(done(state)), step, start)


def _each_row(scalars: Array) -> Array:
    return scalars[None, :, None]


def _search(
    problem: _Problem, decay: Array, at: tuple[Array, Array], line: tuple[Array, Array], slope: Array | None,
    done: Array,
) -> Array:  # fmt: skip
    """Return the t (P,) at which f(at + t line) is least, to a tenth of its slope at 0; 0 if it does not decrease.

    Newton's method between two bounds. f is convex along the line.

    Args:
      problem, decay: as in `_minimise`.
      at: weights and logits of the point.
      line: weights and logits of the direction.
      slope: (P,), the derivative at 0, if it is known.
      done: (P,) bool, problems with t = 0.
    """
    (w, logits), (dw, dlogits) = at, line
    once, twice = _dot(problem.penalised * w, dw), _dot(problem.penalised * dw, dw)

    def derivatives(t: Array) -> tuple[Array, Array]:
        p, _ = _softmax(problem, logits + _each_row(t) * dlogits)
        r = _residuals(problem, p)
        spread = dlogits - jnp.sum(p * dlogits, -1, keepdims=True)
        first = jnp.sum(jnp.sum(r * dlogits, -1), 0) + decay * (once + t * twice)
        return first, jnp.sum(problem.weights[:, :, 0] * jnp.sum(p * spread * spread, -1), 0) + decay * twice

    known = derivatives(jnp.zeros_like(twice))[0] if slope is None else slope
    done = done | ~(known < 0)

    def newton(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, t, low, high, good = state
        first, second = derivatives(t)
        good = done | (jnp.abs(first) <= 0.1 * jnp.abs(known))
        low, high = jnp.where(first < 0, t, low), jnp.where(first >= 0, t, high)
        new = t - first / second
        between = jnp.where(jnp.isinf(high), 4 * t, (low + high) / 2)
        new = jnp.where((new > low) & (new < jnp.minimum(high, 10 * t)), new, between)
        return count + 1, jnp.where(good, t, new), low, high, good

    zero = jnp.zeros_like(twice)
    state = jnp.zeros((), jnp.int32), zero + 1, zero, zero + jnp.inf, done
    count, t, low, _, good = jax.lax.while_loop(lambda state: (state[0] < 20) & ~jnp.all(state[-1]), newton, state)
    return jnp.where(done, 0, jnp.where(good, t, low))
