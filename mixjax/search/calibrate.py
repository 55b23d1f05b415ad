"""Calibration of a finished run: a temperature for its probabilities, and a threshold for unknown images.

Both are fitted to predictions for images that the network has not learned from: those of the run's validation part, or
those that folds leave out, for which networks are trained as the run was. They go into `model.json`, where prediction
and exports find them, and `calibration.json` says how well the probabilities fit, before and after.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from mixjax import config as config_lib
from mixjax import inference
from mixjax.config import Config
from mixjax.data.labelled import run_data, split_file, splits
from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.host.storage import Place
from mixjax.maths import selection
from mixjax.rundir import files
from mixjax.search import entries, folds, outcome, trials
from mixjax.search.folds import Folds
from mixjax.train import predictions

FILE, FOLDER = 'calibration.json', 'calibration'
SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5)  # of the images that are kept, for the curve
Say = Callable[[str], None]


class HeldOut(NamedTuple):
    """Predictions for images that were not learned from.

    logits: (n, c). label: (n,). origin: which images they are, in words.
    """

    logits: np.ndarray
    label: np.ndarray
    origin: str


def calibrate(folder: Place, *, count: int = 0, unknown: float = 0.0, say: Say, quiet: bool = False) -> dict[str, Any]:
    """Calibrate the network of a finished run, and return the contents of `calibration.json`.

    Args:
      folder: the run's folder.
      count: number of folds; 0 for the validation part.
      unknown: share of the images of known classes that may be called unknown; 0 calls none so.
      say: prints a line.
      quiet: whether training shows no progress.
    """
    if storage.is_file(folder / 'best.json'):
        raise UserError(f'{folder} is a search of mixjax best, whose network is calibrated by its folds already')
    predictor = inference.load(str(folder))
    if predictor.task.rows:
        raise UserError(f'{folder} is of the task {predictor.task.name}; a temperature is for one class an image')
    held = out_of_fold(folder, count, say, quiet) if count else validation(folder)
    found = outcome.fitted(held.logits, held.label, unknown)
    about = {**files.read_json(folder / 'model.json'), 'temperature': found['temperature']}
    about.pop('unknown', None)
    if unknown:
        about['unknown'] = {'threshold': found['threshold'], 'share': unknown}
    kept: dict[str, Any] = {
        'format': 1,
        **found,
        'origin': held.origin,
        **before_and_after(held.logits, held.label, found['temperature']),
        'kept': kept_against_right(held.logits, held.label),
    }
    test = test_predictions(folder)
    if test is not None:
        kept['test'] = before_and_after(*test, found['temperature'])
    files.write_json(folder / FILE, kept)
    files.write_json(folder / 'model.json', about)
    return kept


def before_and_after(logits: np.ndarray, label: np.ndarray, temperature: float) -> dict[str, Any]:
    """Return how well probabilities fit without and with a temperature."""
    return {
        'examples': len(label),
        'before': selection.calibration(logits, label)._asdict(),
        'after': selection.calibration(logits, label, temperature)._asdict(),
    }


def kept_against_right(logits: np.ndarray, label: np.ndarray) -> list[dict[str, float]]:
    """Return the accuracy on the surest images, for several shares of them."""
    sure = selection.log_softmax(logits).max(1)
    right = (logits.argmax(1) == label)[np.argsort(-sure, kind='stable')]
    counts = [max(1, round(share * len(right))) for share in SHARES]
    return [{'kept': many / len(right), 'right': float(right[:many].mean())} for many in counts]


# --- predictions for images that were not learned from ----------------------------------------------------------------


def validation(folder: Place) -> HeldOut:
    """Return what a run's network says of its validation part."""
    found = inference.validation_set(folder)
    if found is None:
        raise UserError(
            f'{folder} has no validation part, which a temperature could be fitted to: give --folds=5, which trains '
            'five networks as this one was, or train with config.target.val=0.2'
        )
    predictor = inference.load(str(folder))
    return HeldOut(predictor.logits(found.image), found.label, 'validation images')


def test_predictions(folder: Place) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the logits and labels that a run kept of its first seed's test images; None if it kept none."""
    try:
        found = untrusted.arrays(folder / predictions.FILE)
        logits, label = found['logits'][0], np.broadcast_to(found['label'], found['predicted'].shape)[0]
    except (OSError, ValueError, KeyError, IndexError):
        return None
    return (logits, label) if len(label) and np.isfinite(logits).all() else None


def out_of_fold(folder: Place, count: int, say: Say, quiet: bool) -> HeldOut:
    """Train a network for each fold of the labelled images, as the run was, and return what they say of the others."""
    config = config_lib.from_data(files.read_json(folder / 'config.json'))
    sets = run_data.load_sets(config)
    known = np.sort(run_data.draw_rows(config, sets, config.seed).train)
    labels = np.asarray(sets.train.labels)
    sizes = np.bincount(labels[known])
    if sizes.max() < 2:
        raise UserError(f'{folder} has one labelled image of each class, so none can be left out')
    drawn = within(folds.draw(labels[known], known, count=min(count, len(known)), repeats=1), known, len(labels))
    place = folder / FOLDER
    files.create(place)
    none = np.zeros(0, np.int64)
    rows = {fold: splits.Drawn(mine, none, none) for fold, mine in enumerate(drawn.learned)}
    held = split_file.contents(config.target.name, sets.whole, sets.train, sets.rows, dict(sets.stamps), rows)
    files.write_json(place / 'splits.json', held)
    say(f'{drawn.count} networks of {config.steps:,} steps, each without {len(known) // drawn.count:,} images or so')
    trials.train(of_folds(config, str(place / 'splits.json'), drawn.count), place / 'run', 'folds', quiet=quiet)
    logits = entries.read_trial([(place / 'run', range(drawn.count))], drawn, labels, len(sets.train.classes))
    there = ~np.isnan(logits[0, :, 0])
    return HeldOut(logits[0, there], labels[there], f'images that {drawn.count} folds left out')


def within(drawn: Folds, rows: np.ndarray, total: int) -> Folds:
    """Return folds of some rows as folds of all: the others are neither learned from nor counted."""
    held = np.zeros((total, *drawn.held.shape[1:]), bool)
    held[rows] = drawn.held
    return Folds(held, rows[drawn.learned])


def of_folds(config: Config, path: str, count: int) -> Config:
    """Return the config of the runs of folds: the run's own, with the examples of the folds as seeds."""
    config = copy.deepcopy(config)
    with config.unlocked():
        config.target.update(
            {'splits': path, 'test': splits.REST, 'val': 0.0, 'per_class': 0, 'rate': 1.0, 'images': 0, 'counts': (),
             'sampler': splits.SAMPLERS[0], 'classes': 1.0, 'add_rest': False}
        )  # fmt: skip
        config.seed, config.num_seeds, config.keep = 0, count, 'last'
        config.analyse = config.calibrate = config.results = ''
    return config


def runs_of(folder: Place, results: dict[str, Any]) -> Iterable[Place]:
    """Return the folders of the runs of a finished work directory."""
    if results.get('kind') == 'run':
        return [folder]
    return [run for name, one in results['runs'].items() for run in runs_of(folder / name, one)]
