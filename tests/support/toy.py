"""A toy task of 16-pixel images on a network of two convolutions: its config, its program, and steps of training."""

import contextlib

import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax import models
from mixjax.config import method_registry
from mixjax.train import experiment, program, seed_batch, seeds
from tests.support.common import Tiny


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))


def settings(method, **changes):
    """A toy task: 5 of the target's classes' examples each, as many source classes again."""
    config = config_lib.base()
    config.method = {'name': method} if isinstance(method, str) else method
    config.model.name = 'tiny'
    config.model.weights = 'random://160'
    config.target.name = 'synthetic'
    config.source.name = 'glyphs'
    config.synthetic.per_class, config.synthetic.side = 2, 16
    config.image.resize, config.image.crop, config.image.pad, config.image.flip = 16, 16, 1, False
    config.image.mean = config.image.std = (0.5,)
    config.optim.schedule = 'constant'
    config.optim.lr = 0.03
    config.batch_size, config.steps, config.devices = 16, 40, 1
    if method_registry.needs_unlabelled(config.method):
        config.unlabelled.name = 'synthetic'
    config.update(changes)
    return config_lib.settle(config_lib.complete(config))


@contextlib.contextmanager
def given(make):
    """The name of a method that is a function, for the configs inside of the block."""
    name = method_registry.function_name(make)
    with method_registry.with_functions({name: make}):
        yield name


def train(config, folder):
    return experiment.run(config, folder, progress=False)


def opened(config, folder, every=(0,)):
    """The program, the seeds of `every` on its devices, and their state."""
    built = program.build(config)
    found = [seeds.open_seed(built, seed, folder) for seed in every]
    return built, seed_batch.place_seeds(built, found), seed_batch.stack_states(built, [one.state for one in found])


def walk(built, data, ts, steps):
    out = []
    for _ in range(steps):
        ts, metrics = built.advance(1)(ts, built.shared.start, data.frozen, data.inputs)
        out.append({name: float(value[0]) for name, value in metrics.items()})
    return ts, out


def losses_of(built, folder, every=(0,), steps=20):
    """{seed: losses} of seeds that are trained together."""
    folder.mkdir(exist_ok=True)
    found = [seeds.open_seed(built, seed, folder) for seed in every]
    data, ts = seed_batch.place_seeds(built, found), seed_batch.stack_states(built, [one.state for one in found])
    losses = []
    for _ in range(steps):
        ts, metrics = built.advance(1)(ts, built.shared.start, data.frozen, data.inputs)
        losses.append(np.array(metrics['loss']))
    return dict(zip(every, np.array(losses).T, strict=False))
