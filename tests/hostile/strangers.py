"""Work directories of strangers: links, FIFOs, devices and sparse files in place of what a run leaves."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

from mixjax.errors import UserError
from mixjax.host import disk_full
from mixjax.report import html
from mixjax.rundir import checkpoint, files, integrity, lock
from tests.hostile.readers import Reader
from tests.support import fake

KINDS = (
    'link', 'dangling', 'self', 'hard link', 'fifo', 'folder', 'link to a folder', 'sparse', '/dev/zero', '/dev/full',
)  # fmt: skip
OWN = (
    'report.html', 'results.md', 'results.csv', 'results.json', 'config.json', 'env.json', 'metrics.jsonl',
    'timing.jsonl', 'samples.npz', 'pairs.npz', 'pairs.json', 'data.json', 'lock.json', 'predictions.npz',
    'analysis.json', 'checkpoints', 'first', 'snapshots',
)  # fmt: skip
# The name that the file below had while it was written, and one as it has now.
PLACES = (
    *OWN,
    *(f'{name}.part' for name in OWN),
    'mixjax-0123456789abcdef.part',
    'checkpoints/0',
    'first/metrics.jsonl',
)


def put(place: Path, kind: str, outside: Path) -> None:
    """Put something of that kind in place of a file; what it leads to lies in `outside`, with the file's content."""
    there = place.read_bytes() if place.is_file() else b'of the user\n'
    target = outside / place.name
    with contextlib.suppress(FileExistsError):
        place.parent.mkdir(parents=True, exist_ok=True)
    if not place.parent.is_dir():
        return  # something else was put there
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    if kind == 'dangling':
        place.symlink_to(outside / f'new-{place.name}')
    elif kind == 'link to a folder':
        (outside / f'{place.name}.d').mkdir(exist_ok=True)
        place.symlink_to(outside / f'{place.name}.d')
    elif kind == 'self':
        place.symlink_to(place.name)
    elif kind == 'fifo':
        os.mkfifo(place)
    elif kind == 'folder':
        place.mkdir()
    elif kind == 'sparse':
        with place.open('wb') as file:
            file.truncate(1 << 40)
    elif kind.startswith('/dev'):
        place.symlink_to(kind)
    else:
        target.write_bytes(there)
        place.symlink_to(target) if kind == 'link' else os.link(target, place)


def seen(outside: Path) -> dict[str, Any]:
    """All that can change there."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes() if path.is_file() else b'')
        for path in [outside, *sorted(outside.rglob('*'))]
    }


def planted(data: bytes, random_: random.Random, others: list[bytes]) -> bytes:
    """A plan: what is put where."""
    del data, others
    some = random_.sample(PLACES, random_.choice((1, 1, 2, 3, 6)))
    return json.dumps({place: random_.choice(KINDS) for place in some}).encode()


def plans(_: Path) -> list[bytes]:
    return [b'{}', b'{"report.html.part": "link"}', b'{"metrics.jsonl": "link", "lock.json": "dangling"}']


def visited(path: Path, what: Any) -> None:
    """Carry a plan out in a folder, do `what` with it, and compare what lies outside."""
    top = path.parent / 'visited'
    run, outside = top / 'run', top / 'outside'
    fake.make_run(run, 'xmixup', [0.5, 0.6], pairs=True, classes=('a', 'b'), side=4)
    outside.mkdir()
    try:
        for place, kind in json.loads(path.read_bytes()).items():
            put(run / place, kind, outside)
        before = seen(outside)
        try:
            what(run)
        finally:
            assert seen(outside) == before
    finally:
        shutil.rmtree(top)


def train(run: Path) -> None:
    """All that training writes."""
    lock.LOST = 0.5  # seconds for which a lock that may be half-written is watched
    with disk_full.explain_write_errors(run), lock.hold(run, lambda _: None):
        files.create(run / 'first')
        for name in ('metrics.jsonl', 'first/metrics.jsonl'):
            files.rewind_log(run / name, [0], 100)
            files.append(run / name, {'seed': 0, 'step': 101, 'kind': 'train'})
        files.write_json(run / 'env.json', {})
        files.write_arrays(run / 'samples.npz', {})
        integrity.set_aside_damaged(run, [0], lambda _: None)
        checkpoint.open_folder(run / 'checkpoints' / '0').close()


def report(run: Path) -> None:
    html.write(run)


READERS = {
    'strangers: report': Reader(plans, lambda path: visited(path, report), planted),
    'strangers: training': Reader(plans, lambda path: visited(path, train), planted, refuses=(UserError,)),
}
