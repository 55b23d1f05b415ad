"""What reads work directories, for `readers.READERS`: checkpoints, locks, models."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mixjax.errors import UserError
from mixjax.models.weights import loading
from mixjax.rundir import files, integrity, lock
from mixjax.train import input_digests, prepare
from tests.hostile.checkpoint_readers import READERS as OF_CHECKPOINTS
from tests.hostile.mutate import flawed, flawed_json, flawed_lines
from tests.hostile.readers import Reader
from tests.hostile.report_readers import run_folder
from tests.hostile.strangers import READERS as OF_STRANGERS
from tests.hostile.weight_readers import ABOUT
from tests.hostile.weight_readers import READERS as OF_WEIGHTS


def own_config(folder: Path) -> list[bytes]:
    from tests.support import tiny_config

    return [json.dumps(files.to_data(tiny_config.get_config())).encode()]


def read_config(path: Path) -> None:
    """What a restart compares with, and what the test set of a run is read by."""
    from mixjax import config as config_lib
    from tests.support import tiny_config

    folder = path.parent / 'work'
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / 'config.json')
    config = config_lib.complete(tiny_config.get_config())
    with contextlib.suppress(UserError):
        files.check_folder(folder, config)
    data = files.read_json(path)
    if not isinstance(data, dict):
        raise UserError('config.json')
    config_lib.from_data(data)


@functools.cache
def made_from() -> input_digests.Inputs:
    """What a small run is made from."""
    from mixjax import config as config_lib
    from mixjax.data.labelled import run_data
    from tests.support import tiny_config

    config = config_lib.settle(config_lib.complete(tiny_config.get_config()).unlock())
    sets = run_data.load_sets(config)
    digests = {'code': {'mine': 'abc'}, 'weights': '', 'source': 'abc', 'splits': '', 'target': dict(sets.digests)}
    return input_digests.Inputs(config, digests, sets, False)


def read_inputs(path: Path) -> None:
    """What a restart, a prediction and an analysis compare with."""
    folder, now = path.parent / 'inputs', made_from()
    folder.mkdir(exist_ok=True)
    shutil.copy(path, folder / input_digests.FILE)
    assert now.sets is not None
    with contextlib.suppress(UserError):
        input_digests.same_data(now.sets, folder)
    input_digests.record(folder, now._replace(accept=True))


def read_lines(path: Path) -> None:
    """What a restart makes of the log."""
    place = path.parent / 'metrics.jsonl'
    shutil.copy(path, place)
    files.rewind_log(place, [0], 100)
    assert all(json.dumps(line) for line in files.read_lines(place))


def prepared(folder: Path) -> list[bytes]:
    from mixjax.method import Prepared, Segments

    draw = Segments(np.arange(5), np.array([[0]]), np.array([[5]]), np.array([1]))
    prepare.save_prepared(folder / 'made.npz', Prepared({'a': {'b': np.eye(3)}}, draw, {'note': 0.5}))
    return [(folder / 'made.npz').read_bytes()]


def checkpoint(folder: Path) -> list[bytes]:
    """The sums of a checkpoint, and its format."""
    place = folder / 'checkpoints' / '0' / 'step_8'
    if not place.exists():
        (place / 'meta').mkdir(parents=True)
        (place / 'state').mkdir()
        (place / 'meta' / 'metadata').write_text(json.dumps({'format': integrity.FORMAT}))
        (place / 'state' / 'd').write_bytes(b'numbers')
        integrity.seal(place)
    return [(place / integrity.SUMS).read_bytes()]


def read_sums(path: Path) -> None:
    good = checkpoint(path.parent)[0]
    data, place = path.read_bytes(), path.parent / 'checkpoints' / '0' / 'step_8'
    try:
        (place / integrity.SUMS).write_bytes(data)
        why = integrity.fault(place)
        assert why or json.loads(data) == json.loads(good)
    finally:
        (place / integrity.SUMS).write_bytes(good)


def read_format(path: Path) -> None:
    checkpoint(path.parent)
    place = path.parent / 'checkpoints' / '0' / 'step_8'
    (place / 'meta' / 'metadata').write_bytes(path.read_bytes())
    same = path.read_bytes() == json.dumps({'format': integrity.FORMAT}).encode()
    assert bool(integrity.fault(place)) != same


def read_lock(path: Path) -> None:
    found = lock._read(path)
    assert found is not None
    lock._started(found['pid'])
    place = path.parent / 'locked' / files.LOCK
    place.parent.mkdir(exist_ok=True)
    shutil.copy(path, place)
    found['machine'] = lock.this_owner()['machine']
    assert isinstance(lock.alive(place, found, lambda _: None), bool)


def read_model(path: Path) -> None:
    from mixjax.inference import described, predictor_of

    said = files.read_json(path)
    if not isinstance(said, dict):
        raise UserError('model.json')
    shutil.copy(path, path.with_name('model.json'))
    classes = weights_described(path)
    about, _ = described('run', classes)
    heads: Any = {'source': {'bias': np.zeros(2)}, 'target': {'bias': np.zeros(2)}}
    predictor_of('run', about, heads)


def weights_described(path: Path) -> dict[str, Any]:

    return loading._described('run', path.with_name('model.safetensors'))


READERS: dict[str, Reader] = {
    **OF_WEIGHTS,
    **OF_CHECKPOINTS,
    **OF_STRANGERS,
    'config.json': Reader(own_config, read_config, flawed_json),
    'inputs.json': Reader(lambda _: [json.dumps({**made_from().digests, 'earlier code': [{'mine': 'a'}]}).encode()],
                          read_inputs, flawed_json),
    'metrics.jsonl': Reader(lambda f: [(run_folder(f) / 'metrics.jsonl').read_bytes()], read_lines, flawed_lines),
    'prepared arrays': Reader(prepared, lambda path: prepare.load_prepared(path)),
    'sums of a checkpoint': Reader(checkpoint, read_sums, flawed_json),
    'format of a checkpoint': Reader(
        lambda _: [json.dumps({'format': integrity.FORMAT}).encode()], read_format, flawed,
    ),
    'lock.json': Reader(lambda _: [json.dumps({**lock.this_owner(), 'since': 1.0, 'beat': 3, 'token': 'x'}).encode()],
                        read_lock, flawed_json),
    'model.json': Reader(lambda _: [json.dumps(ABOUT).encode()], read_model, flawed_json),
}  # fmt: skip
