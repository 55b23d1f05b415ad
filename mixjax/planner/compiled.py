"""The training program of a config on devices that may be nobody's, and what its compilation says of it.

It is the program that a run would have, `Program.advance(1)`; only its arguments are shapes instead of arrays.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.host.array_cache import Cache
from mixjax.host.progress import duration
from mixjax.method import Data, Prepared
from mixjax.planner import arguments, assumed, hlo
from mixjax.planner.slices import GIB, Slice
from mixjax.train import mesh, placement, program, seeds
from mixjax.train.program import Program
from mixjax.train.shared import Shared, build_network, silent

Say = Callable[[str], None]
Given = tuple[Data, Prepared]  # of `assumed.prepared`


class Plan(NamedTuple):
    """What is known of one training program, per device.

    label: of the method, or of its first stage. program: its mesh, config and method.
    holds: {what: bytes} that lie on a device while it trains. where: the images are. told: what was assumed.
    examples: that a seed learns from. params: bytes of its parameters.
    compiled: None where it was not compiled; `refused` then says why.
    """

    label: str
    program: Program
    holds: dict[str, int]
    where: placement.Where
    told: list[str]
    examples: int
    params: int
    compiled: Compiled | None
    refused: str = ''


class Compiled(NamedTuple):
    """arguments, outputs, alias, temporaries, code: as `memory_analysis` has them. padding: by how much the arguments
    take more than their numbers do. flops, accessed: of a step, by `cost_analysis`, whose time is wrong and left out.
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


def ground(config: Any, on: Slice) -> tuple[Shared, list[str]]:
    """What the methods of a config share, and a line on each thing that was assumed."""
    data, told = assumed.sets(config)
    net, geometry, image = build_network(config, data)
    start = assumed.start(config, net, image, data)
    batch = config.batch_size // config.accumulate
    devices = mesh.make(batch, config.num_seeds, config.devices, on.devices)
    t, d = devices.devices.shape
    each = min(config.devices or len(on.devices), len(on.devices)) // t
    if d == 1 and each > 1:
        raise UserError(
            f'a batch of {batch} cannot be shared out over the {each} devices of a seed: no number of them but 1 '
            'divides it; change config.batch_size or --topology'
        )
    view = assumed.hollow(net, start)
    means = Cache(Path(), None)
    return Shared(data, net, geometry, devices, start, image, view, means, '', '', {}, {}, silent), told


def plans(config: Any, on: Slice, label: str, shared: tuple[Shared, list[str]], say: Say) -> Iterator[Plan]:
    """The plan of a method, and before it that of its first stage where it has one."""
    base, told = shared
    method = method_registry.build(config.method, len(base.sets.train.classes))
    built = program.build_program(base, config, method)
    given = assumed.prepared(built)
    told = [*told, *filter(None, [assumed.drawn(given[1])])]
    if method.first is not None:
        before = seeds.first_stage(built, given[1])
        yield one(before, on, f'{label}, first stage', told, assumed.prepared(before), say)
    yield one(built, on, label, told, given, say)


def one(built: Program, on: Slice, label: str, told: list[str], given: Given, say: Say) -> Plan:
    """Count the arguments, and compile unless they alone are too many."""
    data, made = given
    train, inputs = seeds.program_inputs(built, built.config.seed, made)
    room = None if on.chip is None else int(placement.SHARE * on.chip.free * GIB)
    where = arguments.where(built, inputs, room)
    state = arguments.of_trials(built, arguments.state(built, data, made))
    start, frozen = arguments.everywhere(built, built.shared.start), arguments.of_trials(built, made.frozen)
    given_inputs = arguments.inputs(built, inputs, where.train)
    holds = arguments.holds(built, state, start, frozen, given_inputs, where)
    plan = Plan(label, built, holds, where, told, len(train.label), arguments.size(state.params), None)
    if on.chip is not None and sum(holds.values()) > on.chip.free * GIB:
        return plan._replace(refused='what has to lie on a chip is more than it has, so nothing was compiled')
    say(f'{label}: compiling for {on.name}; a network such as ResNet-50 takes minutes')
    began = time.monotonic()
    try:
        found = built.advance(1).lower(state, start, frozen, given_inputs).compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise UserError(f'the compiler refused the program: {str(error).splitlines()[0]}') from error
        return plan._replace(refused=_needed(str(error)))
    seconds = time.monotonic() - began
    say(f'{label}: compiled in {duration(seconds)}')
    return plan._replace(compiled=_read(found, seconds, looped(built)), told=[*told, *_of_loops(built)])


def _needed(error: str) -> str:
    """The line of XLA's refusal that has the numbers."""
    numbers = [line for line in error.splitlines() if re.search(r'\d+(\.\d+)?[MGK]\b', line)]
    return 'the compiler: ' + ' '.join((numbers or error.splitlines())[0].partition(': ')[2].split())


def looped(built: Program) -> float:
    """By how much the work of a step is more than the compiler counts.

    `config.accumulate` parts of a batch are one part and a loop over the rest, whose work it counts once.
    """
    parts = built.config.accumulate
    return parts / 2 if parts > 1 and mesh.accelerated(built.mesh) else 1.0


def _of_loops(built: Program) -> list[str]:
    times = looped(built)
    return (
        [f'the work of a step is {times:g} times that of the two parts of its batch that are counted']
        if times > 1
        else []
    )


def _read(compiled: Any, seconds: float, times: float) -> Compiled:
    """What the compiler says. times: of its count of the work."""
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    size = memory.argument_size_in_bytes
    return Compiled(
        size, memory.output_size_in_bytes, memory.alias_size_in_bytes, memory.temp_size_in_bytes,
        memory.generated_code_size_in_bytes, max(size - hlo.given(text), 0),
        times * cost.get('flops', 0.0), times * cost.get('bytes accessed', 0.0), hlo.collectives(text), seconds,
    )  # fmt: skip
