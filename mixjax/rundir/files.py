"""The files of a work directory: their names, writing them, and the check of its config before a run continues.

With several processes the first one reads and writes, and all of them use what it has read.
"""

from __future__ import annotations

import copy
import functools
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from flax import traverse_util

from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.host.processes import by_first, count, first, gather, only_first
from mixjax.host.storage import PART, Place
from mixjax.version import __version__

Tree = Any
SETTLE = 30.0  # seconds after which logged lines are written to a store
# Settings of places, or of steps after the run, that do not change any number.
ELSEWHERE = ('results', 'analyse', 'calibrate', 'cache_dir', 'cache_limit', 'data_dir', 'feed', 'store')
# Settings that earlier versions had not, with the value that they stand for in a config without them.
ADDED = {
    'calibrate': '',
    'image.augment': '', 'image.tta': '', 'model.drop_path': -1.0, 'model.remat': False, 'optim.clip': 0.0,
    'optim.decayed': '', 'optim.layer_decay': 1.0, 'optim.recipe': '',
    'optim.warmup': 0.0, 'target.labels': '', 'target.task': '', 'target.test': '',
    'unlabelled.dir': '', 'unlabelled.name': '',
    'unlabelled.share': 0.5,
}  # fmt: skip
BETAS = [0.9, 0.999]  # earlier versions wrote them for every optimiser; now () is the optimiser's own
LOCK = 'lock.json'  # the process that trains there (rundir/lock.py)


# Called with a place before anything is written there; rundir/lock.py checks that the folder is still this run's.
before_writing: list[Callable[[Place], None]] = []


