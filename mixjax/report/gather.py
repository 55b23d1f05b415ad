"""The runs of a report: those that are named, and all finished runs of a folder of runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.storage import Place
from mixjax.report.read import Folder, Unfinished, finished, names, read, run_folders
from mixjax.report.words import count

BESIDE = ('report.html', 'results.md', 'results.csv')
DEPTH = 3  # maximum depth of sub-folders in which runs are searched


class Found(NamedTuple):
    """The runs that were found. unfinished: names of the runs left out. grid: whether some folder of runs was given.

    sweep: the given work directory, if it is a single sweep.
    """

    folders: tuple[Folder, ...]
    unfinished: tuple[str, ...] = ()
    grid: bool = False
    sweep: tuple[Place, ...] = ()


def gather(paths: Sequence[str | Place]) -> Found:
    """Return the work directories among the paths and in folders of runs. A run that is named must be finished."""
    # Files that a report has written among the runs: `runs/study/*` names them too.
    given = [path for path in map(storage.reachable, paths) if len(paths) == 1 or path.name not in BESIDE]
    inside = [[] if _is_run(path) else runs(path) for path in given]
    folders: list[Place] = []
    left: list[Place] = []
    for path, found in zip(given, inside, strict=True):
        for run in found or [path]:
            try:
                folders += [finished(folder) for folder in run_folders(run)] if found else [run]
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
    """Return the work directories below a folder, by name."""
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
