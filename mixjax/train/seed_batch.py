"""Seeds that are trained at once, one on each row of the mesh."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax.data.feed import batches
from mixjax.data.feed.batches import Resident
from mixjax.data.feed.stream import Stream
from mixjax.train import mesh, placement, seeds
from mixjax.train.placement import EvalImages
from mixjax.train.program import Program
from mixjax.train.seeds import SeedData
from mixjax.train.step import TrainState, keys

Tree = Any


class SeedBatch(NamedTuple):
    """A group of seeds on the devices: trees with a leading axis of trials.

    If there are fewer seeds than trials, the last one is repeated, and its copies are ignored.

    frozen: the results of `prepare`.
    feed: gives the training program its inputs.
    test, val: images to evaluate, without that axis if all seeds have the same ones.
    note: a message on where the images are.
    """

    seeds: tuple[int, ...]
    frozen: Tree
    feed: Resident | Stream
    test: EvalImages
    val: EvalImages
    note: str

    @property
    def inputs(self) -> Tree:
        """The inputs of the first step's program; those of every step for a resident feed."""
        return self.feed.inputs(0, 1)

    @property
    def name(self) -> str:
        """The names of the seeds: `0`, or `0, 1, 2`."""
        return ', '.join(map(str, self.seeds))

    def close(self) -> None:
        """Stop the threads that read ahead."""
        self.feed.close()
        self.test.close()


def place_seeds(program: Program, opened: list[SeedData]) -> SeedBatch:
    """Put the seeds' data on the devices, or begin to stream it."""
    filled, sets = fill_trials(program, opened), program.sets
    same_test, same_val, seed = program.one_test, program.one_val, opened[0].seed
    frozen = [jax.tree.map(np.asarray, one.prepared.frozen) for one in filled]
    inputs = batches.padded([one.inputs for one in filled])
    if sets.test is not None and same_test:
        tests = [seeds.fed(program, seed, seeds.all_images(sets.test))]
    else:
        tests = [one.test for one in filled if one.test is not None]
    if sets.val is not None and same_val:
        vals = [seeds.fed(program, seed, seeds.all_images(sets.val))]
    else:
        vals = [one.val for one in filled if one.val]
    where = placement.choose(program, inputs, tests)
    placement.announce(where, inputs, tests)
    feed = placement.training_feed(program, where, inputs, [keys(one.state.key).data for one in filled])
    test = placement.eval_images(program, tests, same=same_test, resident=where.test == 'resident')
    frozen = mesh.shard_over_trials(program.mesh, frozen)
    val = placement.eval_images(program, vals, same=same_val, resident=True)
    return SeedBatch(tuple(one.seed for one in opened), frozen, feed, test, val, where.note)


def stack_states(program: Program, states: list[Tree]) -> Tree:
    """Put the states of the seeds on the devices as one tree that shares no memory."""
    return mesh.shard_over_trials(program.mesh, fill_trials(program, states), program.config.shard_params)


def at_step(program: Program, ts: TrainState, step: int) -> TrainState:
    """Return the states of all trials with another number of steps done."""
    steps = mesh.shard_over_trials(program.mesh, [np.asarray(step, np.int32)] * program.mesh.shape['trial'])
    return ts._replace(step=steps)


def fill_trials(program: Program, items: list[Any]) -> list[Any]:
    """Return one item for each trial: the last is repeated."""
    return items + [items[-1]] * (program.mesh.shape['trial'] - len(items))
