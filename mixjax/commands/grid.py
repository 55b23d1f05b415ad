"""`mixjax grid`: many runs from one file, each with a work directory that is named after its config."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import operator
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mixjax import config as config_lib
from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments
from mixjax.commands.table import CLUSTER
from mixjax.config import grid_files, method_registry
from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.models import preprocessing
from mixjax.rundir import files

PASSED = ('import', 'changed-code', *(flag.name for flag in CLUSTER))  # to `mixjax train`
INDICES = ('SLURM_ARRAY_TASK_ID', 'JOB_COMPLETION_INDEX')
RANKS = ('SLURM_PROCID', 'OMPI_COMM_WORLD_RANK', 'TPU_WORKER_ID')
BUSY = 3  # exit code


class Run(NamedTuple):
    specs: list[str]  # what to give as --config, one for each cell that is this run
    config: Any
    folder: Path  # its work directory


def runs(file: str, overrides: Sequence[tuple[str, str]], root: str, ask_store: bool = False) -> list[Run]:
    """The different runs of a grid, in the order of their first cells.

    The runs of FILE:smoke are those of FILE, each with its index and its name, tried in a folder beside theirs.

    ask_store: look for runs of older versions, which had other names, in a store too; on a disk they always are.
    """
    path, _, suffix = file.partition(':')
    if suffix not in ('', 'smoke', 'smoke,full'):
        raise UserError(f'a grid file takes no argument but :smoke, not {suffix!r}: its cells have their own')
    folder = storage.resolve_links(trials(root, suffix))
    there = [] if storage.is_remote(folder) and not ask_store else _run_names(folder)
    found: dict[str, Run] = {}
    for number, cell in enumerate(grid_files.cells(path)):
        spec, tried = (':'.join(filter(None, [path, ','.join(filter(None, [cell, more]))])) for more in ('', suffix))
        try:
            config = config_lib.load(spec, overrides)
            name = named(config, open_settings(path, cell, overrides))
            if name not in found:
                # The hash tells a run; older versions gave it another name.
                same = [known for known in there if known.rpartition('-')[2] == name.rpartition('-')[2]]
                place = folder / (name if name in same or not same else same[0])
                found[name] = Run([], config_lib.load(tried, overrides) if suffix else config, place)
        except UserError as error:
            raise UserError(f'cell {number} of the grid, {cell!r}: {error}') from error
        found[name].specs.append(tried)
    return list(found.values())


def trials(root: str, suffix: str) -> storage.Place:
    """The folder of a grid's runs; of its trial runs one beside it: `runs/smoke/tables` for `runs/tables`."""
    place, name = storage.to_place(root), suffix.replace(',', '_')
    if not suffix:
        return place
    bucket = storage.is_remote(place) and len(place.parts) < 4
    return place / name if bucket else place.parent / name / place.name


def _run_names(folder: storage.Place) -> list[str]:
    """The names of the runs in a folder."""
    return sorted(path.name for path in folder.iterdir()) if storage.is_dir(folder) else []


def open_settings(path: str, cell: str, overrides: Sequence[tuple[str, str]]) -> set[str]:
    """Settings of images that neither the file nor the command line says: they become those of the weights."""
    said, given = config_lib.read(path, cell).image, {key for key, _ in overrides}
    return {key for key in preprocessing.KEYS if not said[key] and f'image.{key}' not in given}


def named(config: Any, unsaid: set[str]) -> str:
    """`<data set>-<method>-<split>-<hash>` of a complete config; what only says where is not part of it.

    Neither is what the weights will say (`unsaid`): the name must not change once they are downloaded.
    """
    data = files.without_added(files.to_data(config))
    for key in (*files.ELSEWHERE, *(f'image.{key}' for key in unsaid)):
        *groups, last = key.split('.')
        functools.reduce(operator.getitem, groups, data).pop(last, None)
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]
    what = 'comparison' if config.compare else method_registry.title(config.method)
    return re.sub(r'[^A-Za-z0-9_.]+', '-', f'{config.target.name}-{what}-{split(config.target)}')[:60] + f'-{digest}'


def split(target: Any) -> str:
    """Name the labelled images of a run: `all`, `3` a class, the share `0.15`, `c25_n400` of a part of the classes."""
    parts = []
    if target.classes != 1:
        parts.append(f'c{100 * target.classes:g}' if target.classes < 1 else f'{target.classes:g}classes')
    if target.splits:
        parts.append('splits')
    elif target.counts:
        parts.append(f'n{sum(target.counts)}')
    elif target.images:
        parts.append(f'n{target.images}')
    elif target.per_class or target.rate < 1:
        parts.append(str(target.per_class or target.rate))
    if target.add_rest:
        parts.append('rest')
    return '_'.join(parts) or 'all'


