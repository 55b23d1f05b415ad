"""What goes on from a checkpoint that somebody else wrote, for `readers.READERS`.

A checkpoint is a folder, so it is packed into one input. Its files are changed byte by byte, taken away, swapped; or
the arrays in them are, with all checksums of the format made again. Mixjax's own sums are made again for most: those
that are not must be found by them, and the others must end in a sentence or in a state of the right shapes. What says
that it is larger than the memory, or is when it is unpacked, is left out: TensorStore ends the process then, as
docs/reliability.md says.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts

from mixjax.errors import UserError
from mixjax.rundir import checkpoint, integrity
from tests.hostile.mutate import flawed, flawed_json
from tests.hostile.readers import Reader
from tests.support.common import plain

STEP = 8
OCDBT = ('state/manifest.ocdbt', 'state/d/', 'state/ocdbt.process_0/')
MOST = 1 << 24  # numbers in a part of an array


class State(NamedTuple):
    params: Any
    key: Any
    step: Any


@functools.cache
def state() -> State:
    """Arrays of every kind that a `TrainState` has."""
    params = {'kernel': jnp.arange(12.0).reshape(4, 3), 'half': jnp.ones((2, 5), jnp.bfloat16), 'on': jnp.array([True])}
    return State(params, jax.random.key(0), jnp.array(STEP))


def pack(files: dict[str, bytes], sealed: bool) -> bytes:
    head = {'sealed': sealed, 'files': [[name, len(data)] for name, data in files.items()]}
    return json.dumps(head).encode() + b'\n' + b''.join(files.values())


def unpacked(data: bytes) -> tuple[dict[str, bytes], bool]:
    head, _, rest = data.partition(b'\n')
    about, files = json.loads(head), {}
    for name, length in about['files']:
        files[name], rest = rest[:length], rest[length:]
    return files, about['sealed']


@functools.cache
def good(_: Path) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        with checkpoint.open_folder(Path(folder, '0')) as manager:
            checkpoint.save(manager, STEP, state())
        place = Path(folder, '0', f'step_{STEP}')
        files = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob('*') if path.is_file()}
    return [pack(dict(sorted(files.items())), False)]


def flaw(data: bytes, random_: random.Random, others: list[bytes]) -> bytes:
    files, _ = unpacked(data)
    if random_.random() < 0.5:
        files = with_other_arrays(files, random_)
    else:
        for _ in range(random_.choice((1, 1, 2))):
            _harm(files, random_, others)
    return pack(files, random_.random() < 0.8)


def _harm(files: dict[str, bytes], random_: random.Random, others: list[bytes]) -> None:
    """Something is wrong with one of the files."""
    name, chance = random_.choice(sorted(files)), random_.random()
    if chance < 0.1:
        del files[name]
    elif chance < 0.2:
        files[name] = files[random_.choice(sorted(files))]
    elif chance < 0.25:
        files[f'{name.rpartition("/")[0] or "state"}/{random_.choice(("x", "manifest.ocdbt", ".zarray"))}'] = b'{}'
    else:
        files[name] = _lie(files[name], random_, others)


def _lie(data: bytes, random_: random.Random, others: list[bytes]) -> bytes:
    """JSON says something else, where it is JSON still."""
    try:
        return flawed_json(data, random_, others)
    except (ValueError, RecursionError):
        return flawed(data, random_, others)


def with_other_arrays(files: dict[str, bytes], random_: random.Random) -> dict[str, bytes]:
    """The same arrays with one to three lies about or in them, as a database whose checksums are right."""
    entries = read_arrays(files)
    for _ in range(random_.choice((1, 1, 2, 3))):
        key, chance = random_.choice(sorted(entries)), random_.random()
        if chance < 0.05 and len(entries) > 1:
            del entries[key]
        elif chance < 0.1:
            entries[key] = entries[random_.choice(sorted(entries))]
        else:
            lie = _lie(entries[key], random_, [entries[key]])
            entries[key] = lie if _fits(lie) else b'{}'
    return write_arrays(files, entries)


def _fits(about: bytes) -> bool:
    """Whether the parts of an array, as it says itself, fit into memory: TensorStore takes what it is told to take."""
    try:
        return math.prod(json.loads(about)['chunks']) < MOST
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        return True


def read_arrays(files: dict[str, bytes]) -> dict[bytes, bytes]:
    context = ts.Context()
    memory = ts.KvStore.open('memory://', context=context).result()
    for name, data in files.items():
        if name.startswith(OCDBT):
            memory[name.removeprefix('state/')] = data
    base = ts.KvStore.open({'driver': 'ocdbt', 'base': 'memory://'}, context=context).result()
    return {key: base[key] for key in base.list().result()}


def write_arrays(files: dict[str, bytes], entries: dict[bytes, bytes]) -> dict[str, bytes]:
    context = ts.Context()
    base = ts.KvStore.open({'driver': 'ocdbt', 'base': 'memory://'}, context=context).result()
    with ts.Transaction() as transaction:
        for key, value in entries.items():
            base.with_transaction(transaction)[key] = value
    memory = ts.KvStore.open('memory://', context=context).result()
    made = {f'state/{key.decode()}': memory[key] for key in memory.list().result()}
    return {name: data for name, data in files.items() if not name.startswith(OCDBT)} | made


def read(path: Path) -> None:
    """What a restart does with the checkpoint, and what the analysis of a run does."""
    files, sealed = unpacked(path.read_bytes())
    run = path.parent / 'run'
    shutil.rmtree(run, ignore_errors=True)
    place = run / 'checkpoints' / '0' / f'step_{STEP}'
    for name, data in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(data)
    if sealed and files:
        integrity.seal(place)
    before = there(run)
    told = ''
    try:
        integrity.set_aside_damaged(run, [0], lambda _: None)
        with checkpoint.open_folder(place.parent) as manager:
            assert checkpoint.latest([manager]) == STEP
            found = checkpoint.restore(manager, STEP, state())
        assert jax.tree.structure(found) == jax.tree.structure(state())
        shapes = [[(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(one)] for one in (found, state())]
        assert shapes[0] == shapes[1]
        assert sealed or same(found, state())
    except UserError as error:
        told = str(error)
        assert told and '\n' not in told
    try:
        network = checkpoint.read(place.parent, STEP)
        assert sealed or same(network['params'], state().params)
    except UserError as error:
        assert str(error) and '\n' not in str(error)
    assert there(run) == before
    if told:
        raise UserError(told)


def there(run: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob('*')
        if path.is_file()
    }


def same(a: Any, b: Any) -> bool:
    return all(np.array_equal(plain(x), plain(y)) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


READERS = {'checkpoints': Reader(good, read, flaw, memory=1 << 30)}
