"""Measures the runs in a work directory and stores the results in it.

`analysis.json` of a folder is {what: {numbers, 'n', 'settings'}}; arrays for pictures are in `analysis-<what>.npz`
beside it. Measuring again replaces the measures that were asked for and keeps the others.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixjax.analysis import measures, opened, pictures, sweep
from mixjax.analysis.measures import Asked, Found
from mixjax.analysis.opened import Run
from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.report.read import check_name, read
from mixjax.rundir import files
from mixjax.train.results import spread

FILE = 'analysis.json'
# The measures of each run ..
OF_RUNS: dict[str, Callable[[Run, Asked], Found]] = {
    'interpolation': measures.interpolation,
    'spectrum': measures.singular_values,
    'probe': measures.forgetting,
    'targets': pictures.targets,
    'cam': pictures.activation,
    'plane': pictures.plane,
    'curves': measures.curves,
}
# .. and of all runs of a folder together.
OF_FOLDERS = ('sweep',)
WHAT = (*OF_RUNS, *OF_FOLDERS)


class Measured(NamedTuple):
    """Result of one measure of one folder.

    Attributes:
      label: label of the run, or the folder's name.
      what: name of the measure.
      numbers: the entry in `analysis.json`; empty where the measure failed.
      notes: messages to show.
      lacking: the reason why the measure failed; '' where it did not.
    """

    label: str
    what: str
    numbers: Mapping[str, Any]
    notes: Sequence[str]
    lacking: str = ''


def measure(folder: Place, what: Sequence[str], asked: Asked) -> Iterator[Measured]:
    """Measure a run, all runs of a comparison, or all of a sweep; write the results, one measure at a time.

    Args:
      folder: the work directory.
      what: names of measures, from `WHAT`.
      asked: the settings of the command.

    Returns:
      A `Measured` for each run and measure.
    """
    # The folder itself may be a symbolic link; files in it are never written through one.
    return _measure(storage.resolve_links(folder), what, asked)


def _measure(folder: Place, what: Sequence[str], asked: Asked) -> Iterator[Measured]:
    kind = results_of(folder)['kind']
    if kind == 'run':
        run = opened.open_run(folder)
        for name in what:
            if name in OF_RUNS:
                yield _kept(folder, folder.name, name, lambda name=name: OF_RUNS[name](run, asked))
            else:
                yield Measured(folder.name, name, {}, (), f'{folder} is one run; a sweep is of a comparison')
        return
    if 'sweep' in what:
        yield _kept(folder, folder.name, 'sweep', lambda: swept(folder, asked))
    for name in results_of(folder)['runs']:
        for one in _measure(folder / name, [one for one in what if one in OF_RUNS], asked):
            yield one if kind == 'comparison' else one._replace(label=f'{name}/{one.label}'.removesuffix(f'/{name}'))


def _kept(folder: Place, label: str, what: str, make: Callable[[], Found]) -> Measured:
    try:
        found = make()
    except UserError as error:
        return Measured(label, what, {}, (), str(error))
    path = folder / FILE
    before = files.read_json(path) if path.exists() else {}
    arrays = folder / f'analysis-{what}.npz'
    try:
        if found.arrays:
            files.write_arrays(arrays, {name: np.asarray(array) for name, array in found.arrays.items()})
        files.write_json(path, {**before, what: found.numbers})
    except OSError as error:
        raise UserError(f'{folder} cannot be written to: {error.strerror}') from error
    return Measured(label, what, found.numbers, found.notes)


def known(folder: Place, what: Sequence[str]) -> bool:
    """Return whether each of the measures is stored in this folder or, for a measure of runs, in one of its runs."""
    own = set(files.read_json(folder / FILE)) if (folder / FILE).exists() else set()
    inside = [folder / name for name in results_of(folder).get('runs', {})]
    return all(name in own or name in OF_RUNS and any(known(one, [name]) for one in inside) for name in what)


def results_of(folder: Place) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder; give the --workdir of a finished run')
    path = folder / 'results.json'
    if not path.exists():
        begun = (folder / 'config.json').exists()
        then = 'give the command that began it again' if begun else 'give the --workdir of a finished run'
        raise UserError(f'{folder} holds no finished run (there is no results.json): {then}')
    results = files.read_json(path)
    kind = results.get('kind') if isinstance(results, dict) else None
    if kind not in ('run', 'comparison', 'sweep') or kind != 'run' and not isinstance(results.get('runs'), dict):
        raise UserError(f'{path} is not a result of mixjax; give the --workdir of a finished run')
    for name, one in [('', results), *results.get('runs', {}).items()]:
        if isinstance(one, dict) and 'task' in one:
            raise UserError(f'{path} is of the task {one["task"]}; what is measured needs one class for each image')
        if name:
            check_name(name, path)  # arrays and numbers are written there
    return results


def swept(folder: Place, asked: Asked) -> Found:
    """Return accuracy as a function of one number: that of `config.sweep`, or the one in which runs differ.

    In the result `curves` has a list for each method that was swept, `others` the other runs of a comparison.
    """
    if results_of(folder)['kind'] == 'sweep':
        key, found = results_of(folder)['key'], read([folder])
        numbers = [float(_at(one.config, key)) for one in found]
        curves = {run.label: [one.runs[k].results['accuracy'] for one in found] for k, run in enumerate(found[0].runs)}
        others: dict[str, Any] = {}
    else:
        (one,) = read([folder])
        results = {run.label: run.results for run in one.runs}
        notes = {label: _noted(each) for label, each in results.items()}
        knob = sweep.knob({run.label: run.config['method'] for run in one.runs}, notes, asked.over)
        key, numbers = knob.key, list(knob.values.values())
        curves = {knob.method: [results[label]['accuracy'] for label in knob.values]}
        others = {label: results[label]['accuracy'] for label in knob.others}
    best = {}
    for name, each in curves.items():
        place = max(range(len(each)), key=lambda k, each=each: each[k]['mean'])
        best[name] = {'number': numbers[place], **each[place]}
    n = min(each['n'] for each in [*others.values(), *(one for curve in curves.values() for one in curve)])
    shown = {'over': key, 'numbers': numbers, 'logarithmic': sweep.logarithmic(numbers)}
    return Found({**shown, 'curves': curves, 'others': others, 'best': best, 'n': n, 'settings': {'over': asked.over}})


def _at(config: Any, key: str) -> Any:
    return functools.reduce(operator.getitem, key.split('.'), config)


def _noted(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the means over seeds of the numbers that the method's `prepare` noted."""
    every = [seed.get('prepared', {}) for seed in results['seeds']]
    shared = set.intersection(*map(set, every))
    return {name: spread([one[name] for one in every])['mean'] for name in sorted(shared)}
