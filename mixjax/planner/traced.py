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
from mixjax.train import program as program_lib
from mixjax.train import seeds
from mixjax.train.program import Program

FEW = 2  # labelled examples of each class for `prepare`: its passes over them have no meaning here


class Traced(NamedTuple):
    """A step that can be traced. parameters: number of trained parameters. metrics: names of its metrics."""

    label: str
    parameters: int
    metrics: tuple[str, ...]


def steps(config: Any, on: Slice) -> list[Traced]:
    """Return the step of a config's method, after that of its first stage if it has one."""
    shared, _ = compiled.build_shared(config, on)
    program = program_lib.build(config, shared)
    given = assumed.prepared(program, FEW)
    label = method_registry.title(config.method)
    if program.method.first is None:
        return [trace_step(program, label, given)]
    before = seeds.first_stage(program, given[1])
    first = trace_step(before, f'{label}, first stage', assumed.prepared(before, FEW))
    return [first, trace_step(program, label, given)]


def trace_step(program: Program, label: str, given: compiled.Given) -> Traced:
    data, made = given
    _, inputs = seeds.program_inputs(program, program.config.seed, made)
    state = arguments.of_trials(program, arguments.state(program, data, made))
    start, frozen = arguments.everywhere(program, program.shared.start), arguments.of_trials(program, made.frozen)
    images = arguments.inputs(program, inputs, 'resident')
    after, metrics = jax.eval_shape(program.advance(1), state, start, frozen, images)
    if _shapes(after) != _shapes(state):
        raise UserError(f'{label}: a training step gives back a state of other shapes or types than it was given')
    return Traced(label, sum(math.prod(x.shape) for x in jax.tree.leaves(state.params)), tuple(sorted(metrics)))


def _shapes(tree: Any) -> Any:
    return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
