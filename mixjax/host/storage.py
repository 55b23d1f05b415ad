"""Files on a disk or in an object store, `gs://BUCKET/FOLDER`.

A place on a disk is a `pathlib.Path`; one in a store is an `etils.epath.Path`, which has the same interface. This
module has the operations that differ. In a store a file appears whole or not at all, folders need not be made, and
nothing can be appended to a file.

Everything that mixjax writes goes through `open_atomic`, `write`, `create_exclusive`, `append` and `make_folder`, and
none of them follows a symbolic link: a work directory may come from somebody else, and a link in it may lead anywhere.
A link that the user names is different: `resolve_links` resolves it once, where a command gets its folder.
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
PART = '.part'  # suffix of a file that is not complete yet
Place = Path  # in a store, an object with the same methods

_TEMPORARY = re.compile(rf'mixjax-[0-9a-f]{{16}}{re.escape(PART)}')
# A folder that is only passed through needs no read permission, where the system makes that difference.
_FOLDER = getattr(os, 'O_PATH', os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def is_remote(place: str | os.PathLike[str]) -> bool:
    """Return whether a place is in an object store."""
    return '://' in os.fspath(place)


def to_place(text: str | os.PathLike[str]) -> Place:
    """Return the place that a text names; `~` is the user's home folder."""
    if not is_remote(text):
        return _expanded(text)
    where = os.fspath(text)
    if not where.startswith(STORE):
        raise UserError(f'{where}: the only object store that works is gs://BUCKET/FOLDER; mount another one as a disk')
    if not where.removeprefix(STORE).strip('/'):
        raise UserError(f'{where}: the bucket is missing, write gs://BUCKET/FOLDER')
    _client()
    from etils import epath

    return epath.Path(where.rstrip('/'))  # pyright: ignore[reportReturnType]


def _expanded(text: str | os.PathLike[str]) -> Path:
    """Return a path on a disk, with `~` replaced by the home folder, which must exist.

    Neither a home folder nor a folder called `~` is created.
    """
    path = os.fspath(text)
    if not path.startswith('~'):
        return Path(path)
    home, separator, below = path.partition('/')
    folder = os.path.expanduser(home)
    if not os.path.isabs(folder) or not os.path.isdir(folder) or home == '~' and os.environ.get('HOME') == '':
        why = f'the home folder {folder} does not exist' if os.path.isabs(folder) else f'no home folder {home} is known'
        raise UserError(f'{path}: {why} (HOME={os.environ.get("HOME", "")}); write the path without ~')
    return Path(f'{folder}{separator}{below}')


def reachable(text: str | os.PathLike[str]) -> Place:
    """Return the place that the user named, after checking that its store answers."""
    place = to_place(text)
    if is_remote(place):
        try:
            place.exists()
        except Exception as error:  # network or credentials: each client has different errors
            raise unreachable(place, error) from error
    return place


def unreachable(place: Place, error: Exception) -> UserError:
    """Return the error for a place that cannot be read or written."""
    if not is_remote(place):
        return UserError(f'{place}: {getattr(error, "strerror", None) or error}')
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f'{place} cannot be reached ({type(error).__name__}: {line}); is the bucket there, and may you use it? '
        '`gcloud auth application-default login` gives credentials'
    )


@functools.cache
def _client() -> None:
    """Check that a client of the store is installed, and turn off its cache of listings: others write there too."""
    if importlib.util.find_spec('gcsfs') is None:
        raise UserError("gs:// needs a client of the store: pip install 'mixjax[gcs]'")
    from fsspec import config

    for name in ('gs', 'gcs'):
        config.conf.setdefault(name, {})['use_listings_cache'] = False


def cache_folder(chosen: str = '') -> Path:
    """Return the cache folder of this machine, whose content is shared by runs. chosen: `config.cache_dir`."""
    home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    try:
        return resolve_links(_expanded(chosen or os.environ.get('MIXJAX_CACHE') or f'{home}/mixjax'))
    except UserError as error:
        raise UserError(f'the cache has no folder: {error}, or name one with $MIXJAX_CACHE or cache_dir') from None


def is_file(place: Place) -> bool:
    """Return whether a file exists; False for a name that no system allows."""
    return place.is_file() if is_remote(place) else os.path.isfile(place)


def is_dir(place: Place) -> bool:
    """Return whether a folder exists."""
    return place.is_dir() if is_remote(place) else os.path.isdir(place)


def absolute(place: Place) -> Place:
    """Return the place as an absolute path."""
    return place if is_remote(place) else place.absolute()


def realpath(place: Place) -> Place:
    """Return the place with all symbolic links resolved."""
    return place if is_remote(place) else Path(os.path.realpath(place))


def resolve_links(place: Place) -> Place:
    """Return a place that the user named with symbolic links resolved; unchanged where it has none.

    For the folder that a command gets: files below it are written without following links.
    """
    if is_remote(place) or os.path.realpath(place) == os.path.abspath(place):
        return place
    return realpath(place)


def resolve_file(place: Place) -> Place:
    """Return a file that the user named, with links in its folder resolved; the file itself is not resolved.

    Raises:
      UserError: it is a device, a FIFO or a socket, which a new file would replace.
    """
    if is_remote(place):
        return place
    place = resolve_links(place.parent) / place.name
    with contextlib.suppress(OSError):
        kind = stat.S_IFMT(os.lstat(place).st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR):
            raise UserError(f'{place} is not a regular file, and would be replaced by one; name another file')
    return place


# --- writing ----------------------------------------------------------------------------------------------------------


