"""The verdict on a `Plan`: sentences on whether it fits, and on what to change."""

from __future__ import annotations

import math
from typing import NamedTuple

from mixjax.planner import hlo
from mixjax.planner.compiled import Plan
from mixjax.planner.slices import GIB, Slice

MB = 1e6
MUCH = 0.2  # share of a chip's memory; parts that take more are worth saving


class Verdict(NamedTuple):
    """The verdict on a program.

    fits: None if unknown, as for virtual devices.
    used: bytes on a device.
    advice: what to change.
    """

    fits: bool | None
    used: int
    sentence: str
    advice: list[str]


def memory(plan: Plan) -> dict[str, int]:
    """Return {part: bytes} of a device."""
    rows, found = dict(plan.array_bytes), plan.compiled
    if found is not None:
        rows['layout of the arrays'] = found.padding
        # Outputs that do not overwrite the arguments.
        rows['temporaries'] = found.temporaries + max(found.outputs - found.alias, 0)
        rows['program'] = found.code
    return rows


def shown(size: float) -> str:
    return f'{size / MB:,.0f} MB' if size >= 10 * MB else f'{size / MB:,.2f} MB'


def judge(plan: Plan, on: Slice) -> Verdict:
    """Return the verdict on one program."""
    used = sum(memory(plan).values())
    if on.chip is None:
        sentence = f'{shown(used)} on a device; virtual devices have no memory limit, so it is unknown whether it fits'
        return Verdict(None, used, sentence, traffic(plan))
    free = on.chip.free * GIB
    if plan.compiled is not None and used <= free:
        sentence = f'fits: {shown(used)} of the {shown(free)} of a chip, {used / free:.0%}'
        return Verdict(True, used, sentence, traffic(plan))
    why = plan.refused or f'the step needs {shown(used)}'
    sentence = f'does not fit into the {shown(free)} of a chip: {why}'
    return Verdict(False, used, sentence, [*smaller(plan, on), *traffic(plan)])


def smaller(plan: Plan, on: Slice) -> list[str]:
    """Return ways to make a program smaller that does not fit; those that keep the experiment the same come first."""
    assert on.chip is not None
    config, rows, free = plan.program.config, plan.array_bytes, on.chip.free * GIB
    t, d = plan.program.mesh.devices.shape
    batch = config.batch_size // config.accumulate
    images = rows['training images'] + rows['test images']
    out = []
    if 'resident' in (plan.where.train, plan.where.test) and images > MUCH * free:
        out.append(f'--config.feed=stream: images are read as they are needed, and do not take {shown(images)}')
    if plan.where.train == 'stream' and config.dispatch != 1 and images > MUCH * free:
        out.append('--config.dispatch=1: fewer images are handed over at once')
    more = next((n for n in range(d + 1, batch + 1) if batch % n == 0), 0)
    if more:
        out.append(
            f'more chips: a slice of {t * more} or more gives each seed {more}, with {batch // more} images each'
        )
    if config.accumulate == 1 and config.batch_size % 2 == 0:
        out.append('--config.accumulate=2: half the batch at a time, with BatchNorm statistics of the halves')
    if config.model.dtype != 'bfloat16':
        out.append('--config.model.dtype=bfloat16: activations of half the size, and a rounding of 3 digits')
    if plan.where.train == 'resident' and d > 1 and config.mix.shards % d and rows['training images'] > MUCH * free:
        out.append(
            f'--config.mix.shards={d}: each chip has the source images of its own part of the batch (another draw)'
        )
    out.append('a smaller --config.batch_size (another experiment)')
    return out


def traffic(plan: Plan) -> list[str]:
    """Return a message on the traffic of the partners of examples between devices, and ways to save it."""
    if plan.compiled is None:
        return []
    found = hlo.in_scope(plan.compiled.collectives, 'partner')
    if not found:
        return []
    config, d = plan.program.config, plan.program.mesh.shape['data']
    kinds = ' and '.join(sorted({one.kind for one in found}))
    better = d * config.accumulate
    return [
        f'config.mix.groups={config.mix.groups} costs {len(found)} {kinds} of {shown(cost(plan))} a step, to bring '
        f'partners together; --config.mix.groups={better} draws them within {better} parts of the batch, and they stay '
        'on their device (another experiment, if a close one)'
    ]


def cost(plan: Plan) -> int:
    """Return the bytes a step that the partners of examples send."""
    return sum(one.bytes for one in hlo.in_scope(plan.compiled.collectives, 'partner')) if plan.compiled else 0


class Work(NamedTuple):
    """The work of a training step on a device.

    images: number of images of the batch. least: seconds by its arithmetic alone; likely: also by the
    bytes that the compiler counts. hours: chip-hours of the whole run, by either. All of it is computed, not measured.
    """

    images: float
    least: float
    likely: float
    hours: tuple[float, float]


def work(plan: Plan, on: Slice) -> Work | None:
    """Return the work of a compiled program; None if it was not compiled. On virtual devices the times are 0."""
    found, config = plan.compiled, plan.program.config
    if found is None:
        return None
    t, d = plan.program.mesh.devices.shape
    images = config.batch_size / d
    if on.chip is None:
        return Work(images, 0.0, 0.0, (0.0, 0.0))
    least = found.flops / on.chip.flops
    likely = max(least, found.accessed / on.chip.bandwidth)
    chips = math.ceil(config.num_seeds / t) * t * d
    each = config.steps * chips / 3600
    return Work(images, least, likely, (least * each, likely * each))
