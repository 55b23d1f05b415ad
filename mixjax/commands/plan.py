"""`mixjax plan`: will a config fit on a slice, and what does its step cost."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments
from mixjax.config import variants
from mixjax.planner import slices

if TYPE_CHECKING:
    from mixjax.planner.compiled import Plan


def say(text: str) -> None:
    """A line on how far it is; the tables go to the standard output."""
    print(text, file=sys.stderr, flush=True)


def run(arguments: Arguments) -> int:
    """Plan what the flags say, and print it; returns the exit code."""
    wanted = slices.parse(arguments['topology'])
    if 'jax' not in sys.modules:
        os.environ.update(slices.environment(wanted))
    on = slices.find(wanted)
    note = slices.libtpu() if on.chip else ''
    if note:
        say(f'note: {note}')

    from mixjax.planner import tables, verdict

    found = []
    for plan in plan_methods(arguments, on):
        found.append(plan)
        if not arguments['json']:
            print(f'\n{tables.text(plan, on)}', flush=True)
    if arguments['json']:
        print(json.dumps([tables.data(plan, on) for plan in found], indent=1))
    return int(any(verdict.judge(plan, on).fits is False for plan in found))


def plan_methods(arguments: Arguments, on: slices.Slice) -> Iterator[Plan]:
    """A plan of every method of the config, one after the other."""
    from mixjax import config as config_lib
    from mixjax.config import method_registry
    from mixjax.planner import assumed, compiled

    import_modules(arguments['import'])
    config = config_lib.load(arguments['config'], arguments.overrides)
    name, first = next(iter(config_lib.swept(config).items()))
    if name:
        say(f'the config is a sweep; this is its first run, {name}')
    config = assumed.without_splits(first)
    say('building the network, with shapes in place of data and weights')
    shared = compiled.build_shared(config, on)
    for label in variants.labels(config) or ['']:
        one: Any = variants.single(config, label) if label else config
        yield from compiled.plans(one, on, label or method_registry.title(config.method), shared, say)
