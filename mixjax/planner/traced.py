"""The training step of a config, traced at full size: all shapes and types are checked, nothing is compiled or run.

As in `compiled`, shapes replace data and weights, so neither is needed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax

from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.planner import arguments, assumed, compiled
from mixjax.planner.slices import Slice
from mixjax.train import program, seeds
from mixjax.train.program import Program

FEW = 2  # labelled examples of each class for `prepare`: its passes over them have no meaning here


class Traced(NamedTuple):
    """A step that can be traced. parameters: number of trained parameters. metrics: names of its metrics."""

    label: str
    parameters: int
    metrics: tuple[str, ...]


def steps(config: Any, on: Slice) -> list[Traced]:
    """Return the step of a config's method, after that of its first stage if it has one."""
    shared, _ = compiled.ground(config, on)
    built = program.build(config, shared)
    given = assumed.prepared(built, FEW)
    label = method_registry.title(config.method)
    if built.method.first is None:
        return [one(built, label, given)]
    before = seeds.first_stage(built, given[1])
    return [one(before, f'{label}, first stage', assumed.prepared(before, FEW)), one(built, label, given)]


def one(built: Program, label: str, given: compiled.Given) -> Traced:
    data, made = given
    _, inputs = seeds.program_inputs(built, built.config.seed, made)
    state = arguments.of_trials(built, arguments.state(built, data, made))
    start, frozen = arguments.everywhere(built, built.shared.start), arguments.of_trials(built, made.frozen)
    images = arguments.inputs(built, inputs, 'resident')
    after, metrics = jax.eval_shape(built.advance(1), state, start, frozen, images)
    if _shapes(after) != _shapes(state):
        raise UserError(f'{label}: a training step gives back a state of other shapes or types than it was given')
    return Traced(label, sum(math.prod(x.shape) for x in jax.tree.leaves(state.params)), tuple(sorted(metrics)))


def _shapes(tree: Any) -> Any:
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
