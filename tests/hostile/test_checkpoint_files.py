"""Checkpoints whose sums are right and whose files lie: what the campaign over them has found, kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixjax.errors import UserError
from mixjax.rundir import checkpoint, integrity
from tests.hostile import checkpoint_readers as made
from tests.support.common import call

NOTES = f'checkpoints/0/step_{made.STEP}/{integrity.ABOUT}'


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with one checkpoint and another before it."""
    with checkpoint.open_folder(tmp_path / 'checkpoints' / '0') as manager:
        for step in (made.STEP - 4, made.STEP):
            checkpoint.save(manager, step, made.state())
            checkpoint.finish([manager])
    return tmp_path


def restored(run: Path):
    with checkpoint.open_folder(run / 'checkpoints' / '0') as manager:
        return checkpoint.restore(manager, made.STEP, made.state())


def with_arrays(run: Path, change) -> None:
    """Other arrays in the newest checkpoint, and all sums made again."""
    place = run / 'checkpoints' / '0' / f'step_{made.STEP}'
    files = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob('*') if path.is_file()}
    entries = made.read_arrays(files)
    change(entries)
    for name in files:
        (place / name).unlink()
    for name, data in made.write_arrays(files, entries).items():
        (place / name).write_bytes(data)
    integrity.seal(place)
    assert not integrity.fault(place)


def test_intact_checkpoint_is_read(run):
    assert made.same(restored(run), made.state())
    assert made.same(checkpoint.read(run / 'checkpoints' / '0', made.STEP)['params'], made.state().params)
    with_arrays(run, lambda entries: None)
    assert made.same(restored(run), made.state())


@pytest.mark.parametrize(
    'notes', ['', '{', '[]', '"x"', '[' * 10**5, '{"commit_timestamp_nsecs": "x"}', '{"init_timestamp_nsecs": -1}',
              '{"commit_timestamp_nsecs": 1e300}'],
)  # fmt: skip
def test_inconsistent_checkpoint_metadata_is_refused(notes, run):
    """No sum is of it: it is written last. Opening the folder fell over it, whole as the state was."""
    (run / NOTES).write_text(notes)
    said = []
    integrity.set_aside_damaged(run, [0], said.append)
    assert len(said) == 1 and integrity.ABOUT in said[0] and f'step {made.STEP - 4}' in said[0]
    with checkpoint.open_folder(run / 'checkpoints' / '0') as manager:
        assert checkpoint.latest([manager]) == made.STEP - 4


def test_metadata_that_only_orbax_refuses(run):
    notes = json.loads((run / NOTES).read_text())
    (run / NOTES).write_text(json.dumps({**notes, 'metrics': 'none', 'custom_metadata': 3}))
    integrity.set_aside_damaged(run, [0], print)
    with pytest.raises(UserError, match='the checkpoints in .* cannot be opened .*; put the files back'):
        restored(run)


LIES = [
    {'shape': [4, 2], 'chunks': [4, 2]}, {'shape': [10**6, 10**9]}, {'dtype': '<f8'}, {'chunks': [2**70, 2]},
    {'shape': 'x'}, {'zarr_format': None}, {'compressor': {'id': 'none such'}},
]  # fmt: skip
LYING = """
import importlib, json, sys
from pathlib import Path
from mixjax.errors import UserError

here = importlib.import_module(sys.argv[1])

for lie in here.LIES:
    def change(entries):
        entries[b'params.kernel/.zarray'] = json.dumps({**json.loads(honest), **lie}).encode()

    def first(entries):
        global honest
        honest = entries.setdefault(b'kept', entries[b'params.kernel/.zarray'])
        change(entries)

    here.with_arrays(Path('.'), first)
    try:
        kernel = here.restored(Path('.')).params['kernel']
        print('read', kernel.shape, kernel.dtype)
    except UserError as error:
        print('refused', str(error).splitlines() == [str(error)], 'cannot be read' in str(error))
"""


def test_arrays_that_are_not_those_of_the_network(run):
    """Those of another shape were given back as they are. In a process of its own: what reads them is not Python."""
    (run / 'lying.py').write_text(LYING)
    done = call(run, __name__, module='lying')
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == len(LIES) and set(told) <= {'refused True True', 'read (4, 3) float32'}, told
    assert told[0] == told[-1] == 'refused True True'


def test_the_analysis_reads_no_damaged_one(run):
    place = run / 'checkpoints' / '0' / f'step_{made.STEP}'
    (place / 'state' / '_METADATA').write_text('{}')
    with pytest.raises(UserError, match=f'0/step_{made.STEP} is damaged: state/_METADATA is not what was written'):
        checkpoint.read(place.parent, made.STEP)
    integrity.seal(place)
    with pytest.raises(UserError, match=f'0/step_{made.STEP} cannot be read'):
        checkpoint.read(place.parent, made.STEP)
