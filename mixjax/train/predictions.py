"""The predictions of each seed's kept network on the test examples: `predictions.npz`, for the report.

  seed, step       (k,) the seeds in the file, and the step of each
  predicted        (k, n) the predicted class of each test example
  probability      (k, n) float32, of that class
  label            (k, n) the true classes; (n,) if all seeds are tested on the same examples
  shown, image     the first seed's most confident mistakes: which examples, (m,), and pictures, (m, H, W, C) uint8

It is written with its evaluation, before the checkpoint of that step, a few seeds at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mixjax.host import untrusted
from mixjax.host.processes import only_first
from mixjax.host.storage import Place
from mixjax.rundir import files
from mixjax.rundir.thumbnail import shrink
from mixjax.train import seeds
from mixjax.train.evaluate import Each
from mixjax.train.program import Program

FILE = 'predictions.npz'
SHOWN, SIDE = 12, 96  # maximum number of pictures, and maximum height and width of each


class Row(NamedTuple):
    """The predictions of one seed."""

    step: int
    predicted: np.ndarray
    probability: np.ndarray
    label: np.ndarray


@only_first
def keep(built: Program, folder: Place, step: int, said: Mapping[int, Each]) -> None:
    """Write the predictions of some seeds at a step into the file, in place of their earlier ones.

    Args:
      built: the run's programs.
      folder: the run's folder.
      step: the step of the predictions.
      said: {seed: its predictions}.
    """
    if not said:
        return
    path, shared = folder / FILE, built.sets.test is not None
    rows, pictures = before(path)
    for seed, each in said.items():
        test = seeds.test_images(built, seed)
        sure = np.nan_to_num(np.asarray(each.probability, np.float32))
        rows[seed] = Row(step, np.asarray(each.predicted), sure, test.label)
        if seed == built.config.seed:
            worst = mistakes(rows[seed])
            pictures = {'shown': worst.astype(np.int32), 'image': thumbnails(test.image[worst])}
    many = len(seeds.test_images(built, next(iter(said))).label)
    rows = {seed: rows[seed] for seed in sorted(rows) if len(rows[seed].label) == many}
    small = np.min_scalar_type(len(built.sets.train.classes) - 1)
    labels = [row.label for row in rows.values()]
    files.write_arrays(
        path,
        {
            'seed': np.array(list(rows), np.int64),
            'step': np.array([row.step for row in rows.values()], np.int64),
            'predicted': np.stack([row.predicted for row in rows.values()]).astype(small),
            'probability': np.stack([row.probability for row in rows.values()]),
            'label': (labels[0] if shared else np.stack(labels)).astype(small),
            **pictures,
        },
    )


def mistakes(row: Row, most: int = SHOWN) -> np.ndarray:
    """Return the indices of wrong predictions, the most confident first; of equal ones the first comes first."""
    wrong = np.flatnonzero(row.predicted != row.label)
    return wrong[np.argsort(-row.probability[wrong], kind='stable')][:most]


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Return (m, H, W, C) uint8 images, shrunk to `SIDE`; m may be 0."""
    return np.stack([shrink(image, SIDE) for image in images]) if len(images) else images[:, :1, :1]


def before(path: Place) -> tuple[dict[int, Row], dict[str, Any]]:
    """Read the seeds and the pictures of a file; nothing if it is missing or cannot be read."""
    try:
        found = untrusted.arrays(path) if path.exists() else {}
        label = np.broadcast_to(found['label'], found['predicted'].shape) if found else []
        each = zip(found['step'], found['predicted'], found['probability'], label, strict=True) if found else ()
        every = zip(found.get('seed', ()), each, strict=True)
        rows = {int(seed): Row(int(step), *rest) for seed, (step, *rest) in every}
    except (OSError, ValueError, KeyError, TypeError):
        return {}, {}
    return rows, {name: found[name] for name in ('shown', 'image') if name in found}
