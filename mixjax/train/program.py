"""A method's programs: the training step, evaluation and pictures, each compiled once for all seeds of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from mixjax import tasks
from mixjax.config import method_registry
from mixjax.data.feed import batches
from mixjax.data.feed.batches import Batch
from mixjax.data.labelled import run_data
from mixjax.data.labelled.run_data import SeedDraw, Sets
from mixjax.errors import UserError
from mixjax.method import Method, Prepared, Run
from mixjax.models.net import Net
from mixjax.tasks import Scale, Task
from mixjax.train import evaluate, export, mesh, optim, step
from mixjax.train.shared import Shared, shared_setup
from mixjax.train.step import TrainState, TrainStep

Array = jax.Array
Tree = Any


class Program(NamedTuple):
    """One method with everything that its seeds share.

    feed: the device side of the data, for one trial.
    tx: the optimiser.
    advance(count), evaluate, validate: compiled for all trials at once.
    seen: compiled for one trial.
    draws, prepared: those of each seed, made on first use.
    firsts: programs of the method's first stage, by (classes, examples).
    """

    shared: Shared
    config: Any
    method: Method
    feed: Batch
    run: Run
    tx: Any
    advance: Callable[[int], Callable]
    evaluate: Callable
    validate: Callable
    seen: Callable
    draws: dict[int, SeedDraw]
    prepared: dict[int, Prepared]
    firsts: dict[tuple[int, int], Program]

    @property
    def sets(self) -> Sets:
        return self.shared.sets

    @property
    def net(self) -> Net:
        return self.shared.net

    @property
    def task(self) -> Task:
        return tasks.of(self.config.target.task)

    @property
    def one_test(self) -> bool:
        """Whether all seeds have the same test examples with the same labels."""
        return self.sets.test is not None and not self.task.scaled

    @property
    def one_val(self) -> bool:
        """Whether all seeds have the same validation examples with the same labels."""
        return self.sets.val is not None and not self.task.scaled

    def scale(self, seed: int) -> Scale | None:
        """Return the standardisation of a seed's labels, by those that it learns from."""
        return self.task.scale(self.sets.train.labels[self.draw(seed).train])

    @property
    def mesh(self) -> Mesh:
        return self.shared.mesh

    def draw(self, seed: int) -> SeedDraw:
        """Return the examples this seed learns from and validates on; drawn once."""
        if seed not in self.draws:
            self.draws[seed] = run_data.draw_seed(self.config, self.sets, seed)
        return self.draws[seed]

    def on(self, sets: Sets) -> Program:
        """Return the same programs with other data of the same shapes."""
        return self._replace(shared=self.shared._replace(sets=sets), draws={}, prepared={})


def build(config: Any, shared: Shared | None = None) -> Program:
    """Build the method that the config names, and the programs around it; nothing is compiled yet."""
    shared = shared or shared_setup(config)
    return build_program(shared, config, method_registry.build(config.method, len(shared.sets.train.classes)))


def build_program(shared: Shared, config: Any, method: Method) -> Program:
    """Build the programs around a method; nothing is compiled yet."""
    feed = partial(batches.batch, shared.geometry, size=config.batch_size, groups=config.mix.groups)
    check_whole_batches(config, method)
    check_batch_kinds(method)
    draw = run_data.draw_seed(config, shared.sets, config.seed)
    task = tasks.of(config.target.task)
    epochs = draw.epoch_length / config.batch_size
    run = Run(config.steps, epochs, shared.geometry.mean, shared.geometry.std, task.loss)

    def factor_of(params: Tree) -> Tree:
        return optim.factors(method.groups, shared.net.group, params, config.optim)

    tx, rate = optim.make(config.optim, config.steps, factor_of)
    optimiser = step.Optimiser(tx, rate, factor_of)
    cut = config.shard_params and shared.mesh.shape['data'] > 1
    layout = step.Layout(mesh.shard_batch, mesh.gathered if cut else lambda tree: tree, mesh.accelerated(shared.mesh))
    train_step = step.make(
        shared.net, method, feed(shard=mesh.shard_batch), run, optimiser, layout,
        accumulate=config.accumulate, skip=config.on_nan == 'skip',
    )  # fmt: skip
    compiled: dict[int, Callable] = {}

    def advance(count: int) -> Callable:
        """Return the compiled program of `count` steps: (state, pretrained, frozen, inputs) -> (state, metrics)."""
        if count not in compiled:
            steps = train_step if count == 1 else several(train_step, count)
            every = mesh.each_trial(shared.mesh, steps, shared=(False, True, False, False))
            # The state has the same sharding before and after: one program, not two for the first call and the rest.
            if cut:
                compiled[count] = jax.jit(mesh.with_sharded_state(shared.mesh, every), donate_argnums=0)
            else:
                compiled[count] = jax.jit(every, donate_argnums=0, out_shardings=mesh.of_trials(shared.mesh))
        return compiled[count]

    even = config.eval_batch_size % shared.mesh.shape['data'] == 0
    placed = layout if even else layout._replace(shard=lambda x: x)

    def evaluator(same: bool) -> Callable:
        """Return the evaluation of a batch. same: whether all seeds have the same images."""
        key = method.predict, method.measures, even, cut, same
        if key not in shared.evaluators:
            batch = evaluate.make(shared.net, method, shared.geometry, placed, task)
            shared.evaluators[key] = jax.jit(mesh.each_trial(shared.mesh, batch, shared=(False, same, same, same)))
        return shared.evaluators[key]

    tested, validated = (
        evaluator(part is not None and not task.scaled) for part in (shared.sets.test, shared.sets.val)
    )
    seen = export.seen(shared.net, method, feed(), run, shared.geometry)
    draws = {config.seed: draw}
    return Program(shared, config, method, feed(), run, tx, advance, tested, validated, seen, draws, {}, {})


def several(train_step: TrainStep, count: int) -> TrainStep:
    """Make one program of `count` steps by `lax.scan`, with the metrics of the last one.

    Only for accelerators: on a CPU, convolution gradients inside a loop are tens of times slower.
    """

    def steps(ts: TrainState, pretrained: Tree | None, frozen: Tree, inputs: Tree) -> tuple[TrainState, Any]:
        def body(ts: TrainState, _: None) -> tuple[TrainState, Any]:
            return train_step(ts, pretrained, frozen, inputs)

        ts, metrics = jax.lax.scan(body, ts, None, length=count)
        return ts, jax.tree.map(lambda x: x[-1], metrics)

    return steps


def check_whole_batches(config: Any, method: Method) -> None:
    """Refuse to split the batches of a method that needs them whole."""
    if config.accumulate > 1 and method.whole_batch:
        raise UserError(
            f'config.accumulate={config.accumulate}: the loss of {method_registry.title(config.method)} is not a mean '
            'over the examples of a batch, so with these settings that of its parts is another one; set '
            'config.accumulate=1 (and a smaller config.batch_size, to save memory)'
        )


def check_batch_kinds(method: Method) -> None:
    """Refuse names of kinds of batch that the log could not distinguish."""
    names = method.batch_kinds
    good = isinstance(names, tuple) and all(isinstance(name, str) and name for name in names)
    if not good or len(names) == 1 or len(set(names)) < len(names):
        raise UserError(
            f"the batch_kinds of a method are two or more different names in a tuple, as ('original', 'mixed'), or (), "
            f'not {names!r}'
        )
