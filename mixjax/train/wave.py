"""The seeds that are trained at once, one on each row of the mesh."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec

from mixjax.data.feed import batches as feed_lib
from mixjax.data.feed import plan as plan_lib
from mixjax.data.feed.batches import Images, Resident
from mixjax.data.feed.stream import Batches, Stream
from mixjax.data.labelled import run_data
from mixjax.data.pixels.rowfile import size
from mixjax.host.storage import Place
from mixjax.method import Prepared
from mixjax.rundir import checkpoint
from mixjax.train import evaluate, hold, mesh, prepare, seeds
from mixjax.train.program import Program
from mixjax.train.seeds import Seed
from mixjax.train.step import keys

Tree = Any
LONG = 4096  # examples of an epoch, from which on the order is made once an epoch, and not at every step
DISPATCH = 25  # steps a program at most, where convolutions in a loop are not slow


class Wave(NamedTuple):
    """Seeds on the devices: trees with a leading axis of trials.

    Where the seeds are fewer than the trials, the last of them is repeated, and the copies are not looked at.
    frozen: what `prepare` made. feed: gives the training program its inputs. test: batches, without that axis
    where all seeds have the same ones. tested: how many test examples a seed has. told: where the images are.
    """

    seeds: tuple[int, ...]
    frozen: Tree
    feed: Resident | Stream
    test: Sequence[Tree]
    tested: int
    told: str

    @property
    def inputs(self) -> Tree:
        """What the program of the first step is given; of a resident feed, that of every step."""
        return self.feed.inputs(0, 1)

    def close(self) -> None:
        """End the threads that read ahead."""
        self.feed.close()
        if isinstance(self.test, Batches):
            self.test.close()

    @property
    def name(self) -> str:
        """`0`, or `0, 1, 2`."""
        return ', '.join(map(str, self.seeds))


def plan(built: Program, folder: Place) -> list[list[int]]:
    """The seeds of a run, in the groups that are trained at once.

    Seeds may differ in the values of what `prepare` made and in their source images; where they
    differ in the width of a head or in the number of examples, they are other programs.
    """
    config, together = built.config, built.mesh.shape['trial']
    every = [config.seed + i for i in range(config.num_seeds)]
    if together == 1:
        return [[seed] for seed in every]
    kinds: dict[Any, list[int]] = {}
    for seed in every:
        made = seeds.prepared(built, seed, folder)
        # Seeds go on together only from one step: a run may have been begun on other devices.
        at = [checkpoint.newest(folder / part / 'checkpoints' / str(seed)) for part in ('', 'first')]
        examples = len(run_data.labelled(config, built.sets, seed)), run_data.epoch_length(config, built.sets, seed)
        same = kind(built, made, examples)
        kinds.setdefault((same, *at), []).append(seed)
    return [those[i : i + together] for those in kinds.values() for i in range(0, len(those), together)]


def kind(built: Program, made: Prepared, examples: Any) -> Any:
    """What must be equal for seeds to share a program. examples: how many there are, and how many an epoch has."""
    classes_s = 0 if built.start is None else prepare.width(built.start)
    heads = prepare.heads(built.method, len(built.sets.train.classes), classes_s, made)
    frozen = [(jax.tree_util.keystr(path), np.shape(x)) for path, x in jax.tree_util.tree_leaves_with_path(made.frozen)]
    first = None if built.method.first is None else len(seeds.selected(built, made).labels)
    widths = tuple((name, head.width) for name, head in heads.items())
    return examples, widths, tuple(frozen), first


def place(built: Program, opened: list[Seed]) -> Wave:
    """Put the seeds' data on the devices, or begin to read it as it is needed."""
    filled, config = fill(built, opened), built.config
    frozen = [jax.tree.map(np.asarray, one.made.frozen) for one in filled]
    inputs = feed_lib.padded([one.inputs for one in filled])
    if built.sets.test is not None:
        tests = [seeds.everything(built.sets.test)]
    else:
        tests = [one.test for one in filled if one.test is not None]
    where = choose(built, inputs, tests)
    data_keys = [keys(one.state.key).data for one in filled]
    announce(where, inputs, tests)
    if where.kind == 'resident':
        feed = of_orders(built, resident(built, inputs), data_keys)
    else:
        feed = Stream(
            inputs, data_keys, batch=config.batch_size, groups=config.mix.groups,
            steps=config.steps, calls=partial(calls, config, period=built.method.period),
            put=partial(mesh.of_steps, built.mesh),
            shares=mesh.shares(built.mesh, PartitionSpec('trial', 'data'), config.batch_size),
        )  # fmt: skip
    test = batches(built, tests, same=built.sets.test is not None, resident=where.test == 'resident')
    names = tuple(one.seed for one in opened)
    return Wave(names, mesh.spread(built.mesh, frozen), feed, test, len(tests[0].label), where.told)


