"""Where files lie: on a disk, or in an object store, `gs://BUCKET/FOLDER`.

A place on a disk is a `pathlib.Path`; one in a store is an `etils.epath.Path`, which is asked in the same way. What is
not the same for both is here. In a store a file appears whole or not at all, folders need not be made, and nothing can
be added to a file.

Everything that mixjax writes goes through `new`, `write`, `create`, `append` and `make`, and none of them follows a
link: a work directory may be a stranger's, and a link in it may lead anywhere. A link that a person names is another
matter: `real` resolves it, once, where a command gets its folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import importlib.util
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mixjax.errors import UserError

STORE = 'gs://'
PART = '.part'  # ends the name of a file that is not whole yet
Place = Path  # or of a store, what has the same methods

_TEMPORARY = re.compile(rf'mixjax-[0-9a-f]{{16}}{re.escape(PART)}')
# A folder that is only passed through needs no right to be listed, where the system knows that difference.
_FOLDER = getattr(os, 'O_PATH', os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def remote(place: str | os.PathLike[str]) -> bool:
    """Whether a place is in a store."""
    return '://' in os.fspath(place)


def of(text: str | os.PathLike[str]) -> Place:
    """The place that a text names; `~` is the user's home."""
    if not remote(text):
        return _expanded(text)
    where = os.fspath(text)
    if not where.startswith(STORE):
        raise UserError(f'{where}: of object stores gs://BUCKET/FOLDER is understood; mount another one as a disk')
    if not where.removeprefix(STORE).strip('/'):
        raise UserError(f'{where}: the bucket is missing, write gs://BUCKET/FOLDER')
    _client()
    from etils import epath

    return epath.Path(where.rstrip('/'))  # pyright: ignore[reportReturnType]


def _expanded(text: str | os.PathLike[str]) -> Path:
    """A path on a disk, with `~` replaced by a home folder that exists: none is made, nor a folder called `~`."""
    path = os.fspath(text)
    if not path.startswith('~'):
        return Path(path)
    home, separator, below = path.partition('/')
    folder = os.path.expanduser(home)
    if not os.path.isabs(folder) or not os.path.isdir(folder) or home == '~' and os.environ.get('HOME') == '':
        why = f'the home folder {folder} does not exist' if os.path.isabs(folder) else f'no home folder {home} is known'
        raise UserError(f'{path}: {why} (HOME={os.environ.get("HOME", "")}); write the path without ~')
    return Path(f'{folder}{separator}{below}')


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
    try:
        return real(_expanded(chosen or os.environ.get('MIXJAX_CACHE') or f'{home}/mixjax'))
    except UserError as error:
        raise UserError(f'the cache has no folder: {error}, or name one with $MIXJAX_CACHE or cache_dir') from None


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
    return place if remote(place) else Path(os.path.realpath(place))


def real(place: Place) -> Place:
    """The same place, without links, where a person's own path has some; unchanged where it has none.

    For the folder that a command was given: what is written below it follows no link.
    """
    if remote(place) or os.path.realpath(place) == os.path.abspath(place):
        return place
    return resolved(place)


def real_file(place: Place) -> Place:
    """A file that a person named, in the real folder of that name; the file itself is not resolved.

    Raises:
      UserError: it is a device, a FIFO or a socket: a new file would take its place.
    """
    if remote(place):
        return place
    place = real(place.parent) / place.name
    with contextlib.suppress(OSError):
        kind = stat.S_IFMT(os.lstat(place).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR):
            raise UserError(f'{place} is no regular file, and would be replaced by one; name another file')
    return place


# --- writing ----------------------------------------------------------------------------------------------------------


class IsLink(OSError):
    """A link lies where something is to be written."""


@contextlib.contextmanager
def new(place: Place) -> Iterator[BinaryIO]:
    """A file to write, which is at `place` once the block has ended, in place of what was there; or never is.

    Until then it has a random name in the same folder, and is locked. The first time that a process writes to a
    folder, files of that kind that nobody has locked, which are those of killed processes, are removed.
    """
    if remote(place):
        made = io.BytesIO()
        yield made
        place.write_bytes(made.getvalue())
        return
    with _opened(place.parent) as folder:
        _sweep(folder)
        name, descriptor = _temporary(folder)
        try:
            with open(descriptor, 'wb') as file:
                yield file
                file.flush()
                os.replace(name, place.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=folder)
            raise


def write(place: Place, data: bytes) -> None:
    """Write a file whole or not at all."""
    with new(place) as file:
        file.write(data)


