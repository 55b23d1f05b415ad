"""Where files lie: on a disk, or in an object store, `gs://BUCKET/FOLDER`.

A place on a disk is a `pathlib.Path`; one in a store is an `etils.epath.Path`, which is asked in the same way. What is
not the same for both is here. In a store a file appears whole or not at all, folders need not be made, and nothing can
be added to a file.
"""

from __future__ import annotations

import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

from mixjax.errors import UserError

STORE = 'gs://'
PART = '.part'  # ends the name of a file that is not whole yet
Place = Path  # or of a store, what has the same methods


def remote(place: str | os.PathLike[str]) -> bool:
    """Whether a place is in a store."""
    return '://' in os.fspath(place)


def of(text: str | os.PathLike[str]) -> Place:
    """The place that a text names; `~` is the user's home."""
    if not remote(text):
        return Path(os.path.expanduser(text))  # as it stands, where the user has no home
    where = os.fspath(text)
    if not where.startswith(STORE):
        raise UserError(f'{where}: of object stores gs://BUCKET/FOLDER is understood; mount another one as a disk')
    if not where.removeprefix(STORE).strip('/'):
        raise UserError(f'{where}: the bucket is missing, write gs://BUCKET/FOLDER')
    _client()
    from etils import epath

    return epath.Path(where.rstrip('/'))  # pyright: ignore[reportReturnType]


def given(text: str | os.PathLike[str]) -> Place:
    """A place that a person named, once it is sure that its store answers."""
    place = of(text)
    if remote(place):
        try:
            place.exists()
        except Exception as error:  # of the network, of credentials: each client has errors of its own
            raise unreachable(place, error) from error
    return place


def unreachable(place: Place, error: Exception) -> UserError:
    """What to tell of a place that cannot be read or written."""
    if not remote(place):
        return UserError(f'{place}: {getattr(error, "strerror", None) or error}')
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f'{place} cannot be reached ({type(error).__name__}: {line}); is the bucket there, and may you use it? '
        '`gcloud auth application-default login` gives credentials'
    )


@functools.cache
def _client() -> None:
    """Make sure that there is a client of the store, and that it forgets what it saw: others write there too."""
    if importlib.util.find_spec('gcsfs') is None:
        raise UserError("gs:// needs a client of the store: pip install 'mixjax[gcs]'")
    from fsspec import config

    for name in ('gs', 'gcs'):
        config.conf.setdefault(name, {})['use_listings_cache'] = False


def kept(chosen: str = '') -> Path:
    """The folder of this machine for what is made once and used by many runs; chosen: `config.cache_dir`."""
    home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(os.path.expanduser(chosen or os.environ.get('MIXJAX_CACHE') or f'{home}/mixjax'))


def is_file(place: Place) -> bool:
    """Whether there is such a file; no where the name is one that no system allows."""
    return place.is_file() if remote(place) else os.path.isfile(place)


def is_dir(place: Place) -> bool:
    """Whether there is such a folder."""
    return place.is_dir() if remote(place) else os.path.isdir(place)


def absolute(place: Place) -> Place:
    """The same place, whatever the current folder."""
    return place if remote(place) else place.absolute()


def resolved(place: Place) -> Place:
    """The same place, without links."""
    return place if remote(place) else place.resolve()


def write(place: Place, data: bytes) -> None:
    """Write a file whole or not at all."""
    if remote(place):
        place.write_bytes(data)
        return
    part = place.with_name(place.name + PART)
    part.write_bytes(data)
    os.replace(part, place)


def create(place: Place, data: bytes) -> bool:
    """Write a file that is not there yet; False where it is. Of several who try at once, one succeeds."""
    if remote(place):
        import fsspec

        try:
            store: Any = fsspec.filesystem('gs')
            store.pipe_file(os.fspath(place), data, mode='create')
        except FileExistsError:
            return False
        return True
    try:
        with place.open('xb') as file:
            file.write(data)
    except FileExistsError:
        return False
    return True
