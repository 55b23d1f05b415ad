"""The path of logistic regressions on frozen features, compared with scikit-learn's LogisticRegression.

The same strengths and folds for both, and the same accuracy: each objective at most 1e-5 above its minimum. For
scikit-learn, the loosest tolerance that reaches this is found for every strength on the first fold, and all folds run
in as many processes as there are cores. Its features are float64, and each strength starts from the solution of the one
before: in float32 it does not come so near to the minima by any tolerance, and without warm starts it takes longer. The
minima are those of the tested path with a tolerance of 1e-6, evaluated in float64.
"""

from __future__ import annotations

import os
import time
import warnings
from typing import Any, NamedTuple

import numpy as np

from benchmarks import timing
from benchmarks.parts import Part, Table, times
from benchmarks.timing import Verdict

CLOSE, TARGET = 1e-5, 5.0
TOLERANCES = tuple(10.0**-k for k in range(4, 12))


class Case(NamedTuple):
    """Features (n, d), labels (n,), folds (n, F) bool and strengths (S,)."""

    title: str
    x: np.ndarray
    labels: np.ndarray
    held: np.ndarray
    strengths: np.ndarray


class Fitted(NamedTuple):
    """The results for one fold and some strengths: kernels, intercepts, and the CPU seconds it took."""

    kernels: list[np.ndarray]
    biases: list[np.ndarray]
    seconds: float


# --- the features -----------------------------------------------------------------------------------------------------


