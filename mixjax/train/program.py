"""A method's programs: the training step, evaluation and pictures, each compiled once for all seeds of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh
from jax.tree_util import Partial

from mixjax import tasks
from mixjax.config import method_registry
from mixjax.data.feed import batches
from mixjax.data.feed.batches import Batch
from mixjax.data.feed.plan import Sizes
from mixjax.data.labelled import run_data
from mixjax.data.labelled.run_data import SeedDraw, Sets
from mixjax.errors import UserError
from mixjax.method import Method, Phase, Prepared, Run
from mixjax.models.layers import fixed_statistics
from mixjax.models.net import Net
from mixjax.tasks import Scale, Task
from mixjax.train import accuracy, contract, export, mesh, optim, schedule, step
from mixjax.train.shared import Shared, shared_setup
from mixjax.train.step import TrainState, TrainStep

Array = jax.Array
Tree = Any


class Program(NamedTuple):
    """One method with everything that its seeds share.

    feed: the device side of the data, for one trial.
    optimisers: of each phase; their states are the same.
    advance(count, phase), evaluated, evaluate, validate: compiled for all trials at once.
    starts: the first step of each phase of the method.
    show_samples: compiled for one trial.
    draws, prepared: those of each seed, made on first use.
    firsts: programs of the method's first stage, by (classes, examples).
    """

    shared: Shared
    config: Any
    method: Method
    feed: Batch
    run: Run
    optimisers: Sequence[step.Optimiser]
    advance: Callable[..., Callable]
    starts: tuple[int, ...]
    evaluated: Callable[[TrainState], Tree]
    evaluate: Callable
    validate: Callable
    show_samples: Callable
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
    def sizes(self) -> Sizes:
        """The sizes of a batch."""
        config = self.config
        return Sizes(config.batch_size, config.mix.groups, self.method.unlabelled * config.batch_size)

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

    @property
    def tx(self) -> optax.GradientTransformation:
        return self.optimisers[0].tx

    def factors(self, phase: int) -> Callable[[Tree], Tree]:
        """Return the function from parameters to their (learning rate factor, decay factor) in a phase."""
        return self.optimisers[phase].factors

    def calls(self, step: int) -> Iterator[tuple[int, int]]:
        """Yield (step, count) for each call of the training program from `step` on."""
        return schedule.calls(self.config, step, self.method.period, self.starts)

    def steps(self, first: int, count: int) -> Callable:
        """Return the compiled program of `count` steps from `first` on, which are all of one phase."""
        return self.advance(count, schedule.phase_at(self.starts, first))

    def draw(self, seed: int) -> SeedDraw:
        """Return the examples this seed learns from and validates on; drawn once."""
        if seed not in self.draws:
            self.draws[seed] = run_data.draw_seed(self.config, self.sets, seed)
        return self.draws[seed]

    def with_sets(self, sets: Sets) -> Program:
        """Return the same programs with other data of the same shapes."""
        return self._replace(shared=self.shared._replace(sets=sets), draws={}, prepared={})


def build(config: Any, shared: Shared | None = None) -> Program:
    """Build the method that the config names, and the programs around it; nothing is compiled yet."""
    shared = shared or shared_setup(config)
    return build_program(shared, config, method_registry.build(config.method, len(shared.sets.train.classes)))


def build_program(shared: Shared, config: Any, method: Method) -> Program:
    """Build the programs around a method; nothing is compiled yet."""
    views = {
        name: (view.of, shared.geometry if view.augment is None else shared.geometry._replace(augment=view.augment))
        for name, view in method.views.items()
    }
    feed = partial(
        batches.batch, shared.geometry, size=config.batch_size, groups=config.mix.groups, views=views,
        unlabelled=method.unlabelled * config.batch_size,
    )  # fmt: skip
    check_whole_batches(config, method)
    check_batch_kinds(method)
    draw = run_data.draw_seed(config, shared.sets, config.seed)
    task = tasks.of(config.target.task)
    phases = method.phases or (Phase(1.0),)
    starts = schedule.phase_starts(phases, config.steps)
    epoch, geometry = draw.epoch_length / config.batch_size, shared.geometry
    optimisers = [phase_optimiser(config, method, shared.net, starts, k) for k in range(len(phases))]
    runs = [
        Run(config.steps, epoch, geometry.mean, geometry.std, k, starts, Partial(task.loss), Partial(optimiser.factors))
        for k, optimiser in enumerate(optimisers)
    ]

    cut = config.shard_params and shared.mesh.shape['data'] > 1
    layout = step.Layout(mesh.shard_batch, mesh.gathered if cut else lambda tree: tree, mesh.accelerated(shared.mesh))
    compiled: dict[tuple[int, int], Callable] = {}

    def advance(count: int, phase: int = 0) -> Callable:
        """Return the compiled program of `count` steps of a phase.

        (state, pretrained, frozen, inputs) -> (state, metrics)
        """
        if (count, phase) not in compiled:
            net = shared.net if phases[phase].statistics else fixed_statistics(shared.net)
            train_step = step.make(
                net, method, feed(shard=mesh.shard_batch), runs[phase], optimisers[phase], layout,
                accumulate=config.accumulate, skip=config.on_nan == 'skip',
            )  # fmt: skip
            steps = train_step if count == 1 else several(train_step, count)
            every = mesh.each_trial(shared.mesh, steps, shared=(False, True, False, False))
            # The state has the same sharding before and after: one program, not two for the first call and the rest.
            if cut:
                made = jax.jit(mesh.with_sharded_state(shared.mesh, every), donate_argnums=0)
            else:
                made = jax.jit(every, donate_argnums=0, out_shardings=mesh.trial_sharding(shared.mesh))
            compiled[count, phase] = made
        return compiled[count, phase]

    even = config.eval_batch_size % shared.mesh.shape['data'] == 0
    placed = layout if even else layout._replace(shard=lambda x: x)

    def evaluator(same: bool) -> Callable:
        """Return the evaluation of a batch. same: whether all seeds have the same images."""
        key = method.predict, method.measures, even, cut, same
        if key not in shared.evaluators:
            batch = accuracy.make(shared.net, method, shared.geometry, placed, config.image.tta, task)
            shared.evaluators[key] = jax.jit(mesh.each_trial(shared.mesh, batch, shared=(False, same, same, same)))
        return shared.evaluators[key]

    tested, validated = (
        evaluator(part is not None and not task.scaled) for part in (shared.sets.test, shared.sets.val)
    )
    show_samples = export.make_viewer(shared.net, method, feed(), runs[0], shared.geometry)
    evaluated = evaluated_variables(shared, method, layout)
    draws = {config.seed: draw}
    return Program(
        shared, config, method, feed(), runs[0], optimisers, advance, starts, evaluated, tested, validated,
        show_samples, draws, {}, {},
    )  # fmt: skip


def phase_optimiser(config: Any, method: Method, net: Net, starts: Sequence[int], number: int) -> step.Optimiser:
    """Return the optimiser of a phase. The state of all phases is the same, so that momentum goes from one to the next.

    Args:
      config: the run's config.
      method: the method.
      net: the network, for the parts of its parameters.
      starts: the first step of each phase.
      number: the number of the phase.
    """
    phase = method.phases[number] if method.phases else Phase(1.0)
    first, *later = starts[number:]
    length = (later[0] if later else config.steps) - first

    def factor_of(params: Tree) -> Tree:
        own = optim.factors(method.groups, net.group, params, config.optim)
        more = optim.factors(phase.groups, net.group, params)

        def both(_: Array, pair: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
            rate = pair[0] * other[0] * phase.lr
            return (rate, pair[1] * other[1]) if rate else (0.0, 0.0)

        return jax.tree.map(both, params, own, more)

    anew = optim.schedule(config.optim, max(length, 1))
    own = (lambda at: anew(at - first)) if phase.restart else None
    tx, rate = optim.make(config.optim, config.steps, factor_of, own)
    shown = rate if phase.lr == 1 else lambda at: phase.lr * rate(at)
    return step.Optimiser(tx, shown, factor_of)


def evaluated_variables(shared: Shared, method: Method, layout: step.Layout) -> Callable[[TrainState], Tree]:
    """Return the function from the states of all trials to the variables that are evaluated and exported."""
    if contract.is_default(method, 'evaluated') and contract.is_default(method, 'parameters'):
        return step.variables

    def one(params: Tree, model_state: Tree, state: Tree) -> Tree:
        params, state = layout.whole((params, state))
        # The network is not bound: analyses evaluate checkpoints without the pretrained weights.
        return method.evaluated(shared.net, {'params': params, **model_state}, state)

    every = mesh.each_trial(shared.mesh, one, shared=(False, False, False))
    compiled = jax.jit(every, out_shardings=mesh.trial_sharding(shared.mesh))
    return lambda ts: compiled(ts.params, ts.model_state, ts.state)


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
            'over the examples of a batch, so with these settings the loss of its parts is different; set '
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
