"""Compiled programs, kept on disk from one run to the next: jax's own persistent cache, in `config.cache_dir`.

A run that goes on, a second seed of a grid, or the same command again finds the programs that the one before it
compiled, and takes the very same ones. jax names a program by a hash of all that it is compiled from. Two things
are added here. Programs for a CPU are machine code for that CPU, so each kind of CPU has a folder of its own, also
where machines share a home. And what a killed process has left half-written is removed: jax would complain of it in
every run, and never replace it.

Whoever sets JAX_COMPILATION_CACHE_DIR, or JAX_ENABLE_COMPILATION_CACHE=false, has decided; nothing is done then.
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

WORTH = 0.3  # seconds of compilation from which on a program is kept
MOST = 4 << 30  # bytes; the oldest programs go first
STAMP = 'looked'  # a file as old as the last look for what is half-written
COARSE = 2.0  # seconds: of the clocks of some file systems


def keep(chosen: str) -> None:
    """From now on programs are kept. chosen: `config.cache_dir`.

    Several processes do so only where all of them see one folder: were some to find a program and others to compile
    it, those that compile would wait for the others wherever compiling is shared.
    """
    if any(processes.gather(decided())):
        return
    folder = storage.kept(chosen) / 'programs' / machine()
    if not all(processes.gather(usable(folder))) or not same(folder):
        return
    if processes.first():
        with contextlib.suppress(OSError):
            tidy(folder)
    # Where they cannot be, on a full disk say, they are compiled again: no run has to hear of it.
    warnings.filterwarnings('ignore', 'Error (reading|writing) persistent compilation')
    jax.config.update('jax_persistent_cache_min_compile_time_secs', WORTH)
    jax.config.update('jax_compilation_cache_dir', str(folder))


def decided() -> bool:
    """Whether the user has said himself what jax is to do."""
    known: Any = jax.config  # its attributes are made when it is imported
    return bool(known.jax_compilation_cache_dir) or not known.jax_enable_compilation_cache


def machine() -> str:
    """What the machine code of a program depends on, as the name of a folder."""
    about = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), open('/proc/cpuinfo') as file:
        wanted = ('model name', 'flags', 'Features', 'CPU part')
        about += sorted({line.strip() for line in file if line.startswith(wanted)})
    return hashlib.sha256('\n'.join(about).encode()).hexdigest()[:16]


def usable(folder: Path) -> bool:
    """Whether files can be written there."""
    try:
        storage.make(folder)
        storage.try_writing(folder)
    except OSError:
        return False
    return True


def same(folder: Path) -> bool:
    """Whether all processes see one folder by that name."""
    if processes.count() == 1:
        return True
    probe = folder / processes.from_first(lambda: f'probe-{uuid.uuid4().hex}')
    if processes.first():
        with contextlib.suppress(OSError):
            storage.create(probe, b'')
    processes.gather(None)
    seen = processes.gather(probe.exists())
    if processes.first():
        probe.unlink(missing_ok=True)
    return all(seen)


def tidy(folder: Path) -> None:
    """Remove what was left half-written since the last look, and the oldest where there is too much."""
    stamp = folder / STAMP
    since = stamp.stat().st_mtime - COARSE if stamp.exists() else 0.0
    storage.write(stamp, b'')
    found = []
    for path in folder.glob('*-cache'):
        about = path.stat()
        if about.st_mtime >= since and not whole(path.read_bytes()):
            path.unlink(missing_ok=True)
        else:
            found.append((about.st_mtime, about.st_size, path))
    left = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if left <= MOST:
            break
        path.unlink(missing_ok=True)
        left -= size


def whole(entry: bytes) -> bool:
    """Whether an entry of the cache ends where it should. jax packs by zlib; of other ways nothing is known."""
    if entry[:1] != b'\x78':
        return bool(entry)
    packed = zlib.decompressobj()
    try:
        packed.decompress(entry)
    except zlib.error:
        return False
    return packed.eof
