"""A run from beginning to end: its seeds, their steps, evaluations and checkpoints, and its results.

At every step where something is due the order is: log, evaluate, log that, save a checkpoint. So the
logs are never behind the checkpoint, and a restarted run drops what was logged after it.
"""

from __future__ import annotations

import contextlib
import copy
import time
from typing import Any, NamedTuple

import jax
from jax.errors import UnexpectedTracerError
from ml_collections import ConfigDict

from mixjax import config as config_lib
from mixjax.config import method_registry
from mixjax.errors import require, user_code
from mixjax.host import disk_full, processes, signals, storage
from mixjax.host.processes import by_first, from_first
from mixjax.host.progress import Progress
from mixjax.host.storage import Place
from mixjax.rundir import checkpoint, files, integrity, lock
from mixjax.train import contract, evaluation, input_digests, mesh, nan_guard, program, results, seeds, wave
from mixjax.train.input_digests import Inputs
from mixjax.train.program import Program
from mixjax.train.step import TrainState, variables
from mixjax.train.wave import Wave

Tree = Any


def run(
    config: Any, folder: str | Place, *, progress: Progress | bool = True, command: str = '',
    changed_code: str = 'refuse',
) -> dict[str, Any]:  # fmt: skip
    """Do all that `config` says in the work directory `folder`, or what is left of it.

    Args:
      config: from `mixjax.config.load`, or `mixjax.config.base()` with what differs set.
      progress: True prints how far it is (a line that moves on a terminal; in a notebook or a file a line at each
        phase, and one every ten seconds), False nothing; or a `Progress` of your own.
      command: the line that began the run, kept in `env.json`.
      changed_code: what to do where the source of a method of your own is another than when the run began: 'refuse'
        to go on, or 'accept' it.

    Returns:
      What `results.json` holds.
    """
    known = input_digests.CHANGED_CODE
    require(changed_code in known, f"changed_code must be 'refuse' or 'accept', not {changed_code!r}")
    config = config_lib.settle(config_lib.complete(copy.deepcopy(config).unlock()))
    config_lib.check(config)
    program.preflight(config)
    folder = storage.real(storage.of(folder))  # what is written below it follows no link
    progress = progress if isinstance(progress, Progress) else Progress(0, quiet=not (progress and processes.first()))
    parts = config_lib.swept(config)
    files.look(folder, config)  # another config is told before other code
    for name, one_value in parts.items():
        for single, place in singles_of(one_value, folder / name).values():
            files.look(place, single)
    check_code(config, folder, changed_code)
    lock.refuse_part(folder, progress.say)
    # What is finished is compared with the data and weights too, where others are still to be trained with them.
    left = any(unfinished(one_value, folder / name) for name, one_value in parts.items())
    for one_value in parts.values():
        progress.say(plan(one_value))
    with contextlib.ExitStack() as stack:
        stack.enter_context(disk_full.told(folder))
        stack.callback(progress.clear)
        # Everything is built, and prepared for its first seed, before any of it trains for an hour or leaves a file.
        jobs = {
            name: tried(one_value, folder / name, progress, left, changed_code) for name, one_value in parts.items()
        }
        progress.total += sum(job.steps for job in jobs.values())
        with lock.held(folder, progress.say):
            files.look(folder, config)  # somebody may have been here before the lock was taken
            inside = [place for job in jobs.values() for place in (job.folder, *job.folders.values())]
            lock.try_all([place for place in inside if place != folder], progress.say)
            return every_job(config, folder, jobs, progress, command)


def plan(config: Any) -> str:
    """One line: what is about to happen."""
    what = ', '.join(order(config)) or method_registry.title(config.method)
    few = f'{config.target.per_class} labels per class of ' if config.target.per_class else ''
    where = config.target.dir or config.target.name
    return (
        f'{what} on {few}{where}: {config.num_seeds} seed{"s" * (config.num_seeds > 1)} '
        f'x {config.steps} steps, batch {config.batch_size}, {config.model.name}'
    )