def write_named(path: Path, data: bytes) -> None:
    """Write a file that a person named on the command line; one below /dev, such as /dev/stdout, as it is."""
    if path.is_absolute() and path.parts[1:2] == ('dev',):
        with path.open('wb') as file:
            file.write(data)
    else:
        write(real_file(path), data)


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
    with _opened(place.parent) as folder:
        try:
            descriptor = os.open(place.name, _NEW, 0o666, dir_fd=folder)
        except FileExistsError:
            return False
        with open(descriptor, 'wb') as file:
            file.write(data)
    return True


def appending(path: Path) -> BinaryIO:
    """Open a file on a disk to add to it, or to lock it; it is made where it is missing.

    Raises:
      IsLink: it is a link. OSError: it is not a regular file, or cannot be written.
    """
    with _opened(path.parent) as folder:
        try:
            descriptor = os.open(path.name, _APPEND, 0o666, dir_fd=folder)
        except OSError as error:
            raise _link(path.name, folder, path) or error from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, 'it is not a regular file', path)
    return open(descriptor, 'ab')


def append(path: Path, data: bytes) -> None:
    """Add to a file on a disk; one that has a second name, outside perhaps, is copied first and loses it."""
    with appending(path) as file:
        if os.fstat(file.fileno()).st_nlink == 1:
            file.write(data)
            return
    with path.open('rb') as old, new(path) as file:
        shutil.copyfileobj(old, file)
        file.write(data)


def make(folder: Place) -> None:
    """Make a folder, and those above it that are missing; a store has none to make."""
    if not remote(folder):
        with _opened(folder, make=True):
            pass


def try_writing(folder: Place) -> None:
    """Write a file and remove it: raises what the disk or the store has against that."""
    if remote(folder):
        probe = folder / f'write{PART}'
        probe.write_bytes(b'')
        probe.unlink()
        return
    with _opened(folder) as inside:
        name, descriptor = _temporary(inside)
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):  # another process has swept it up
            os.unlink(name, dir_fd=inside)


def links(folder: Path) -> list[str]:
    """The names of all links in a folder, to which no link may lead; none of what is no folder."""
    try:
        with _opened(folder) as inside:
            listing = os.open('.', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=inside)
            try:
                with os.scandir(listing) as items:
                    return sorted(item.name for item in items if item.is_symlink())
            finally:
                os.close(listing)
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextlib.contextmanager
def _opened(folder: Path, make: bool = False) -> Iterator[int]:
    """The descriptor of a folder, to which no link leads. make: with what is missing of it."""
    start, *parts = folder.parts if folder.is_absolute() else ('.', *folder.parts)
    descriptor = os.open(start, _FOLDER)
    try:
        for depth, part in enumerate(parts, 1):
            inner = _step(part, descriptor, Path(start, *parts[:depth]), make)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _step(name: str, folder: int, path: Path, make: bool) -> int:
    """The descriptor of a folder in a folder. path: of the inner one, for messages."""
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError as error:
        if not make:
            raise FileNotFoundError(error.errno, error.strerror, path) from None
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(name, dir_fd=folder)
        return _step(name, folder, path, False)
    except OSError as error:
        raise _link(name, folder, path) or OSError(error.errno, error.strerror, path) from None


def _link(name: str, folder: int, path: Path) -> IsLink | None:
    """The error of writing to a link, if that is what the name stands for."""
    with contextlib.suppress(OSError):
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return IsLink(errno.ELOOP, f'{path.name} is a link, and nothing is written through links', path)
    return None


def _temporary(folder: int) -> tuple[str, int]:
    """(name, descriptor) of a new file in a folder, which is locked as long as it is open."""
    while True:
        name = f'mixjax-{secrets.token_hex(8)}{PART}'
        descriptor = os.open(name, _NEW, 0o666, dir_fd=folder)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return name, descriptor
        os.close(descriptor)  # a process that swept was faster with its lock


_swept: set[tuple[int, int]] = set()  # folders, by device and inode


def _sweep(folder: int) -> None:
    """Remove the temporary files of dead processes, which are those that nobody has locked; once for each folder."""
    facts = os.fstat(folder)
    if (facts.st_dev, facts.st_ino) in _swept:
        return
    _swept.add((facts.st_dev, facts.st_ino))
    with contextlib.suppress(OSError):
        listing = os.open('.', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            names = [name for name in os.listdir(listing) if _TEMPORARY.fullmatch(name)]
        finally:
            os.close(listing)
        for name in names:
            _remove_unlocked(name, folder)


def _remove_unlocked(name: str, folder: int) -> None:
    with contextlib.suppress(OSError):  # it is locked, or gone
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=folder)
        finally:
            os.close(descriptor)
