"""Prediction with an exported file: a `Predictor` whose probabilities come from ONNX or StableHLO, not our networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixjax import inference
from mixjax.data.pixels import photo
from mixjax.errors import UserError
from mixjax.export import engine, stablehlo
from mixjax.host import storage, untrusted
from mixjax.inference import Predictor

ONNX = 'model.onnx'
ENGINES = ('onnx', 'stablehlo')


@dataclass(frozen=True)
class ExportedPredictor(Predictor):
    """A predictor by a file.

    function: stored images (n, side, side, C) uint8 -> what a user sees, (n, classes).
    """

    function: Callable[[np.ndarray], np.ndarray] = np.asarray

    def values(self, images: Any) -> np.ndarray:
        """Compute what a user sees: the numbers of a network for regression, else the probabilities."""
        rows = [self.function(block) for block in self._blocks(images)]
        return np.concatenate([np.zeros((0, len(self.classes)), np.float32), *rows])

    def logits(self, images: Any) -> Any:
        """Refuse: a file gives probabilities."""
        raise UserError('an exported file gives probabilities, and no logits; load the run with mixjax.load')

    def features(self, images: Any) -> Any:
        """Refuse: a file gives probabilities."""
        raise UserError('an exported file gives probabilities, and no features; load the run with mixjax.load')


def load(folder: str, name: str, batch: int = 64) -> ExportedPredictor:
    """Open the file of an export.

    Args:
      folder: that of the export.
      name: one of `ENGINES`.
      batch: how many images are predicted at once.
    """
    file = ONNX if name == 'onnx' else stablehlo.FILE
    place = storage.to_place(folder)
    if not storage.is_file(place / file) or not storage.is_file(place / 'model.json'):
        raise UserError(
            f'{folder} has no {file} with its model.json beside it; give --workdir=FOLDER of mixjax export --to={name}'
        )
    try:
        said = untrusted.parse(untrusted.read_regular(place / 'model.json', untrusted.MOST_TEXT))
    except (OSError, ValueError) as error:
        raise UserError(f'{place / "model.json"} cannot be read ({error}); export again') from error
    about, image = inference.described(folder, said)
    rule = photo.check(photo.Rule(image['resize'], image['fit'], image['interpolation'], True, about['channels']))
    function = engine.open_onnx(place / file).probabilities if name == 'onnx' else stablehlo.open_file(place / file)
    task, scale = inference.task_of(folder, about)
    temperature, threshold = inference.calibrated(folder, about)
    network: Any = None  # there is none, but the file's
    return ExportedPredictor(
        tuple(about['classes']), about, rule, network, batch, task, scale, temperature, threshold, function
    )
