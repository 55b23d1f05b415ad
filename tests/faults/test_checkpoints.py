"""Checkpoints that are damaged on the disk: found, named, and passed over; the run ends as if nothing had been."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from mixjax.errors import UserError
from mixjax.rundir import checkpoint, integrity
from tests.support import harm
from tests.support.common import assert_same_run, call

pytestmark = pytest.mark.faults


@pytest.fixture(scope='module')
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """A run of three seeds that was never stopped, and one that was killed after its third checkpoint."""
    folder = tmp_path_factory.mktemp('runs')
    straight = harm.finished(folder / 'straight', *harm.words())
    # One device trains the seeds one after the other, so seed 2 is the one that is not finished.
    return straight, harm.stopped_at(folder / 'killed', 17, *harm.words())


def newest(run: Path, seed: int = 2) -> Path:
    place = run / 'checkpoints' / str(seed)
    return place / f'step_{integrity.steps(place)[0]}'


def largest(place: Path) -> Path:
    return max((path for path in (place / 'state').rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)


def truncated(place: Path) -> str:
    path = largest(place)
    path.write_bytes(path.read_bytes()[:-7])
    return 'is not what was written'


def emptied(place: Path) -> str:
    largest(place).write_bytes(b'')
    return 'is not what was written'


def flipped(place: Path) -> str:
    path = largest(place)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return 'is not what was written'


def missing(place: Path) -> str:
    largest(place).unlink()
    return 'is missing'


def without_format(place: Path) -> str:
    (place / 'meta' / 'metadata').unlink()
    return 'meta/metadata cannot be read'


def without_sums(place: Path) -> str:
    (place / integrity.SUMS).unlink()
    return f'{integrity.SUMS} cannot be read'


def all_gone(place: Path) -> str:
    shutil.rmtree(place)
    place.mkdir()
    return 'meta/metadata cannot be read'


DAMAGE = [truncated, emptied, flipped, missing, without_format, without_sums, all_gone]


def test_files_of_a_checkpoint(runs):
    place = newest(runs[0])
    sums = json.loads((place / integrity.SUMS).read_text())
    assert 'meta/metadata' in sums and any(name.startswith('state/') for name in sums)
    for name, wanted in sums.items():
        assert hashlib.sha256((place / name).read_bytes()).hexdigest() == wanted
    for seed in range(3):
        assert integrity.steps(runs[0] / 'checkpoints' / str(seed)) == [20, 15]
        assert not integrity.fault(newest(runs[0], seed))


@pytest.mark.parametrize('damage', DAMAGE)
def test_each_kind_of_damage_is_found(damage, runs, tmp_path):
    run = harm.copied(runs[1], tmp_path / 'copy')
    bad = newest(run)
    before = integrity.steps(bad.parent)
    told, said = damage(bad), []
    integrity.set_aside_damaged(run, [0, 1, 2], said.append)
    assert len(said) == 1 and told in said[0] and str(bad) in said[0] and f'step {before[1]}' in said[0]
    assert integrity.steps(bad.parent) == before[1:] and (bad.parent / f'{bad.name}-damaged').is_dir()
    integrity.set_aside_damaged(run, [0, 1, 2], said.append)
    assert len(said) == 1


@pytest.mark.parametrize('damage', [truncated, flipped, missing])
def test_damaged_checkpoint_falls_back_to_the_previous_one(damage, runs, tmp_path):
    run = harm.copied(runs[1], tmp_path / 'copy')
    damage(newest(run))
    done = call(tmp_path / 'copy', *harm.words())
    assert done.returncode == 0, done.stderr
    assert 'is damaged' in done.stdout and 'goes on from step' in done.stdout
    assert_same_run(runs[0], run, range(3), 20)
    assert (run / 'report.html').read_bytes() == (runs[0] / 'report.html').read_bytes()


def test_without_an_intact_checkpoint_the_run_is_refused(runs, tmp_path):
    run = harm.copied(runs[1], tmp_path / 'copy')
    place = newest(run).parent
    for step in integrity.steps(place):
        flipped(place / f'step_{step}')
    (run / 'lock.json').unlink()  # of the process that was killed
    before = {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    done = call(tmp_path / 'copy', *harm.words())
    assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
    assert 'no checkpoint in run/checkpoints/2 is whole' in done.stderr and 'nothing was changed' in done.stderr
    assert {path: path.read_bytes() for path in run.rglob('*') if path.is_file()} == before


def test_formats(runs, tmp_path):
    """One of the older format is read, though it has no sums; one of a later format is refused."""
    run = harm.copied(runs[1], tmp_path / 'copy')
    for place in (run / 'checkpoints' / '2' / f'step_{step}' for step in integrity.steps(run / 'checkpoints' / '2')):
        (place / integrity.SUMS).unlink()
        (place / 'meta' / 'metadata').write_text(json.dumps({'format': 1}))
    done = call(tmp_path / 'copy', *harm.words())
    assert done.returncode == 0, done.stderr
    assert_same_run(runs[0], run, range(3), 20)

    run = harm.copied(runs[1], tmp_path / 'later')
    place = newest(run)
    (place / integrity.SUMS).unlink()
    (place / 'meta' / 'metadata').write_text(json.dumps({'format': 3}))
    done = call(tmp_path / 'later', *harm.words())
    assert done.returncode == 2 and 'is of format 3, and this version of mixjax reads 1 to 2' in done.stderr
    assert 'the version that began it' in done.stderr and place.exists()


def test_unfinished_orbax_checkpoints_are_removed(runs, tmp_path):
    run = harm.copied(runs[1], tmp_path / 'copy')
    half = run / 'checkpoints' / '2' / 'step_20.orbax-checkpoint-tmp'
    shutil.copytree(newest(run), half)
    (half / integrity.SUMS).unlink()
    assert integrity.steps(half.parent)[0] < 20
    with checkpoint.open_folder(half.parent) as manager:
        manager.wait_until_finished()
        assert checkpoint.latest([manager]) == integrity.steps(half.parent)[0]


def test_intact_checksums_with_unreadable_arrays_are_refused(tmp_path):
    """Files whose sums are right and whose content no library understands."""
    place = tmp_path / 'checkpoints' / '0' / 'step_4'
    (place / 'meta').mkdir(parents=True)
    (place / 'meta' / 'metadata').write_text(json.dumps({'format': integrity.FORMAT}))
    (place / '_CHECKPOINT_METADATA').write_text('{}')
    integrity.seal(place)
    assert integrity.fault(place) == ''
    with checkpoint.open_folder(place.parent) as manager, pytest.raises(UserError, match='cannot be read'):
        checkpoint.restore(manager, 4, {})
