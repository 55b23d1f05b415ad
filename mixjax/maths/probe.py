"""Probes: simple classifiers on frozen features, and their choice by cross-validation.

There are three kinds, each a value with its settings:

    Logistic    multinomial logistic regression with an L2 penalty; candidates: strengths C
    Means       the nearest class mean; candidates: scales of the logits
    Neighbours  k nearest neighbours by cosine similarity; candidates: numbers k

A kind is fitted to `Examples` for one candidate (`fit`), and evaluated for all candidates on examples that were left
out (`cross_validate`). `Logistic` and `Means` give a `Linear` in the space of the features, which can become a
network's head. Examples are left out by weights of 0, so that all folds share features and programs.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax.errors import require
from mixjax.maths import logistic

Array = jax.Array


class Examples(NamedTuple):
    """Labelled examples, as `examples` makes them.

    Attributes:
      features: (n, d).
      targets: (n, c), rows that sum to 1.
      weights: (n,), not negative; 0 leaves an example out.
    """

    features: Array
    targets: Array
    weights: Array


def examples(features: Any, labels: Any, classes: int, weights: Any = None) -> Examples:
    """Check and convert labelled examples.

    Args:
      features: (n, d), of which those with a weight must be finite. Integers and half precision become float32.
      labels: (n,) int below `classes`, or (n, classes) soft labels whose rows sum to 1.
      classes: number of classes, c.
      weights: (n,), not negative, 0 for an example without a label; default: 1 each.
    """
    features, labels = jnp.asarray(features), jnp.asarray(labels)
    wide = jnp.promote_types(features.dtype, jnp.float32)
    features = features.astype(wide)
    require(features.ndim == 2, f'features must have the shape (examples, features), not {features.shape}')
    n = len(features)
    if weights is None:
        weights = jnp.ones(n, wide)
    weights = jnp.asarray(weights, wide)
    require(weights.shape == (n,), f'weights of {n} examples must have the shape ({n},), not {weights.shape}')
    require(bool(jnp.all(weights >= 0)) and bool(jnp.any(weights > 0)), 'weights must not be negative, nor all be 0')
    used = weights > 0
    if jnp.issubdtype(labels.dtype, jnp.floating):
        require(labels.shape == (n, classes), f'soft labels must have the shape ({n}, {classes}), not {labels.shape}')
        targets = jnp.where(used[:, None], labels.astype(wide), 1 / classes)
        whole = jnp.all(targets >= 0) & jnp.all(jnp.abs(jnp.sum(targets, 1) - 1) < 1e-3)
        require(bool(whole), 'soft labels must not be negative, and each row must sum to 1')
    else:
        require(labels.shape == (n,), f'labels must have the shape ({n},) or ({n}, {classes}), not {labels.shape}')
        inside = jnp.all(jnp.where(used, (labels >= 0) & (labels < classes), True))
        require(bool(inside), f'labels must be between 0 and {classes - 1}; give examples without a label the weight 0')
        targets = jax.nn.one_hot(labels, classes, dtype=wide)
    require(bool(jnp.all(jnp.isfinite(jnp.where(used[:, None], features, 0)))), 'features must be finite')
    return Examples(jnp.where(used[:, None], features, 0), targets, weights)


class Linear(NamedTuple):
    """A linear classifier.

    Attributes:
      kernel: (d, c).
      bias: (c,).
    """

    kernel: Array
    bias: Array

    def log_probs(self, features: Any) -> Array:
        """Return log probabilities: (.., d) -> (.., c)."""
        logits = jnp.matmul(jnp.asarray(features), self.kernel, precision='highest') + self.bias
        return jax.nn.log_softmax(logits)


# --- logistic regression ----------------------------------------------------------------------------------------------


class Logistic(NamedTuple):
    """Multinomial logistic regression: sum_i u_i CE(W^T x_i + b, y_i) + ||W||^2 / (2 C), as in scikit-learn.

    Attributes:
      candidates: values of C; 20 from 1e-4 to 1e4. (DINOv2 has 45 from 1e-6 to 1e5, for features of length 1.)
      default: C where no example can be left out, as with one label a class; 1, scikit-learn's.
      standardize: whether features are first divided by their standard deviation over all examples that have a weight
        (in cross-validation too: this takes no labels). The penalty is then that of the divided features; the
        classifier returned is for the features as they are.
      tol: the objective is at most this share above its minimum.
      max_iter: largest number of steps for one C.
    """

    candidates: tuple[float, ...] = tuple(float(c) for c in np.logspace(-4, 4, 20))
    default: float = 1.0
    standardize: bool = False
    tol: float = 1e-5
    max_iter: int = 1000

    def fit(self, data: Examples, candidate: float) -> Linear:
        """Fit for one C."""
        return self.classifiers(data, data.weights[:, None], (candidate,))[0][0]

    def classifiers(self, data: Examples, train: Array, candidates: tuple[float, ...]) -> list[list[Linear]]:
        """Return the classifier of each candidate, and of each of the training parts in `train`, (n, F) weights."""
        order = np.argsort(candidates, kind='stable')
        found = self._run(logistic.path, data, train, np.array(candidates)[order])
        back = np.argsort(order, kind='stable')
        return [[Linear(found.kernel[k, f], found.bias[k, f]) for f in range(train.shape[1])] for k in back]

    def held_out(self, data: Examples, train: Array, held: Array) -> tuple[Array, Array]:
        """Return (number right, summed log loss), each (K, F), of each candidate on what each fold leaves out.

        Args:
          data: the examples.
          train: (n, F) weights of the training part of each fold.
          held: (n, F) weights of the part that is left out.
        """
        order = np.argsort(self.candidates, kind='stable')
        found = self._run(logistic.path_scores, data, train, np.array(self.candidates)[order], held)
        back = np.argsort(order, kind='stable')
        return found[0][back], found[1][back]

    def _run(self, program: Any, data: Examples, weights: Array, strengths: np.ndarray, *held: Array) -> Any:
        require(bool(np.all(strengths > 0)), f'strengths C must be positive, not {strengths.min()}')
        strengths_ = jnp.asarray(strengths, data.features.dtype)
        return program(data.features, data.targets, weights, *held, strengths_, standardize=self.standardize,
                       tol=self.tol, max_iter=self.max_iter)  # fmt: skip


# --- class means ------------------------------------------------------------------------------------------------------


class Means(NamedTuple):
    """The nearest class mean, as a linear classifier.

    The logits are -s ||x - m_k||^2 / (2 v) but for a term that all classes share: m_k is the mean of class k, v the
    mean square distance of examples from their overall mean. With `cosine`, they are s <x, m_k> / (||m_k|| l): m_k is
    then the mean of the class's examples at length 1, and l the mean length of examples. The scale s changes the
    probabilities but not the predictions.

    Attributes:
      candidates: values of s; powers of 2 from 1 to 512.
      default: s where no example can be left out.
      cosine: whether examples are compared by their angle.
      standardize: see `Logistic`.
    """

    candidates: tuple[float, ...] = tuple(2.0**k for k in range(10))
    default: float = 16.0
    cosine: bool = False
    standardize: bool = False

    def fit(self, data: Examples, candidate: float) -> Linear:
        """Fit for one scale s of the logits."""
        return self.classifiers(data, data.weights[:, None], (candidate,))[0][0]

    def classifiers(self, data: Examples, train: Array, candidates: tuple[float, ...]) -> list[list[Linear]]:
        """Return the classifier of each candidate, and of each of the training parts in `train`, (n, F) weights."""
        found = _means(data, train, self.cosine, self.standardize)

        def scaled(scale: float, f: int) -> Linear:
            bias = found.bias[f]
            return Linear(found.kernel[f] * scale, jnp.where(bias > logistic.ABSENT, bias * scale, bias))

        return [[scaled(scale, f) for f in range(train.shape[1])] for scale in candidates]

    def held_out(self, data: Examples, train: Array, held: Array) -> tuple[Array, Array]:
        """Return (number right, summed log loss), each (K, F), of each candidate on what each fold leaves out.

        Args:
          data: the examples.
          train: (n, F) weights of the training part of each fold.
          held: (n, F) weights of the part that is left out.
        """
        scales = jnp.asarray(self.candidates, data.features.dtype)
        return _mean_scores(data, train, held, scales, self.cosine, self.standardize)


@partial(jax.jit, static_argnames=('cosine', 'standardize'))
def _means(data: Examples, weights: Array, cosine: bool, standardize: bool) -> Linear:
    """Return the classifiers of scale 1 for weights (n, P): kernel (P, d, c), bias (P, c)."""
    with jax.default_matmul_precision('highest'):
        used = data.weights > 0
        shift = logistic.moments(data.features, used, standardize=standardize)
        mean = jnp.zeros_like(shift.mean) if cosine and not standardize else shift.mean
        x = jnp.where(used[:, None], (data.features - mean) / shift.std, 0)
        total = jnp.maximum(jnp.sum(weights, 0), 1e-30)  # (P,)
        lengths = jnp.linalg.norm(x, axis=1)
        each = x / jnp.where(lengths > 0, lengths, 1)[:, None] if cosine else x
        share = jnp.einsum('np,nc->pc', weights, data.targets)
        present = share > 0
        means = jnp.einsum('np,nd,nc->pdc', weights, each, data.targets) / jnp.where(present, share, 1)[:, None]
        squares = jnp.sum(jnp.square(means), 1)  # (P, c)
        if cosine:
            unit = lengths @ weights / total
            kernel = means / jnp.sqrt(jnp.where(squares > 0, squares, 1))[:, None]
            bias = jnp.zeros_like(squares)
        else:
            centre = jnp.einsum('np,nd->pd', weights, x) / total[:, None]
            unit = jnp.square(lengths) @ weights / total - jnp.sum(jnp.square(centre), 1)
            kernel, bias = means, -squares / 2
        unit = jnp.where(unit > 0, unit, 1)[:, None]
        kernel = kernel / unit[:, None] / shift.std[:, None]
        bias = bias / unit - jnp.einsum('d,pdc->pc', mean, kernel)
        return Linear(jnp.where(present[:, None], kernel, 0), logistic.centred(bias, present))


@partial(jax.jit, static_argnames=('cosine', 'standardize'))
def _mean_scores(
    data: Examples, train: Array, held: Array, scales: Array, cosine: bool, standardize: bool
) -> tuple[Array, Array]:  # fmt: skip
    with jax.default_matmul_precision('highest'):
        kernel, bias = _means(data, train, cosine, standardize)
        logits = jnp.einsum('nd,pdc->npc', data.features, kernel) + bias
        absent = bias <= logistic.ABSENT

        def at(scale: Array) -> tuple[Array, Array]:
            log_probs = jax.nn.log_softmax(jnp.where(absent, logistic.ABSENT, scale * logits))
            return logistic.scores(log_probs, data.targets, held)

        return jax.lax.map(at, scales)


# --- nearest neighbours -----------------------------------------------------------------------------------------------

FIT_BYTES = 1 << 28  # of the classifiers that `out_of_fold` fits at once
LOOKED_FOR = 32  # neighbours, at least
FLOOR = 1e-3  # share of the uniform distribution in the probabilities of neighbours: a class may have no vote


class Voters(NamedTuple):
    """The classifier by neighbours.

    Attributes:
      data: the examples that vote.
      k: number of neighbours.
      temperature: see `Neighbours`.
    """

    data: Examples
    k: int
    temperature: float

    def log_probs(self, features: Any) -> Array:
        """Return log probabilities: (m, d) -> (m, c)."""
        data, (ks, most) = self.data, _counts((self.k,), len(self.data.features))
        return _votes(data, data.weights, jnp.asarray(features, data.features.dtype), ks, most, self.temperature)[0]


class Neighbours(NamedTuple):
    """k nearest neighbours by cosine similarity; each votes with the weight exp(similarity / temperature), as in DINO.

    The probability of a class is its share of the votes, mixed with 0.001 of the uniform distribution (which DINO,
    having no log loss, does without).

    Attributes:
      candidates: values of k; DINO's 10, 20, 100 and 200, and smaller ones for few labels.
      default: k where no example can be left out; 20, DINO's best. With fewer examples, all vote.
      temperature: DINO's.
    """

    candidates: tuple[int, ...] = (1, 3, 5, 10, 20, 100, 200)
    default: int = 20
    temperature: float = 0.07

    def fit(self, data: Examples, candidate: float) -> Voters:
        """Return the classifier by `candidate` neighbours."""
        return self.classifiers(data, data.weights[:, None], (candidate,))[0][0]

    def classifiers(self, data: Examples, train: Array, candidates: tuple[float, ...]) -> list[list[Voters]]:
        """Return the classifier of each candidate, and of each of the training parts in `train`, (n, F) weights."""
        parts = [data._replace(weights=train[:, f]) for f in range(train.shape[1])]
        return [[Voters(part, int(k), self.temperature) for part in parts] for k in candidates]

    def held_out(self, data: Examples, train: Array, held: Array) -> tuple[Array, Array]:
        """Return (number right, summed log loss), each (K, F), of each candidate on what each fold leaves out.

        Args:
          data: the examples.
          train: (n, F) weights of the training part of each fold.
          held: (n, F) weights of the part that is left out.
        """
        ks, most = _counts(self.candidates, len(data.features))
        return _vote_scores(data, train, held, ks, most, self.temperature)


def _counts(ks: tuple[int, ...], n: int) -> tuple[Array, int]:
    """Return the numbers of neighbours, n at most, and how many are looked for: few sizes, since each is compiled."""
    require(min(ks) >= 1, f'k, the number of neighbours, must be at least 1, not {min(ks)}')
    return jnp.asarray(np.minimum(ks, n)), min(max(LOOKED_FOR, 1 << (int(max(ks)) - 1).bit_length()), n)


def _unit(x: Array) -> Array:
    lengths = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(lengths > 0, lengths, 1)


@partial(jax.jit, static_argnames='most')
def _votes(data: Examples, weights: Array, queries: Array, ks: Array, most: int, temperature: Any) -> Array:
    """Return log probabilities (K, m, c) of the queries (m, d) for each of the K numbers of neighbours."""
    similar = jnp.matmul(_unit(queries), _unit(data.features).T, precision='highest')
    similar, rows = jax.lax.top_k(jnp.where(weights > 0, similar, -jnp.inf), most)
    votes = jnp.exp((similar - similar[:, :1]) / temperature) * weights[rows]  # (m, most)

    def at(k: Array) -> Array:
        counted = jnp.where(jnp.arange(most) < k, votes, 0)
        # Into a matrix of all examples: the targets of the neighbours themselves would take `most` times the memory.
        given = jnp.zeros((len(queries), len(weights)), votes.dtype)
        given = given.at[jnp.arange(len(queries))[:, None], rows].set(counted)
        share = jnp.matmul(given, data.targets, precision='highest') / jnp.sum(counted, 1, keepdims=True)
        return jnp.log((1 - FLOOR) * share + FLOOR / share.shape[1])

    return jax.lax.map(at, ks)


@partial(jax.jit, static_argnames='most')
def _vote_scores(
    data: Examples, train: Array, held: Array, ks: Array, most: int, temperature: Any
) -> tuple[Array, Array]:
    def fold(columns: tuple[Array, Array]) -> tuple[Array, Array]:
        log_probs = _votes(data, columns[0], data.features, ks, most, temperature)  # (K, n, c)
        out = jnp.broadcast_to(columns[1][:, None], (len(data.features), len(ks)))
        return logistic.scores(jnp.swapaxes(log_probs, 0, 1), data.targets, out)

    right, loss = jax.lax.map(fold, (train.T, held.T))
    return right.T, loss.T


# --- fitting and choosing ---------------------------------------------------------------------------------------------

Kind = Logistic | Means | Neighbours
KINDS: dict[str, type[Logistic] | type[Means] | type[Neighbours]] = {
    'logistic': Logistic, 'means': Means, 'knn': Neighbours,
}  # fmt: skip


def of_kind(kind: str, candidate: float = 0.0, *, standardize: bool = True) -> Kind:
    """Return the settings of a kind of probe, one of `KINDS`.

    Args:
      kind: 'logistic', 'means' or 'knn'.
      candidate: the only C, scale or k; 0 for those of the kind.
      standardize: see `Logistic`; neighbours are compared as they are.
    """
    if kind == 'knn':
        k = int(candidate)
        return Neighbours(candidates=(k,), default=k) if candidate else Neighbours()
    if kind == 'means':
        chosen = Means(candidates=(candidate,), default=candidate) if candidate else Means()
        return chosen._replace(standardize=standardize)
    chosen = Logistic(candidates=(candidate,), default=candidate) if candidate else Logistic()
    return chosen._replace(standardize=standardize)


class Validation(NamedTuple):
    """Result of `cross_validate`.

    Attributes:
      candidates: (K,), of the kind.
      accuracy: (K,), share of the examples left out that are right; nan without a fold.
      log_loss: (K,), mean over the examples left out; nan without a fold.
      folds: number of folds.
      best: the chosen candidate: the highest accuracy, of equal ones the lowest log loss, of equal ones the first. The
        kind's default if there is no fold.
    """

    candidates: np.ndarray
    accuracy: np.ndarray
    log_loss: np.ndarray
    folds: int
    best: float

    @property
    def score(self) -> tuple[float, float]:
        """Accuracy and negative log loss of the chosen candidate: of several kinds, take that of the largest score."""
        if not self.folds:
            return float('-inf'), float('-inf')
        at = int(np.flatnonzero(self.candidates == self.best)[0])
        return float(self.accuracy[at]), -float(self.log_loss[at])


def fit(kind: Kind, data: Examples, candidate: float | None = None) -> Linear | Voters:
    """Fit a probe to all examples with a weight.

    Args:
      kind: `Logistic`, `Means` or `Neighbours`.
      data: the examples.
      candidate: C, s or k; the kind's default if None.
    """
    return kind.fit(data, kind.default if candidate is None else candidate)


def folds(labels: Any, count: int = 5, *, rng: Any = 0, repeats: int = 1, used: Any = None) -> np.ndarray:
    """Draw stratified folds: the examples of a class go to the folds in turn, in random order.

    So every class that has two examples or more is in the training part of every fold. The only example of a class is
    never left out, and with fewer examples than folds, each is left out in another fold. Folds in which nobody is left
    out are dropped: if no class has two examples, there are none.

    Args:
      labels: (n,) int, or (n, c) soft labels, of which the largest counts.
      count: number of folds.
      rng: a jax key, or an int.
      repeats: how often to draw anew; with few labels one draw says little.
      used: (n,) bool or weights; examples with 0 are in no fold.

    Returns:
      (n, F) bool, true where an example is left out. F is at most `count` times `repeats`.
    """
    require(count >= 2, f'cross-validation takes two folds at least, not {count}')
    labels = np.asarray(labels)
    labels = labels.argmax(1) if labels.ndim == 2 else labels
    used = np.ones(len(labels), bool) if used is None else np.asarray(used) > 0
    rng = jax.random.key(rng) if isinstance(rng, int) else rng
    draw = np.random.RandomState(jax.random.key_data(rng).tolist())  # numpy guarantees that its streams never change
    held = np.zeros((len(labels), repeats, count), bool)
    for repeat in range(repeats):
        at = 0  # the next class goes on where the last one ended, so folds have equal sizes
        for label in np.unique(labels[used]):
            rows = draw.permutation(np.flatnonzero(used & (labels == label)))
            if len(rows) > 1:
                held[rows, repeat, (at + np.arange(len(rows))) % count] = True
                at += len(rows)
    held = held.reshape(len(labels), -1)
    return held[:, held.any(0)]


def cross_validate(kind: Kind, data: Examples, held: Any) -> Validation:
    """Fit every candidate on every fold's training part, and evaluate it on the part that is left out.

    Args:
      kind: `Logistic`, `Means` or `Neighbours`.
      data: the examples.
      held: (n, F) bool, of `folds`. The training part of a fold is all others with a weight.
    """
    held = np.asarray(held, bool)
    candidates = np.asarray(kind.candidates, np.float64)
    require(held.shape[:1] == data.weights.shape, f'the folds have {len(held)} rows for {len(data.weights)} examples')
    out = np.asarray(data.weights)[:, None] * held
    total = out.sum(dtype=np.float64)
    if total == 0:
        nothing = np.full(len(candidates), np.nan)
        return Validation(candidates, nothing, nothing, 0, float(kind.default))
    train = jnp.asarray(np.asarray(data.weights)[:, None] * ~held)
    right, loss = (np.asarray(one, np.float64).sum(1) / total for one in kind.held_out(data, train, jnp.asarray(out)))
    order = np.lexsort((np.where(np.isnan(loss), np.inf, loss), -right))
    return Validation(candidates, right, loss, held.shape[1], float(candidates[order[0]]))


def out_of_fold(kind: Kind, data: Examples, held: Any, candidates: tuple[float, ...]) -> np.ndarray:
    """Return the log probabilities of the examples that each fold leaves out, (K, m, c).

    Args:
      kind: `Logistic`, `Means` or `Neighbours`.
      data: the examples.
      held: (n, F) bool, of `folds`; m is the number of its places. They are in the order of `np.nonzero(held.T)`.
      candidates: (K,), of the kind.
    """
    held = np.asarray(held, bool)
    count, classes, d = held.sum(0), data.targets.shape[1], data.features.shape[1]
    at_once = max(1, int(FIT_BYTES // (4 * len(candidates) * d * classes)))  # all classifiers of a fold are in memory
    features, most = np.asarray(data.features), int(count.max())
    out = np.empty((len(candidates), held.sum(), classes), np.float32)
    ends = np.concatenate([[0], np.cumsum(count)])
    for first in range(0, held.shape[1], at_once):
        some = held[:, first : first + at_once]
        for k, row in enumerate(kind.classifiers(data, data.weights[:, None] * ~some, candidates)):
            for f, classifier in enumerate(row, first):
                rows = np.flatnonzero(held[:, f])
                filled = features[np.resize(rows, most)]  # one shape, one compilation
                out[k, ends[f] : ends[f + 1]] = np.asarray(classifier.log_probs(filled))[: len(rows)]
    return out
