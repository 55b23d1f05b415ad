"""Copies data sets from an object store to the disk of each host, once.

Records and photographs are read in any order and many times, and each read over the network would have to be waited
for. A copy has a list of the versions that it was made from, so that a file that changes in the store is copied again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mixjax.errors import UserError
from mixjax.host import storage, untrusted

AT_ONCE = 16  # files that are copied at the same time: for small ones the latency of the network dominates
LIST = 'copied.json'  # beside the copy: {file: its version in the store}


def local_copy(place: str, cache: Path) -> Path:
    """Return a folder of this host with the files of `place`: itself, or a copy in `cache` if it is in a store.

    Processes of one host share the copy; one of them makes it.

    Args:
      place: a folder on a disk or in a store.
      cache: the cache folder of this host.
    """
    if not storage.is_remote(place):
        return storage.to_place(place)
    where = storage.reachable(place)
    top = cache / 'copies' / hashlib.sha256(str(where).encode()).hexdigest()[:16]
    try:
        storage.make_folder(top)
        with _alone(top / 'lock'):
            _copy(where, top)
    except OSError as error:
        raise UserError(f'{where} cannot be copied to {top} ({error.strerror or error})') from error
    return top / where.name


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    with storage.open_append(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy(where: storage.Place, top: Path) -> None:
    """Copy files that are new or have changed in the store; remove those that are gone from it."""
    import fsspec

    store: Any = fsspec.filesystem('gs')
    root = str(where).removeprefix(storage.STORE)
    try:
        found = {name.removeprefix(f'{root}/'): about for name, about in store.find(root, detail=True).items()}
    except Exception as error:  # network or credentials
        raise storage.unreachable(where, error) from error
    versions = {name: _version(about) for name, about in found.items() if not name.endswith('/')}
    for name in versions:
        if os.path.isabs(name) or '..' in Path(name).parts:
            raise UserError(f'{where} has an object called {name!r}, which is not a file name')
    files, memory = top / where.name, top / LIST
    known = _known(memory)
    before = {name: version for name, version in known.items() if (files / name).is_file()}
    todo = [name for name, version in versions.items() if before.get(name) != version]
    for name in before.keys() - versions.keys():
        (files / name).unlink()
    files.mkdir(exist_ok=True)
    if todo:
        _fetch(store, where, root, files, {name: int(found[name]['size']) for name in todo})
    if todo or known != versions:
        storage.write(memory, json.dumps(versions).encode())


def _version(about: dict[str, Any]) -> list[Any]:
    """Return a value that changes when the object changes."""
    return [int(about['size']), str(about.get('generation') or about.get('etag') or about.get('mtime'))]


def _known(memory: Path) -> dict[str, Any]:
    try:
        found = untrusted.parse(untrusted.read_regular(memory))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _fetch(store: Any, where: storage.Place, root: str, files: Path, sizes: dict[str, int]) -> None:
    from mixjax.data.pixels.rowfile import RESERVE, size
    from mixjax.host.progress import Bar

    needed, free = sum(sizes.values()), shutil.disk_usage(files).free
    if needed + RESERVE > free:
        raise UserError(
            f'{where} is {size(needed)}, and {files} has {size(free)} free; set config.cache_dir to a folder on a '
            'larger disk'
        )
    bar = Bar(len(sizes), f'{where}: copying {size(needed)} to this machine')

    def one(name: str) -> None:
        path = files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + storage.PART)
        try:
            store.get_file(f'{root}/{name}', str(part))
        except Exception as error:
            raise storage.unreachable(where / name, error) from error
        if part.stat().st_size != sizes[name]:
            raise UserError(f'{where / name} came as {part.stat().st_size:,} bytes of {sizes[name]:,}; try again')
        os.replace(part, path)
        bar.add(1)

    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix='mixjax-copy')
    try:
        list(pool.map(one, sizes))
    finally:
        pool.shutdown(cancel_futures=True)
        bar.close()
