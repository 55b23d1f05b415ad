"""Topologies, such as `v5e:4x4` or `cpu:8`: their devices, and the figures of a chip.

`libtpu` describes a TPU slice, and compiles for it, on a machine without a TPU. Each jax is released
with one version of it.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import math
import os
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any, NamedTuple

from mixjax.errors import UserError, nearest

GIB = 2**30
EXTRA = 'tpu-plan'  # of mixjax, in setup.cfg


class Chip(NamedTuple):
    """A kind of TPU.

    memory: GB of a chip.
    flops, bandwidth: bfloat16 FLOP, and bytes of that memory, per second. These three are from the page of each
        kind, such as https://cloud.google.com/tpu/docs/v5e.
    free: GiB of the memory that a program may use, as reported by the compiler of libtpu 0.0.42 when it refuses a
        larger one.
    axes: number of axes of a slice.
    shapes: the existing slices, if they are few.
    config: libtpu's name for one device a chip.
    """

    name: str
    memory: float
    free: float
    flops: float
    bandwidth: float
    axes: int
    shapes: tuple[str, ...] = ()
    config: str = ''


FLAT = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
CHIPS = {
    chip.name: chip
    for chip in (
        Chip('v4', 32, 30.75, 275e12, 1228e9, 3, config='megacore'),
        Chip('v5e', 16, 15.75, 197e12, 819e9, 2, FLAT),
        Chip('v5p', 95, 95.74, 459e12, 2765e9, 3, config='megacore'),
        Chip('v6e', 32, 31.25, 918e12, 1640e9, 2, FLAT),
    )
}


class Slice(NamedTuple):
    """The devices of a topology; chip is None for virtual ones."""

    name: str
    devices: list[Any]
    chip: Chip | None


class Wanted(NamedTuple):
    """A parsed name of a topology: `kind` of chip, `shape` of the slice."""

    name: str
    kind: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def parse(name: str) -> Wanted:
    """Parse `v5e:4x4` or `cpu:8`, without importing or searching anything."""
    match = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)', name)
    if match is None:
        raise UserError(f'--topology={name} is not KIND:SIZE, such as v5e:4x4 (16 chips of TPU v5e) or cpu:8')
    kind, shape = match[1], tuple(int(n) for n in match[2].split('x'))
    known = [*CHIPS, 'cpu']
    if kind not in known:
        raise UserError(
            f'--topology={name}: unknown kind {kind!r}{nearest(kind, known)}; it is one of {", ".join(known)}'
        )
    if kind == 'cpu':
        if len(shape) != 1 or not 1 <= shape[0] <= 4096:
            raise UserError(f'--topology={name}: virtual devices are a number from 1 to 4096, such as cpu:8')
        return Wanted(name, kind, shape)
    chip = CHIPS[kind]
    if chip.shapes and match[2] not in chip.shapes:
        raise UserError(f'--topology={name}: a slice of {kind} is one of {", ".join(chip.shapes)}')
    if len(shape) != chip.axes or not 1 <= math.prod(shape) <= 16384:
        example = 'x'.join('4' * chip.axes)
        raise UserError(f'--topology={name}: a slice of {kind} has {chip.axes} sides, such as {example}')
    return Wanted(name, kind, shape)


def environment(wanted: Wanted) -> dict[str, str]:
    """Return the environment variables to set before jax is imported, so that no accelerator here is used."""
    if wanted.kind != 'cpu':
        # libtpu only compiles here: it should neither look up its host nor warn.
        quiet = {'TF_CPP_MIN_LOG_LEVEL': '3', 'TPU_MIN_LOG_LEVEL': '3', 'TPU_STDERR_LOG_LEVEL': '3'}
        # No TPU is taken, so several processes may plan at once.
        quiet['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'
        return {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost', **quiet}
    others = re.sub(r'--xla_force_host_platform_device_count=\d+', '', os.environ.get('XLA_FLAGS', ''))
    return {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'{others} --xla_force_host_platform_device_count={wanted.count}'.strip(),
    }


def find(wanted: Wanted) -> Slice:
    """Return the devices. There must be enough virtual ones already, see `environment`."""
    import jax

    if wanted.kind == 'cpu':
        devices = jax.devices('cpu')
        if len(devices) < wanted.count:
            raise UserError(f'--topology={wanted.name}: jax was started with {len(devices)} virtual devices')
        return Slice(wanted.name, devices[: wanted.count], None)
    libtpu()
    from jax.experimental import topologies

    chip = CHIPS[wanted.kind]
    options: dict[str, Any] = {'chip_config_name': chip.config} if chip.config else {}
    if wanted.count == 1:
        options['chips_per_host_bounds'] = wanted.shape
    try:
        with _silent():
            found = topologies.get_topology_desc(platform='tpu', topology_name=wanted.name, **options)
    except Exception as error:  # libtpu decides which slices exist, with errors of any type
        why = str(error).splitlines()[0].partition(': ')[2] or str(error)
        raise UserError(f'--topology={wanted.name}: libtpu does not know this slice ({why})') from error
    return Slice(wanted.name, list(found.devices), chip)


def fitting() -> tuple[str, str]:
    """Return the version of jax, and the versions of libtpu that it was released with, such as `0.0.42.*`."""
    required = importlib.metadata.requires('jax') or []
    pins = [re.fullmatch(r'libtpu==([\w.*]+)\s*;.*\btpu\b.*', line) for line in required]
    return importlib.metadata.version('jax'), next((pin[1] for pin in pins if pin), '*')


def libtpu() -> str:
    """Refuse to continue without libtpu; return a warning if it was not made for this jax, or ''."""
    jax, wanted = fitting()
    get = f"pip install 'mixjax[{EXTRA}]', that is libtpu=={wanted} for jax {jax}"
    if importlib.util.find_spec('libtpu') is None:
        raise UserError(
            f'compiling for a TPU needs libtpu, but no TPU: {get} (Linux x86-64, Python 3.11 to 3.13); '
            'without it --topology=cpu:8 takes virtual devices'
        )
    here = importlib.metadata.version('libtpu')
    return '' if fnmatch(here, wanted) else f'libtpu {here} is not the one that jax {jax} was released with: {get}'


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence libtpu's messages on the standard error that it finds no TPU: none is expected."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, 'wb') as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
