"""The runs that a report is of: those that are named, and of a folder that holds runs all that are finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.report.read import Folder, Unfinished, names, parts, read, whole
from mixjax.report.words import count

BESIDE = ('report.html', 'results.md', 'results.csv')
DEPTH = 3  # folders in folders, at most, in which runs are looked for


class Found(NamedTuple):
    """unfinished: names of runs that are left out. grid: whether some folder of runs was given.

    sweep: the one work directory that was given, if it is one.
    """

    folders: tuple[Folder, ...]
    unfinished: tuple[str, ...] = ()
    grid: bool = False
    sweep: tuple[Place, ...] = ()


def gather(paths: Sequence[str | Place]) -> Found:
    """Work directories, and folders that hold them. A run that is named must be finished."""
    # What a report has left among the runs: `runs/study/*` names it too.
    given = [path for path in map(storage.given, paths) if len(paths) == 1 or path.name not in BESIDE]
    inside = [[] if _is_run(path) else runs(path) for path in given]
    folders: list[Place] = []
    left: list[Place] = []
    for path, found in zip(given, inside, strict=True):
        for run in found or [path]:
            try:
                folders += [whole(part) for part in parts(run)] if found else [run]
            except Unfinished:
                left.append(run)
    if not folders:
        told = ', '.join(place.name for place in left[:3]) + (', ..' if len(left) > 3 else '')
        raise UserError(f'no run is finished of {count(len(left), "run")} that were begun: {told}')
    grid = any(inside)
    return Found(read(folders), tuple(names(left)), grid, tuple(given) if len(given) == 1 and not grid else ())


def _is_run(path: Place) -> bool:
    return any(storage.is_file(path / name) for name in ('config.json', 'results.json'))


def runs(path: Place, depth: int = DEPTH) -> list[Place]:
    """The work directories below a folder, by name."""
    if not storage.is_dir(path):
        return []
    out = []
    for item in sorted(path.iterdir(), key=lambda item: item.name):
        if item.name.startswith('.') or not item.is_dir():
            continue
        if _is_run(item):
            out.append(item)
        elif depth > 1:
            out += runs(item, depth - 1)
    return out
