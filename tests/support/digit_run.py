"""A run on a folder of handwritten digits: class means on the embedded network, made in seconds."""

from __future__ import annotations

from pathlib import Path

from mixjax import config as config_lib
from mixjax.train import experiment
from tests.support.digits import write_digits


def train_on_digits(folder: Path, per_class: int = 8, names: dict[str, str] | None = None) -> Path:
    """Write `folder/photos`, some of four digits, and train on it; returns the work directory, `folder/run`.

    names: other names for some of the digits' folders.
    """
    photos = write_digits(folder / 'photos', per_class)
    for old, new in (names or {}).items():
        (photos / old).rename(photos / new)
    own = {
        'target.dir': str(photos), 'method.name': 'probe', 'method.kind': 'means', 'model.name': 'glyphnet',
        'model.weights': 'embedded://glyphnet', 'steps': '1', 'eval_every': '1', 'checkpoint_every': '1',
        'log_every': '1', 'devices': '1', 'batch_size': '8', 'eval_batch_size': '8', 'keep': 'last',
    }  # fmt: skip
    config = config_lib.load('folder', list(own.items()))
    experiment.run(config, folder / 'run', progress=False)
    return folder / 'run'
