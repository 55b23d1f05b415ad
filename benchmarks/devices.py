"""The traffic and memory of a step by the number of devices and of seeds: compiled, not run.

The devices are virtual ones of a CPU, so nothing here is a time. The programs, their collectives and their
memory are those that the compiler makes for so many devices.
"""

from __future__ import annotations

from typing import Any

from benchmarks import steps
from benchmarks.parts import Part, Table, mib
from benchmarks.steps import Case
from benchmarks.timing import HOLDS, MISSED, Verdict
from mixjax.planner import compiled, hlo, slices
from mixjax.planner.compiled import Compiled, Plan

MOST = 8
CASE, SHORT = Case('small', 32, 48), Case('glyphnet', 16, 8)
EXTRA = 0.05  # of the bytes of the parameters: the most that may be sent besides their gradients


def plan_case(case: Case, devices: int, seeds: int) -> Plan:
    config = steps.settings(case, {'name': 'mixup'}, devices=devices, num_seeds=seeds)
    with config.unlocked():
        config.mix.groups = devices // seeds  # partners are on the same device
    on = slices.find(slices.parse(f'cpu:{devices}'))
    (found,) = compiled.plans(config, on, 'mixup', compiled.build_shared(config, on), lambda text: None)
    return found


def compiled_of(plan: Plan) -> Compiled:
    assert plan.compiled is not None
    return plan.compiled


def bytes_sent(plan: Plan) -> int:
    return sum(one.bytes for one in compiled_of(plan).collectives)


def kinds(plan: Plan) -> dict[str, int]:
    """Return {kind of collective: count}."""
    return {kind: count for kind, (count, _) in hlo.table(compiled_of(plan).collectives).items() if count}


def row(name: str, plan: Plan) -> list[str]:
    told = ', '.join(f'{count} {kind}' for kind, count in kinds(plan).items()) or 'none'
    found = compiled_of(plan)
    return [name, told, mib(bytes_sent(plan)), mib(found.temporaries), f'{found.flops / 1e9:.2f}']


def as_data(plans: dict[int, Plan]) -> dict[str, Any]:
    return {
        str(n): {
            'collectives': kinds(plan),
            'bytes': bytes_sent(plan),
            'temporary bytes': compiled_of(plan).temporaries,
            'flops': compiled_of(plan).flops,
        }
        for n, plan in plans.items()
    }


def measure(short: bool = False) -> Part:
    case, counts = (SHORT, (1, 2, 8)) if short else (CASE, (1, 2, 4, 8))
    along, apart = {n: plan_case(case, n, 1) for n in counts}, {n: plan_case(case, n, n) for n in counts}
    columns = ['collectives', 'sent, MiB', 'temporary memory, MiB', 'GFLOP']
    tables = [
        Table(
            f'{title} ({case.name})', about, [title.lower(), *columns], [row(str(n), one) for n, one in plans.items()]
        )
        for title, about, plans in (
            ('Devices', 'One seed, its batch split over the devices; figures of one device, by the compiler.', along),
            ('Seeds', 'One seed on each device, side by side.', apart),
        )
    ]
    many = [plan for n, plan in along.items() if n > 1]
    most = max(map(bytes_sent, many)) / along[1].params
    counted = [kinds(plan) for plan in many]
    between = sum(map(bytes_sent, apart.values()))

    def verdict(what: str, found: str, holds: bool) -> Verdict:
        return Verdict(what, found, HOLDS if holds else MISSED)

    limit = 1 + EXTRA
    verdicts = [
        verdict(f'bytes sent on 2 to {MOST} devices <= {limit:.2f} x the parameters', f'{most:.3f}', most <= limit),
        verdict('as many collectives on any number of devices', str(counted[0]), counted[1:] == counted[:-1]),
        verdict('nothing is sent between seeds', f'{between} bytes', not between),
    ]
    return Part('Devices and seeds', tables, verdicts, {'devices': as_data(along), 'seeds': as_data(apart)})