def every_job(config: Any, folder: Place, jobs: dict[str, Job], progress: Progress, command: str) -> dict[str, Any]:
    """Carry out the one job of a run, or those of a sweep."""
    if '' in jobs:
        return carry_out(jobs[''], progress, command)
    files.claim(folder, config)
    describe(folder, command)
    runs = {}
    for name, job in jobs.items():
        progress.say(f'{name}:')
        with lock.held(job.folder, progress.say):  # it may be given as a run of its own, too
            files.look(job.folder, job.config)
            runs[name] = carry_out(job, progress, command)
    found = {'kind': 'sweep', 'steps': config.steps, 'key': config.sweep.key, 'runs': runs}
    files.write_json(folder / 'results.json', found)
    return found


class Job(NamedTuple):
    """A run, or a comparison of several, that has been tried and can begin.

    labels: of a comparison. singles, folders, extended, made_from: of each run, by its label. built: of those that
    are not finished. steps: of all together. told: what became of the pretrained weights.
    """

    config: Any
    folder: Place
    labels: list[str]
    singles: dict[str, Any]
    folders: dict[str, Place]
    extended: dict[str, bool]
    made_from: dict[str, Inputs]
    built: dict[str, Program]
    steps: int
    told: str


def check_code(config: Any, folder: Place, changed_code: str) -> None:
    """Refuse to go on with, or to give back the results of, runs that were made by other code; no data are read."""
    for name, one_value in config_lib.swept(config).items():
        for single, place in singles_of(one_value, folder / name).values():
            input_digests.check(place, input_digests.find(single, None, changed_code))


def singles_of(config: Any, folder: Place) -> dict[str, tuple[Any, Place]]:
    """{label: (config, folder)} of the runs of a comparison; a run that is none is its own only one."""
    labels = order(config)
    return {label: (alone(config, label), folder / label) for label in labels} or {
        method_registry.title(config.method): (config, folder)
    }


def unfinished(config: Any, folder: Place) -> bool:
    """Whether a run, or one of a comparison, has steps left to do."""
    return any(files.finished(place, config.steps) is None for _, place in singles_of(config, folder).values())


def tried(config: Any, folder: Place, progress: Progress, left: bool, changed_code: str) -> Job:
    """Look at the folders, build what is to be trained; nothing is written.

    left: whether this run, or another value of its sweep, has steps left to do.
    """
    labels = order(config)
    files.look(folder, config)
    singles = {label: single for label, (single, _) in singles_of(config, folder).items()}
    folders = {label: place for label, (_, place) in singles_of(config, folder).items()}
    extended = {label: files.look(folders[label], singles[label]) for label in singles}
    todo = [label for label in singles if files.finished(folders[label], config.steps) is None]
    if todo:
        progress.phase('loading the data and the network')
    on = program.ground(config, None if progress.quiet else progress.say) if left else None
    made_from = {label: input_digests.find(single, on, changed_code) for label, single in singles.items()}
    for label, one_made in made_from.items():
        input_digests.check(folders[label], one_made)
    told = '\n'.join(filter(None, [*on.sets.notes, on.told])) if on and todo else ''
    built = {}
    for label in todo:
        progress.phase(f'{label}: preparing, and trying a step')
        built[label] = seeds.ready(singles[label], folders[label], on)
    for one_built in built.values():
        evaluation.check(one_built)
    steps = config.num_seeds * sum(steps_of(built.get(label), config) for label in singles)
    return Job(config, folder, labels, singles, folders, extended, made_from, built, steps, told)


def carry_out(job: Job, progress: Progress, command: str) -> dict[str, Any]:
    """Train what is not finished; returns, and writes, the results."""
    files.claim(job.folder, job.config)
    describe(job.folder, command, again=any(job.extended.values()))
    if job.told:
        progress.say(job.told)
    runs = {}
    for label, single in job.singles.items():
        progress.begin(label)
        built, made_from, place = job.built.pop(label, None), job.made_from[label], job.folders[label]
        with lock.held(place, progress.say) if job.labels else contextlib.nullcontext():
            files.look(place, single)
            if job.extended[label]:
                progress.say(f'{label}: extended to {single.steps} steps; earlier steps keep the schedule they had')
                describe(place, command, again=True)
            runs[label] = one(built, single, place, label, made_from, progress, command)
    if not job.labels:
        return runs[method_registry.title(job.config.method)]
    found = {
        'kind': 'comparison',
        'steps': job.config.steps,
        'baseline': job.labels[0],
        'runs': runs,
        'differences': results.differences(runs, job.labels[0]),
    }
    files.write_json(job.folder / 'results.json', found)
    return found


