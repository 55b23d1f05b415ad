"""The growth of a step's time and memory, one axis at a time: batch, classes, images, steps of a call."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import steps, timing
from benchmarks.parts import Part, Table, mib, ms, times
from benchmarks.steps import Case, CompiledSteps
from benchmarks.timing import Verdict
from mixjax.train import program
from mixjax.train.shared import shared_setup

CPU = Case('small', 32, 32)
GPU = Case('resnet50', 224, 64, 'bfloat16')
SHORT = Case('glyphnet', 16, 8)
FINETUNE = {'name': 'finetune'}
ROOM = 1.10  # a step of these must cost the same for any number of images


class Axis(NamedTuple):
    """An axis of growth.

    name: the quantity that grows.
    sizes: its values.
    about: a sentence on the expected result.
    """

    name: str
    sizes: tuple[Any, ...]
    about: str


def axes(short: bool) -> Iterator[Axis]:
    accelerated = jax.default_backend() != 'cpu'
    yield Axis(
        'batch', (8, 16) if short else (16, 32, 64, 128), 'Time and memory should grow no faster than the batch.'
    )
    yield Axis('classes', (10, 100) if short else (10, 100, 1000, 10_000), 'Only the head and the loss grow.')
    yield Axis(
        'images', (100, 1000) if short else (1000, 10_000, 50_000),
        'All images are on the device; a step draws its batch from them, at the same cost.',
    )  # fmt: skip
    yield Axis('feed', ('resident', 'stream'), 'Images on the device, or read ahead by the host.')
    if accelerated:
        yield Axis('steps of a call', (1, 10, 100), 'More steps of a call leave the host less to do.')


def changed(case: Case, axis: str, size: Any) -> tuple[Any, int, int, int]:
    """Return (config, classes, images, steps of a call) of one point."""
    classes, images, count = 10, 1000, steps.per_call()
    config = steps.settings(case, FINETUNE)
    with config.unlocked():
        config.source.name, config.model.weights = '', 'random://10'
        config.feed = 'resident'
        if axis == 'batch':
            config.batch_size = size
        if axis == 'feed':
            config.feed = size
    if axis == 'classes':
        classes, images = size, max(1000, size)
    if axis == 'images':
        images = size
    if axis == 'steps of a call':
        count = size
    return config.lock(), classes, images, count


def points(case: Case, axis: Axis, folder: Path) -> dict[str, CompiledSteps]:
    ways = {}
    for size in axis.sizes:
        config, classes, images, count = changed(case, axis.name, size)
        on = steps.with_classes(shared_setup(config), classes, images, case.side)
        ways[f'{size:,}' if isinstance(size, int) else size] = steps.compile_steps(
            program.build(config, on), folder / f'{axis.name}-{size}'.replace(' ', '-'), count
        )
    return ways


def measure(short: bool = False) -> Part:
    case = SHORT if short else CPU if jax.default_backend() == 'cpu' else GPU
    tables, verdicts, numbers = [], [], {}
    for axis in axes(short):
        with tempfile.TemporaryDirectory() as folder:
            ways = points(case, axis, Path(folder))
            # The images that a stream reads ahead after its turn are not charged to the next way.
            pause = 0.2 if axis.name == 'feed' else 0.0
            found = timing.interleaved({name: way.call for name, way in ways.items()}, 2 if short else 11, pause=pause)
            for way in ways.values():
                way.close()
        found = {name: each / ways[name].count for name, each in found.items()}
        first = next(iter(found))
        rows = [
            [name, ms(timing.spread(each)), times(timing.ratio(each, found[first])),
             mib(ways[name].temporary), mib(ways[name].arguments)]
            for name, each in found.items()
        ]  # fmt: skip
        columns = [axis.name, 'ms/step', 'to the first', 'temporary memory, MiB', 'arguments, MiB']
        tables.append(Table(f'Growth: {axis.name} ({case.name})', axis.about, columns, rows))
        numbers[axis.name] = {
            name: {
                'seconds': timing.spread(each)._asdict(),
                'temporary bytes': ways[name].temporary,
                'argument bytes': ways[name].arguments,
            }
            for name, each in found.items()
        }
        if not short:
            verdicts += judged(axis, found, ways)
    return Part('Growth', tables, verdicts, numbers)


def judged(axis: Axis, found: dict[str, np.ndarray], ways: dict[str, CompiledSteps]) -> list[Verdict]:
    names = list(found)
    first, last = names[0], names[-1]
    ratio = timing.ratio(found[last], found[first])
    if axis.name == 'images':
        return [timing.judged(f'a step of {last} images / of {first} <= {ROOM}', ratio, ROOM)]
    if axis.name == 'batch':
        grown = int(last.replace(',', '')) / int(first.replace(',', ''))
        what = f'memory of batch {last} / of {first} <= {ROOM} x {grown:.0f}'
        by = ways[last].temporary / ways[first].temporary
        return [Verdict(what, f'{by:.1f}', timing.HOLDS if by <= ROOM * grown else timing.MISSED)]
    return []
