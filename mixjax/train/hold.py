"""Images that stay on the devices: read and put there piece by piece, and how many bytes of them may."""

from __future__ import annotations

import functools
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from mixjax.data.feed.batches import Lazy
from mixjax.host import processes

Array = jax.Array
PIECE = 1 << 28  # bytes of images that the host holds at once on their way to a device
SHARE = 0.5  # of a device's memory may be images; the rest is for the network


def read_in(mesh: Mesh, images: list[Lazy], spec: PartitionSpec) -> Array:
    """The images of each trial, read and put on the devices piece by piece: the host never holds them all.

    images: of each trial, (n, H, W, C) or (g, m, H, W, C). Where n, or m, differs, the rest is filled up with zeros.
    spec: of the result, whose first axis are the trials.
    """
    shape, sharding = _shape(images), NamedSharding(mesh, spec)
    parts = []
    for place, devices in _places(shape, sharding).items():
        (trial, _), (first, last) = place[:2]
        mine = images[trial]
        parts += _put(mine.part(slice(first, min(last, len(mine)))), (last - first, *shape[2:]), devices)
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def to_read(mesh: Mesh, images: list[Lazy], spec: PartitionSpec) -> list[Lazy]:
    """What `read_in` will read in this process: each of the images once, with one stretch of its rows."""
    found: dict[int, list[tuple[int, int]]] = {}
    for (trial, _), rows, *_ in _places(_shape(images), NamedSharding(mesh, spec)):
        found.setdefault(id(images[trial]), []).append(rows)
    known = {id(one): one for one in images}
    return [known[one].part(slice(min(a for a, _ in rows), max(b for _, b in rows))) for one, rows in found.items()]


def _shape(images: list[Lazy]) -> tuple[int, ...]:
    return (len(images), *np.max([one.shape for one in images], axis=0).tolist())


def _places(shape: tuple[int, ...], sharding: NamedSharding) -> dict[tuple, list[Any]]:
    """{place in the array, as (first, last) of each axis: the devices of this process that hold it}."""
    places: dict[tuple, list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        places.setdefault(tuple(part.indices(n)[:2] for part, n in zip(index, shape, strict=True)), []).append(device)
    return places


def _put(images: Lazy, shape: tuple[int, ...], devices: list[Any]) -> list[Array]:
    """Copies of one trial's images on devices, as (1, *shape); zeros at the ends of short axes."""
    if math.prod(shape) <= PIECE:
        filled = np.zeros((1, *shape), np.uint8)
        filled[0][tuple(map(slice, images.shape))] = images[...]
        return [jax.device_put(filled, device) for device in devices]
    out = [_zeros((1, *shape), device) for device in devices]
    many = max(1, PIECE // math.prod(shape[-3:]))
    *shards, count = images.rows.shape
    for at in [(shard,) for shard in range(shards[0])] if shards else [()]:
        for start in range(0, count, many):
            piece = images.part((*at, slice(start, start + many)))[...]
            block = piece.reshape(*(1,) * (len(shape) - 3), *piece.shape)
            for i, device in enumerate(devices):
                out[i] = _fill(out[i], jax.device_put(block, device), (0, *at, start))
    return out


@functools.partial(jax.jit, donate_argnums=0)
def _fill(whole: Array, block: Array, at: tuple[int, ...]) -> Array:
    return jax.lax.dynamic_update_slice(whole, block, (*at, *(0,) * (whole.ndim - len(at))))


def _zeros(shape: tuple[int, ...], device: Any) -> Array:
    return jax.jit(lambda: jnp.zeros(shape, jnp.uint8), out_shardings=SingleDeviceSharding(device))()


def room(mesh: Mesh) -> int:
    """Bytes of images that each device of the mesh may hold."""
    local = [device for device in mesh.devices.ravel() if device.process_index == jax.process_index()]
    limits = [(device.memory_stats() or {}).get('bytes_limit') for device in local]
    known = [limit for limit in limits if limit]
    # Of processors, the devices share the host's memory.
    mine = int(SHARE * min(known)) if known else int(SHARE * free_memory() / len(local))
    return min(processes.gather(mine))  # what is decided by it is the same in all


def free_memory() -> int:
    """Bytes of the host's memory that a program may still take; what files occupy counts as free."""
    free = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    for path, name in (('/proc/meminfo', 'MemAvailable:'), ('/sys/fs/cgroup/memory.max', '')):
        try:
            with open(path) as file:
                found = next(line.removeprefix(name).split() for line in file if line.startswith(name))
            free = min(free, int(found[0]) * (1024 if name else 1))
        except (OSError, StopIteration, ValueError):  # another system, or no limit
            continue
    return free
