"""Digests of a run's inputs, kept in `inputs.json` and compared whenever the run goes on.

    weights        the tensors of the pretrained network's file; '' from scratch
    target         {part: digest}, its examples and their labels: train, test, val
    source         the source data set's examples and their labels; '' if there is none
    unlabelled     the images of `config.unlabelled`, where they are a data set of their own; else there is no entry
    splits         the content of `config.target.splits`; '' if there is none
    code           {module: digest} of a user's method and network, and of the modules they import; of a
                   method that is a function, of that and what it uses
    earlier code   a list of the values of `code` before the user accepted that it had changed

The other dependencies of a run are in `config.json` and `env.json`. A work directory of an older version has no such
file, or lacks one of its entries; the missing ones are added when the run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from hashlib import sha256
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from mixjax import models
from mixjax.config import method_registry, variants
from mixjax.data.dataset import Dataset
from mixjax.data.labelled import run_data, split_file
from mixjax.data.labelled.run_data import Sets
from mixjax.errors import UserError
from mixjax.host import processes
from mixjax.host.processes import by_first
from mixjax.host.storage import Place
from mixjax.models import weights
from mixjax.rundir import code_digest, files
from mixjax.train.shared import Shared

FILE = 'inputs.json'
TEXTS = ('weights', 'source', 'unlabelled', 'splits')  # entries that are a digest
TABLES = ('target', 'code')  # entries that are {name: digest}
EARLIER = 'earlier code'
CHANGED_CODE = ('refuse', 'accept')
ACCEPT = "--changed-code=accept (in Python: changed_code='accept')"
PUT_BACK = 'put it back as it was, or use another --workdir'


class Inputs(NamedTuple):
    """The current inputs of a run.

    digests: as in the file; only the code for a run with nothing left to do.
    sets: the data; None if they were not read.
    accept: whether the user allows that the code has changed.
    """

    config: Any
    digests: dict[str, Any]
    sets: Sets | None
    accept: bool


def find_inputs(config: Any, shared: Shared | None, changed_code: str = CHANGED_CODE[0]) -> Inputs:
    """Compute the inputs of one run.

    Args:
      config: the run's config.
      shared: the loaded data and weights; None if nothing is left to do.
      changed_code: 'refuse' or 'accept' changed code.
    """
    code = code_digest.digests(roots(config))
    function = method_registry.named_function(config.method.name)
    if function is not None:
        code |= code_digest.of_function(config.method.name, function)
    digests: dict[str, Any] = {'code': code}
    if shared is not None:
        splits = config.target.splits
        made_up = config.model.weights.startswith(weights.RANDOM)
        digests |= {
            'weights': '' if made_up else shared.weights_digest,  # made-up ones follow from their name, up to rounding
            'target': dict(shared.sets.digests),
            'source': '' if shared.sets.source is None else run_data.digest(shared.sets.source),
            'splits': sha256(_sorted(split_file.read(splits)).encode()).hexdigest() if splits else '',
        }
        if shared.sets.unlabelled is not None:
            digests['unlabelled'] = run_data.digest(shared.sets.unlabelled)
    processes.agree("the method's code or config.target.splits", lambda: _sorted(digests))
    return Inputs(config, digests, shared.sets if shared else None, changed_code == CHANGED_CODE[1])


def _sorted(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def roots(config: Any) -> list[str]:
    """Return the modules that a run starts from and mixjax does not ship: those of its method, wrappers and network."""
    names = [name for name in (config.method.name, *config.method.get('wrappers', ())) if '.' in name]
    builder = models.BACKBONES[config.model.name]
    builder = builder.func if isinstance(builder, partial) else builder
    if not isinstance(builder, FunctionType) or 'get_config' not in builder.__globals__:
        return [*names, builder.__module__]
    # For a function of a config: the file's settings may change, so the digest is of the result and not of the file.
    used = [builder.__globals__.get(name) for name in builder.__code__.co_names]
    names += [one.__name__ for one in used if isinstance(one, ModuleType)]
    return names + [one.__module__ for one in used if isinstance(one, type | FunctionType)]


# --- the record -------------------------------------------------------------------------------------------------------


def check_code(config: Any, folder: Place, changed_code: str) -> None:
    """Refuse to continue, or to return the results of, a run that was made by other code; no data are read."""
    for single, place in variants.singles(config, folder).values():
        check(place, find_inputs(single, None, changed_code))


@by_first
def check(folder: Place, now: Inputs) -> None:
    """Refuse to continue a run whose inputs have changed since it began."""
    before = _read(folder)
    changed = [] if now.sets is None else _data_differences(folder, now, now.sets, before)
    changed_code = [] if now.accept else _code_differences(before.get('code'), now.digests['code'])
    if changed:
        raise UserError(
            f'{folder} was begun with other inputs, and its results would be of both; {PUT_BACK}:'
            + _listed([*changed, *changed_code])
        )
    if changed_code:
        raise UserError(
            f'{folder} was begun with other code, and its results are of that; {PUT_BACK}, or go on with the code as '
            f'it is now, {ACCEPT}:' + _listed(changed_code)
        )


def _listed(lines: list[str]) -> str:
    return ''.join(f'\n  {line}' for line in lines)


@by_first
def record(folder: Place, now: Inputs) -> None:
    """Write the inputs of a run, after `check` has found that they are the same as before."""
    check(folder, now)  # another process may have written since
    before = _read(folder)
    after = {**before, **now.digests}
    if before.get('code', now.digests['code']) != now.digests['code']:
        after[EARLIER] = [*before.get(EARLIER, []), before['code']]
    if after != before:
        files.write_json(folder / FILE, after)


@by_first
def same_data(sets: Sets, folder: Place) -> None:
    """Refuse to read a finished run with other target images than those that it was trained and tested on."""
    changed = _part_differences(folder, _read(folder), sets)
    if changed:
        raise UserError(f'{folder} was begun with other images; put them back to look at the run:{_listed(changed)}')


@by_first
def same_source(source: Dataset, folder: Place) -> None:
    """Refuse to read a finished run with another source data set than it was trained with."""
    if _read(folder).get('source') not in ('', None, run_data.digest(source)):
        raise UserError(f'{folder} was begun with other source images; put them back to look at the run')


def _read(folder: Place) -> dict[str, Any]:
    """Read the record; {} if there is none."""
    path = folder / FILE
    if not path.exists():
        return {}
    found = files.read_json(path)
    texts = isinstance(found, dict) and all(isinstance(found.get(name, ''), str) for name in TEXTS)
    tables = texts and all(_table(found.get(name, {})) for name in TABLES)
    earlier = found.get(EARLIER, []) if tables else None
    if not isinstance(earlier, list) or not all(map(_table, earlier)):
        raise UserError(
            f'{path} is damaged, so it is not known what the run is made from; put the file back from a copy, or use '
            'another --workdir'
        )
    return found


def _table(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


# --- differences ------------------------------------------------------------------------------------------------------


def _data_differences(folder: Place, now: Inputs, sets: Sets, before: Mapping[str, Any]) -> list[str]:
    """Return a line on each input besides the code that has changed."""
    config = now.config
    lines = {
        'weights': f'the weights have changed: {config.model.weights}',
        'source': f'the images of the source data set have changed: {config.source.dir or config.source.name}',
        'splits': f'config.target.splits has changed: {config.target.splits}',
    }
    if 'unlabelled' in now.digests:
        lines['unlabelled'] = f'the unlabelled images have changed: {config.unlabelled.dir or config.unlabelled.name}'
    changed = [line for key, line in lines.items() if before.get(key, now.digests[key]) != now.digests[key]]
    where = config.target.dir or config.target.name
    changed += [f'{line}: {where}' for line in _part_differences(folder, before, sets)]
    # If all else is the same, or not known, the draw must be: a run without a record can be compared by that.
    return changed or _draw_differences(folder, config, sets)


def _part_differences(folder: Place, before: Mapping[str, Any], sets: Sets) -> list[str]:
    """Return the differences of the target's parts; without a record of them, by their stamps in `splits.json`."""
    was, now = before.get('target'), sets.digests
    if was is None:
        was, now = _splits(folder).get('data'), sets.stamps
        if not was or not _table(was):
            return []
    lines = []
    for part in sorted(was.keys() | now.keys()):
        if part not in was:
            lines.append(f'the target data set has a {part} part now, and had none')
        elif part not in now:
            lines.append(f'the target data set has no {part} part any more')
        elif was[part] != now[part]:
            lines.append(f'the images of the {part} part of the target data set have changed')
    return lines


