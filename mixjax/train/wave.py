"""The seeds that are trained at once, one on each row of the mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax.data import feed
from mixjax.method import Prepared
from mixjax.train import checkpoint, evaluate, mesh, prepare, program, seeds
from mixjax.train.program import Program
from mixjax.train.seeds import Seed

Tree = Any


class Wave(NamedTuple):
    """Seeds on the devices: trees with a leading axis of trials.

    Where the seeds are fewer than the trials, the last of them is repeated, and the copies are not looked at.
    frozen: what `prepare` made. inputs: of the training program. test: batches, without that axis where
    all seeds have the same ones. tested: how many test examples a seed has.
    """

    seeds: tuple[int, ...]
    frozen: Tree
    inputs: Tree
    test: list[Tree]
    tested: int

    @property
    def name(self) -> str:
        """`0`, or `0, 1, 2`."""
        return ', '.join(map(str, self.seeds))


def plan(built: Program, folder: Path) -> list[list[int]]:
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
        same = kind(built, made, len(program.labelled(config, built.sets, seed)))
        kinds.setdefault((same, *at), []).append(seed)
    return [those[i : i + together] for those in kinds.values() for i in range(0, len(those), together)]


def kind(built: Program, made: Prepared, examples: int) -> Any:
    """What must be equal for seeds to share a program."""
    classes_s = 0 if built.start is None else prepare.width(built.start)
    heads = prepare.heads(built.method, len(built.sets.train.classes), classes_s, made)
    frozen = [(jax.tree_util.keystr(path), np.shape(x)) for path, x in jax.tree_util.tree_leaves_with_path(made.frozen)]
    first = None if built.method.first is None else len(seeds.selected(built, made).labels)
    widths = tuple((name, head.width) for name, head in heads.items())
    return examples, widths, tuple(frozen), first


def place(built: Program, opened: list[Seed]) -> Wave:
    """Put the seeds' data on the devices."""
    filled = fill(built, opened)
    inputs = feed.padded([one.inputs for one in filled])
    frozen = [jax.tree.map(np.asarray, one.made.frozen) for one in filled]
    size = built.config.eval_batch_size
    if built.sets.test is not None:
        images = seeds.everything(built.sets.test)
        test = [mesh.replicate(built.mesh, batch) for batch in evaluate.batches(images, size)]
        tested = len(images.label)
    else:
        images = [one.test for one in filled if one.test is not None]
        stacks = zip(*(evaluate.batches(one, size) for one in images), strict=True)
        test = [mesh.spread(built.mesh, list(batch)) for batch in stacks]
        tested = len(images[0].label)
    return Wave(
        tuple(one.seed for one in opened),
        mesh.spread(built.mesh, frozen),
        mesh.spread(built.mesh, inputs),
        test,
        tested,
    )


def fill(built: Program, items: list[Any]) -> list[Any]:
    """One item for each trial: the last is repeated."""
    return items + [items[-1]] * (built.mesh.shape['trial'] - len(items))


def states(built: Program, one_each: list[Tree]) -> Tree:
    """The states of the seeds as one tree on the devices, its memory shared with nothing."""
    return mesh.spread(built.mesh, fill(built, one_each))
