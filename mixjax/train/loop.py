"""A run from beginning to end: its seeds, their steps, evaluations and checkpoints, and its results.

At every step where something is due the order is: log, evaluate, log that, save a checkpoint. So the
logs are never behind the checkpoint, and a restarted run drops what was logged after it.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mixjax import config as config_lib
from mixjax.errors import UserError
from mixjax.train import checkpoint, evaluate, export, program, workdir
from mixjax.train.program import Program, Seed
from mixjax.train.progress import Progress
from mixjax.train.step import TrainState

Tree = Any
DISPATCH = 25  # steps a program, where convolutions in a loop are not slow


def run(config: Any, folder: str | Path, *, progress: Progress | None = None, command: str = '') -> dict[str, Any]:
    """Do all that `config` says in the work directory `folder`, or what is left of it.

    Args:
      config: from `mixjax.config.load`, or `mixjax.config.base()` with what differs set.
      progress: where to tell how far it is; by default nowhere.
      command: the line that began the run, kept in `env.json`.

    Returns:
      What `results.json` holds.
    """
    config = config_lib.complete(copy.deepcopy(config).unlock())
    config_lib.check(config)
    program.preflight(config)
    folder = Path(folder)
    labels = order(config)
    steps = config.steps * config.num_seeds * max(len(labels), 1)
    progress = progress or Progress(steps, quiet=True)
    progress.total = steps
    workdir.look(folder, config)
    singles = {label: alone(config, label) for label in labels} or {config.method.name: config}
    folders = {label: folder / label if labels else folder for label in singles}
    extended = {label: workdir.look(folders[label], singles[label]) for label in singles}
    # All methods are built, and prepared for their first seed, before one of them trains for an hour.
    built = {
        label: program.ready(single, folders[label])
        for label, single in singles.items()
        if workdir.finished(folders[label], config.steps) is None
    }
    workdir.claim(folder, config)
    describe(folder, command)
    runs = {}
    for label, single in singles.items():
        progress.label = label
        if extended[label]:
            progress.say(f'{label}: extended to {config.steps} steps; earlier steps keep the schedule they had')
        runs[label] = one(built.pop(label, None), single, folders[label], label, progress, command)
    if not labels:
        return runs[config.method.name]
    results = {
        'kind': 'comparison',
        'steps': config.steps,
        'baseline': labels[0],
        'runs': runs,
        'differences': differences(runs, labels[0]),
    }
    workdir.write_json(folder / 'results.json', results)
    return results


def order(config: Any) -> list[str]:
    """Labels of the compared methods: the baseline, then the others by name."""
    labels = sorted(config.compare)
    first = config.baseline or next(iter(labels), '')
    return [label for label in [first] if label in labels] + [label for label in labels if label != first]


def alone(config: Any, label: str) -> Any:
    """The config of one method of a comparison."""
    config = copy.deepcopy(config).unlock()
    config.method = config.compare[label]
    config.compare = ConfigDict()
    config.baseline = ''
    return config.lock()


def describe(folder: Path, command: str) -> None:
    if not (folder / 'env.json').exists():
        workdir.write_json(folder / 'env.json', {**workdir.environment(), 'command': command})


def one(
    built: Program | None, config: Any, folder: Path, label: str, progress: Progress, command: str
) -> dict[str, Any]:
    """One method with all its seeds; `built` is None where it was finished before."""
    if built is None:
        progress.skip(config.steps * config.num_seeds)
        progress.say(f'{label}: finished before')
        return workdir.read_json(folder / 'results.json')
    workdir.claim(folder, config)
    describe(folder, command)
    seeds = [config.seed + i for i in range(config.num_seeds)]
    drawn = {str(seed): [int(row) for row in program.labelled(config, built.sets, seed)] for seed in seeds}
    workdir.write_json(folder / 'splits.json', {'target': config.target.name, 'labelled rows': drawn})
    for seed in seeds:
        train_seed(built, seed, folder, progress)
    results = summary(config, folder, label, built, seeds)
    workdir.write_json(folder / 'results.json', results)
    accuracy = results['accuracy']
    std = '' if accuracy['std'] is None else f' +- {100 * accuracy["std"]:.2f}'
    progress.say(f'{label}: {100 * accuracy["mean"]:.2f}{std} % correct (n={accuracy["n"]})')
    return results


# --- one seed ---------------------------------------------------------------------------------------------------------


def train_seed(built: Program, seed: int, folder: Path, progress: Progress) -> None:
    """Train one seed to the end, from its newest checkpoint if there is one."""
    config = built.config
    metrics, timing = folder / 'metrics.jsonl', folder / 'timing.jsonl'
    data, ts = program.open_seed(built, seed, folder)
    first = seed == config.seed
    if first and not (folder / 'samples.npz').exists():
        pictures(built, data, ts, seed, folder)
    with checkpoint.open_folder(folder / 'checkpoints' / str(seed)) as manager:
        ts = checkpoint.restore(manager, ts) or ts
        step = int(ts.step)
        workdir.rewind(metrics, seed, step)
        workdir.rewind(timing, seed, step)
        progress.skip(step)
        while step < config.steps:
            began, before = time.perf_counter(), step
            ts, last, step = advance(built, data, ts, step, seed, progress)
            if step % config.log_every == 0 or step == config.steps:
                workdir.append(metrics, {'seed': seed, 'step': step, 'kind': 'train', **finite(last, step)})
                seconds = time.perf_counter() - began
                workdir.append(timing, {'seed': seed, 'step': step, 'seconds': seconds, 'steps': step - before})
            if step % config.eval_every == 0 or step == config.steps:
                variables = {'params': ts.params, **ts.model_state}
                found = evaluate.run(built.evaluate, variables, data.test)
                workdir.append(metrics, {'seed': seed, 'step': step, 'kind': 'eval', **found})
            if step % config.checkpoint_every == 0 or step == config.steps:
                checkpoint.save(manager, step, ts)
        if first and not export.is_of(folder, config.steps):
            export.model(folder, config, built.method, ts, built.sets.train.classes)
        manager.wait_until_finished()


def advance(
    built: Program, data: Seed, ts: TrainState, step: int, seed: int, progress: Progress
) -> tuple[TrainState, dict[str, float], int]:
    """Train up to the next step at which something is due; the metrics are of the last step."""
    config = built.config
    every = (config.log_every, config.eval_every, config.checkpoint_every)
    stop = min(config.steps, *((step // n + 1) * n for n in every))
    most = config.dispatch or (1 if jax.default_backend() == 'cpu' else DISPATCH)
    last: Any = {}
    while step < stop:
        count = most if step + most <= stop else 1
        before = last
        ts, last = built.advance(count)(ts, built.start, data.frozen, data.inputs(step, count))
        jax.block_until_ready(before)  # the host stays one call ahead, and the counter honest
        step += count
        progress.step(seed, step, config.steps, None if step < stop else float(last['loss']), count)
    return ts, {name: float(value) for name, value in last.items()}, step


def finite(metrics: dict[str, float], step: int) -> dict[str, float]:
    """The metrics, unless the loss is not a number any more."""
    if not math.isfinite(metrics['loss']):
        shown = ', '.join(f'{name} {value:.4g}' for name, value in metrics.items())
        raise UserError(
            f'the loss is {metrics["loss"]} at step {step} ({shown}); lower config.optim.lr and use another --workdir'
        )
    return metrics


def pictures(built: Program, data: Seed, ts: TrainState, seed: int, folder: Path) -> None:
    """What the report shows of the first seed: class pairs, and what the network is given."""
    source, draw = built.sets.source, data.made.draw
    if draw is not None and source is not None:
        export.pairs(
            folder, seed, draw,
            built.sets.train.classes, data.train.label, lambda rows: data.train.image[rows],
            source.classes, source.labels, source.read,
        )  # fmt: skip

    def look(step: int) -> Tree:
        return built.seen(
            ts._replace(step=jnp.asarray(step, jnp.int32)), built.start, data.frozen, data.inputs(step, 1)
        )

    # A method may forward inside a transformation of its own; a run does not need the picture.
    with contextlib.suppress(jax.errors.UnexpectedTracerError):
        export.samples(folder / 'samples.npz', look)


# --- results ----------------------------------------------------------------------------------------------------------


def summary(config: Any, folder: Path, label: str, built: Program, seeds: list[int]) -> dict[str, Any]:
    """What `results.json` holds: from the last evaluations in `metrics.jsonl`."""
    final = {
        line['seed']: line
        for line in workdir.lines(folder / 'metrics.jsonl')
        if line['kind'] == 'eval' and line['step'] == config.steps
    }
    rows = program.labelled(config, built.sets, config.seed)
    test = len(built.sets.test.labels) if built.sets.test else len(built.sets.train.labels) - len(rows)
    return {
        'kind': 'run',
        'label': label,
        'method': config.method.name,
        'steps': config.steps,
        'classes': list(built.sets.train.classes),
        'train_examples': len(rows),
        'test_examples': test,
        'seeds': [{'seed': seed, 'accuracy': final[seed]['accuracy'], 'loss': final[seed]['loss']} for seed in seeds],
        'accuracy': spread([final[seed]['accuracy'] for seed in seeds]),
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (n - 1; None for one value) and n."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {'mean': float(np.mean(values)), 'std': std, 'n': len(values)}


def differences(runs: dict[str, dict[str, Any]], baseline: str) -> dict[str, Any]:
    """Accuracy minus the baseline's, paired over seeds: mean, standard error and n."""
    base = [seed['accuracy'] for seed in runs[baseline]['seeds']]
    out = {}
    for label, results in runs.items():
        if label != baseline:
            over = spread([seed['accuracy'] - b for seed, b in zip(results['seeds'], base, strict=True)])
            stderr = None if over['std'] is None else over['std'] / over['n'] ** 0.5
            out[label] = {'mean': over['mean'], 'stderr': stderr, 'n': over['n']}
    return out