def synthetic(n: int, d: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features like a network's: classes that overlap, a decaying spectrum, and a ReLU."""
    rng = np.random.RandomState(0)
    scale, labels = np.arange(1, d + 1) ** -0.6, np.arange(n) % classes
    inside = (0.35 * rng.randn(classes, d)[labels] + rng.randn(n, d)) * scale
    x = inside @ np.linalg.qr(rng.randn(d, d))[0]
    return np.maximum(x / x.std() + 0.3, 0).astype(np.float32) / 2, labels


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return the embedded network's features of the handwritten digits."""
    import jax

    import mixjax
    from mixjax.data.datasets import embedded
    from mixjax.models import weights

    name = 'embedded://glyphnet'
    network, variables = mixjax.create_model('glyphnet', name)
    about = weights.image(name, 'glyphnet')
    image, labels, _ = embedded.digits()
    seen = (image / np.float32(255) - np.float32(about['mean'])) / np.float32(about['std'])
    forward = jax.jit(lambda images: network.apply(variables, images, train=False)[0].features)
    return np.asarray(forward(seen.astype(np.float32))), labels


def cases(short: bool) -> list[Case]:
    from mixjax.maths import probe

    strengths = np.logspace(-4, 4, 3 if short else 20)
    found = []
    for title, (x, labels) in {
        'synthetic': synthetic(*((200, 64, 5) if short else (2000, 1280, 100))),
        'digits, glyphnet': digits(),
    }.items():
        held = probe.folds(labels, 2 if short else 5)
        classes = len(np.unique(labels))
        found.append(Case(f'{title}: {len(x):,} x {x.shape[1]:,}, {classes} classes', x, labels, held, strengths))
    return found


def objective(case: Case, kernel: Any, bias: Any, fold: int, strength: Any) -> float:
    """Return the objective, in float64."""
    rows = ~case.held[:, fold]
    kernel = np.asarray(kernel, np.float64)
    logits = case.x[rows].astype(np.float64) @ kernel + np.asarray(bias, np.float64)
    at = np.arange(len(logits)), case.labels[rows]
    logits -= logits[at][:, None]
    logits[at] = -np.inf
    return float(np.logaddexp(0, np.logaddexp.reduce(logits, 1)).sum() + np.square(kernel).sum() / 2 / strength)


# --- scikit-learn -----------------------------------------------------------------------------------------------------


class Settings(NamedTuple):
    """tolerances: one a strength. dtype: of the features. warm: whether a fit starts from the one before it."""

    tolerances: tuple[float, ...]
    dtype: str
    warm: bool


def regress(x: np.ndarray, labels: np.ndarray, strengths: np.ndarray, settings: Settings) -> Fitted:
    """Fit scikit-learn's regressions, in a process of its own."""
    from sklearn.linear_model import LogisticRegression

    start, kernels, biases = time.process_time(), [], []
    model = LogisticRegression(max_iter=20_000, warm_start=settings.warm)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # where a tolerance is not reached
        for strength, tol in zip(strengths, settings.tolerances, strict=True):
            model.set_params(C=float(strength), tol=tol).fit(x, labels)
            kernels.append(model.coef_.T.astype(np.float32))
            biases.append(np.asarray(model.intercept_, np.float32))
    return Fitted(kernels, biases, time.process_time() - start)


def fast_enough(case: Case, least: np.ndarray, settings: Settings) -> tuple[Settings, float] | None:
    """Tighten the tolerances until the first fold's minima are reached; None if they are not by any.

    Args:
      case: the case, of some strengths.
      least: (S,), the minima.
      settings: the tolerances to begin with, dtype and warm starts.

    Returns:
      The settings, and the CPU seconds of a path with them, on one core.
    """
    from threadpoolctl import threadpool_limits

    rows = ~case.held[:, 0]
    x, labels = case.x[rows].astype(settings.dtype), case.labels[rows]
    last = np.inf
    with threadpool_limits(1):
        while min(settings.tolerances) >= min(TOLERANCES):
            found = regress(x, labels, case.strengths, settings)
            above = [
                objective(case, kernel, bias, 0, strength) / minimum - 1
                for strength, minimum, kernel, bias in zip(
                    case.strengths, least, found.kernels, found.biases, strict=True
                )
            ]
            if max(above) <= CLOSE:
                return settings, found.seconds
            if max(above) > 0.9 * last:  # it comes no nearer
                return None
            last = max(above)
            tighter = tuple(
                tol / 10 if far > CLOSE else tol for tol, far in zip(settings.tolerances, above, strict=True)
            )
            settings = settings._replace(tolerances=tighter)
    return None


def tuned(case: Case, least: np.ndarray) -> Settings:
    """Return the loosest tolerances that reach every minimum `least` (S,) of the first fold."""
    found = fast_enough(case, least, Settings((TOLERANCES[0],) * len(case.strengths), 'float64', True))
    if found is None:
        raise RuntimeError(f'scikit-learn does not reach the minima of {case.title}')
    return found[0]


class Theirs:
    """scikit-learn on all folds, in processes that exist already."""

    def __init__(self, case: Case, settings: Settings) -> None:
        from joblib import Parallel

        self.case, self.settings = case, settings
        x = case.x.astype(settings.dtype)
        self.folds = [(x[~fold], case.labels[~fold]) for fold in case.held.T]
        self.pool = Parallel(n_jobs=os.cpu_count())
        half = len(case.strengths) // 2  # two halves of each fold, so that no core waits for long
        self.parts = [slice(half, None), slice(0, half)]  # the slow half first
        self.found: list[Any] = []

    def __call__(self) -> None:
        from joblib import delayed

        tols = self.settings.tolerances
        self.found = list(self.pool(
            delayed(regress)(x, labels, self.case.strengths[part], self.settings._replace(tolerances=tols[part]))
            for part in self.parts for x, labels in self.folds
        ))  # fmt: skip

    def objectives(self) -> np.ndarray:
        """Return the objectives, (S, F)."""
        out = np.zeros((len(self.case.strengths), len(self.folds)))
        for k, found in enumerate(self.found):
            fold = k % len(self.folds)
            rows = np.arange(len(out))[self.parts[k // len(self.folds)]]
            for s, kernel, bias in zip(rows, found.kernels, found.biases, strict=True):
                out[s, fold] = objective(self.case, kernel, bias, fold, self.case.strengths[s])
        return out


# --- the comparison ---------------------------------------------------------------------------------------------------


def measure(short: bool = False) -> Part:
    import jax
    import jax.numpy as jnp

    from mixjax.maths import logistic

    rows, verdicts, numbers = [], [], {}
    for case in cases(short):
        classes = int(case.labels.max()) + 1
        given = (
            jnp.asarray(case.x), jax.nn.one_hot(jnp.asarray(case.labels), classes),
            jnp.asarray(~case.held, jnp.float32), jnp.asarray(case.strengths, jnp.float32),
        )  # fmt: skip
        start = time.perf_counter()
        program = logistic.path.lower(*given, tol=CLOSE).compile()
        compiled = time.perf_counter() - start

        def ours(tol: float = CLOSE, program: Any = program, given: Any = given) -> logistic.Path:
            return jax.block_until_ready(program(*given, tol=tol))

        def objectives(found: logistic.Path, case: Case = case) -> np.ndarray:
            kernels, biases = np.asarray(found.kernel), np.asarray(found.bias)
            return np.array([
                [objective(case, kernels[s, f], biases[s, f], f, strength) for f in range(case.held.shape[1])]
                for s, strength in enumerate(case.strengths)
            ])  # fmt: skip

        least, mine = objectives(ours(CLOSE / 10)), objectives(ours())
        least = np.minimum(least, mine)
        settings = tuned(case, least[:, 0])
        theirs = Theirs(case, settings)
        spent: list[float] = []

        def timed(ours: Any = ours, spent: list[float] = spent) -> None:
            start = time.process_time()
            ours()
            spent.append(time.process_time() - start)

        found = timing.interleaved({'ours': timed, 'theirs': theirs}, 1 if short else 2)
        other = theirs.objectives()
        apart = float(np.abs(mine / other - 1).max())
        above = float((mine / least - 1).max()), float((other / least - 1).max())
        ratio = timing.ratio(found['theirs'], found['ours'])
        whole = timing.ratio(found['theirs'], found['ours'] + compiled)
        work = sum(one.seconds for one in theirs.found) / float(np.median(spent))
        here, there = (float(np.median(found[name])) for name in ('ours', 'theirs'))
        rows.append([case.title, f'{here:.2f}', f'{there:.1f}', times(ratio), f'{compiled:.1f}', times(whole),
                     f'{work:.1f}', f'{above[0]:.1e}', f'{above[1]:.1e}'])  # fmt: skip
        numbers[case.title] = {
            'seconds': here, 'scikit-learn seconds': there, 'ratio': ratio._asdict(), 'compile seconds': compiled,
            'ratio with compilation': whole._asdict(), 'ratio of CPU seconds': work, 'above the minimum': above[0],
            'scikit-learn above the minimum': above[1], 'apart': apart, 'scikit-learn': settings._asdict(),
        }  # fmt: skip
        verdicts.append(timing.at_least(f'probe path, {case.title}: at least {TARGET:g} x scikit-learn', ratio, TARGET))
        same = timing.HOLDS if above[0] <= CLOSE else timing.MISSED
        verdicts.append(Verdict(f'probe path, {case.title}: objectives within 1e-5', f'{above[0]:.1e}', same))
    about = (
        f'{len(case.strengths)} strengths from 1e-4 to 1e4 and {case.held.shape[1]} folds, which is one program here. '
        'scikit-learn (float64, warm starts) has for each strength the loosest tolerance that comes within '
        f'1e-5 of its minimum; it has {os.cpu_count()} processes. *Faster* is measured without and with the time to '
        'compile; *work* is the ratio of CPU seconds. The last two columns: how far the worst objective is above its '
        'minimum, relative to it.'
    )
    columns = [
        'features', 'seconds', 'scikit-learn', 'faster', 'compile', 'faster with it', 'work', 'above the minimum',
        'scikit-learn above',
    ]  # fmt: skip
    return Part('Linear probes', [Table('Linear probes', about, columns, rows)], verdicts, numbers)
