"""A reader of the files in an archive, or in the folder that it was unpacked to, one after the other.

Nothing is unpacked to disk: an archive is read as often as necessary, so it takes no space and cannot write anywhere.
All the same, members with names outside of the folder that they would be unpacked to are refused.

Tar files are read here and not by `tarfile`, which searches its headers with patterns that take quadratic time, and
keeps every member in memory. The unpacked size is limited in proportion to the archive.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, cast

from mixjax.data.pixels.memory import OutOfMemory
from mixjax.errors import UserError
from mixjax.host import untrusted

LARGEST = 1 << 28  # bytes of a member; photographs and lists of them are far smaller
LARGEST_HEADER = 1 << 16  # bytes of a long name, or of the attributes, of a member of a tar file
LARGEST_DIRECTORY = 1 << 25  # bytes of the directory of a zip file; for 100,000 photographs it has 12 MB
MOST_ALIKE = 1 << 14  # consecutive headers of a tar file without a file
# Limit of the unpacked size: RATIO times the archive, plus SLACK bytes.
RATIO = 20
SLACK = 1 << 28
WINDOW = 1 << 28  # bytes of memory for unpacking an .xz
SUFFIXES = ('', '.tar.gz', '.tgz', '.tar', '.zip')  # '' for the folder
BLOCK = 512  # bytes of a block of a tar file
Member = tuple[PurePosixPath, Callable[[], bytes]]


def find(folder: Path, *stems: str, get: str) -> Path:
    """Return the first of folder/STEM (unpacked), folder/STEM.tar.gz, .. that exists.

    Args:
      folder: the folder to search.
      *stems: names without suffix, in order.
      get: how to get the archive, for the message if there is none.
    """
    for stem in stems:
        for suffix in SUFFIXES:
            path = folder / (stem + suffix)
            if path.is_dir() if not suffix else path.is_file():
                return path
    raise UserError(f'{folder} has no {" and no ".join(stems)} (a folder, or a .tgz, .tar.gz, .tar or .zip): {get}')


def members(path: Path) -> Iterator[Member]:
    """Yield (name, function that reads it) for each file, in the order in which they are stored.

    A function works until the next member is asked for. Files that macOS adds to archives are skipped.
    """
    if path.is_dir():
        files: Iterator[Member] = _of_folder(path)
    else:
        files = _of_zip(path) if path.suffix == '.zip' else _of_tar(path)
    with _damage_as_user_error(path):
        for name, read in files:
            if not any(part.startswith('._') or part == '__MACOSX' for part in name.parts):
                yield name, functools.partial(_read, path, read)


def read_list(path: Path) -> bytes:
    """Read a file beside the archives, such as a list of names."""
    return _read(path, lambda: untrusted.read_regular(path, LARGEST))


def _read(path: Path, read: Callable[[], bytes]) -> bytes:
    with _damage_as_user_error(path):
        return read()


@contextlib.contextmanager
def _damage_as_user_error(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except MemoryError:
        raise OutOfMemory(f'there is too little memory to read {path}; close other programs') from None
    except Exception as error:  # zipfile and the decompressors raise many types on malformed data
        why = str(error).partition('\n')[0].rstrip(':')
        raise UserError(f'{path} is damaged or not whole ({why}); fetch it again') from error


def text(data: bytes) -> str:
    """Decode a list of file names; bytes that are not UTF-8 are kept as surrogates, so that names still match files."""
    return data.decode('utf-8', 'surrogateescape')


def _of_folder(path: Path) -> Iterator[Member]:
    for file in sorted(path.rglob('*')):
        if file.is_file():
            name = PurePosixPath(file.relative_to(path).as_posix())
            yield name, lambda file=file: untrusted.read_regular(file, LARGEST)


# --- tar --------------------------------------------------------------------------------------------------------------


class _Unpacked:
    """A reader of a file that may be compressed by gzip, bzip2 or xz, from its beginning to its end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = file.read(6)
        file.seek(0)
        packed: dict[bytes, Callable[[], Any]] = {
            b'\x1f\x8b': lambda: zlib.decompressobj(wbits=31),
            b'BZh': bz2.BZ2Decompressor,
            b'\xfd7zXZ\0': lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=WINDOW),
        }
        self._begin = next((begin for start, begin in packed.items() if head.startswith(start)), None)
        self._unpacker = self._begin() if self._begin else None
        self._size = os.fstat(file.fileno()).st_size
        self._left = RATIO * self._size + SLACK
        self._input = b''

    def read(self, count: int) -> bytes:
        """Read `count` bytes, or fewer at the end."""
        out = bytearray()
        while len(out) < count:
            some = self._some(min(count - len(out), 1 << 20))
            if not some:
                break
            out += some
        return bytes(out)

    def skip(self, count: int) -> None:
        if self._unpacker is None:
            if self._file.tell() + count > self._size:
                raise EOFError('it ends early')
            self._file.seek(count, os.SEEK_CUR)
            return
        while count:
            some = self._some(min(count, 1 << 20))
            if not some:
                raise EOFError('it ends early')
            count -= len(some)

    def _some(self, most: int) -> bytes:
        """Read at least one byte and at most `most`; none at the end."""
        if self._unpacker is None:
            return self._file.read(most)
        while True:
            if self._unpacker.eof:  # another compressed stream may follow
                rest = self._unpacker.unused_data.lstrip(b'\0') or self._file.read(1 << 16).lstrip(b'\0')
                if not rest:
                    return b''
                assert self._begin is not None
                self._unpacker, self._input = self._begin(), rest
            if not self._input and getattr(self._unpacker, 'needs_input', True):
                self._input = self._file.read(1 << 16)
            ended = not self._input
            out = self._unpacker.decompress(self._input, most)
            # Only zlib leaves it to the caller to keep the input that is not consumed yet.
            self._input = getattr(self._unpacker, 'unconsumed_tail', b'')
            if ended and not out and not self._unpacker.eof:
                raise EOFError('it ends early')
            self._left -= len(out)
            if self._left < 0:
                raise ValueError(f'it unpacks to more than {RATIO} times its size')
            if out:
                return out


