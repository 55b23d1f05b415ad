"""An experiment from beginning to end: one run, a comparison of several methods, or a sweep over one number.

`run` checks everything first (folders, inputs, one traced step of each method) and writes nothing until all of it can
be trained. The training of one run is in `mixjax.train.loop`, a step of it in `mixjax.train.step`.
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any, NamedTuple

from mixjax import config as config_lib
from mixjax.config import method_registry, variants
from mixjax.errors import require
from mixjax.host import disk_full, processes, storage
from mixjax.host.processes import from_first
from mixjax.host.progress import Progress
from mixjax.host.storage import Place
from mixjax.rundir import files, integrity, lock
from mixjax.train import evaluation, input_digests, loop, results, seeds, shared
from mixjax.train.input_digests import Inputs
from mixjax.train.program import Program


class Plan(NamedTuple):
    """A run, or a comparison of several, that was checked and can begin.

    runs: {label: (config, folder)}. extended: the labels of runs that go on beyond the steps they were finished with.
    inputs: digests of each run's inputs. programs: those of the runs that are not finished.
    steps: number of steps of all runs and seeds. note: how the data and the weights were loaded.
    """

    config: Any
    folder: Place
    runs: dict[str, tuple[Any, Place]]
    extended: set[str]
    inputs: dict[str, Inputs]
    programs: dict[str, Program]
    steps: int
    note: str


def run(
    config: Any, folder: str | Place, *, progress: Progress | bool = True, command: str = '',
    changed_code: str = 'refuse',
) -> dict[str, Any]:  # fmt: skip
    """Run the experiment that `config` describes in the work directory `folder`, or the rest of it.

    Args:
      config: from `mixjax.config.load`, or `mixjax.config.base()` with what differs set.
      progress: True prints the progress (a line that moves on a terminal; in a notebook or a file a line at each
        phase, and one every ten seconds), False nothing; or your `Progress` object.
      command: the command line that started the run, kept in `env.json`.
      changed_code: the response to a change of the source of a user's method since the run began: 'refuse' to go
        on, or 'accept' it.

    Returns:
      The contents of `results.json`.
    """
    known = input_digests.CHANGED_CODE
    require(changed_code in known, f"changed_code must be 'refuse' or 'accept', not {changed_code!r}")
    config = config_lib.settle(config_lib.complete(copy.deepcopy(config).unlock()))
    config_lib.check(config)
    shared.preflight(config)
    folder = storage.resolve_links(storage.to_place(folder))  # no file below it is written through a link
    progress = progress if isinstance(progress, Progress) else Progress(0, quiet=not (progress and processes.first()))

    # Refuse a folder of another experiment before anything is loaded: other settings first, then other code.
    values = {name: (one, folder / name) for name, one in variants.swept(config).items()}
    every = [single for one, place in values.values() for single in variants.singles(one, place).values()]
    files.check_folder(folder, config)
    for single, place in every:
        files.check_folder(place, single)
    for one, place in values.values():
        input_digests.check_code(one, place, changed_code)
    lock.refuse_part(folder, progress.say)

    # Inputs of finished runs are compared too, if others are still to be trained with them.
    left = any(files.finished(place, single.steps) is None for single, place in every)
    for one, _ in values.values():
        progress.say(variants.summary(one))
    with contextlib.ExitStack() as stack:
        stack.enter_context(disk_full.explain_write_errors(folder))
        stack.callback(progress.clear)
        # Everything is built, and prepared for its first seed, before any of it trains for an hour or leaves a file.
        plans = {
            name: plan_experiment(one, place, progress, left, changed_code) for name, (one, place) in values.items()
        }
        progress.total += sum(plan.steps for plan in plans.values())
        with lock.hold(folder, progress.say):
            files.check_folder(folder, config)  # another process may have been here before the lock was taken
            inside = [place for plan in plans.values() for place in (plan.folder, *(p for _, p in plan.runs.values()))]
            lock.refuse_locked([place for place in inside if place != folder], progress.say)
            if config.sweep.key:
                return run_sweep(config, folder, plans, progress, command)
            return run_experiment(plans[''], progress, command)


def plan_experiment(config: Any, folder: Place, progress: Progress, left: bool, changed_code: str) -> Plan:
    """Check the folders and build the programs of the runs that are to be trained; nothing is written.

    Args:
      left: whether this run, or another value of its sweep, has steps left to do.
    """
    runs = variants.singles(config, folder)
    files.check_folder(folder, config)
    extended = {label for label, (single, place) in runs.items() if files.check_folder(place, single)}
    todo = [label for label, (_, place) in runs.items() if files.finished(place, config.steps) is None]
    if todo:
        progress.phase('loading the data and the network')
    setup = shared.shared_setup(config, None if progress.quiet else progress.say) if left else None
    inputs = {label: input_digests.find_inputs(single, setup, changed_code) for label, (single, _) in runs.items()}
    for label, (_, place) in runs.items():
        input_digests.check(place, inputs[label])
    note = '\n'.join(filter(None, [*setup.sets.notes, setup.note])) if setup and todo else ''
    programs = {}
    for label in todo:
        progress.phase(f'{label}: preparing, and trying a step')
        programs[label] = seeds.build_and_try(*runs[label], setup)
    for program in programs.values():
        evaluation.check(program)
    steps = config.steps * len(runs) + sum(seeds.first_steps(program) for program in programs.values())
    return Plan(config, folder, runs, extended, inputs, programs, config.num_seeds * steps, note)


def run_sweep(config: Any, folder: Place, plans: dict[str, Plan], progress: Progress, command: str) -> dict[str, Any]:
    """Train the runs of a sweep one after the other; write and return their results."""
    files.claim(folder, config)
    files.describe(folder, command)
    found = {}
    for name, plan in plans.items():
        progress.say(f'{name}:')
        with lock.hold(plan.folder, progress.say):  # it may also be started as a separate run
            files.check_folder(plan.folder, plan.config)
            found[name] = run_experiment(plan, progress, command)
    out = {'kind': 'sweep', 'steps': config.steps, 'key': config.sweep.key, 'runs': found}
    files.write_json(folder / 'results.json', out)
    return out


def run_experiment(plan: Plan, progress: Progress, command: str) -> dict[str, Any]:
    """Train the runs of a plan that are not finished; write and return the results."""
    config = plan.config
    files.claim(plan.folder, config)
    files.describe(plan.folder, command, again=bool(plan.extended))
    if plan.note:
        progress.say(plan.note)
    found = {}
    for label, (single, place) in plan.runs.items():
        progress.begin(label)
        program = plan.programs.pop(label, None)  # its compiled programs are not needed after its run
        with lock.hold(place, progress.say) if config.compare else contextlib.nullcontext():
            files.check_folder(place, single)
            if label in plan.extended:
                progress.say(f'{label}: extended to {single.steps} steps; earlier steps keep the schedule they had')
                files.describe(place, command, again=True)
            if program is None:
                progress.skip(single.steps * single.num_seeds)
                progress.say(f'{label}: finished before')
                found[label] = from_first(lambda place=place: files.read_json(place / 'results.json'))
            else:
                found[label] = run_training(program, label, place, plan.inputs[label], progress, command)
    if not config.compare:
        return found[method_registry.title(config.method)]
    baseline, differences = next(iter(found)), results.differences(found, next(iter(found)))
    out = {
        'kind': 'comparison', 'steps': config.steps, 'baseline': baseline, 'runs': found, 'differences': differences
    }  # fmt: skip
    files.write_json(plan.folder / 'results.json', out)
    return out


def run_training(
    program: Program, label: str, folder: Place, inputs: Inputs, progress: Progress, command: str
) -> dict[str, Any]:
    """Train one method with all its seeds; write and return its results."""
    config = program.config
    files.claim(folder, config)
    files.describe(folder, command)
    input_digests.record(folder, inputs)
    results.describe_data(program, folder)
    integrity.set_aside_damaged(folder, seeds.seeds_of(config), progress.say)
    loop.train_run(program, folder, progress)
    found = results.summary(program, folder, label)
    files.write_json(folder / 'results.json', found)
    progress.say(f'{label}: {results.sentence(found)}')
    return found
