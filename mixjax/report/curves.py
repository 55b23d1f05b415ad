"""Learning curves: the logged values of a run's seeds, as a mean with a band of one standard deviation."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mixjax.report.read import Run
from mixjax.report.svg import COLOURS, Series
from mixjax.report.words import mean_std

LARGEST = 1e30  # larger values and NaN are not drawn
MOST = 120  # maximum number of points of a curve; more cannot be seen, and would make the file large


def by_step(run: Run, kind: str, name: str) -> dict[int, list[float]]:
    """Return {step: the values of all seeds}, for the steps that every seed logged."""
    return of_lines(run.metrics, kind, name)


def of_lines(metrics: Iterable[Mapping[str, Any]], kind: str, name: str) -> dict[int, list[float]]:
    """Return `by_step` of the lines of a `metrics.jsonl`.

    For a method that alternates it is the mean over its kinds of batch, at each step by which all of them have a new
    value.
    """
    found = by_batch_kind(metrics, kind, name)
    out = found.pop('', {})
    latest: dict[str, list[float]] = {}
    for step in sorted(set().union(*found.values())):
        latest |= {batch: curve[step] for batch, curve in found.items() if step in curve}
        if len(latest) == len(found):
            out[step] = [math.fsum(values) / len(values) for values in zip(*latest.values(), strict=True)]
            latest = {}
    return dict(sorted(out.items()))


def by_batch_kind(metrics: Iterable[Mapping[str, Any]], kind: str, name: str) -> dict[str, dict[int, list[float]]]:
    """Return {kind of batch: {step: the values of all seeds}}; lines without a kind have the kind ''."""
    values: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in metrics:
        value, batch = line.get(name), line.get('batch_kind', '')
        if line['kind'] == kind and isinstance(value, int | float) and abs(value) < LARGEST and isinstance(batch, str):
            values[batch][line['step']][line['seed']] = float(value)
    seeds = max((len(found) for steps in values.values() for found in steps.values()), default=0)
    whole = {
        batch: {s: [found[seed] for seed in sorted(found)] for s, found in sorted(steps.items()) if len(found) == seeds}
        for batch, steps in values.items()
    }
    return {batch: curve for batch, curve in whole.items() if curve}


def thin(curve: dict[int, list[float]], most: int = MOST) -> list[tuple[float, list[float]]]:
    """Return at most `most` points: means over neighbouring steps, seed by seed. The last step is unchanged."""
    points = [(float(step), values) for step, values in curve.items()]
    size = -(-(len(points) - 1) // (most - 1)) if len(points) > most else 1
    if size == 1:
        return points
    bins = [points[start : min(start + size, len(points) - 1)] for start in range(0, len(points) - 1, size)]
    means = [(math.fsum(step for step, _ in part) / len(part), _by_seed(part)) for part in bins]
    return [*means, points[-1]]


def _by_seed(part: Sequence[tuple[float, list[float]]]) -> list[float]:
    return [math.fsum(values) / len(part) for values in zip(*(values for _, values in part), strict=True)]


def series(run: Run, colour: int, kind: str, name: str, factor: float = 1.0) -> list[Series]:
    """Return the curves of one method, one for each of its kinds of batch; none if it logged none.

    Args:
      run: the run.
      colour: see `svg.Series`.
      kind: kind of the lines of `metrics.jsonl`.
      name: name of the metric.
      factor: factor on its values.
    """
    found = by_batch_kind(run.metrics, kind, name)
    return [
        _series(
            f'{run.label}, {batch}' if batch else run.label, colour + COLOURS * (place if colour else 0), curve, factor
        )
        for place, (batch, curve) in enumerate(found.items())
    ]


def _series(label: str, colour: int, curve: dict[int, list[float]], factor: float) -> Series:
    points = thin(curve)
    found = [mean_std([factor * value for value in values]) for _, values in points]
    mean = tuple(value for value, _ in found)
    # one seed has no deviation, and so no band
    low = tuple(value - (std or 0.0) for value, std in found)
    high = tuple(value + (std or 0.0) for value, std in found)
    return Series(label, colour, tuple(step for step, _ in points), mean, low, high)


def colours(runs: Sequence[Run], baseline: str | None) -> dict[str, int]:
    """Return {label: colour}: 0 is the baseline's, the others count from 1."""
    others = [run.label for run in runs if run.label != baseline]
    return {**({baseline: 0} if baseline is not None else {}), **{label: i for i, label in enumerate(others, 1)}}
