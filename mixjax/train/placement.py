"""Placement of a run's images, resident on the devices or streamed; and the batches of evaluations.

Resident images are read and put on the devices piece by piece, within a budget of the devices' memory.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from mixjax.data.feed import batches, plan
from mixjax.data.feed.batches import Images, Lazy, LongEpochs, Resident
from mixjax.data.feed.stream import Batches, Stream
from mixjax.data.pixels.rowfile import size
from mixjax.host import processes
from mixjax.train import accuracy, mesh
from mixjax.train.program import Program

Array = jax.Array
Tree = Any
PIECE = 1 << 28  # bytes of images that the host holds at once on their way to a device
SHARE = 0.5  # maximum share of a device's memory for images; the rest is for the network
IMAGES = ('target', 'source', 'unlabelled')  # tables with images among the inputs of a seed
LONG = 4096  # from this number of examples on, the order is made once an epoch, and not at every step


class Where(NamedTuple):
    """The placement of training and test images, 'resident' or 'stream', and a line that describes it."""

    train: str
    test: str
    note: str


def choose(program: Program, inputs: list[Tree], tests: list[Images], budget: int | None = None) -> Where:
    """Choose a placement by `config.feed`; `auto` is resident if the images fit into their share of the memory.

    Args:
      program: the run's programs.
      inputs: the inputs of each seed.
      tests: the images of each evaluation.
      budget: bytes of images that a device may hold; None asks the devices.
    """
    wanted, budget = program.config.feed, image_budget(program.mesh) if budget is None else budget
    shards = mesh.count_shards(program.mesh, program.config.mix.shards)
    needed = max(one['target']['image'].nbytes for one in inputs)
    if 'source' in inputs[0]:
        needed += max(one['source']['image'].nbytes for one in inputs) // shards
    if 'unlabelled' in inputs[0]:
        needed += max(one['unlabelled']['image'].nbytes for one in inputs)
    test = max(one.image.nbytes for one in tests) // mesh.count_parts(program.mesh, program.config.eval_batch_size)
    fits = wanted == 'resident' or (wanted == 'auto' and needed <= budget)
    all_fits = fits and (wanted == 'resident' or needed + test <= budget)
    if fits:
        note = f'images: {size(needed)} on each device'
        note += '' if all_fits else f'; the test images, {size(test)} more, are read as they are needed'
    else:
        note = 'images: read as they are needed, '
        note += f'{size(needed)} on each device are too many' if wanted == 'auto' else 'as config.feed says'
    if wanted == 'auto':
        note += f' (there is room for {size(budget)})'
    return Where('resident' if fits else 'stream', 'resident' if all_fits else 'stream', note)


def announce(where: Where, inputs: list[Tree], tests: list[Images]) -> None:
    """Announce the size of the cache files that may be written while images are streamed."""
    streamed = [] if where.test == 'resident' else [one.image for one in tests]
    if where.train == 'stream':
        streamed += [one[name]['image'] for one in inputs for name in IMAGES if name in one]
    for images in streamed:
        images.announce()


def training_feed(program: Program, where: Where, inputs: list[Tree], data_keys: list[Any]) -> Resident | Stream:
    """Make the feed of the training program for the seeds with these inputs and data keys.

    Args:
      program: the run's programs.
      where: the placement of images.
      inputs: the inputs of each seed.
      data_keys: the data key of each seed.
    """
    if where.train == 'resident':
        return resident_feed(program, images_on_devices(program, inputs), data_keys)
    config = program.config
    return Stream(
        inputs, data_keys, program.sizes, steps=config.steps, calls=program.calls,
        put=partial(mesh.put_steps, program.mesh),
        shares=mesh.trial_places(program.mesh, PartitionSpec('trial', 'data'), config.batch_size),
    )  # fmt: skip


def images_on_devices(program: Program, inputs: list[Tree]) -> Tree:
    """Put all images and tables on the devices, as one tree with a leading axis of trials."""
    kinds = {
        name: mesh.shard_spec(program.mesh, program.config.mix.shards if name == 'source' else 1)
        for name in IMAGES
        if name in inputs[0]
    }
    for name, spec in kinds.items():
        for image in images_to_read(program.mesh, [one[name]['image'] for one in inputs], spec):
            image.ensure()
    out = mesh.shard_over_trials(program.mesh, [_without_images(one) for one in inputs])
    for name, spec in kinds.items():
        out[name]['image'] = read_onto_devices(program.mesh, [one[name]['image'] for one in inputs], spec)
    return out


def orders_apart(config: Any, count: int, batch: int) -> bool:
    """Return whether the order of an epoch of so many examples is made apart from the steps."""
    return count >= LONG and config.steps * batch <= 2**32  # beyond that, the count of examples overflows


def resident_feed(program: Program, tree: Tree, data_keys: list[Any]) -> Resident:
    """Make the feed of images on the devices; the orders of long epochs are made there too, once an epoch."""
    count, place = batches.of_epoch(tree).shape[1], mesh.trial_sharding(program.mesh)
    every = mesh.shard_over_trials(program.mesh, data_keys)
    long: dict[str, LongEpochs] = {}

    def orders(of: Callable[[Array], Array], count: int) -> Callable[[int, int], plan.Orders]:
        @partial(jax.jit, static_argnums=2, out_shardings=place)
        def made(every: Any, first: Any, many: int) -> plan.Orders:
            return jax.vmap(lambda key: plan.orders(of(key), first, many, count))(every)

        return lambda first, many: made(every, np.uint32(first), many)

    size = program.config.batch_size
    if orders_apart(program.config, count, size):
        long['orders'] = LongEpochs(size, count, orders(lambda key: plan.streams(key).order, count))
    more = program.method.unlabelled * size
    count = tree['unlabelled']['image'].shape[1] if more else 0
    if orders_apart(program.config, count, more):
        long['unlabelled_orders'] = LongEpochs(more, count, orders(plan.unlabelled_order, count))
    return Resident(tree, long)


def _without_images(inputs: Tree) -> Tree:
    return {
        name: {key: value for key, value in table.items() if key != 'image'} if isinstance(table, dict) else table
        for name, table in inputs.items()
    }


class EvalImages(NamedTuple):
    """Images to evaluate.

    batches: (image, label, mask) each, on the devices, or put there on demand.

    count: number of examples of a seed.
    """

    batches: Sequence[Tree]
    count: int

    def close(self) -> None:
        """Stop the threads that read ahead."""
        if isinstance(self.batches, Batches):
            self.batches.close()


def eval_images(program: Program, images: list[Images], *, same: bool, resident: bool) -> EvalImages:
    """Make the batches of an evaluation.

    Args:
      program: the run's programs.
      images: the images of each trial, or with `same` one for all of them; none for no evaluation.
      same: whether all trials have the same images.
      resident: keep the batches on the devices.
    """
    many, count = program.config.eval_batch_size, len(images[0].label) if images else 0
    shares = mesh.trial_places(program.mesh, mesh.evaluated_spec(program.mesh, many, same=same), many)

    def made() -> Iterator[Tree]:
        each = (accuracy.batches(one, many, share) for one, share in zip(images, shares, strict=False))
        for stack in zip(*each, strict=True):
            yield mesh.put_eval_batch(program.mesh, list(stack), same=same)

    if not resident:
        return EvalImages(Batches(made, math.ceil(count / many)), count)
    for one, share in zip(images, shares, strict=False):
        place = np.arange(count) % many
        one.image.part((place >= share.start) & (place < share.stop)).ensure()
    return EvalImages(list(made()), count)


# --- images on the devices --------------------------------------------------------------------------------------------


def read_onto_devices(mesh: Mesh, images: list[Lazy], spec: PartitionSpec) -> Array:
    """Read the images of each trial onto the devices piece by piece: the host never holds them all.

    Args:
      mesh: the mesh.
      images: the images of each trial, (n, H, W, C) or (g, m, H, W, C). If n, or m, differs, the rest is zeros.
      spec: sharding of the result, whose first axis is the trials.
    """
    shape, sharding = _shape(images), NamedSharding(mesh, spec)
    parts = []
    for place, devices in _places(shape, sharding).items():
        (trial, _), (first, last) = place[:2]
        mine = images[trial]
        parts += _put(mine.part(slice(first, min(last, len(mine)))), (last - first, *shape[2:]), devices)
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def images_to_read(mesh: Mesh, images: list[Lazy], spec: PartitionSpec) -> list[Lazy]:
    """Return the images that `read_onto_devices` will read in this process: each once, with one range of its rows."""
    found: dict[int, list[tuple[int, int]]] = {}
    for (trial, _), rows, *_ in _places(_shape(images), NamedSharding(mesh, spec)):
        found.setdefault(id(images[trial]), []).append(rows)
    known = {id(one): one for one in images}
    return [known[one].part(slice(min(a for a, _ in rows), max(b for _, b in rows))) for one, rows in found.items()]


def _shape(images: list[Lazy]) -> tuple[int, ...]:
    return (len(images), *np.max([one.shape for one in images], axis=0).tolist())


def _places(shape: tuple[int, ...], sharding: NamedSharding) -> dict[tuple, list[Any]]:
    """Return {place in the array, as (first, last) of each axis: the devices of this process that hold it}."""
    places: dict[tuple, list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        places.setdefault(tuple(part.indices(n)[:2] for part, n in zip(index, shape, strict=True)), []).append(device)
    return places


def _put(images: Lazy, shape: tuple[int, ...], devices: list[Any]) -> list[Array]:
    """Put copies of one trial's images on devices, as (1, *shape); zeros at the ends of short axes."""
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


def image_budget(mesh: Mesh) -> int:
    """Return the bytes of images that each device of the mesh may hold."""
    local = [device for device in mesh.devices.ravel() if device.process_index == jax.process_index()]
    limits = [(device.memory_stats() or {}).get('bytes_limit') for device in local]
    known = [limit for limit in limits if limit]
    # CPU devices share the host's memory.
    mine = int(SHARE * min(known)) if known else int(SHARE * free_memory() / len(local))
    return min(processes.gather(mine))  # all processes must decide alike


def free_memory() -> int:
    """Return the bytes of the host's memory that a program may still take; memory of cached files counts as free."""
    free = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    for path, name in (('/proc/meminfo', 'MemAvailable:'), ('/sys/fs/cgroup/memory.max', '')):
        try:
            with open(path) as file:
                found = next(line.removeprefix(name).split() for line in file if line.startswith(name))
            free = min(free, int(found[0]) * (1024 if name else 1))
        except (OSError, StopIteration, ValueError):  # another system, or no limit
            continue
    return free