class Where(NamedTuple):
    """Where the images for training and for the test are, 'resident' or 'stream', and a line on it for people."""

    kind: str
    test: str
    told: str


def choose(built: Program, inputs: list[Tree], tests: list[Images], room: int | None = None) -> Where:
    """`config.feed`; `auto` takes a resident feed where the images take no more than their share of the memory.

    room: bytes of images that a device may hold; None looks at the devices.
    """
    wanted, room = built.config.feed, hold.room(built.mesh) if room is None else room
    shards = mesh.shards_of(built.mesh, built.config.mix.shards)
    needed = max(one['target']['image'].nbytes for one in inputs)
    if 'source' in inputs[0]:
        needed += max(one['source']['image'].nbytes for one in inputs) // shards
    test = max(one.image.nbytes for one in tests) // mesh.parts_of(built.mesh, built.config.eval_batch_size)
    fits = wanted == 'resident' or (wanted == 'auto' and needed <= room)
    all_fits = fits and (wanted == 'resident' or needed + test <= room)
    if fits:
        told = f'images: {size(needed)} on each device'
        told += '' if all_fits else f'; the test images, {size(test)} more, are read as they are needed'
    else:
        told = 'images: read as they are needed, '
        told += f'{size(needed)} on each device are too many' if wanted == 'auto' else 'as config.feed says'
    if wanted == 'auto':
        told += f' (there is room for {size(room)})'
    return Where('resident' if fits else 'stream', 'resident' if all_fits else 'stream', told)


def announce(where: Where, inputs: list[Tree], tests: list[Images]) -> None:
    """Say what may be written to the cache while images are read as they are needed."""
    streamed = [] if where.test == 'resident' else [one.image for one in tests]
    if where.kind == 'stream':
        streamed += [one[name]['image'] for one in inputs for name in ('target', 'source') if name in one]
    for images in streamed:
        images.announce()


def resident(built: Program, inputs: list[Tree]) -> Tree:
    """All images and tables on the devices, as one tree with a leading axis of trials."""
    kinds = {
        name: mesh.shard_spec(built.mesh, built.config.mix.shards if name == 'source' else 1)
        for name in ('target', 'source')
        if name in inputs[0]
    }
    for name, spec in kinds.items():
        for image in hold.to_read(built.mesh, [one[name]['image'] for one in inputs], spec):
            image.ensure()
    out = mesh.spread(built.mesh, [_without_images(one) for one in inputs])
    for name, spec in kinds.items():
        out[name]['image'] = hold.read_in(built.mesh, [one[name]['image'] for one in inputs], spec)
    return out


def long(config: Any, count: int) -> bool:
    """Whether the order of an epoch of so many examples is made apart from the steps."""
    return count >= LONG and config.steps * config.batch_size <= 2**32  # beyond, the count of examples begins anew


