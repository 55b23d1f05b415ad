"""What the commands share: flags from the words of a command line, and how a command ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mixjax.errors import Stopped, UserError, nearest, show
from mixjax.host import terminal

IMPORT_HELP = 'a module to import first, such as one that registers a network of yours; repeated, or with commas'


def import_modules(given: Sequence[str]) -> None:
    """Import what `--import` names; only the words of a person's command line may get here, never a file's."""
    from mixjax.config import method_registry

    for name in (name.strip() for words in given for name in words.split(',')):
        if name:
            method_registry.import_module(name, '--import')


class Command(NamedTuple):
    """What a command line asks for. named: the words that belong to no flag, where the command takes such."""

    flags: dict[str, str]
    overrides: list[tuple[str, str]]
    named: list[str]


def parse(
    words: Sequence[str], known: Sequence[str], switches: Sequence[str], *, settings: bool = True, bare: bool = False,
    repeated: Sequence[str] = (),
) -> Command:  # fmt: skip
    """`--flag=value` and `--flag value`; `--config.key=value` goes to the overrides, in order.

    known: the flags of the command. switches: those of them that have no value. settings: whether there is a config.
    bare: whether words may stand alone. repeated: flags that may be given several times; their values are joined
        by commas.
    """
    flags: dict[str, str] = {}
    overrides: list[tuple[str, str]] = []
    named = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        word = '--help' if word == '-h' else word
        if not word.startswith('--'):
            if not bare:
                raise UserError(f'unexpected {word!r}: settings are written --name=value (see --help)')
            named.append(word)
            continue
        name, equals, value = word[2:].partition('=')
        setting = settings and name.startswith('config.')
        if not setting and name not in known:
            raise UserError(f'unknown flag --{name}{nearest(name, known)} (see --help)')
        if name in switches:
            if equals:
                raise UserError(f'--{name} takes no value')
            flags[name] = ''
            continue
        if not equals:
            if not queue or queue[0].startswith('--'):
                raise UserError(f'--{name} needs a value: --{name}=VALUE')
            value = queue.pop(0)
        if setting:
            overrides.append((name.removeprefix('config.'), value))
        elif name in flags and name in repeated:
            flags[name] = f'{flags[name]},{value}'
        elif name in flags:
            raise UserError(f'--{name} is given twice')
        else:
            flags[name] = value
    return Command(flags, overrides, named)


def carry_out(what: Callable[[], int], go_on: str = '') -> int:
    """Do what a command is there for; returns its exit code.

    go_on: what a person is told who interrupts it.
    """
    # A CPU has no use for a search of accelerators, and its messages frighten people.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    with terminal.streams() as out:
        code = _carried_out(what, go_on)
        out.flush()
        # Whoever closes a pipe has read enough; everything else is a loss.
        if out.fault is not None and out.fault.errno != errno.EPIPE:
            print(f'mixjax: the output cannot be written: {out.fault.strerror}', file=sys.stderr)
            code = code or UserError.code
    return code


def _carried_out(what: Callable[[], int], go_on: str) -> int:
    try:
        return what()
    except UserError as error:
        show(error)
        return error.code
    except SystemExit as stop:  # argparse has said what is wrong, or shown the help
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except OSError as error:
        if error.filename is None or error.errno is None:
            raise
        # A path that nothing looked at before: it leads to itself, is too long, or may not be read.
        print(f'mixjax: {os.fsdecode(error.filename)[:200]}: {error.strerror}', file=sys.stderr)
        return UserError.code
    except Stopped as stopped:
        print(f'mixjax: {stopped}', file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stopped.code)  # an orderly exit would wait for threads that compile or read, or fall over them
    except KeyboardInterrupt:
        print(f'mixjax: stopped{go_on and f"; {go_on}"}', file=sys.stderr)
        return 130
