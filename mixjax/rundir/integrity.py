"""Integrity of checkpoints: a SHA-256 of each file, kept in the checkpoint.

The sums are written after all files of a checkpoint, and before it gets its name; so a checkpoint with a name has
its sums. A restart checks the newest checkpoint of each seed. A damaged one is renamed, and the one before it is
used; if none is intact, nothing is changed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.host.processes import by_first, first
from mixjax.host.storage import Place

FORMAT = 2  # 1 had no sums
READ = (1, 2)  # formats that can be read; the state is the same in both
SUMS = 'sha256.json'
# Written by Orbax after the sums; they hold nothing of the state.
COMMITTED = 'commit_success.txt'
ABOUT = '_CHECKPOINT_METADATA'
LATER = (SUMS, ABOUT, COMMITTED)
STEP = 'step_'
ASIDE = '-damaged'  # suffix of a damaged one that is renamed
BLOCK = 1 << 22


class Sealer:
    """A writer of the sums of the checkpoint that is being saved. `step` is set before each save."""

    def __init__(self, folder: Place) -> None:
        self.folder, self.step = folder, -1

    def __call__(self) -> None:
        """Write the sums: all files exist, and the folder's name is final, or a temporary one that begins with it."""
        if not first():
            return
        name = f'{STEP}{self.step}'
        for place in self.folder.iterdir():
            if place.name == name or place.name.startswith(f'{name}.'):  # step_8, step_8.orbax-checkpoint-tmp..
                seal(place)


def seal(place: Place) -> None:
    """Write the sums of a checkpoint's files."""
    sums = {name: digest(path) for name, path in sorted(files(place))}
    storage.write(place / SUMS, (json.dumps(sums, indent=1) + '\n').encode())


def files(place: Place, below: str = '') -> Iterator[tuple[str, Place]]:
    """Yield (name, path) of each file that a checkpoint's sums cover; names have `/`."""
    for item in place.iterdir():
        if item.is_dir():
            yield from files(item, f'{below}{item.name}/')
        elif below or item.name not in LATER:
            yield f'{below}{item.name}', item


def digest(path: Place) -> str:
    out = hashlib.sha256()
    with untrusted.open_regular(path) as file:
        while block := file.read(BLOCK):
            out.update(block)
    return out.hexdigest()


def _parsed(path: Place) -> Any:
    return untrusted.parse(untrusted.read_regular(path, untrusted.MOST_TEXT))


def fault(place: Place) -> str:
    """Return the problem with a checkpoint, as the end of a sentence; '' if there is none."""
    try:
        version = _parsed(place / 'meta' / 'metadata')['format']
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f'meta/metadata cannot be read ({_why(error)})'
    why = _notes(place)
    if why:
        return why
    if type(version) is not int:
        return f'meta/metadata names an invalid format, {str(version)[:40]!r}'
    try:
        if version != FORMAT and not (place / SUMS).exists():
            return ''  # an older one; anything that is not a checkpoint is refused by `check_format`
        sums = _parsed(place / SUMS)
        there = dict(files(place))
    except (OSError, ValueError) as error:
        return f'{SUMS} cannot be read ({_why(error)})'
    if not isinstance(sums, dict) or not sums:
        return f'{SUMS} lists no files'
    for name, wanted in sorted(sums.items()):
        if name not in there:
            return f'{name[:80]} is missing'
        try:
            if digest(there[name]) != wanted:
                return f'{name} is not what was written: its SHA-256 differs'
        except OSError as error:
            return f'{name} cannot be read ({_why(error)})'
    more = sorted(there.keys() - sums.keys())
    return f'{more[0]} was not written by mixjax' if more else ''


