"""Files inside an archive, or of the folder that it was unpacked to, read one after the other.

Nothing is unpacked: an archive is read through as often as it has to be, so it takes no room and cannot
write anywhere. All the same, members that would leave the folder they are unpacked to are refused.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from mixjax.errors import UserError

LARGEST = 1 << 28  # bytes of a member; photographs and lists of them are far smaller
SUFFIXES = ('', '.tar.gz', '.tgz', '.tar', '.zip')  # '' for the folder
Member = tuple[PurePosixPath, Callable[[], bytes]]


def find(folder: Path, *stems: str, get: str) -> Path:
    """The first of folder/STEM (unpacked), folder/STEM.tar.gz, .. that is there. get: what to do if none is."""
    for stem in stems:
        for suffix in SUFFIXES:
            path = folder / (stem + suffix)
            if path.is_dir() if not suffix else path.is_file():
                return path
    raise UserError(f'{folder} has no {" and no ".join(stems)} (a folder, or a .tgz, .tar.gz, .tar or .zip): {get}')


def members(path: Path) -> Iterator[Member]:
    """(name, function that reads it) of each file, in the order in which they are stored. A function works until
    the next member is asked for. What a Mac adds to archives is left out."""
    if path.is_dir():
        files: Iterator[Member] = _of_folder(path)
    else:
        files = _of_zip(path) if path.suffix == '.zip' else _of_tar(path)
    with _whole(path):
        for name, read in files:
            if not any(part.startswith('._') or part == '__MACOSX' for part in name.parts):
                yield name, functools.partial(_read, path, read)


def _read(path: Path, read: Callable[[], bytes]) -> bytes:
    with _whole(path):
        return read()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # bytes of a stranger: zipfile, tarfile and what they unpack with fail in many ways
        why = str(error).partition('\n')[0].rstrip(':')
        raise UserError(f'{path} is damaged or not whole ({why}); fetch it again') from error


def text(data: bytes) -> str:
    """A list of file names; bytes that are no UTF-8 stay as they are, so that they still name their files."""
    return data.decode('utf-8', 'surrogateescape')


def _of_folder(path: Path) -> Iterator[Member]:
    for file in sorted(path.rglob('*')):
        if file.is_file():
            yield PurePosixPath(file.relative_to(path).as_posix()), file.read_bytes


class Bounded:
    """A file of which nobody can have more than `LARGEST` bytes at once, whatever a header says."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST:
            raise tarfile.ReadError(f'a part of it says that it is larger than {LARGEST:,} bytes')
        return self._file.read(size)


def _opened(path: Path) -> IO[bytes]:
    """The tar file in a file that may be packed."""
    with path.open('rb') as file:
        head = file.read(6)
    packed: dict[bytes, Callable[..., Any]] = {b'\x1f\x8b': gzip.open, b'BZh': bz2.open, b'\xfd7zXZ\0': lzma.open}
    unpack = next((opener for start, opener in packed.items() if head.startswith(start)), open)
    return unpack(path, 'rb')


def _of_tar(path: Path) -> Iterator[Member]:
    with _opened(path) as file, tarfile.open(fileobj=cast(Any, Bounded(file))) as archive:
        for member in archive:
            if member.isdir():
                continue
            if not member.isfile():
                raise UserError(f'{path} is refused: its member {member.name!r} is a link or a device, not a file')

            def read(member: tarfile.TarInfo = member) -> bytes:
                file = archive.extractfile(member)
                assert file is not None  # it is a file
                _small(path, member.name, member.size)
                data = file.read()
                if len(data) != member.size:
                    raise EOFError(f'{member.name} ends early')
                return data

            yield _safe(path, member.name), read


def _of_zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise UserError(f'{path} is refused: its member {member.filename!r} is a link, not a file')
            _small(path, member.filename, member.file_size)
            yield _safe(path, member.filename), lambda member=member: archive.read(member)


def _small(archive: Path, name: str, size: int) -> None:
    if size > LARGEST:
        raise UserError(f'{archive} is refused: its member {name!r} says that it has {size:,} bytes')


def _safe(archive: Path, name: str) -> PurePosixPath:
    """The name of a member, if it stays below the folder that it would be unpacked to."""
    path = PurePosixPath(name.replace('\\', '/'))
    if not path.parts or '\0' in name:
        raise UserError(f'{archive} is refused: its member {name!r} has no name that a file can have')
    if path.is_absolute() or '..' in path.parts or path.parts[0].endswith(':'):
        raise UserError(f'{archive} is refused: its member {name!r} would be written outside of its folder')
    return path
