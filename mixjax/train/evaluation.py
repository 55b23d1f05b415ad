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
from mixjax.data.labelled import splits
from mixjax.errors import UserError
from mixjax.host.processes import by_first, only_first
from mixjax.host.storage import Place
from mixjax.rundir import files
from mixjax.tasks import CLASSIFICATION, Task
from mixjax.train import accuracy, export, mesh, nan_guard, predictions
from mixjax.train.program import Program
from mixjax.train.seed_batch import SeedBatch
from mixjax.train.seeds import test_images, val_images
from mixjax.train.step import TrainState

Tree = Any


def check(program: Program) -> None:
    """Refuse to keep the best network without a validation part."""
    config = program.config
    if config.keep == 'best' and config.target.test == splits.NOTHING:
        raise UserError(
            'config.target.test=none learns from all examples and evaluates nothing, so the last network is kept '
            '(config.keep=last)'
        )
    if config.keep == 'best' and not val_count(program, config.seed):
        raise UserError(
            f'config.keep=best chooses by the {program.task.primary} on a validation part, and there is none; hold out '
            'a share of the labelled examples (config.target.val=0.2), or keep the last (config.keep=last)'
        )


def val_count(program: Program, seed: int) -> int:
    """Return the number of validation examples of a seed."""
    return len(program.sets.val.labels) if program.sets.val else len(program.draw(seed).rows.val)


def evaluate_and_log(program: Program, folder: Place, step: int, ts: TrainState, placed: SeedBatch) -> None:
    """Evaluate all seeds and log it; keep the predictions of the seeds whose best step so far this is.

    The first seed's network is exported if it is the best so far.

    Args:
      program: the run's programs.
      folder: the run's folder.
      step: number of steps done.
      ts: the state of all trials.
      placed: the seeds on the devices.
    """
    metrics, config, together = folder / 'metrics.jsonl', program.config, placed.seeds
    variables = program.evaluated(ts)
    said: list[Any] = []
    for kind, program_of, images in (('eval', program.evaluate, placed.test), ('val', program.validate, placed.val)):
        labels = labels_of(program, together, kind) if images.count else ()
        if kind == 'eval' and images.count and (config.keep == 'best' or step == config.steps):
            found, said = accuracy.measure_each(program_of, variables, *images, program.task, labels)
        elif images.count:
            found = accuracy.measure(program_of, variables, *images, program.task, labels)
        else:
            found = []
        for seed, line in zip(together, found, strict=False):
            files.append(metrics, {'seed': seed, 'step': step, 'kind': kind, **nan_guard.plain(line)})
    result = [seed for seed, at in result_steps(config, folder, together).items() if said and at == step]
    predictions.save(program, folder, step, {seed: said[together.index(seed)] for seed in result})
    if config.keep == 'best' and config.seed in result:
        export_network(program, folder, mesh.take_trial(variables, together.index(config.seed)), step)


def labels_of(program: Program, together: Sequence[int], kind: str) -> list[accuracy.Labels]:
    """Return the labels of each seed's test or validation examples; none for a task whose measures need none.

    Args:
      program: the run's programs.
      together: the seeds.
      kind: 'eval' or 'val'.
    """
    if not program.task.rows:
        return []
    images = test_images if kind == 'eval' else val_images
    found = [(seed, images(program, seed)) for seed in together]
    names = program.sets.train.classes
    return [accuracy.Labels(some.label, program.scale(seed), names) for seed, some in found if some is not None]


@by_first
def best_steps(folder: Place, task: Task = CLASSIFICATION) -> dict[int, int]:
    """Return {seed: the step at which its primary measure on the validation part is best, the last of equals}."""
    found: dict[int, dict[str, Any]] = {}
    for line in sorted(files.read_lines(folder / 'metrics.jsonl'), key=lambda line: line['step']):
        if line['kind'] == 'val':
            before = found.setdefault(line['seed'], line)
            if not task.better(before[task.primary], line[task.primary]):
                found[line['seed']] = line
    return {seed: line['step'] for seed, line in found.items()}


def result_steps(config: Any, folder: Place, seeds: Sequence[int]) -> dict[int, int]:
    """Return {seed: the step of its resulting network}; so far, for a seed in training that keeps the best."""
    known = best_steps(folder, tasks.of(config.target.task)) if config.keep == 'best' else {}
    return {seed: known[seed] if config.keep == 'best' else config.steps for seed in seeds}


def export_network(program: Program, folder: Place, variables: Tree, step: int, whole: bool = False) -> None:
    """Export a network.

    Args:
      program: the run's programs.
      folder: the run's folder.
      variables: the evaluated variables of one seed.
      step: the step of the network.
      whole: export all heads, and not only the ones that prediction needs.
    """
    images = program.sets.train
    channels = images.read(np.arange(1)).shape[-1]
    scale, licence = program.scale(program.config.seed), program.shared.licence
    about = export.About(images.classes, channels, program.task, scale, licence)
    export.write_model(folder, program.config, program.method, mesh.to_local_device(variables), about, step, whole)


def snapshot(program: Program, folder: Place, together: Sequence[int], ts: TrainState, step: int) -> None:
    """Keep the first seed's network of this step, with all its heads, in a folder for this step."""
    place = folder / 'snapshots' / str(step)
    files.create(place)
    mine = mesh.take_trial(program.evaluated(ts), together.index(program.config.seed))
    export_network(program, place, mine, step, whole=True)


def export_last(program: Program, folder: Place, together: list[int], ts: TrainState) -> None:
    """Export the first seed's network at the last step, unless that has been done."""
    config = program.config
    if export.is_current(folder, config.steps):
        return
    if config.keep == 'last':
        mine = mesh.take_trial(program.evaluated(ts), together.index(config.seed))
        export_network(program, folder, mine, config.steps)
    else:
        mark_still_best(folder, config.steps)


@only_first
def mark_still_best(folder: Place, steps: int) -> None:
    """Mark the exported network as still the best after the run was extended."""
    path = folder / 'model.json'
    files.write_json(path, {**files.read_json(path), 'steps': steps})
