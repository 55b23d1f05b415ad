"""Many runs side by side: their settings, accuracies, and differences to the baseline of the same setting.

A setting is a data set with its labelled part, and a network. Within one, differences are paired over seeds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mixjax.report import settings
from mixjax.report.answer import Answer, paired, sure
from mixjax.report.read import Folder, Run
from mixjax.report.tables import Difference, Primary, Row, accuracy_rows
from mixjax.report.words import TYPESET, count

BASELINE = 'finetune'  # the method that every paper compares with; a comparison names another baseline
# Settings of a method, or without influence on the numbers; and those that a setting has in words.
OWN = (
    'method', 'compare', 'baseline', 'results', 'analyse', 'calibrate', 'cache_dir', 'cache_limit', 'data_dir', 'feed',
    'store',
)  # fmt: skip
ALIKE = (
    *(key for key in OWN if key != 'method'), 'target', 'source', 'sweep', 'checkpoint_every', 'eval_every',
    'log_every', 'eval_batch_size', 'devices', 'dispatch', 'snapshots', 'num_seeds', 'shard_params', 'accumulate',
)  # fmt: skip
FIRST = tuple(place for _, place in settings.KEYS)
MAX_SETTINGS = 3  # maximum number of settings that distinguish a run from others


class Setting(NamedTuple):
    """A setting in words: the data set, its labelled part, the network."""

    dataset: str
    labels: str
    network: str


class Line(NamedTuple):
    """A method in a run.

    folder: index of its folder.
    name: name of the folder.
    knobs: the settings that distinguish it from others of its setting.
    base: the label of the line that it is compared with; the same label for a baseline, '' if there is none.
    difference: difference to that line.
    gaps: {seed: the difference for one seed}.
    """

    folder: int
    name: str
    setting: Setting
    row: Row
    knobs: str
    run: Run
    base: str
    difference: Difference | None
    gaps: Mapping[int, float]

    @property
    def method(self) -> str:
        return f'{self.row.label} {self.knobs}'.strip()

    @property
    def is_base(self) -> bool:
        return self.base == self.row.label and self.difference is None


def lines(folders: Sequence[Folder]) -> list[Line]:
    """Return every method of every run, setting by setting: the baseline, then the others, the best first."""
    runs = [
        (place, folder, row, run)
        for place, folder in enumerate(folders)
        for row, run in zip(accuracy_rows(folder.results), folder.runs, strict=True)
    ]
    where = [_setting(folder, run) for _, folder, _, run in runs]
    knobs = distinguishing_settings([run for *_, run in runs], where)
    out = []
    for (place, folder, row, run), setting, told in zip(runs, where, knobs, strict=True):
        base = _base(folder, run, row, runs)
        gap = None if base is None or base is row else (row.difference or paired(row, base))
        known = dict(base.seeds) if base is not None and base is not row else {}
        gaps = {seed: value - known[seed] for seed, value in row.seeds if seed in known}
        label = '' if base is None or (base is not row and gap is None) else base.label
        out.append(Line(place, folder.name, setting, row, told, run, label, gap, gaps))
    return sorted(out, key=_order)


def _order(line: Line) -> tuple[Any, ...]:
    setting = line.setting
    return (
        setting.dataset, line.run.results['train_examples'], setting.labels, setting.network, not line.is_base,
        -line.row.rank, line.name,
    )  # fmt: skip


def _setting(folder: Folder, run: Run) -> Setting:
    network = settings.value_text(settings.lookup(run.config, 'model.name') or '')
    task = run.results.get('task')
    return Setting(settings.target(folder) + (f', {task}' if task else ''), settings.labels(run.config), network)


def _base(folder: Folder, run: Run, row: Row, runs: Sequence[tuple[int, Folder, Row, Run]]) -> Row | None:
    """Return the baseline's row: that of the comparison, or for a run the one of the same setting, if it is unique."""
    if folder.baseline is not None:
        return next(other for other in accuracy_rows(folder.results) if other.baseline) if not row.baseline else row
    if run.results['method'] == BASELINE:
        return row
    there = [(other, his) for _, _, other, his in runs if his.results['method'] == BASELINE and _same(run, his, False)]
    alike = [other for other, his in there if _same(run, his, True)]
    found = alike or [other for other, _ in there]
    return found[0] if len(found) == 1 else None


def _same(run: Run, other: Run, whole: bool) -> bool:
    """Return whether two runs have the same setting. whole: compare all settings but those of their methods."""
    keys = run.config.keys() - set(OWN) if whole else {'target', 'model', 'synthetic'}
    mine, his = ({key: _plainly(config.get(key)) for key in keys} for config in (run.config, other.config))
    same_tests = run.results['test_examples'] == other.results['test_examples']
    return same_tests and json.dumps(mine, sort_keys=True) == json.dumps(his, sort_keys=True)


def _plainly(value: Any) -> Any:
    """Return a group of settings without the texts that are not set: earlier versions had fewer of them."""
    return {key: one for key, one in value.items() if one != ''} if isinstance(value, Mapping) else value


def distinguishing_settings(runs: Sequence[Run], where: Sequence[Setting]) -> list[str]:
    """Return the settings that distinguish each run from others of its label: `alpha=0.2, optim.lr=0.01`.

    Settings of the method come first.

    Args:
      runs: the runs.
      where: the setting of each run.
    """
    known = [_flat({key: value for key, value in run.config.items() if key not in ALIKE}) for run in runs]
    out = []
    for run, mine, setting in zip(runs, known, where, strict=True):
        others = [
            his
            for other, his, its in zip(runs, known, where, strict=True)
            if other.label == run.label and its == setting
        ]
        apart = [key for key in mine if any(key in his and his[key] != mine[key] for his in others)]
        apart.sort(key=lambda key: (not key.startswith('method.'), key not in FIRST, key))
        parts = [f'{key.removeprefix("method.")}={settings.value_text(mine[key])}' for key in apart[:MAX_SETTINGS]]
        out.append(', '.join([*parts, *(['\u2026'] if len(apart) > MAX_SETTINGS else [])]))
    return out


