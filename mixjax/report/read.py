"""A reader of finished runs and comparisons. A pure function of the files of a folder.

`results.json`, `config.json` and `env.json` must exist, for a comparison also in the folder of
each of its runs; curves, pairs and pictures are shown if their files exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.host.storage import Place
from mixjax.report import analysis_results, calibration, outputs, predictions, tables
from mixjax.report.analysis_results import AnalysisResults
from mixjax.report.outputs import Outputs
from mixjax.report.predictions import Predictions


class Pairs(NamedTuple):
    """Class pairs of the first seed.

    table: the contents of `pairs.json`. target: (c, H, W, C) uint8, one example of each target class;
    source: (c, rounds, H, W, C) uint8, one of each class paired with it; None without pictures.
    """

    table: dict[str, Any]
    target: np.ndarray | None
    source: np.ndarray | None


class Samples(NamedTuple):
    """Part of one training batch, (k, H, W, C) uint8 each; label: (k,).

    image: target images, augmented.
    partner: the same, in the order of the partners.
    source: drawn source images, if any.
    seen: the images that entered the network.
    """

    image: np.ndarray
    partner: np.ndarray
    source: np.ndarray | None
    seen: np.ndarray
    label: np.ndarray


class Run(NamedTuple):
    """One method with all its seeds.

    metrics: the lines of `metrics.jsonl`.
    notes: messages on its data.
    measured: the results of `mixjax analyse`.
    predictions: predictions on the test examples, of classes. outputs: of several labels, or of numbers.
    calibration: the result of `mixjax calibrate`.
    """

    label: str
    results: dict[str, Any]
    config: dict[str, Any]
    metrics: tuple[dict[str, Any], ...]
    pairs: Pairs | None
    samples: Samples | None
    notes: tuple[str, ...] = ()
    measured: AnalysisResults = AnalysisResults()
    predictions: Predictions | None = None
    outputs: Outputs | None = None
    calibration: dict[str, Any] | None = None


class Folder(NamedTuple):
    """A work directory. name: the distinguishing part of its path. measured: measurements of all runs together."""

    name: str
    results: dict[str, Any]
    config: dict[str, Any]
    env: dict[str, Any]
    runs: tuple[Run, ...]
    measured: AnalysisResults = AnalysisResults()

    @property
    def baseline(self) -> str | None:
        """The label that the others are compared with; None for a single run."""
        return self.results.get('baseline')


NUMBER = (int, float)
LARGEST = 2**53
HUGE = 1e300  # of a measure
RUN = {'label': str, 'method': str, 'steps': int, 'classes': list, 'test_examples': int, 'train_examples': int}
RUN_KINDS = {**RUN, 'seeds': list}


class Unfinished(UserError):
    """A run that was begun and is not finished, or is being extended."""


def read(paths: Sequence[str | Place]) -> tuple[Folder, ...]:
    """Read the folders, in the order given; for a sweep, those of its values."""
    folders = [inner for path in paths for inner in run_folders(storage.reachable(path))]
    resolved = [storage.realpath(folder) for folder in folders]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise UserError(f'{folders[index]} is given twice; name each folder once')
    return tuple(_folder(folder, name) for folder, name in zip(folders, names(resolved), strict=True))


def finished(path: Place) -> Place:
    """Return the folder if its run is finished; refuse it otherwise."""
    results, config = _results(path), _json(path / 'config.json')
    if results.get('steps', config.get('steps')) != config.get('steps'):
        raise Unfinished(f'{path} is being extended and not finished; give the command that began it again')
    return path


def run_folders(path: Place) -> list[Place]:
    """Return the folder itself, or for a sweep the folders of its values."""
    results = _results(path)
    if results['kind'] != 'sweep':
        return [path]
    inside = [path / name for name in results['runs']]
    steps = {results.get('steps'), *(_results(folder).get('steps') for folder in inside)} - {None}
    if len(steps) > 1:
        raise Unfinished(f'{path} is being extended and not finished; give the command that began it again')
    return inside


def names(paths: Sequence[Place]) -> list[str]:
    """Return the last parts of each path, as many as distinguish it from the others; never a whole path."""
    for depth in range(1, max((len(path.parts) for path in paths), default=0) + 1):
        names = ['/'.join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return []


def _folder(path: Place, name: str) -> Folder:
    results = _results(finished(path))
    config, env = _json(path / 'config.json'), _json(path / 'env.json')
    if results['kind'] == 'run':
        return Folder(name, results, config, env, (_run(path, results['label'], results),))
    runs = [_run(path / label, label, _results(path / label)) for label in results['runs']]
    return Folder(name, results, config, env, tuple(runs), analysis_results.read(path))


def _run(path: Place, label: str, results: dict[str, Any]) -> Run:
    metrics = tuple(_lines(path / 'metrics.jsonl'))
    more = _pairs(path), _samples(path), _notes(path), analysis_results.read(path)
    rows = 'task' in results
    found = (None, outputs.read(path, results)) if rows else (predictions.read(path, results), None)
    return Run(label, results, _json(path / 'config.json'), metrics, *more, *found, calibration.read(path))


def _notes(path: Place) -> tuple[str, ...]:
    """Return the lines of `data.json`, if it exists."""
    file = path / 'data.json'
    found = _json(file) if file.exists() else {'notes': []}
    _check(found, {'notes': list}, file)
    return tuple(map(str, found['notes']))


# --- results.json -----------------------------------------------------------------------------------------------------


def _results(path: Place) -> dict[str, Any]:
    file = path / 'results.json'
    if not path.is_dir():
        raise UserError(f'{path} is not a folder; give the --workdir of a finished run')
    if not file.exists() and not (path / 'config.json').exists():
        raise UserError(f'{path} is not a work directory: config.json and results.json are missing')
    if not file.exists():
        raise Unfinished(f'{path} is not finished: results.json is missing; give the command that began it again')
    results = _json(file)
    if results.get('kind') == 'run':
        _check_run(results, file)
    elif results.get('kind') == 'comparison':
        _check_comparison(results, file)
    elif results.get('kind') == 'sweep':
        _check(results, {'key': str, 'runs': dict}, file)
        for name in results['runs']:
            check_name(name, file)
    else:
        raise UserError(f"{file} is not a result of mixjax: 'kind' must be 'run', 'comparison' or 'sweep'")
    return results


def _check(data: Mapping[str, Any], kinds: Mapping[str, Any], file: Place) -> None:
    for key, kind in kinds.items():
        fits = isinstance(data, Mapping) and key in data and isinstance(data[key], kind)
        if not fits or isinstance(data[key], NUMBER) and not abs(data[key]) < LARGEST:  # NaN is not below it
            raise UserError(f'{file} is damaged: {key!r} is missing or of the wrong kind; remove it and run again')


def _check_run(results: Mapping[str, Any], file: Place) -> None:
    _check(results, RUN_KINDS, file)
    if 'task' in results or 'primary' in results:
        _check_task(results, file)
    else:
        _check(results, {'accuracy': dict}, file)
        known = NUMBER if results['test_examples'] else type(None)  # nothing was tested (config.target.test=none)
        _check(results['accuracy'], {'mean': known, 'std': (*NUMBER, type(None)), 'n': int}, file)
        for seed in results['seeds']:
            _check(seed, {'seed': int, 'accuracy': known}, file)
    for name in ('top5', 'mean_per_class'):  # not in runs of older versions
        if name in results:
            _check(results, {name: dict}, file)
            _check(results[name], {'mean': NUMBER}, file)
    own = results.get('measures', {})
    _check({'measures': own}, {'measures': dict}, file)
    for name, found in own.items():
        _check(own, {name: dict}, file)
        _check_measure(name, found, file)
    if not results['seeds'] or not all(isinstance(name, str) for name in results['classes']):
        raise UserError(f"{file} is damaged: 'seeds' is empty, or 'classes' is not a list of names")


def _check_task(results: Mapping[str, Any], file: Place) -> None:
    """Check the measures of a task other than classification."""
    _check(results, {'task': str, 'primary': str, 'higher_is_better': bool}, file)
    if results['task'] not in ('multi_label', 'regression') or results['primary'] == 'accuracy':
        raise UserError(f'{file} is of a task {results["task"][:80]!r}, which this version of mixjax does not know')
    for name in (results['primary'], *tables.more_of(results)):
        _check(results, {name: dict}, file)
        _check_measure(name, results[name], file)
    for seed in results['seeds']:
        _check(seed, {'seed': int}, file)
        _check_measure(results['primary'], {'mean': seed.get(results['primary']), 'std': None, 'n': 1}, file)


def _check_measure(name: str, found: Mapping[str, Any], file: Place) -> None:
    """Check mean, deviation and n of a measure, which may be any finite number, or not known."""
    _check(found, {'n': int}, file)
    for value in (found.get('mean'), found.get('std')):
        number = isinstance(value, NUMBER) and not isinstance(value, bool) and abs(value) < HUGE
        if value is not None and not number:
            raise UserError(f'{file} is damaged: {name[:80]!r} is no number; remove it and run again')


def check_name(name: str, file: Place) -> None:
    """Refuse a result's label that is not a plain name of a sub-folder, such as one that leads elsewhere."""
    long = len(name.encode('utf-8', 'surrogatepass')) > 255
    if name in ('', '.', '..') or '/' in name or '\\' in name or '\0' in name or long:
        raise UserError(f'{file} is damaged: {name[:80]!r} cannot be the name of a sub-folder')