class IsLink(OSError):
    """A symbolic link is at the place of a file to write."""


@contextlib.contextmanager
def open_atomic(place: Place) -> Iterator[BinaryIO]:
    """Open a file for writing that replaces `place` at the end of the block; after an error, nothing changes.

    Until then it has a random name in the same folder, and is locked. The first time that a process writes to a
    folder, unlocked files of that kind are removed: they are those of killed processes.
    """
    if is_remote(place):
        made = io.BytesIO()
        yield made
        place.write_bytes(made.getvalue())
        return
    with _open_folder(place.parent) as folder:
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
    with open_atomic(place) as file:
        file.write(data)


def write_named(path: Path, data: bytes) -> None:
    """Write a file that the user named on the command line; one in /dev, such as /dev/stdout, is written directly."""
    if path.is_absolute() and path.parts[1:2] == ('dev',):
        with path.open('wb') as file:
            file.write(data)
    else:
        write(resolve_file(path), data)


def create_exclusive(place: Place, data: bytes) -> bool:
    """Write a new file, and return False if it exists. Of several processes that try at once, one succeeds."""
    if is_remote(place):
        import fsspec

        try:
            store: Any = fsspec.filesystem('gs')
            store.pipe_file(os.fspath(place), data, mode='create')
        except FileExistsError:
            return False
        return True
    with _open_folder(place.parent) as folder:
        try:
            descriptor = os.open(place.name, _NEW, 0o666, dir_fd=folder)
        except FileExistsError:
            return False
        with open(descriptor, 'wb') as file:
            file.write(data)
    return True


def open_append(path: Path) -> BinaryIO:
    """Open a file on a disk to append to it, or to lock it; it is created if it does not exist.

    Raises:
      IsLink: it is a link.
      OSError: it is not a regular file, or cannot be written.
    """
    with _open_folder(path.parent) as folder:
        try:
            descriptor = os.open(path.name, _APPEND, 0o666, dir_fd=folder)
        except OSError as error:
            raise _link_error(path.name, folder, path) or error from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, 'it is not a regular file', path)
    return open(descriptor, 'ab')


def append(path: Path, data: bytes) -> None:
    """Append to a file on a disk; one with several hard links, perhaps outside, is first replaced by a copy."""
    with open_append(path) as file:
        if os.fstat(file.fileno()).st_nlink == 1:
            file.write(data)
            return
    with path.open('rb') as old, open_atomic(path) as file:
        shutil.copyfileobj(old, file)
        file.write(data)


def make_folder(folder: Place) -> None:
    """Create a folder and its missing parents; in a store this does nothing."""
    if not is_remote(folder):
        with _open_folder(folder, make=True):
            pass


def try_writing(folder: Place) -> None:
    """Write a file and remove it, to raise the errors of the disk or the store."""
    if is_remote(folder):
        probe = folder / f'write{PART}'
        probe.write_bytes(b'')
        probe.unlink()
        return
    with _open_folder(folder) as inside:
        name, descriptor = _temporary(inside)
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):  # another process has removed it in `_sweep`
            os.unlink(name, dir_fd=inside)


def list_links(folder: Path) -> list[str]:
    """Return the names of all links in a folder, whose path must contain no link; [] if it is not a folder."""
    try:
        with _open_folder(folder) as inside:
            listing = os.open('.', os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=inside)
            try:
                with os.scandir(listing) as items:
                    return sorted(item.name for item in items if item.is_symlink())
            finally:
                os.close(listing)
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextlib.contextmanager
def _open_folder(folder: Path, make: bool = False) -> Iterator[int]:
    """Open a folder whose path contains no link, and yield its descriptor. make: create missing folders."""
    start, *parts = folder.parts if folder.is_absolute() else ('.', *folder.parts)
    descriptor = os.open(start, _FOLDER)
    try:
        for depth, part in enumerate(parts, 1):
            inner = _open_inner(part, descriptor, Path(start, *parts[:depth]), make)
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _open_inner(name: str, folder: int, path: Path, make: bool) -> int:
    """Open a folder inside another one.

    Args:
      name: name of the inner folder.
      folder: descriptor of the outer one.
      path: path of the inner one, for messages.
      make: create it if it does not exist.

    Returns:
      The descriptor of the inner folder.
    """
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError as error:
        if not make:
            raise FileNotFoundError(error.errno, error.strerror, path) from None
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.mkdir(name, dir_fd=folder)
        return _open_inner(name, folder, path, False)
    except OSError as error:
        raise _link_error(name, folder, path) or OSError(error.errno, error.strerror, path) from None


def _link_error(name: str, folder: int, path: Path) -> IsLink | None:
    """Return the error of writing to a link, if the name is one."""
    with contextlib.suppress(OSError):
        if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return IsLink(errno.ELOOP, f'{path.name} is a link, and nothing is written through links', path)
    return None


def _temporary(folder: int) -> tuple[str, int]:
    """Create a file in a folder, locked as long as it is open; return its name and descriptor."""
    while True:
        name = f'mixjax-{secrets.token_hex(8)}{PART}'
        descriptor = os.open(name, _NEW, 0o666, dir_fd=folder)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return name, descriptor
        os.close(descriptor)  # another process locked and removed it first


_swept: set[tuple[int, int]] = set()  # folders, by device and inode


def _sweep(folder: int) -> None:
    """Remove the temporary files of dead processes, which are those without a lock; once for each folder."""
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
    with contextlib.suppress(OSError):  # it is locked, or was removed
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=folder)
        finally:
            os.close(descriptor)