def steps_of(built: Program | None, config: Any) -> int:
    """Steps of one seed, those of a first stage with them."""
    first = built.method.first if built else None
    return config.steps + (0 if first is None else seeds.first_steps(first, config))


def order(config: Any) -> list[str]:
    """Labels of the compared methods: the baseline, then the others by name."""
    labels = sorted(config.compare)
    first = config.baseline or next(iter(labels), '')
    return [label for label in [first] if label in labels] + [label for label in labels if label != first]


def alone(config: Any, label: str) -> Any:
    """The config of one method of a comparison."""
    config = copy.deepcopy(config).unlock()
    config.method = config.compare[label]
    config.compare = ConfigDict()
    config.baseline = ''
    return config.lock()


@by_first
def describe(folder: Place, command: str, again: bool = False) -> None:
    """What the run depends on; `again`: for a run that is extended, by this command."""
    if again or not (folder / 'env.json').exists():
        files.write_json(folder / 'env.json', {**files.environment(), 'command': command})


def one(
    built: Program | None, config: Any, folder: Place, label: str, made_from: Inputs, progress: Progress, command: str
) -> dict[str, Any]:
    """One method with all its seeds; `built` is None where it was finished before."""
    if built is None:
        progress.skip(config.steps * config.num_seeds)
        progress.say(f'{label}: finished before')
        return from_first(lambda: files.read_json(folder / 'results.json'))
    files.claim(folder, config)
    describe(folder, command)
    input_digests.record(folder, made_from)
    every = [config.seed + i for i in range(config.num_seeds)]
    results.describe_data(config, built.sets, folder, every)
    integrity.look(folder, every, progress.say)
    for together in wave.plan(built, folder):
        train([built] * len(together), together, folder, progress)
    for stage in (folder, folder / 'first'):
        files.arrange(stage / 'metrics.jsonl')
    found = results.summary(config, folder, label, built, every)
    files.write_json(folder / 'results.json', found)
    accuracy = found['accuracy']
    std = '' if accuracy['std'] is None else f' +- {100 * accuracy["std"]:.2f}'
    progress.say(f'{label}: {100 * accuracy["mean"]:.2f}{std} % correct (n={accuracy["n"]})')
    return found


# --- the seeds that are trained at once -------------------------------------------------------------------------------


def train(programs: list[Program], together: list[int], folder: Place, progress: Progress) -> list[Tree]:
    """Train seeds to the end, from their newest checkpoints if there are any.

    Args:
      programs: of each seed; they differ in their data only.

    Returns:
      The variables that each seed ends with.
    """
    built = programs[0]
    config = built.config
    first = config.seed in together
    with contextlib.ExitStack() as stack:
        places = [folder / 'checkpoints' / str(seed) for seed in together]
        managers = [stack.enter_context(checkpoint.open_folder(place)) for place in places]
        step = checkpoint.latest(managers) or 0
        trunks: list[Tree] = [None] * len(together)
        if built.method.first is not None:
            # A run that has begun does not need it again, even if it is being extended.
            if step:
                progress.skip(seeds.first_steps(built.method.first, config) * len(together))
            else:
                trunks = first_stage(built, together, folder, progress)
        progress.phase(f'seed {", ".join(map(str, together))}  preparing')
        each = zip(programs, together, trunks, strict=True)
        opened = [seeds.open_seed(mine, seed, folder, trunk) for mine, seed, trunk in each]
        placed, held = wave.place(built, opened), evaluation.hold(built, opened)
        stack.callback(placed.close)
        stack.callback(files.settle, folder)
        progress.say_once(placed.told)
        if first and placed.test and not from_first((folder / 'samples.npz').exists):
            seeds.pictures(built, opened[together.index(config.seed)], folder)
        begin = [one.state for one in opened]
        if step:
            begin = [checkpoint.restore(m, step, s) for m, s in zip(managers, begin, strict=True)]
        ts = wave.states(built, begin)
        del opened, begin
        for name in ('metrics.jsonl', 'timing.jsonl'):
            files.rewind(folder / name, together, step)
        progress.skip(step * len(together))
        sound = nan_guard.Watch(together, config.on_nan, folder)
        stack.enter_context(signals.training())
        if step < config.steps:
            progress.phase(f'seed {placed.name}  compiling the training step')
        while step < config.steps:
            began, before = time.perf_counter(), step
            ts, last, step = advance(built, placed, ts, step, progress, sound)
            log(built, folder, together, step, last, time.perf_counter() - began, step - before)
            if placed.test and (step % config.eval_every == 0 or step == config.steps):
                progress.phase(f'seed {placed.name}  step {step}/{config.steps}  evaluating', often=True)
                evaluation.look(built, folder, together, step, ts, placed, held)
            if first and placed.test and step in wave.snapshots(config):
                evaluation.snapshot(built, folder, mesh.take(ts, together.index(config.seed)), step)
            if step % config.checkpoint_every == 0 or step == config.steps or signals.stopping():
                lock.check(folder)
                sound.check_state(ts, step)
                # No seed more than one checkpoint ahead of another: two are kept, so one is common to all.
                checkpoint.finish(managers)
                files.settle(folder)
                for i, manager in enumerate(managers):
                    checkpoint.save(manager, step, mesh.take(ts, i))
            if signals.stopping():
                checkpoint.finish(managers)
                signals.stop(step)
        if first and placed.test:
            evaluation.end(built, folder, together, ts)
        checkpoint.finish(managers)
    return [mesh.here(mesh.take(variables(ts), i)) for i in range(len(together))]


