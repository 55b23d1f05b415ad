"""Will it fit: `python -m mixjax.commands.plan --config=configs/xmixup_dogs.py --topology=v5e:4x4`.

  --config=FILE            a config file, or the name of a shipped one; of a comparison, every method
  --topology=KIND:SIZE     v4:2x2x2, v5e:4x4, v5p:2x2x1, v6e:8x8: a TPU slice, by libtpu, on a machine without one;
                           cpu:8: so many virtual devices
  --config.KEY=VALUE       change one setting
  --json                   the tables as data
  --help                   this text

Compiles the training step that a run would have there, and prints the memory of a chip and what it is taken
by, the collectives of a step, its work, and what to change if it does not fit. It needs no TPU, data or weights:
their shapes stand for them, and what is assumed is said. A network such as ResNet-50 takes minutes.

Exit codes: 0 it fits (or virtual devices), 1 a program does not fit, 2 wrong input (one message says what to do).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mixjax.commands.cli import Command, carry_out, parse
from mixjax.config import variants
from mixjax.errors import UserError
from mixjax.planner import slices

if TYPE_CHECKING:
    from mixjax.planner.compiled import Plan

FLAGS = ('config', 'topology', 'json', 'help')
SWITCHES = ('json', 'help')


def say(text: str) -> None:
    """A line on how far it is; the tables go to the standard output."""
    print(text, file=sys.stderr, flush=True)


def look(command: Command) -> int:
    """Plan what the flags say, and print it."""
    for name in ('config', 'topology'):
        if not command.flags.get(name):
            raise UserError(f'--{name} is missing (see --help)')
    wanted = slices.parse(command.flags['topology'])
    if 'jax' not in sys.modules:
        os.environ.update(slices.environment(wanted))
    on = slices.find(wanted)
    note = slices.libtpu() if on.chip else ''
    if note:
        say(f'note: {note}')

    from mixjax.planner import tables, verdict

    found = []
    for plan in every(command, on):
        found.append(plan)
        if 'json' not in command.flags:
            print(f'\n{tables.text(plan, on)}', flush=True)
    if 'json' in command.flags:
        print(json.dumps([tables.data(plan, on) for plan in found], indent=1))
    return int(any(verdict.judge(plan, on).fits is False for plan in found))


def every(command: Command, on: slices.Slice) -> Iterator[Plan]:
    """A plan of every method of the config, one after the other."""
    from mixjax import config as config_lib
    from mixjax.config import method_registry
    from mixjax.planner import assumed, compiled

    config = config_lib.load(command.flags['config'], command.overrides)
    name, first = next(iter(config_lib.swept(config).items()))
    if name:
        say(f'the config is a sweep; this is its first run, {name}')
    config = assumed.without_splits(first)
    say('building the network, with shapes in place of data and weights')
    ground = compiled.ground(config, on)
    for label in variants.labels(config) or ['']:
        one: Any = variants.single(config, label) if label else config
        yield from compiled.plans(one, on, label or method_registry.title(config.method), ground, say)


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""

    def what() -> int:
        command = parse(sys.argv[1:] if words is None else words, FLAGS, SWITCHES)
        if 'help' in command.flags:
            print(__doc__)
            return 0
        return look(command)

    return carry_out(what)


if __name__ == '__main__':
    sys.exit(main())
