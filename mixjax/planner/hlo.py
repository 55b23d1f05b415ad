"""The collectives of a compiled program, read from its text.

    %all-reduce.19 = (f32[3,3,1,8]{3,2,1,0}, f32[10]{0}) all-reduce(..), replica_groups={{0,1},{2,3}}, ..

A collective in a loop counts as often as the loop runs, if the text has that number. Devices are numbered
as in the mesh, row by row.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'collective-permute', 'all-to-all')
OTHERS = ('ragged-all-to-all', 'collective-broadcast')  # rare; counted under their names
BITS = {
    'pred': 8, 's4': 4, 'u4': 4, 's8': 8, 'u8': 8, 's16': 16, 'u16': 16, 'f16': 16, 'bf16': 16,
    's32': 32, 'u32': 32, 'f32': 32, 's64': 64, 'u64': 64, 'f64': 64, 'c64': 64, 'c128': 128,
}  # fmt: skip
LINE = re.compile(rf' = (.*?) ({"|".join((*OTHERS, *KINDS))})(-start)?\(')
ARRAY = re.compile(r'\b([a-z]+\d*(?:e\dm\d\w*)?)\[([\d,]*)\]')


class Collective(NamedTuple):
    """A collective operation.

    kind: one of `KINDS`.
    shapes: (type, sizes) of the resulting arrays of each device.
    bytes: bytes of these arrays.
    groups: the devices that communicate, a tuple for each group; () is all of them.
    name: path of the operation it was made from, such as `jit(one)/jvp(partner)/gather`.
    """

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    bytes: int
    groups: tuple[tuple[int, ...], ...]
    name: str


def collectives(text: str) -> list[Collective]:
    """Return the collectives in a program's text (`compiled.as_text()`)."""
    found, here, often = [], '', times(text)
    for line in text.splitlines():
        here = _opened(line) or here
        match = LINE.search(line)
        if match is None:
            continue
        result, kind, start = match.groups()
        shapes = _shapes(result)
        if start and kind != 'all-reduce':
            shapes = _results(result)  # shapes of (input, output, ..)
        name = re.search(r'op_name="([^"]*)"', line)
        one = Collective(kind, shapes, _bytes(shapes), groups(line), name[1] if name else '')
        found += [one] * often.get(here, 1)
    return found


def _opened(line: str) -> str:
    """Return the name of the computation that begins on this line, `%body (p: f32[]) -> f32[] {`, or ''."""
    match = re.match(r'(?:ENTRY )?%?([\w.-]+) \(.*\{$', line)
    return match[1] if match else ''


def times(text: str) -> dict[str, int]:
    """Return {computation: number of runs}; a loop's body as often as can be read (`_trips`), or once."""
    lines: dict[str, list[str]] = {}
    here = ''
    for line in text.splitlines():
        here = _opened(line) or here
        lines.setdefault(here, []).append(line)
    callers: dict[str, tuple[str, int]] = {}
    for here, inside in lines.items():
        for line in inside:
            for role, name in re.findall(r'\b(body|calls|to_apply)=%?([\w.-]+)', line):
                callers[name] = here, _trips(line, lines) if role == 'body' else 1

    def count(name: str) -> int:
        caller, each = callers.get(name, ('', 1))
        return each * count(caller) if caller else each

    return {name: count(name) for name in callers}


def _trips(line: str, lines: dict[str, list[str]]) -> int:
    """Return the trip count of a loop: from its line, or from its condition if that is `i < n`, as in `lax.scan`."""
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    if known:
        return int(known[1])
    condition = re.search(r'condition=%?([\w.-]+)', line)
    inside = '\n'.join(lines.get(condition[1], ())) if condition else ''
    bounds = re.findall(r' = s32\[\]\S* constant\((\d+)\)', inside)
    return int(bounds[0]) if len(bounds) == 1 and 'direction=LT' in inside else 1


def argument_bytes(text: str) -> int:
    """Return the bytes of a program's arguments, by their elements alone."""
    found = re.search(r'entry_computation_layout=\{\((.*?)\)->', text)
    return _bytes(_shapes(found[1])) if found else 0


def _shapes(text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    arrays = [(kind, sizes) for kind, sizes in ARRAY.findall(text) if kind in BITS or kind.startswith('f8')]
    return tuple((kind, tuple(int(n) for n in sizes.split(',') if n)) for kind, sizes in arrays)


def _results(text: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the result shapes of an asynchronous collective: `(in, out, ..)` or `((in, ..), (out, ..), ..)`."""
    inner = re.match(r'\(\((.*?)\), \((.*?)\)', text)
    return _shapes(inner[2]) if inner else _shapes(text)[1:2]


def _bytes(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> int:
    return sum(math.ceil(math.prod(sizes) * BITS.get(kind, 8) / 8) for kind, sizes in shapes)


def groups(line: str) -> tuple[tuple[int, ...], ...]:
    """Parse the groups of devices in any of XLA's forms; () for all devices if the line cannot be parsed."""
    pairs = re.search(r'source_target_pairs=\{((?:\{[\d,]*\},?)*)\}', line)
    listed = pairs or re.search(r'replica_groups=\{((?:\{[\d,]*\},?)*)\}', line)
    if listed:
        return tuple(tuple(int(n) for n in one.split(',') if n) for one in re.findall(r'\{([\d,]*)\}', listed[1]))
    counted = re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', line)
    if counted:
        shape, sizes, order = (tuple(int(n) for n in part.split(',')) if part else None for part in counted.groups())
        assert shape is not None and sizes is not None
        numbers = np.arange(math.prod(sizes)).reshape(sizes).transpose(order)
        return _tuples(numbers.reshape(shape))
    named = re.search(r'replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}', line)
    if named:
        return _of_mesh(*named.groups())
    return ()


def _of_mesh(mesh: str, ids: str | None, among: str) -> tuple[tuple[int, ...], ...]:
    """Parse groups of a mesh: `mesh['a'=2,'b'=4] {'b'}` has devices in a group that differ in b only."""
    axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    wanted = re.findall(r"'([^']+)'", among)
    if ids is not None or ':(' in among or not set(wanted) <= set(axes):
        return ()
    numbers = np.arange(math.prod(axes.values())).reshape(tuple(axes.values()))
    names = list(axes)
    kept = [names.index(name) for name in names if name not in wanted]
    moved = numbers.transpose(*kept, *(names.index(name) for name in wanted))
    return _tuples(moved.reshape(-1, math.prod(axes[name] for name in wanted)))


def _tuples(table: np.ndarray) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in table.tolist())


# --- summaries --------------------------------------------------------------------------------------------------------


def between_rows(found: Iterable[Collective], mesh: Any) -> list[Collective]:
    """Return the collectives that cross from one row of a mesh (t, d) to another: traffic between seeds."""
    rows, columns = mesh.devices.shape
    if rows == 1:
        return []
    everyone = (tuple(range(rows * columns)),)
    return [one for one in found if any(len({k // columns for k in group}) > 1 for group in one.groups or everyone)]


def table(found: Iterable[Collective]) -> dict[str, tuple[int, int]]:
    """Return {kind: (count, bytes)}, all of `KINDS` first."""
    out = {kind: (0, 0) for kind in KINDS}
    for one in found:
        count, size = out.get(one.kind, (0, 0))
        out[one.kind] = count + 1, size + one.bytes
    return out


def in_scope(found: Iterable[Collective], scope: str) -> list[Collective]:
    """Return the collectives that were made under `jax.named_scope(scope)`."""
    return [one for one in found if re.search(rf'(?<!\w){scope}(?!\w)', one.name)]
