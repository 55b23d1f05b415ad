"""One run of the command in this process, with the time of each phase; `benchmarks.whole` starts it for each run.

    python -m benchmarks.one_run '{"began": .., "words": [..], "out": "FILE"}'

began: clock time at which the process was started. words: of the command. out: the file for the seconds of each phase.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

COMPILING = ('/jax/core/compile/jaxpr_trace_duration', '/jax/core/compile/jaxpr_to_mlir_module_duration',
             '/jax/core/compile/backend_compile_duration')  # fmt: skip


class Phases:
    """A record of seconds by name."""

    def __init__(self, began: float) -> None:
        self.began, self.seconds = began, dict[str, float]()

    def mark(self, name: str) -> None:
        """Record the seconds up to here, the first time."""
        self.seconds.setdefault(name, time.time() - self.began)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def timed(self, name: str, function: Callable) -> Callable:
        """Return a function whose time is added up."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(name, time.perf_counter() - start)

        return call


@contextlib.contextmanager
def timed_phases(phases: Phases) -> Iterator[None]:
    """Time the phases of a run inside the block."""
    import jax
    import orbax.checkpoint as ocp

    from mixjax import report
    from mixjax.rundir import checkpoint
    from mixjax.train import accuracy, evaluation, predictions, program, seeds, shared

    def built(*args: Any, **kwargs: Any) -> Any:
        found = build(*args, **kwargs)

        def advance(count: int) -> Callable:
            def call(*trees: Any) -> Any:
                out = found.advance(count)(*trees)
                if 'to the first step' not in phases.seconds:
                    jax.block_until_ready(out)
                    phases.mark('to the first step')
                return out

            return call

        prepare = phases.timed('pairing', found.method.prepare)
        return found._replace(advance=advance, method=found.method._replace(prepare=prepare))

    build = program.build
    wrapped = (
        ('data and weights', shared, 'shared_setup'),
        ('evaluation', accuracy, 'measure'),
        ('evaluation', accuracy, 'measure_each'),
        ('checkpoints', checkpoint, 'save'),
        ('checkpoints', ocp.CheckpointManager, 'wait_until_finished'),
        ('checkpoints', ocp.CheckpointManager, 'close'),
        ('pictures and export', seeds, 'write_pictures'),
        ('pictures and export', evaluation, 'export_last'),
        ('pictures and export', predictions, 'save'),
        ('report', report, 'write'),
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(program, 'build', built))
        for name, owner, attribute in wrapped:
            timed = phases.timed(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, timed))
        yield


def main() -> None:
    asked = json.loads(sys.argv[1])
    phases = Phases(asked['began'])
    phases.mark('python')
    import jax

    import mixjax.report
    import mixjax.train
    from mixjax.commands import train as command

    phases.mark('imports')
    phases.seconds['imports'] -= phases.seconds['python']
    assert mixjax.report and mixjax.train

    def compiled(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event in COMPILING:
            phases.add('tracing and compiling', duration_secs)

    jax.monitoring.register_event_duration_secs_listener(compiled)
    told = io.StringIO()
    with timed_phases(phases), contextlib.redirect_stdout(told):
        code = command.main(asked['words'])
    phases.mark('all')
    Path(asked['out']).write_text(json.dumps({'code': code, 'seconds': phases.seconds}))
    sys.exit(code)


if __name__ == '__main__':
    main()
