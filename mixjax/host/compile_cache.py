"""A disk cache for compiled programs: jax's persistent cache, in `config.cache_dir`.

A resumed run, a second seed of a grid, or the same command again finds the programs that were compiled before, and
uses exactly these. jax names a program by a hash of everything that it is compiled from. Two things are added here.
Programs for a CPU are machine code for that CPU, so each kind of CPU has a separate folder, also where machines share
a home folder. And entries that a killed process left half-written are removed: jax would warn about them in every
run, and never replace them.

If the user sets JAX_COMPILATION_CACHE_DIR, or JAX_ENABLE_COMPILATION_CACHE=false, nothing is changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import uuid
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax

from mixjax.host import processes, storage

WORTH = 0.3  # seconds; programs that compile faster are not stored
MOST = 4 << 30  # bytes; the oldest programs are removed first
STAMP = 'looked'  # its modification time is that of the last search for half-written entries
COARSE = 2.0  # seconds: resolution of time stamps on some file systems


def enable(chosen: str) -> None:
    """Turn the cache on.

    Several processes use it only if all of them see the same folder: if some found a program and others compiled it,
    those that compile would wait for the others where compilation is shared.

    Args:
      chosen: `config.cache_dir`.
    """
    if any(processes.gather(user_configured())):
        return
    folder = storage.cache_folder(chosen) / 'programs' / machine_name()
    if not all(processes.gather(is_writable(folder))) or not is_shared(folder):
        return
    if processes.first():
        with contextlib.suppress(OSError):
            clean_up(folder)
    # Programs that cannot be stored, on a full disk for example, are compiled again; that needs no warning.
    warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation')
    jax.config.update('jax_persistent_cache_min_compile_time_secs', WORTH)
    jax.config.update('jax_compilation_cache_dir', str(folder))


def user_configured() -> bool:
    """Return whether the user has configured jax's cache."""
    known: Any = jax.config  # its attributes are defined at import time
    return bool(known.jax_compilation_cache_dir) or not known.jax_enable_compilation_cache


def machine_name() -> str:
    """Return a folder name for the kind of machine that machine code is valid on."""
    about = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open('/proc/cpuinfo') as file:
        wanted = ('model name', 'flags', 'Features', 'CPU part')
        about += sorted({line.strip() for line in file if line.startswith(wanted)})
    return hashlib.sha256('\n'.join(about).encode()).hexdigest()[:16]


def is_writable(folder: Path) -> bool:
    """Return whether files can be written to a folder."""
    try:
        storage.make_folder(folder)
        storage.try_writing(folder)
    except OSError:
        return False
    return True


def is_shared(folder: Path) -> bool:
    """Return whether all processes see the same folder at this path."""
    if processes.count() == 1:
        return True
    probe = folder / processes.from_first(lambda: f'probe-{uuid.uuid4().hex}')
    if processes.first():
        with contextlib.suppress(OSError):
            storage.create_exclusive(probe, b'')
    processes.gather(None)
    seen = processes.gather(probe.exists())
    if processes.first():
        probe.unlink(missing_ok=True)
    return all(seen)


def clean_up(folder: Path) -> None:
    """Remove half-written entries newer than the last search, and the oldest entries if the cache is too large."""
    stamp = folder / STAMP
    since = stamp.stat().st_mtime - COARSE if stamp.exists() else 0.0
    storage.write(stamp, b'')
    found = []
    for path in folder.glob('*-cache'):
        about = path.stat()
        if about.st_mtime >= since and not is_complete(path.read_bytes()):
            path.unlink(missing_ok=True)
        else:
            found.append((about.st_mtime, about.st_size, path))
    left = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if left <= MOST:
            break
        path.unlink(missing_ok=True)
        left -= size


def is_complete(entry: bytes) -> bool:
    """Return whether an entry of the cache is complete. jax packs by zlib; other formats cannot be checked."""
    if entry[:1] != b'\x78':
        return bool(entry)
    packed = zlib.decompressobj()
    try:
        packed.decompress(entry)
    except zlib.error:
        return False
    return packed.eof