def _flat(config: Mapping[str, Any], before: str = '') -> dict[str, Any]:
    """Return {'optim.lr': 0.1} of {'optim': {'lr': 0.1}}."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= _flat(value, f'{before}{key}.') if isinstance(value, Mapping) else {f'{before}{key}': value}
    return out


def groups(found: Sequence[Line]) -> list[tuple[Setting, list[Line]]]:
    """Return the lines of each setting."""
    out: dict[Setting, list[Line]] = {}
    for line in found:
        out.setdefault(line.setting, []).append(line)
    return list(out.items())


def best(found: Sequence[Line]) -> Line | None:
    """Return the line with the best mean of a setting; None if there is no choice."""
    return max(found, key=lambda line: (line.row.rank, line.is_base)) if len(found) > 1 else None


def shared_primary(found: Sequence[Line]) -> Primary | None:
    """Return the primary measure of all lines; None if they are of several tasks."""
    every = {line.row.primary for line in found}
    return every.pop() if len(every) == 1 else None


# --- the answer -------------------------------------------------------------------------------------------------------


def answer(found: Sequence[Line]) -> Answer:
    """Return the answer: the method that is ahead of the baseline over the settings, and its lead."""
    figures = (str(len({line.folder for line in found})), 'finished runs')
    by_method: dict[str, list[Line]] = {}
    for line in found:
        if line.difference is not None:
            by_method.setdefault(line.method, []).append(line)
    primary = shared_primary(found)
    if primary is None:
        return Answer('The runs are of several tasks, which have no measure in common.', (figures,), ())
    if not by_method:
        top = max(found, key=lambda line: line.row.rank)
        where = f' on {top.setting.dataset}' if len({line.setting.dataset for line in found}) > 1 else ''
        most, unit = 'highest' if primary.higher else 'lowest', ' %' if primary.percent else ''
        headline = f'The {most} {primary.name} is that of {top.method}{where}: {top.row.text}{unit}.'
        told = f'No two of the runs can be compared: none has a baseline ({BASELINE}) with the same data and network.'
        return Answer(headline, (figures,), (told,) if len(found) > 1 else ())
    reach = {method: len({line.setting for line in those}) for method, those in by_method.items()}
    most = max(reach.values())
    # A method that was run in few settings may have had the easy ones.
    mean = {
        method: math.fsum(map(_gap, those)) / len(those) for method, those in by_method.items() if reach[method] == most
    }
    first = max(mean, key=lambda method: mean[method])
    those = by_method[first]
    where = count(len(those), 'setting' if len(those) == most else 'comparison')
    bases = ', '.join(dict.fromkeys(line.base for line in those))
    ahead, clear = sum(_gap(line) > 0 for line in those), sum(_gap(line) > 0 and _clear(line) for line in those)
    by = primary.text(abs(mean[first])) + (' points' if primary.percent else f' in {primary.name}')
    if mean[first] <= 0:
        headline = f'No method is ahead of {bases}' + (' on average.' if len(those) > 1 else '.')
    elif len(those) == 1:
        headline = f'{first} is ahead of {bases} by {by}'
    else:
        headline = f'{first} is ahead of {bases} in {ahead} of {where}, by {by} on average'
    stderr = _stderr(those)
    if mean[first] > 0:
        beyond = clear > 0 if len(those) == 1 else stderr is not None and mean[first] > 2 * stderr
        headline += '.' if beyond else ', which may be chance.'
    remarks = [f'Its lead is clear (a 95 % interval without zero) in {clear or "none"} of {where}.']
    remarks = remarks if len(those) > 1 and mean[first] > 0 else []
    if len(mean) > 1:
        picked = f'It was picked as the best of {len(mean)} after they were run'
        remarks.append(f'{picked}, which flatters its lead a little.')
    if len(by_method) > len(mean):
        remarks.append(f'Methods that were run in fewer settings are left out of this: {len(by_method) - len(mean)}.')
    if len(groups(found)) > 1:
        remarks.append('A setting is a data set with its labelled part, and a network.')
    what = f'{primary.unit} of {first} to {bases}' + (f', mean over {where}' if len(those) > 1 else '')
    what += f', {TYPESET} standard error' if stderr is not None else ''
    lead = primary.spread(primary.gap(primary.gain(mean[first]), True), stderr, TYPESET)
    return Answer(headline, ((lead, what), figures), tuple(remarks))


def _stderr(found: Sequence[Line]) -> float | None:
    """Return the standard error of the mean of their differences; None if one of them is of one seed."""
    errors = [line.difference.stderr for line in found if line.difference is not None]
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if known and len(known) == len(errors) else None


def _gap(line: Line) -> float:
    """Return what a line is better by than its baseline."""
    assert line.difference is not None
    return line.row.primary.gain(line.difference.mean)


def _clear(line: Line) -> bool:
    return sure(line.difference) == 'clear'


def difference_text(line: Line, mark: str = TYPESET) -> str:
    """Return `+1.20 ± 0.31`, `baseline`, or `-` if there is no baseline."""
    if line.is_base:
        return 'baseline'
    if line.difference is None:
        return '-'
    primary = line.row.primary
    return primary.spread(primary.gap(line.difference.mean, mark == TYPESET), line.difference.stderr, mark)