def chosen_index(text: str, count: int) -> int:
    """An index of one of `count` runs, from the command line or from the engine's environment."""
    told = '--run'
    if text == 'auto':
        told = next((name for name in INDICES if os.environ.get(name)), '')
        if not told:
            raise UserError(f'--run auto: none of {", ".join(INDICES)} is set; give --run INDEX')
        text = os.environ[told]
    if not re.fullmatch('[0-9]+', text) or int(text) >= count:
        raise UserError(f'{told} must be a whole number from 0 to {count - 1}, not {text!r}')
    return int(text)


def finished(run: Run) -> bool:
    return files.finished(run.folder, run.config.steps) is not None


def lock_of(run: Run) -> Path:
    """The file of a run's lock, beside the work directories."""
    return run.folder.parent / '.locks' / run.folder.name


@contextlib.contextmanager
def exclusive(run: Run) -> Iterator[bool]:
    """Lock a run for the block; yields whether no other process has it. In a job of several the first process locks it.

    The lock belongs to the process: however that ends, the system frees it.
    """
    path = lock_of(run)
    if storage.is_remote(path) or any(os.environ.get(name, '0') != '0' for name in RANKS):
        yield True
        return
    try:
        storage.make_folder(path.parent)
        file = storage.open_append(path)
    except OSError as error:
        raise UserError(f'{path.parent.parent} cannot be written to: {error.strerror}') from error
    with file:
        # A process that asks for the state of the grid holds the lock for a moment.
        yield any(locked(file, fcntl.LOCK_EX) or time.sleep(0.1) for _ in range(20))


def locked(file: Any, how: int) -> bool:
    """Lock a file; False if another process keeps it."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(f'mixjax: no locks here ({error.strerror}): give no run to two processes at once', file=sys.stderr)
    return True


def train(arguments: Arguments, every: list[Run], index: int) -> int:
    """Train a run as `mixjax train` does; returns its exit code."""
    from mixjax.commands import train as trainer  # a list of runs needs neither the trainer nor its libraries
    from mixjax.train import input_digests

    run = every[index]
    told = f'run {index} of {len(every)}, {run.specs[0]}'
    with exclusive(run) as mine:
        if not mine:
            print(f'mixjax: {told}: another process trains it in {run.folder}', file=sys.stderr)
            return BUSY
        if finished(run):
            input_digests.check_code(run.config, run.folder, arguments['changed-code'] or 'refuse')
            print(f'{told}: finished before, in {run.folder}')
            if run.config.analyse:  # it may have been stopped while it was measured
                trainer.measure(run.config.analyse, run.folder, trained=False)
            return 0
        print(f'{told}: {run.folder}', flush=True)
        words = [f'--config={run.specs[0]}', f'--workdir={run.folder}']
        words += [f'--config.{key}={value}' for key, value in arguments.overrides]
        words += [f'--{flag}={arguments.given[flag]}' for flag in PASSED if flag in arguments.given]
        # One table of many runs that write it at the same time would be the last one's.
        return trainer.main([*words, '--config.results='])


def state(run: Run) -> str:
    if finished(run):
        return 'done'
    path = lock_of(run)
    if not storage.is_remote(path) and path.exists():
        with untrusted.open_regular(path) as file:
            if not locked(file, fcntl.LOCK_SH):
                return 'running'
    return 'begun' if (run.folder / 'config.json').exists() else 'missing'


def status(every: list[Run]) -> str:
    """A line for each state: how many runs, and their indices as `sbatch --array` takes them."""
    found = [state(run) for run in every]
    indices = {name: [i for i, s in enumerate(found) if s == name] for name in ('done', 'running', 'begun', 'missing')}
    return '\n'.join(f'{name:8}{len(i):5}  {ranges(i)}'.rstrip() for name, i in indices.items())


def ranges(indices: Sequence[int]) -> str:
    """'0-2,5' of 0, 1, 2, 5."""
    first = [i for i in indices if i - 1 not in indices]
    last = [i for i in indices if i + 1 not in indices]
    return ','.join(f'{a}' if a == b else f'{a}-{b}' for a, b in zip(first, last, strict=True))


def run(arguments: Arguments) -> int:
    """Count, list, train or follow the runs of a grid; returns the exit code."""
    (file,) = arguments.positional
    import_modules(arguments['import'])
    root = arguments['runs'] or grid_files.root(file.partition(':')[0])
    offline = arguments['count'] or arguments['list']
    if not offline:
        storage.reachable(root)
    every = runs(file, arguments.overrides, root, ask_store=not offline)
    if 'run' in arguments.given:
        return train(arguments, every, chosen_index(arguments['run'], len(every)))
    if arguments['count']:
        print(len(every))
    elif arguments['status']:
        print(status(every))
    else:
        for i, one in enumerate(every):
            print(f'{i:4}  {" = ".join(spec.partition(":")[2] or "-" for spec in one.specs)}  {one.folder}')
    return 0