def _check_comparison(results: Mapping[str, Any], file: Place) -> None:
    _check(results, {'baseline': str, 'runs': dict, 'differences': dict}, file)
    for label, run in results['runs'].items():
        check_name(label, file)
        _check(results['runs'], {label: dict}, file)
        _check_run(run, file)
    for difference in results['differences'].values():
        _check(difference, {'mean': NUMBER, 'stderr': (*NUMBER, type(None)), 'n': int}, file)
    if results['baseline'] not in results['runs']:
        raise UserError(f'{file} is damaged: there is no run of the baseline {results["baseline"]!r}')


# --- files ------------------------------------------------------------------------------------------------------------


def _json(path: Place) -> dict[str, Any]:
    try:
        data = untrusted.parse(untrusted.read_regular(path, untrusted.MOST_TEXT))
    except FileNotFoundError:
        raise UserError(f'{path.parent} is not complete: {path.name} is missing') from None
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    if not isinstance(data, dict):
        raise UserError(f'{path} is damaged: it holds no JSON object')
    return data


def _lines(path: Place) -> list[dict[str, Any]]:
    """Return the complete lines; skip one that a dying process left half-written, and a missing file."""
    found = []
    try:
        texts = untrusted.read_regular(path).splitlines() if path.exists() else []
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    for text in texts:
        try:
            line = untrusted.parse(text)
        except ValueError:
            continue
        if isinstance(line, dict) and type(line.get('seed')) is type(line.get('step')) is int and 'kind' in line:
            found.append(line)
    return found


