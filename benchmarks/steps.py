"""Training programs to be timed: a network, made-up images, and functions that train for one more call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mixjax import config as config_lib
from mixjax import models
from mixjax.data.dataset import Dataset
from mixjax.data.labelled.run_data import Sets
from mixjax.models.preact import PreActResNet
from mixjax.train import schedule, seed_batch, seeds
from mixjax.train.program import Program
from mixjax.train.shared import Shared, shared_setup

Tree = Any
Call = Callable[[], object]

# A network for CPUs: convolutions are nearly all of its work, and a step takes a tenth of a second.
models.BACKBONES.setdefault('small', partial(PreActResNet, (1, 1, 1, 1), width=24))


class Case(NamedTuple):
    """A network on square images of `side`, in batches of `batch`."""

    network: str
    side: int
    batch: int
    dtype: str = 'float32'

    @property
    def name(self) -> str:
        return f'{self.network} at {self.side}, batch {self.batch}, {self.dtype}'


def settings(case: Case, method: Mapping[str, Any], **changes: Any) -> Any:
    """Return a run on made-up images: 10 target classes, and the 160 of the glyphs as source."""
    config = config_lib.base()
    config.method = dict(method)
    config.model.name, config.model.dtype, config.model.weights = case.network, case.dtype, 'random://160'
    config.target.name, config.source.name = 'synthetic', 'glyphs'
    config.synthetic.per_class, config.synthetic.side = 8, case.side
    config.image.resize = config.image.crop = case.side
    config.image.mean = config.image.std = (0.5, 0.5, 0.5)
    config.image.interpolation = 'bilinear'
    config.optim.schedule = 'constant'
    config.batch_size, config.steps, config.devices = case.batch, 100_000, 1
    config.eval_batch_size = min(case.batch, config.eval_batch_size)
    config.update(changes)
    return config_lib.settle(config_lib.complete(config))


class CompiledSteps(NamedTuple):
    """A compiled program.

    flops, temporary, arguments: work and bytes of a step, by the compiler's figures.
    count: number of steps of a call.
    """

    call: Call
    count: int
    flops: float
    temporary: int
    arguments: int
    close: Call


def per_call() -> int:
    """Return the steps of a call of the program, as a run has them here."""
    return 1 if jax.default_backend() == 'cpu' else schedule.MOST_STEPS_A_CALL


def compile_steps(program: Program, folder: Path, count: int | None = None) -> CompiledSteps:
    """Compile the training program of a seed, with its data on the devices.

    Args:
      program: the run's programs.
      folder: the folder for the result of `prepare`.
      count: number of steps of a call; None for `per_call()`.
    """
    count = count or per_call()
    folder.mkdir(parents=True, exist_ok=True)
    config = program.config
    opened = [seeds.open_seed(program, config.seed + i, folder) for i in range(program.mesh.shape['trial'])]
    placed = seed_batch.place_seeds(program, opened)
    ts = seed_batch.stack_states(program, [one.state for one in opened])
    arguments = ts, program.shared.start, placed.frozen, placed.feed.inputs(0, count)
    compiled = program.advance(count).lower(*arguments).compile()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    call = stepper(program, placed.frozen, ts, placed.feed.inputs, count)
    # The compiler counts a loop of steps once.
    return CompiledSteps(
        call, count, cost.get('flops', 0.0), memory.temp_size_in_bytes, memory.argument_size_in_bytes, placed.close
    )


def stepper(program: Program, frozen: Tree, ts: Tree, inputs: Callable[[int, int], Tree], count: int = 1) -> Call:
    """Make a function that trains `count` more steps in one call of the program, and waits for them.

    Args:
      program: the run's programs.
      frozen: the results of `prepare`.
      ts: the state to start from.
      inputs: (step, count) -> the inputs of the program.
      count: number of steps of a call.
    """
    at = 0

    def call() -> object:
        nonlocal ts, at
        ts, metrics = program.advance(count)(ts, program.shared.start, frozen, inputs(at, count))
        at += count
        return jax.block_until_ready(metrics)

    return call


def with_classes(shared: Shared, classes: int, images: int, side: int) -> Shared:
    """Return the same setup with a target of so many classes and images, and no source."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (min(images, 256), side, side, 3), np.uint8)
    labels = np.arange(images, dtype=np.int32) % classes

    def read(rows: np.ndarray) -> np.ndarray:
        return pixels[rows % len(pixels)]

    names = tuple(f'class {k}' for k in range(classes))
    train = Dataset('made', names, labels, read)
    test = Dataset('made', names, labels[:classes], read)
    return shared._replace(sets=Sets(train, test, None))


def build_shared(case: Case) -> Shared:
    return shared_setup(settings(case, {'name': 'finetune'}))