def first_stage(built: Program, together: list[int], folder: Place, progress: Progress) -> list[Tree]:
    """What the seeds' runs start from: the variables that the method's first stage leaves.

    It is a run of its own, in the sub-folder `first`, so a restart finds it done or goes on with it.
    """
    label = progress.label
    progress.begin(f'{label}, first stage')
    programs = [seeds.first_stage(built, seeds.prepared(built, seed, folder)) for seed in together]
    with lock.held(folder / 'first', progress.say):
        ended = train(programs, together, folder / 'first', progress)
    progress.begin(label)
    return ended


def log(built: Program, folder: Place, together: list[int], step: int, last: Tree, seconds: float, steps: int) -> None:
    """Log a line of metrics and of timing for each seed, if this step is one that is logged.

    The lines of a method that alternates name the kind of batch of their step.
    """
    kinds = built.method.batch_kinds
    if not wave.logged(built.config, step, built.method.period):
        return
    batch_kind = {'batch_kind': kinds[(step - 1) % len(kinds)]} if kinds else {}
    last = mesh.whole(last)
    for i, seed in enumerate(together):
        mine = {name: float(values[i]) for name, values in last.items()}
        about = {'seed': seed, 'step': step, 'kind': 'train', **batch_kind}
        files.append(folder / 'metrics.jsonl', {**about, **nan_guard.plain(mine)})
        line = {'seed': seed, 'step': step, 'seconds': seconds, 'steps': steps, 'together': len(together)}
        files.append(folder / 'timing.jsonl', line)


def advance(
    built: Program, placed: Wave, ts: TrainState, step: int, progress: Progress, sound: nan_guard.Watch
) -> tuple[TrainState, Tree, int]:
    """Train up to the next step at which something is due, or all stop; the metrics are of the last step."""
    config, period = built.config, built.method.period
    stop = wave.due(config, step, period)
    last: Any = {}
    for first, count in wave.calls(config, step, period):
        before = last
        fed = placed.feed.inputs(first, count)
        # What a loss keeps from an earlier trace is only noticed at the end of this one.
        with user_code(contract.place(built.method.loss, 'loss'), built.method.loss, UnexpectedTracerError):
            ts, last = built.advance(count)(ts, built.start, placed.frozen, fed)
        jax.block_until_ready(before)  # the host stays one call ahead, and the counter honest
        step = first + count
        sound.add(step, last)
        ends = signals.tick() or step == stop
        shown = sound.look() if ends else None
        progress.step(placed.name, step, config.steps, shown, count * len(placed.seeds))
        if ends:
            break
    return ts, last, step