def _draw_differences(folder: Place, config: Any, sets: Sets) -> list[str]:
    """Return the seeds in `splits.json` whose training or validation examples differ from those written there."""
    said = _splits(folder)
    if 'labelled rows' not in said:
        return []
    seeds = range(config.seed, config.seed + config.num_seeds)
    found = split_file.rows_of(sets.rows, {seed: run_data.draw_rows(config, sets, seed) for seed in seeds})
    changed = {
        seed
        for kind in split_file.ROWS
        for seed, rows in found.get(kind, {}).items()
        if isinstance(said.get(kind, {}), dict) and said.get(kind, {}).get(seed, []) != rows
    }
    return [
        f'seed {seed} had other examples, says splits.json; the draw of this version of mixjax, or of the file in '
        'config.target.splits, is another one'
        for seed in sorted(changed, key=int)
    ]


def _splits(folder: Place) -> dict[str, Any]:
    """Read the `splits.json` of a run."""
    path = folder / 'splits.json'
    found = files.read_json(path) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def _code_differences(before: Mapping[str, str] | None, now: Mapping[str, str]) -> list[str]:
    if before is None:
        return []
    lines = []
    for name in sorted(before.keys() | now.keys()):
        if name not in before:
            lines.append(f'the module {name} is used now, and was not: {code_digest.where(name)}')
        elif name not in now:
            lines.append(f'the module {name} was used, and is not any more')
        elif not code_digest.may_be_same(before[name], now[name]) and name.startswith(method_registry.GIVEN):
            title = name.removeprefix(method_registry.GIVEN)
            lines.append(f'the function of the method {title}, or what it uses, has changed')
        elif not code_digest.may_be_same(before[name], now[name]):
            lines.append(f'the source of module {name} has changed: {code_digest.where(name)}')
    return lines