def _arrays(path: Place, names: Mapping[str, int], optional: Sequence[str] = ()) -> dict[str, np.ndarray] | None:
    """Read pictures of an .npz, each with its number of dimensions; None if there is no such file."""
    if not path.exists():
        return None
    try:
        found = untrusted.arrays(path)
        arrays = {name: found[name] for name in names if name in found or name not in optional}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    for name, array in arrays.items():
        picture = names[name] > 1
        if array.ndim != names[name] or picture and (array.dtype != np.uint8 or array.shape[-1] not in (1, 3)):
            raise UserError(f'{path} is damaged: {name!r} holds no pictures ({array.dtype} {array.shape})')
    return arrays


def _pairs(path: Place) -> Pairs | None:
    file = path / 'pairs.json'
    if not file.exists():
        return None
    table = _json(file)
    _check(table, {'pairs': list}, file)
    for pair in table['pairs']:
        _check(pair, {'target': str, 'sources': list, 'similarity': list}, file)
        for name in pair['sources']:
            _check({'sources': name}, {'sources': str}, file)
        for value in pair['similarity']:
            _check({'similarity': value}, {'similarity': NUMBER}, file)
    arrays = _arrays(path / 'pairs.npz', {'target': 4, 'source': 5})
    if arrays is None:
        return Pairs(table, None, None)
    rounds = max((len(pair['sources']) for pair in table['pairs']), default=0)
    target, source = arrays['target'], arrays['source']
    if not len(table['pairs']) == len(target) == len(source) or source.shape[1] < rounds:
        raise UserError(f'{path / "pairs.npz"} does not fit {file.name}: {len(table["pairs"])} pairs, {target.shape}')
    return Pairs(table, target, source)


def _samples(path: Place) -> Samples | None:
    names = {'image': 4, 'partner': 4, 'source': 4, 'seen': 4, 'label': 1}
    arrays = _arrays(path / 'samples.npz', names, optional=('source',))
    if arrays is None:
        return None
    if len({len(array) for array in arrays.values()}) > 1:
        raise UserError(f'{path / "samples.npz"} is damaged: its arrays differ in length')
    return Samples(arrays['image'], arrays['partner'], arrays.get('source'), arrays['seen'], arrays['label'])
