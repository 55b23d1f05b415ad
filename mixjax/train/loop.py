"""The training loop of one run: its seeds, step by step, with logs, evaluations and checkpoints.

Work that is due after a step is done in this order: log, evaluate, log that, save a checkpoint. So the logs are never
behind the checkpoint, and a restarted run drops the lines that come after it.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import jax
from jax.errors import UnexpectedTracerError

from mixjax.data.labelled import splits
from mixjax.errors import user_code
from mixjax.host import signals
from mixjax.host.processes import from_first
from mixjax.host.progress import Progress
from mixjax.host.storage import Place
from mixjax.rundir import checkpoint, files, lock
from mixjax.train import contract, evaluation, mesh, schedule, seed_batch, seeds
from mixjax.train.logs import log_step
from mixjax.train.nan_guard import NanGuard
from mixjax.train.program import Program
from mixjax.train.seed_batch import SeedBatch
from mixjax.train.step import TrainState

Tree = Any


def train_run(program: Program, folder: Place, progress: Progress) -> None:
    """Train all seeds of a run, as many at once as the mesh has rows."""
    for together in seeds.group_seeds(program, folder):
        train_seeds([program] * len(together), together, folder, progress)
    for stage in (folder, folder / 'first'):
        files.sort_log(stage / 'metrics.jsonl')


def train_seeds(programs: list[Program], together: list[int], folder: Place, progress: Progress) -> list[Tree]:
    """Train seeds side by side to the end, from their newest checkpoints if there are any.

    Args:
      programs: one for each seed; they differ in their data only.
      together: the seeds.

    Returns:
      The final variables of each seed.
    """
    program = programs[0]
    config, first = program.config, program.config.seed in together
    with contextlib.ExitStack() as stack:
        # --- the step to start from: 0, or the newest checkpoint that all of the seeds have
        places = [folder / 'checkpoints' / str(seed) for seed in together]
        managers = [stack.enter_context(checkpoint.open_folder(place)) for place in places]
        step = checkpoint.latest(managers) or 0
        trunks: list[Tree] = [None] * len(together)
        if program.method.first is not None:
            # A run that has begun does not need its first stage again, even if it is being extended.
            if step:
                progress.skip(seeds.first_steps(program) * len(together))
            else:
                trunks = train_first_stage(program, together, folder, progress)

        # --- data and state, on the devices
        progress.phase(f'seed {", ".join(map(str, together))}  preparing')
        each = zip(programs, together, trunks, strict=True)
        opened = [seeds.open_seed(mine, seed, folder, trunk) for mine, seed, trunk in each]
        placed = seed_batch.place_seeds(program, opened)
        stack.callback(placed.close)
        stack.callback(files.flush_logs, folder)
        progress.say_once(placed.note)
        untested = config.target.test == splits.NOTHING
        exported = first and (untested or placed.test.count > 0)  # a first stage leaves no network of its own
        if exported and not from_first((folder / 'samples.npz').exists):
            seeds.write_pictures(program, opened[together.index(config.seed)], folder)
        begin = [one.state for one in opened]
        if step:
            begin = [checkpoint.restore(m, step, s) for m, s in zip(managers, begin, strict=True)]
        ts = seed_batch.stack_states(program, begin)
        del opened, begin  # the host's copies
        for name in ('metrics.jsonl', 'timing.jsonl'):
            files.rewind_log(folder / name, together, step)
        progress.skip(step * len(together))

        # --- the loop
        guard = NanGuard(together, config.on_nan, folder)
        stack.enter_context(signals.training())
        if step < config.steps:
            progress.phase(f'seed {placed.name}  compiling the training step')
        while step < config.steps:
            began, before = time.perf_counter(), step
            ts, last, step = advance(program, placed, ts, step, progress, guard)
            log_step(program, folder, together, step, last, (time.perf_counter() - began, step - before))
            if placed.test.count and schedule.evaluated(config, step):
                progress.phase(f'seed {placed.name}  step {step}/{config.steps}  evaluating', often=True)
                evaluation.evaluate_and_log(program, folder, step, ts, placed)
            if exported and step in schedule.snapshots(config):
                evaluation.snapshot(program, folder, together, ts, step)
            if schedule.saved(config, step) or signals.stopping():
                lock.check(folder)  # a process that lost the work directory while it slept must not write there
                guard.check_state(ts, step)
                # No seed is more than one checkpoint ahead of another: two are kept, so one is common to all.
                checkpoint.finish(managers)
                files.flush_logs(folder)
                for i, manager in enumerate(managers):
                    checkpoint.save(manager, step, mesh.take_trial(ts, i))  # written while training goes on
            if signals.stopping():
                checkpoint.finish(managers)
                signals.stop(step)
        if exported:
            evaluation.export_last(program, folder, together, ts)
        checkpoint.finish(managers)
    ended = program.evaluated(ts)
    return [mesh.to_local_device(mesh.take_trial(ended, i)) for i in range(len(together))]


def train_first_stage(program: Program, together: list[int], folder: Place, progress: Progress) -> list[Tree]:
    """Train the method's first stage; return the variables that the seeds' runs start from.

    It is a separate run, in the sub-folder `first`, so a restart finds it done or goes on with it.
    """
    label = progress.label
    progress.begin(f'{label}, first stage')
    programs = [seeds.first_stage(program, seeds.load_or_prepare(program, seed, folder)) for seed in together]
    with lock.hold(folder / 'first', progress.say):
        ended = train_seeds(programs, together, folder / 'first', progress)
    progress.begin(label)
    return ended


def advance(
    program: Program, placed: SeedBatch, ts: TrainState, step: int, progress: Progress, guard: NanGuard
) -> tuple[TrainState, Tree, int]:
    """Train up to the next step at which something is due, or all stop; the metrics are those of the last step."""
    config = program.config
    if not program.method.trains:  # the network is as `prepare` and `heads` made it
        progress.skip((config.steps - step) * len(placed.seeds))
        return seed_batch.at_step(program, ts, config.steps), {}, config.steps
    stop = schedule.next_stop(config, step, program.method.period, program.starts)
    last: Any = {}
    for first, count in program.calls(step):
        before = last
        inputs = placed.feed.inputs(first, count)
        # A value that a loss keeps from an earlier trace is only noticed at the end of this one.
        with user_code(contract.place(program.method.loss, 'loss'), program.method.loss, UnexpectedTracerError):
            ts, last = program.steps(first, count)(ts, program.shared.start, placed.frozen, inputs)
        # Calls return before the devices are done. The host stays one call ahead of them, which keeps them busy, and
        # no more than one, so that the progress line is accurate.
        jax.block_until_ready(before)
        step = first + count
        guard.add(step, last)
        ends = signals.tick() or step == stop
        # The loss is only fetched where the host waits for the devices anyway.
        shown = guard.check() if ends else None
        progress.step(placed.name, step, config.steps, shown, count * len(placed.seeds))
        if ends:
            break
    return ts, last, step
