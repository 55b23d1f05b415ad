"""Evaluations during training, and the choice of the step whose network is kept.

The validation part, if there is one, is evaluated at the same steps as the test part. With `keep='best'` the
network of the step with the best primary measure on the validation part (for classification the highest accuracy), the
last of equals, is the result of the run: its measures are reported, and it is exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mixjax import tasks
from mixjax.errors import UserError
from mixjax.host.processes import by_first, only_first
from mixjax.host.storage import Place
from mixjax.rundir import files
from mixjax.tasks import CLASSIFICATION, Task
from mixjax.train import evaluate, export, mesh, nan_guard, predictions
from mixjax.train.program import Program
from mixjax.train.seed_batch import SeedBatch
from mixjax.train.seeds import test_images, val_images
from mixjax.train.step import TrainState

Tree = Any


def check(built: Program) -> None:
    """Refuse to keep the best network without a validation part."""
    config = built.config
    if config.keep == 'best' and not val_count(built, config.seed):
        raise UserError(
            f'config.keep=best chooses by the {built.task.primary} on a validation part, and there is none; hold out a '
            'share of the labelled examples (config.target.val=0.2), or keep the last (config.keep=last)'
        )


def val_count(built: Program, seed: int) -> int:
    """Return the number of validation examples of a seed."""
    return len(built.sets.val.labels) if built.sets.val else len(built.draw(seed).rows.val)


def evaluate_and_log(built: Program, folder: Place, step: int, ts: TrainState, placed: SeedBatch) -> None:
    """Evaluate all seeds and log it; keep the predictions of the seeds whose best step so far this is.

    The first seed's network is exported if it is the best so far.

    Args:
      built: the run's programs.
      folder: the run's folder.
      step: number of steps done.
      ts: the state of all trials.
      placed: the seeds on the devices.
    """
    metrics, config, together = folder / 'metrics.jsonl', built.config, placed.seeds
    variables = built.evaluated(ts)
    said: list[Any] = []
    for kind, program_of, images in (('eval', built.evaluate, placed.test), ('val', built.validate, placed.val)):
        labels = labels_of(built, together, kind) if images.count else ()
        if kind == 'eval' and images.count and (config.keep == 'best' or step == config.steps):
            found, said = evaluate.run_each(program_of, variables, *images, built.task, labels)
        elif images.count:
            found = evaluate.run(program_of, variables, *images, built.task, labels)
        else:
            found = []
        for seed, line in zip(together, found, strict=False):
            files.append(metrics, {'seed': seed, 'step': step, 'kind': kind, **nan_guard.plain(line)})
    result = [seed for seed, at in kept(config, folder, together).items() if said and at == step]
    predictions.keep(built, folder, step, {seed: said[together.index(seed)] for seed in result})
    if config.keep == 'best' and config.seed in result:
        keep(built, folder, mesh.take(variables, together.index(config.seed)), step)


def labels_of(built: Program, together: Sequence[int], kind: str) -> list[evaluate.Labels]:
    """Return the labels of each seed's test or validation examples; none for a task whose measures need none.

    Args:
      built: the run's programs.
      together: the seeds.
      kind: 'eval' or 'val'.
    """
    if not built.task.rows:
        return []
    images = test_images if kind == 'eval' else val_images
    found = [(seed, images(built, seed)) for seed in together]
    names = built.sets.train.classes
    return [evaluate.Labels(some.label, built.scale(seed), names) for seed, some in found if some is not None]


@by_first
def best(folder: Place, task: Task = CLASSIFICATION) -> dict[int, int]:
    """Return {seed: the step at which its primary measure on the validation part is best, the last of equals}."""
    found: dict[int, dict[str, Any]] = {}
    for line in sorted(files.lines(folder / 'metrics.jsonl'), key=lambda line: line['step']):
        if line['kind'] == 'val':
            before = found.setdefault(line['seed'], line)
            if not task.better(before[task.primary], line[task.primary]):
                found[line['seed']] = line
    return {seed: line['step'] for seed, line in found.items()}


def kept(config: Any, folder: Place, seeds: Sequence[int]) -> dict[int, int]:
    """Return {seed: the step of its resulting network}; so far, for a seed in training that keeps the best."""
    known = best(folder, tasks.of(config.target.task)) if config.keep == 'best' else {}
    return {seed: known[seed] if config.keep == 'best' else config.steps for seed in seeds}


def keep(built: Program, folder: Place, variables: Tree, step: int, whole: bool = False) -> None:
    """Export a network.

    Args:
      built: the run's programs.
      folder: the run's folder.
      variables: the evaluated variables of one seed.
      step: the step of the network.
      whole: export all heads, and not only the ones that prediction needs.
    """
    images = built.sets.train
    channels = images.read(np.arange(1)).shape[-1]
    about = export.About(images.classes, channels, built.task, built.scale(built.config.seed))
    export.model(folder, built.config, built.method, mesh.here(variables), about, step, whole)


def snapshot(built: Program, folder: Place, together: Sequence[int], ts: TrainState, step: int) -> None:
    """Keep the first seed's network of this step, with all its heads, in a folder for this step."""
    place = folder / 'snapshots' / str(step)
    files.create(place)
    keep(built, place, mesh.take(built.evaluated(ts), together.index(built.config.seed)), step, whole=True)


def export_last(built: Program, folder: Place, together: list[int], ts: TrainState) -> None:
    """Export the first seed's network at the last step, unless that has been done."""
    config = built.config
    if export.is_of(folder, config.steps):
        return
    if config.keep == 'last':
        keep(built, folder, mesh.take(built.evaluated(ts), together.index(config.seed)), config.steps)
    else:
        still(folder, config.steps)


@only_first
def still(folder: Place, steps: int) -> None:
    """Mark the exported network as still the best after the run was extended."""
    path = folder / 'model.json'
    files.write_json(path, {**files.read_json(path), 'steps': steps})