def _notes(place: Place) -> str:
    """Return the problem with Orbax's notes beside a checkpoint, which are not needed but must not be wrong."""
    try:
        said = _parsed(place / ABOUT) if (place / ABOUT).exists() else {}
    except (OSError, ValueError) as error:
        return f'{ABOUT} cannot be read ({_why(error)})'
    if not isinstance(said, dict):
        return f'{ABOUT} holds no notes'
    times = [value for key, value in said.items() if key.endswith('_nsecs') and value is not None]
    sound = all(type(value) is int and 0 <= value < 2**63 for value in times)
    return '' if sound else f'{ABOUT} has invalid times'


def _why(error: Exception) -> str:
    return error.strerror or 'it is not there' if isinstance(error, OSError) else type(error).__name__


def check_format(version: Any, place: str) -> None:
    """Refuse a checkpoint of an unknown format."""
    if version not in READ:
        raise UserError(
            f'the checkpoint {place} is of format {version}, and this version of mixjax reads {READ[0]} to {READ[-1]}; '
            'continue the run with the version that began it (see env.json), or use another --workdir'
        )


def steps(folder: Place) -> list[int]:
    """Return the steps of the checkpoints of a seed, the newest first."""
    if not storage.is_dir(folder):
        return []
    # On a disk a step gets its name when it is complete; in a store, which cannot rename, a mark.
    found = [item for item in folder.iterdir() if item.name.startswith(STEP)]
    whole = [item for item in found if not storage.is_remote(item) or (item / COMMITTED).exists()]
    names = [item.name.removeprefix(STEP) for item in whole]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


@by_first
def set_aside_damaged(folder: Place, seeds: list[int], say: Callable[[str], None]) -> None:
    """Rename the damaged checkpoints of a run that are newer than an intact one, also of its first stage.

    Args:
      folder: the work directory.
      seeds: the seeds of the run.
      say: prints a line.

    Raises:
      UserError: a seed has checkpoints and none is intact; nothing has been changed then.
    """
    bad: list[tuple[Place, str, int]] = []
    for stage in ('', 'first'):
        for seed in seeds:
            place = (folder / stage if stage else folder) / 'checkpoints' / str(seed)
            refuse_links(place)
            found = _damaged(place)
            bad += [(place / f'{STEP}{step}', why, whole) for step, why, whole in found]
    for place, why, whole in bad:
        aside, number = place.with_name(f'{place.name}{ASIDE}'), 1
        while aside.exists():
            number += 1
            aside = place.with_name(f'{place.name}{ASIDE}-{number}')
        place.rename(aside)
        say(
            f'the checkpoint {place} is damaged: {why}; it is now called {aside.name}, and the run goes on from '
            f'step {whole}'
        )


def refuse_links(folder: Place) -> None:
    """Refuse a folder of checkpoints that contains links: files are not written or removed through them.

    Anything that is not a folder is refused too.
    """
    if not storage.is_remote(folder) and os.path.lexists(folder) and not os.path.islink(folder) and not folder.is_dir():
        raise UserError(f'{folder} is not a folder, so no checkpoints can be kept there; use another --workdir')
    try:
        found = [] if storage.is_remote(folder) else storage.list_links(folder)
    except storage.IsLink as error:
        raise UserError(f'the checkpoints in {folder} cannot be written: {error.strerror}') from error
    if found:
        raise UserError(
            f'{folder / found[0]} is a link, and checkpoints are not kept through links; put the files themselves '
            'there, or use another --workdir'
        )


def _damaged(place: Place) -> list[tuple[int, str, int]]:
    """Return (step, fault, step of the intact one that is used instead) of the damaged checkpoints newer than that."""
    bad: list[tuple[int, str]] = []
    for step in steps(place):
        why = fault(place / f'{STEP}{step}')
        if not why:
            return [(*one, step) for one in bad]
        bad.append((step, why))
    if bad:
        faults = '; '.join(f'{STEP}{step}: {why}' for step, why in bad)
        raise UserError(
            f'no checkpoint in {place} is whole ({faults}); nothing was changed: put the files back from a copy, '
            'or begin again in another --workdir'
        )
    return []