def _of_tar(path: Path) -> Iterator[Member]:
    with untrusted.open_regular(path) as opened:
        yield from _tar_members(path, _Unpacked(opened))


def _tar_members(path: Path, file: _Unpacked) -> Iterator[Member]:
    """Yield each file of a tar archive (ustar, GNU and pax)."""
    own: dict[str, bytes] = {}  # attributes of the next member from extra headers
    alike, begun = 0, False
    while True:
        alike += 1
        if alike > MOST_ALIKE:
            raise ValueError(f'it has {MOST_ALIKE:,} headers in a row without a file')
        head = file.read(BLOCK)
        if not head and not begun:
            raise EOFError('it is empty')
        begun = True
        if not head or not head.strip(b'\0'):
            return
        if len(head) < BLOCK:
            raise EOFError('it ends early')
        kind, size = head[156:157], _number(own['size']) if 'size' in own else _field(head[124:136])
        if not _is_sum(_field(head[148:156]), head):
            raise ValueError('a header has a wrong checksum')
        if kind in b'LKxgX' and kind:
            if size > LARGEST_HEADER:
                raise ValueError(f'a header claims more than {LARGEST_HEADER:,} bytes')
            data = file.read(-(-size // BLOCK) * BLOCK)[:size]
            if len(data) < size:
                raise EOFError('it ends early')
            if kind == b'L':
                own['path'] = data.partition(b'\0')[0]
            elif kind in b'xX':
                own |= _attributes(data)
            continue
        name = text(own.get('path') or _name(head))
        if kind == b'5' or (kind in (b'\0', b'0') and name.endswith('/')):
            own = {}
            continue
        if kind not in (b'\0', b'0', b'7') or any(key.startswith('GNU.sparse') for key in own):
            what = 'is stored with holes' if kind == b'S' or kind in b'\x000' else 'is a link or a device, not a file'
            raise UserError(f'{path} is refused: its member {name!r} {what}')
        own, alike = {}, 0
        read = _Once(file, size, path, name)
        yield _safe(path, name), read
        read.pass_over()


class _Once:
    """A function that reads the member at the current position of a tar file, once or several times."""

    def __init__(self, file: _Unpacked, size: int, path: Path, name: str) -> None:
        self._file, self._size, self._path, self._name = file, size, path, name
        self._data: bytes | None = None

    def __call__(self) -> bytes:
        if self._data is None:
            _small(self._path, self._name, self._size)
            self._data = self._file.read(self._size)
        if len(self._data) != self._size:
            raise EOFError(f'{self._name} ends early')
        return self._data

    def pass_over(self) -> None:
        left = self._size if self._data is None else 0
        self._file.skip(left + -self._size % BLOCK)


def _field(data: bytes) -> int:
    """Parse a number of a header: octal digits, or binary if the first bit is set."""
    if data[0] & 0x80:
        if data[0] != 0x80:
            raise ValueError('a header has a negative number')
        return int.from_bytes(data[1:])
    digits = data.partition(b'\0')[0].strip()
    return int(digits or b'0', 8)


def _number(data: bytes) -> int:
    """Parse a decimal number of an attribute."""
    if len(data) > 20 or not data.isdigit():
        raise ValueError('a header has no number where one should be')
    return int(data)


def _is_sum(number: int, head: bytes) -> bool:
    """Return whether a number is the checksum of a header, whose checksum field counts as blanks.

    Some programs sum signed bytes.
    """
    blank = head[:148] + b' ' * 8 + head[156:]
    return number == sum(blank) or number == sum(struct.unpack(f'{BLOCK}b', blank))


def _name(head: bytes) -> bytes:
    name, prefix = (part.partition(b'\0')[0] for part in (head[:100], head[345:500]))
    return prefix + b'/' + name if prefix and head[257:262] == b'ustar' and head[257:265] != b'ustar  \0' else name


def _attributes(data: bytes) -> dict[str, bytes]:
    """Parse lines 'LENGTH KEYWORD=VALUE', where LENGTH is that of the whole line: {keyword: value}."""
    out, at = {}, 0
    while at < len(data) and data[at]:
        blank = data.find(b' ', at, at + 20)
        length = _number(data[at:blank]) if blank > 0 else 0
        keyword, equals, value = data[blank + 1 : at + length - 1].partition(b'=')
        if not equals or at + length > len(data) or data[at + length - 1 : at + length] != b'\n':
            raise ValueError('a header has malformed attributes')
        out[text(keyword)] = value
        at += length
    return out


# --- zip --------------------------------------------------------------------------------------------------------------


class _Bounded:
    """A file that returns at most `LARGEST_DIRECTORY` bytes at once, even if a header claims more."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.close, self.seekable = file.seek, file.tell, file.close, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size if 0 <= size <= LARGEST_DIRECTORY else LARGEST_DIRECTORY + 1)
        if len(data) > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile(f'a part of it is larger than {LARGEST_DIRECTORY:,} bytes')
        return data


def _of_zip(path: Path) -> Iterator[Member]:
    with untrusted.open_regular(path) as file, zipfile.ZipFile(cast(Any, _Bounded(file))) as archive:
        found = archive.infolist()
        # Members may overlap: each byte of the file can be in all of them.
        if sum(member.file_size for member in found) > RATIO * os.fstat(file.fileno()).st_size + SLACK:
            raise UserError(f'{path} is refused: it unpacks to more than {RATIO} times its size')
        for member in found:
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise UserError(f'{path} is refused: its member {member.filename!r} is a link, not a file')
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
                raise UserError(f'{path} is refused: its member {member.filename!r} is packed in a rare way; unpack it')
            _small(path, member.filename, member.file_size)
            yield _safe(path, member.filename), lambda member=member: archive.read(member)


def _small(archive: Path, name: str, size: int) -> None:
    if size > LARGEST:
        raise UserError(f'{archive} is refused: its member {name!r} claims to have {size:,} bytes')


def _safe(archive: Path, name: str) -> PurePosixPath:
    """Return the name of a member; refuse one outside of the folder that it would be unpacked to."""
    path = PurePosixPath(name.replace('\\', '/'))
    if not path.parts or '\0' in name:
        raise UserError(f'{archive} is refused: its member {name!r} has no name that a file can have')
    if path.is_absolute() or '..' in path.parts or path.parts[0].endswith(':'):
        raise UserError(f'{archive} is refused: its member {name!r} would be written outside of its folder')
    return path
