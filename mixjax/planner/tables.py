"""A plan as readable text, and as data."""

from __future__ import annotations

import math
from typing import Any

from mixjax.planner import hlo, verdict
from mixjax.planner.compiled import Plan
from mixjax.planner.slices import Slice
from mixjax.planner.verdict import MB, shown


def text(plan: Plan, on: Slice) -> str:
    """Return the tables of one program."""
    lines = [_title(plan, on), *(f'  {line}' for line in _facts(plan, on)), '', *_memory(plan, on)]
    if plan.compiled is not None:
        lines += ['', *_collectives(plan), '', *_work(plan, on)]
    judged = verdict.judge(plan, on)
    return '\n'.join([*lines, '', judged.sentence, *(f'  {line}' for line in judged.advice)])


def _title(plan: Plan, on: Slice) -> str:
    return f'{plan.label} on {on.name}'


def _chip(on: Slice) -> str:
    if on.chip is None:
        return 'virtual devices'
    return f'chips of TPU {on.chip.name}'


def _facts(plan: Plan, on: Slice) -> list[str]:
    config, (t, d) = plan.program.config, plan.program.mesh.devices.shape
    rounds = math.ceil(config.num_seeds / t)
    seeds = f'{t} seeds at once, on {d} each' if t > 1 else f'one seed on {d}'
    seeds += f', in {rounds} rounds' if rounds > 1 else ''
    idle = len(on.devices) - t * d
    left = ''
    if idle:
        each = (len(on.devices) - idle) // t
        left = f'; {idle} have nothing to do (a batch of {config.batch_size} is split over {each} a seed)'
    out = [
        f'{len(on.devices)} {_chip(on)}: {seeds}{left}',
        f'{config.model.name} in {config.model.dtype}, batch {config.batch_size} of {plan.examples:,} labelled images',
        plan.where.note,
    ]
    return out + [f'assumed: {line}' for line in plan.notes]


def _memory(plan: Plan, on: Slice) -> list[str]:
    rows = verdict.memory(plan)
    device = 'chip' if on.chip else 'device'
    out = [f'{f"memory of a {device}":36}{"MB":>12}']
    out += [f'  {name:34}{size / MB:12,.2f}' for name, size in rows.items()]
    out.append(f'  {"together":34}{sum(rows.values()) / MB:12,.2f}')
    if on.chip:
        free = on.chip.free * 2**30
        what = f'it has ({on.chip.free:g} GiB)'
        out.append(f'  {what:34}{free / MB:12,.2f}')
    return out


def _collectives(plan: Plan) -> list[str]:
    assert plan.compiled is not None
    found = plan.compiled.collectives
    out = [f'{"collectives of a step":24}{"count":>12}{"MB":>12}']
    out += [f'  {kind:22}{count:12}{size / MB:12,.2f}' for kind, (count, size) in hlo.table(found).items()]
    crossing = hlo.between_rows(found, plan.program.mesh)
    out.append(f'  parameters, which the gradients are as large as {shown(plan.params)}')
    if plan.program.mesh.shape['trial'] > 1:
        out.append(f'  between seeds {len(crossing) or "none"}')
    return out


def _work(plan: Plan, on: Slice) -> list[str]:
    found, work = plan.compiled, verdict.work(plan, on)
    assert found is not None and work is not None
    out = [
        f'work of a step: {found.flops / 1e9:,.3f} GFLOP and {shown(found.accessed)} of memory traffic',
        f'  an image: {found.flops / work.images / 1e9:,.3f} GFLOP and {shown(found.accessed / work.images)}',
    ]
    if on.chip:
        least, likely = work.hours
        out += [
            f'  at least {1e3 * work.least:,.3f} ms, by the arithmetic of a chip; {1e3 * work.likely:,.3f} ms where '
            'all that traffic goes to its memory',
            f'  {plan.program.config.num_seeds} x {plan.program.config.steps:,} steps: {_hours(least)} to '
            f'{_hours(likely)} chip-hours of training by these numbers, which nobody has measured',
        ]
    return out


def _hours(hours: float) -> str:
    return f'{hours:,.1f}' if hours >= 10 else f'{hours:.2g}'


def data(plan: Plan, on: Slice) -> dict[str, Any]:
    """Return the plan of one program as data."""
    config, (t, d) = plan.program.config, plan.program.mesh.devices.shape
    judged, found = verdict.judge(plan, on), plan.compiled
    out: dict[str, Any] = {
        'label': plan.label,
        'topology': on.name,
        'chips': len(on.devices),
        'mesh': {'trial': t, 'data': d},
        'batch': config.batch_size,
        'steps': config.steps,
        'seeds': config.num_seeds,
        'examples': plan.examples,
        'feed': plan.where.train,
        'test images': plan.where.test,
        'assumed': plan.notes,
        'memory': verdict.memory(plan),
        'available': None if on.chip is None else int(on.chip.free * 2**30),
        'parameters': plan.params,
        'fits': judged.fits,
        'verdict': judged.sentence,
        'advice': judged.advice,
    }
    work = verdict.work(plan, on)
    if found is not None and work is not None:
        table = hlo.table(found.collectives)
        out |= {
            'compiled': {name: value for name, value in found._asdict().items() if name != 'collectives'},
            'collectives': {kind: {'count': count, 'bytes': size} for kind, (count, size) in table.items()},
            'not sums': [
                {'kind': one.kind, 'shapes': one.shapes, 'bytes': one.bytes, 'of': one.name}
                for one in found.collectives
                if one.kind != 'all-reduce'
            ],
            'between seeds': len(hlo.between_rows(found.collectives, plan.program.mesh)),
            'partners': {'bytes': verdict.cost(plan), 'groups': config.mix.groups},
            'an image': {'flops': found.flops / work.images, 'bytes': found.accessed / work.images},
            'chip-hours': None if on.chip is None else list(work.hours),
        }
    return out
