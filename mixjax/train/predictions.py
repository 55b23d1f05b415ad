"""The predictions of each seed's kept network on the test examples: `predictions.npz`, for the report.

  seed, step       (k,) the seeds in the file, and the step of each
  predicted        (k, n) the predicted class of each test example
  probability      (k, n) float32, of that class
  label            (k, n) the true classes; (n,) if all seeds are tested on the same examples
  logits           (k, n, classes) float32, unless n * classes is above `MOST_LOGITS`
  shown, image     the first seed's most confident mistakes: which examples, (m,), and pictures, (m, H, W, C) uint8

Of a task whose labels are rows it has, in the place of the predicted class and its probability,

  value            (k, n, outputs) float32 probabilities of labels, or float64 numbers in their units
  label            (k, n, outputs) or (n, outputs) true ones
  shown, image     the first seed's examples with the largest loss

It is written with its evaluation, before the checkpoint of that step, a few seeds at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mixjax.host import untrusted
from mixjax.host.processes import only_first
from mixjax.host.storage import Place
from mixjax.rundir import files
from mixjax.rundir.thumbnail import shrink
from mixjax.tasks import CLASSIFICATION, Task
from mixjax.tasks.classification import Each
from mixjax.train import seeds
from mixjax.train.program import Program

FILE = 'predictions.npz'
# The arrays of each example, of classes and of a task whose labels are rows.
FIELDS = {False: ('predicted', 'probability'), True: ('value',)}
MOST_LOGITS = 1 << 20  # 4 MiB for each seed
SHOWN, SIDE = 12, 96  # maximum number of pictures, and maximum height and width of each


class Row(NamedTuple):
    """The predictions of one seed. found: {name in the file: of each example}."""

    step: int
    found: dict[str, np.ndarray]
    label: np.ndarray


@only_first
def save(program: Program, folder: Place, step: int, said: Mapping[int, Any]) -> None:
    """Write the predictions of some seeds at a step into the file, in place of their earlier ones.

    Args:
      program: the run's programs.
      folder: the run's folder.
      step: the step of the predictions.
      said: {seed: its predictions}.
    """
    if not said:
        return
    path, shared, task = folder / FILE, program.sets.test is not None, program.task
    rows, pictures = read_saved(path, task)
    for seed, each in said.items():
        test = seeds.test_images(program, seed)
        rows[seed] = of_rows(program, seed, step, each, test.label) if task.rows else of_classes(step, each, test.label)
        if seed == program.config.seed:
            worst = largest_losses(program, seed, each, test.label) if task.rows else mistakes(rows[seed])
            pictures = {'shown': worst.astype(np.int32), 'image': thumbnails(test.image[worst])}
    many = len(seeds.test_images(program, next(iter(said))).label)
    rows = {seed: rows[seed] for seed in sorted(rows) if len(rows[seed].label) == many}
    labels, found = [row.label for row in rows.values()], [row.found for row in rows.values()]
    small = labels[0].dtype if task.rows else np.min_scalar_type(len(program.sets.train.classes) - 1)
    # Seeds of a run that an earlier version began have no logits.
    shared_names = [name for name in found[0] if all(name in one for one in found)]
    each = {name: np.stack([one[name] for one in found]) for name in shared_names}
    files.write_arrays(
        path,
        {
            'seed': np.array(list(rows), np.int64),
            'step': np.array([row.step for row in rows.values()], np.int64),
            **{name: values.astype(small) if name == 'predicted' else values for name, values in each.items()},
            'label': (labels[0] if shared else np.stack(labels)).astype(small),
            **pictures,
        },
    )


def of_classes(step: int, each: Each, label: np.ndarray) -> Row:
    """Return the predictions of one seed: the likeliest class of each example, its probability, and the logits."""
    sure, logits = np.nan_to_num(np.asarray(each.probability, np.float32)), np.asarray(each.logits, np.float32)
    few = {'logits': logits} if logits.size <= MOST_LOGITS else {}
    return Row(step, {'predicted': np.asarray(each.predicted), 'probability': sure, **few}, label)


def of_rows(program: Program, seed: int, step: int, each: Any, label: np.ndarray) -> Row:
    """Return the predictions of one seed: what a user sees of each example, (n, outputs)."""
    return Row(step, {'value': program.task.values(np.asarray(each), program.scale(seed))}, label)


def largest_losses(program: Program, seed: int, each: Any, label: np.ndarray) -> np.ndarray:
    """Return the indices of the examples with the largest loss; of equal ones the first comes first."""
    loss = program.task.loss(jnp.asarray(each), jnp.asarray(program.task.fed(label, program.scale(seed))))
    return np.argsort(-np.nan_to_num(np.asarray(loss)), kind='stable')[:SHOWN]


def mistakes(row: Row, most: int = SHOWN) -> np.ndarray:
    """Return the indices of wrong predictions, the most confident first; of equal ones the first comes first."""
    wrong = np.flatnonzero(row.found['predicted'] != row.label)
    return wrong[np.argsort(-row.found['probability'][wrong], kind='stable')][:most]


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Return (m, H, W, C) uint8 images, shrunk to `SIDE`; m may be 0."""
    return np.stack([shrink(image, SIDE) for image in images]) if len(images) else images[:, :1, :1]


def read_saved(path: Place, task: Task = CLASSIFICATION) -> tuple[dict[int, Row], dict[str, Any]]:
    """Read the seeds and the pictures of a file; nothing if it is missing or cannot be read."""
    try:
        found = untrusted.arrays(path) if path.exists() else {}
        names = [*FIELDS[task.rows], *(['logits'] if 'logits' in found else [])]
        label = np.broadcast_to(found['label'], found[names[0]].shape) if found else []
        each = zip(found['step'], *(found[name] for name in names), label, strict=True) if found else ()
        every = zip(found.get('seed', ()), each, strict=True)
        rows = {
            int(seed): Row(int(step), dict(zip(names, values, strict=True)), its)
            for seed, (step, *values, its) in every
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}, {}
    return rows, {name: found[name] for name in ('shown', 'image') if name in found}