def if_owner(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function, which writes to the place given first, run in the first process while it has the lock."""

    @functools.wraps(function)
    def checked(path: Place, *args: Any) -> None:
        if first():
            for look in before_writing:
                look(path)
            function(path, *args)

    return checked


@if_owner
def write(path: Place, data: bytes | str) -> None:
    """Write a file atomically."""
    storage.write(path, data.encode() if isinstance(data, str) else data)


def write_json(path: Place, value: Any) -> None:
    write(path, json.dumps(value, indent=2) + '\n')


def read_json(path: Place) -> Any:
    try:
        return untrusted.parse(untrusted.read_regular(path, untrusted.MOST_TEXT))
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read ({type(error).__name__}); use another --workdir') from error


@by_first
def create(folder: Place) -> None:
    try:
        storage.make_folder(folder)
        storage.try_writing(folder)
    except Exception as error:  # of the network, of permissions: each client of a store has different errors
        if storage.is_remote(folder):
            raise storage.unreachable(folder, error) from error
        if isinstance(error, OSError):
            raise UserError(f'the work directory {folder} cannot be written to: {error.strerror}') from error
        raise


# --- one config for one directory -------------------------------------------------------------------------------------


def to_data(config: Any) -> dict[str, Any]:
    """Return a config as JSON has it: tuples become lists."""
    return json.loads(config.to_json(sort_keys=True))


def without_added(data: dict[str, Any]) -> dict[str, Any]:
    """Return a config as earlier versions wrote it, if all that was added since has the value that it stood for.

    So a run that an earlier version began goes on, and a grid finds its runs by the same names.
    """
    data = copy.deepcopy(data)
    data.pop('search', None)  # of `mixjax best`, which sets everything that its runs use
    for key, value in ADDED.items():
        *groups, name = key.split('.')
        inside = data.get(groups[0]) if groups else data
        if isinstance(inside, dict) and inside.get(name) == value:
            del inside[name]
    if data.get('unlabelled') == {}:
        del data['unlabelled']
    optim = data.get('optim')
    if isinstance(optim, dict) and optim.get('name') in ('sgd', 'adam', 'amsgrad') and optim.get('betas') == []:
        optim['betas'] = BETAS
    return data


def flatten(config: dict[str, Any]) -> dict[str, Any]:
    return {'.'.join(key): value for key, value in traverse_util.flatten_dict(config, keep_empty_nodes=True).items()}


@by_first
def check_folder(folder: Place, config: Any) -> bool:
    """Check that a directory is new, or was made by the same config; nothing is written.

    Only `steps` of a finished run may differ, and only grow: that extends the run.

    Returns:
      Whether a finished run is to be extended.
    """
    path = folder / 'config.json'
    if not path.exists():
        inside = folder.iterdir() if folder.is_dir() else ()
        left = [item for item in inside if not item.name.endswith(PART) and item.name != LOCK]
        if left:
            raise UserError(f'{folder} has files in it and is not a work directory; choose an empty or a new folder')
        return False
    before = read_json(path)
    if not isinstance(before, dict) or type(before.get('steps')) is not int:
        raise UserError(f'{path} is damaged; use another --workdir')
    before, after = flatten(without_added(before)), flatten(without_added(to_data(config)))
    keys = (before.keys() | after.keys()) - set(ELSEWHERE)
    if len(config.compare):  # a comparison does not train it; earlier versions named a method there all the same
        keys -= {key for key in keys if key.startswith('method.')}
    changed = sorted(key for key in keys if before.get(key) != after.get(key))
    if changed == ['steps'] and after['steps'] > before['steps']:
        if finished(folder, before['steps']) is None:
            raise UserError(
                f'{folder} holds a run of {before["steps"]} steps that is not finished; finish it with '
                'the same settings, then raise config.steps'
            )
        return True
    if changed:
        lines = [
            f'  {key}: {before.get(key, "(absent)")!r} there, {after.get(key, "(absent)")!r} now' for key in changed
        ]
        raise UserError(
            f'{folder} holds a run with another config; use another --workdir, or the same settings '
            '(only steps may change, and only grow):\n' + '\n'.join(lines)
        )
    return False


def run_folders(folder: Place) -> set[str]:
    """Return the folders in a work directory that its sweep or comparison trains in; empty for other folders."""
    path = folder / 'config.json'
    try:
        said = read_json(path) if path.exists() else {}
        key, numbers = said['sweep']['key'].rpartition('.')[2], said['sweep']['numbers']
        return {*said['compare'], *(f'{key}={number}' for number in numbers)}
    except (UserError, OSError, KeyError, TypeError, AttributeError):  # not a work directory, or an incomplete one
        return set()


def claim(folder: Place, config: Any) -> None:
    """Write the config of a directory that `check_folder` has accepted; all processes must see it there."""
    record(folder, config)
    if not all(gather((folder / 'config.json').exists())):
        raise UserError(
            f'the work directory {folder} is not on a disk that all {count()} processes share; checkpoints are written '
            'and read by all of them, so choose a --workdir on a shared disk or in a store (gs://BUCKET/FOLDER)'
        )


@by_first
def record(folder: Place, config: Any) -> None:
    create(folder)
    if not (folder / 'config.json').exists() or read_json(folder / 'config.json') != to_data(config):
        write_json(folder / 'config.json', to_data(config))


@by_first
def finished(folder: Place, steps: int) -> dict[str, Any] | None:
    """Return the results of a run of that many steps if it is finished; an extended run's old ones do not count."""
    path = folder / 'results.json'
    results = read_json(path) if path.exists() else None
    return results if isinstance(results, dict) and results.get('steps') == steps else None


@by_first
def describe(folder: Place, command: str, again: bool = False) -> None:
    """Write `env.json`, the environment of a run.

    Args:
      folder: the work directory.
      command: the command line.
      again: whether the command extends a finished run.
    """
    if again or not (folder / 'env.json').exists():
        write_json(folder / 'env.json', {**environment(), 'command': command})


def environment() -> dict[str, Any]:
    """Return versions, devices and commit: everything a number depends on. No names of hosts, users or folders."""
    packages = {name: version(name) for name in ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')}
    devices = [device.device_kind for device in jax.devices()]
    return {
        'mixjax': __version__,
        'python': platform.python_version(),
        **packages,
        'devices': devices,
        'commit': commit(),
    }


def commit() -> str | None:
    """Return the commit of the source tree, marked `+` if it has changes; None outside a source tree."""
    source = Path(__file__).parents[1]
    if not (source.parent / '.git').exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(['git', '-C', str(source), *words], capture_output=True, text=True, check=True).stdout

    try:
        head = git('rev-parse', '--short=12', 'HEAD').strip()
        return head + ('+' if git('status', '--porcelain', '--untracked-files=no').strip() else '')
    except (OSError, subprocess.CalledProcessError):
        return None


# --- lines of metrics -------------------------------------------------------------------------------------------------

# Files in a store: their contents with the lines that are not written yet, and the time of the last write.
_logs: dict[str, tuple[str, float]] = {}


@if_owner
def append(path: Place, line: dict[str, Any]) -> None:
    """Append a line. Nothing can be appended in a store, so there `flush_logs` writes the lines."""
    text = json.dumps(line) + '\n'
    if not storage.is_remote(path):
        storage.append(path, text.encode())
        return
    before, when = _logs.get(str(path)) or (path.read_text() if path.exists() else '', 0.0)
    if time.monotonic() - when > SETTLE:
        when = time.monotonic()
        storage.write(path, (before + text).encode())
    _logs[str(path)] = before + text, when


@only_first
def flush_logs(folder: Place) -> None:
    """Write the pending lines of a folder's files: before a checkpoint, which must not be ahead of them."""
    # Also dropped if they may not be written any more: another run's lines have taken their place.
    held = {name: _logs.pop(name)[0] for name in [name for name in _logs if storage.to_place(name).parent == folder]}
    for name, text in held.items():
        write(storage.to_place(name), text)


def read_lines(path: Place) -> Iterable[dict[str, Any]]:
    """Return the complete lines of a file; skip one that a dying process left half-written."""
    if str(path) in _logs or path.exists():
        try:
            whole = _logs[str(path)][0].encode() if str(path) in _logs else untrusted.read_regular(path)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise UserError(f'{path} cannot be read ({why}); use another --workdir') from error
        for text in whole.splitlines():
            try:
                line = untrusted.parse(text)
            except ValueError:
                continue
            if isinstance(line, dict) and type(line.get('seed')) is type(line.get('step')) is int:
                yield line


@if_owner
def rewind_log(path: Place, seeds: list[int], step: int) -> None:
    """Drop the lines of seeds after `step`: it will be trained, and logged, again.

    Args:
      path: `metrics.jsonl` or `timing.jsonl`.
      seeds: the seeds whose lines are dropped.
      step: the last step that is kept.
    """
    flush_logs(path.parent)
    if path.exists():
        kept = [line for line in read_lines(path) if line['seed'] not in seeds or line['step'] <= step]
        write(path, ''.join(json.dumps(line) + '\n' for line in kept))


@if_owner
def sort_log(path: Place) -> None:
    """Sort the lines of a log by seed and step; lines of the same seed and step keep their order.

    The lines of seeds that are trained at once alternate, and the seeds that go on together after a kill depend on
    the checkpoints that were complete by then. A finished log should not depend on that.
    """
    flush_logs(path.parent)
    if path.exists():
        found = list(read_lines(path))
        ordered = sorted(found, key=lambda line: (line['seed'], line['step']))
        if ordered != found:
            write(path, ''.join(json.dumps(line) + '\n' for line in ordered))


@if_owner
def write_arrays(path: Place, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed `.npz` atomically."""
    with storage.open_atomic(path) as file:
        np.savez_compressed(file, **cast(Any, arrays))
