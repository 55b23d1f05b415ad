"""The training program of a config compiled for devices that need not exist, and the compiler's figures.

It is the program that a run would have, `Program.advance(1)`; only its arguments are shapes instead of arrays.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax.config import method_registry
from mixjax.data.dataset import Dataset
from mixjax.errors import UserError
from mixjax.host.array_cache import Cache
from mixjax.host.progress import duration
from mixjax.method import Data, Prepared
from mixjax.planner import arguments, assumed, hlo
from mixjax.planner.slices import GIB, Slice
from mixjax.train import mesh, placement, seeds
from mixjax.train import program as program_lib
from mixjax.train.program import Program
from mixjax.train.shared import Shared, build_network, silent

Say = Callable[[str], None]
Given = tuple[Data, Prepared]  # of `assumed.prepared`


class Plan(NamedTuple):
    """The figures of one training program, per device.

    label: name of the method, or of its first stage.
    program: its mesh, config and method.
    array_bytes: {part: bytes} on a device during training.
    where: placement of the images.
    notes: messages on the assumptions.
    examples: number of training examples of a seed.
    params: bytes of the parameters.
    compiled: None if it was not compiled; `refused` is the reason.
    """

    label: str
    program: Program
    array_bytes: dict[str, int]
    where: placement.Where
    notes: list[str]
    examples: int
    params: int
    compiled: Compiled | None
    refused: str = ''


class Compiled(NamedTuple):
    """The compiler's figures of a program.

    arguments, outputs, alias, temporaries, code: bytes as in `memory_analysis`. padding: bytes of the arguments
    beyond those of their elements. flops, accessed: a step's, by `cost_analysis`, whose time is wrong and left out.
    """

    arguments: int
    outputs: int
    alias: int
    temporaries: int
    code: int
    padding: int
    flops: float
    accessed: float
    collectives: list[hlo.Collective]
    seconds: float


def build_shared(config: Any, on: Slice) -> tuple[Shared, list[str]]:
    """Build the shared parts of a config's methods, and a message on each assumption."""
    if config.target.task:
        raise UserError(f'mixjax plan knows runs of one class an image, and config.target.task is {config.target.task}')
    data, notes = assumed.sets(config)
    net, geometry, image = build_network(config, data)
    start = assumed.start(config, net, image, data)
    batch = config.batch_size // config.accumulate
    devices = mesh.make(batch, config.num_seeds, config.devices, on.devices)
    t, d = devices.devices.shape
    each = min(config.devices or len(on.devices), len(on.devices)) // t
    if d == 1 and each > 1:
        raise UserError(
            f'a batch of {batch} cannot be split over the {each} devices of a seed: no number of devices '
            'but 1 divides it; change config.batch_size or --topology'
        )
    view = assumed.dummy_network(net, start)

    def features(data: Dataset, rows: np.ndarray | None) -> Cache:
        del data, rows
        return Cache(Path(), None)

    return Shared(data, net, geometry, devices, start, image, view, features, '', '', {}, {}, silent), notes


def plans(config: Any, on: Slice, label: str, shared: tuple[Shared, list[str]], say: Say) -> Iterator[Plan]:
    """Yield the plan of a method, after that of its first stage if it has one.

    Args:
      config: the config of the run.
      on: the devices.
      label: name of the method.
      shared: the result of `build_shared`.
      say: prints a line.
    """
    base, notes = shared
    method = method_registry.build(config.method, len(base.sets.train.classes))
    program = program_lib.build_program(base, config, method)
    given = assumed.prepared(program)
    notes = [*notes, *filter(None, [assumed.describe_draw(given[1])])]
    if method.first is not None:
        before = seeds.first_stage(program, given[1])
        yield compile_plan(before, on, f'{label}, first stage', notes, assumed.prepared(before), say)
    yield compile_plan(program, on, label, notes, given, say)


def compile_plan(program: Program, on: Slice, label: str, notes: list[str], given: Given, say: Say) -> Plan:
    """Count the arguments, and compile unless they alone are too large."""
    data, made = given
    train, inputs = seeds.program_inputs(program, program.config.seed, made)
    room = None if on.chip is None else int(placement.SHARE * on.chip.free * GIB)
    where = arguments.where(program, inputs, room)
    state = arguments.of_trials(program, arguments.state(program, data, made))
    start, frozen = arguments.everywhere(program, program.shared.start), arguments.of_trials(program, made.frozen)
    given_inputs = arguments.inputs(program, inputs, where.train)
    array_bytes = arguments.array_bytes(program, state, start, frozen, given_inputs, where)
    plan = Plan(label, program, array_bytes, where, notes, len(train.label), arguments.size(state.params), None)
    if on.chip is not None and sum(array_bytes.values()) > on.chip.free * GIB:
        return plan._replace(refused='the arrays alone do not fit into the memory of a chip, so nothing was compiled')
    say(f'{label}: compiling for {on.name}; a network such as ResNet-50 takes minutes')
    began = time.monotonic()
    try:
        found = program.advance(1).lower(state, start, frozen, given_inputs).compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise UserError(f'the compiler refused the program: {str(error).splitlines()[0]}') from error
        return plan._replace(refused=_needed(str(error)))
    seconds = time.monotonic() - began
    say(f'{label}: compiled in {duration(seconds)}')
    return plan._replace(compiled=_read(found, seconds, looped(program)), notes=[*notes, *_of_loops(program)])


def _needed(error: str) -> str:
    """Return the line with the numbers from XLA's out-of-memory error."""
    numbers = [line for line in error.splitlines() if re.search(r'\d+(\.\d+)?[MGK]\b', line)]
    return 'the compiler: ' + ' '.join((numbers or error.splitlines())[0].partition(': ')[2].split())


def looped(program: Program) -> float:
    """Return the ratio of the work of a step to the compiler's count.

    `config.accumulate` parts of a batch are one part and a loop over the rest, whose work is counted once.
    """
    parts = program.config.accumulate
    return parts / 2 if parts > 1 and mesh.accelerated(program.mesh) else 1.0


def _of_loops(program: Program) -> list[str]:
    times = looped(program)
    return (
        [f'the work of a step is {times:g} times that of the two parts of its batch that are counted']
        if times > 1
        else []
    )


def _read(compiled: Any, seconds: float, times: float) -> Compiled:
    """Read the compiler's figures. times: the factor on its count of the work."""
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    size = memory.argument_size_in_bytes
    return Compiled(
        size, memory.output_size_in_bytes, memory.alias_size_in_bytes, memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes, max(size - hlo.argument_bytes(text), 0),
        times * cost.get('flops', 0.0), times * cost.get('bytes accessed', 0.0), hlo.collectives(text), seconds,
    )  # fmt: skip