def of_orders(built: Program, tree: Tree, data_keys: list[Any]) -> Resident:
    """The feed of what lies on the devices; the orders of long epochs are made there too, once an epoch."""
    count = feed_lib.of_epoch(tree).shape[1]
    if not long(built.config, count):
        return Resident(tree)
    every, place = mesh.spread(built.mesh, data_keys), mesh.of_trials(built.mesh)

    @partial(jax.jit, static_argnums=2, out_shardings=place)
    def made(every: Any, first: Any, many: int) -> plan_lib.Orders:
        return jax.vmap(lambda key: plan_lib.orders(plan_lib.streams(key).order, first, many, count))(every)

    return Resident(
        tree, batch=built.config.batch_size, count=count, orders=lambda first, many: made(every, np.uint32(first), many)
    )


def _without_images(inputs: Tree) -> Tree:
    return {name: {'label': table['label']} if isinstance(table, dict) else table for name, table in inputs.items()}


def batches(built: Program, images: list[Images], *, same: bool, resident: bool) -> Sequence[Tree]:
    """Batches to evaluate: on the devices, or put there when they are asked for.

    images: of each trial, or with `same` of all of them.
    """
    many, count = built.config.eval_batch_size, len(images[0].label) if images else 0
    shares = mesh.shares(built.mesh, mesh.evaluated_spec(built.mesh, many, same=same), many)

    def made() -> Iterator[Tree]:
        each = (evaluate.batches(one, many, share) for one, share in zip(images, shares, strict=False))
        for stack in zip(*each, strict=True):
            yield mesh.to_evaluate(built.mesh, list(stack), same=same)

    if not resident:
        return Batches(made, math.ceil(count / many))
    for one, share in zip(images, shares, strict=False):
        place = np.arange(count) % many
        one.image.part((place >= share.start) & (place < share.stop)).ensure()
    return list(made())


def calls(config: Any, step: int, period: int = 1) -> Iterator[tuple[int, int]]:
    """(step, count) of the calls of the training program from a step on: `count` steps that begin with `step`.

    period: of the method, `Method.period`.
    """
    most = config.dispatch or (1 if jax.default_backend() == 'cpu' else fewest(config, period))
    while step < config.steps:
        stop = due(config, step, period)
        count = most if step + most <= stop else 1
        yield step, count
        step += count


def fewest(config: Any, period: int = 1) -> int:
    """The steps of a call, up to `DISPATCH`, that make the calls fewest: 20 where every 20th step is logged."""
    stops = [0]
    while stops[-1] < config.steps:
        stops.append(due(config, stops[-1], period))
    stretches = Counter(b - a for a, b in pairwise(stops))

    def number(count: int) -> int:
        return sum(times * (length // count + length % count) for length, times in stretches.items())

    return min(range(1, DISPATCH + 1), key=number)


def due(config: Any, step: int, period: int = 1) -> int:
    """The next step after which something has to be done between two calls."""
    every = (config.eval_every, config.checkpoint_every)
    later = [at for at in snapshots(config) if at > step]
    next_line = max(step + 1, window_end(config, step + 1) - period + 1)
    return min(config.steps, next_line, *((step // n + 1) * n for n in every), *later)


def logged(config: Any, step: int, period: int = 1) -> bool:
    """Whether the metrics of a step are logged: a function of its number alone, so a restart logs the same lines.

    The last `period` steps up to each multiple of `log_every`, and up to the end, are logged, so every kind of batch
    of a method that alternates is, whatever `log_every` is.
    """
    return window_end(config, step) - step < period


def window_end(config: Any, step: int) -> int:
    """The first step from this one on that every method logs: a multiple of `log_every`, or the last step."""
    return min(config.steps, -(-step // config.log_every) * config.log_every)


def snapshots(config: Any) -> list[int]:
    """The steps after which the first seed's network is kept, whatever becomes of the checkpoints."""
    return sorted({max(1, round(share * config.steps)) for share in config.snapshots})


def fill(built: Program, items: list[Any]) -> list[Any]:
    """One item for each trial: the last is repeated."""
    return items + [items[-1]] * (built.mesh.shape['trial'] - len(items))


def states(built: Program, one_each: list[Tree]) -> Tree:
    """The states of the seeds as one tree on the devices, its memory shared with nothing."""
    return mesh.spread(built.mesh, fill(built, one_each), built.config.shard_params)
