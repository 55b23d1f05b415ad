"""The lines that training steps write to `metrics.jsonl` and `timing.jsonl`."""

from __future__ import annotations

from typing import Any

from mixjax.host.storage import Place
from mixjax.rundir import files
from mixjax.train import mesh, nan_guard, schedule
from mixjax.train.program import Program

Tree = Any


def log_step(
    program: Program, folder: Place, together: list[int], step: int, last: Tree, took: tuple[float, int]
) -> None:
    """Log a line of metrics and of timing for each seed, if this step is one that is logged.

    The lines of a method that alternates name the kind of batch of their step.

    Args:
      program: the run's programs.
      folder: the run's folder.
      together: the seeds that are trained side by side.
      step: number of steps done.
      last: the metrics of the last step, with a leading axis of trials; {} of a method that does not train.
      took: (seconds, number of steps) since the last logged step.
    """
    kinds = program.method.batch_kinds
    if not last or not schedule.logged(program.config, step, program.method.period):
        return
    batch_kind = {'batch_kind': kinds[(step - 1) % len(kinds)]} if kinds else {}
    last, (seconds, steps) = mesh.to_host(last), took
    for i, seed in enumerate(together):
        mine = {name: float(values[i]) for name, values in last.items()}
        about = {'seed': seed, 'step': step, 'kind': 'train', **batch_kind}
        files.append(folder / 'metrics.jsonl', {**about, **nan_guard.plain(mine)})
        line = {'seed': seed, 'step': step, 'seconds': seconds, 'steps': steps, 'together': len(together)}
        files.append(folder / 'timing.jsonl', line)
