"""The command `mixjax`: finds what is asked for in the table, calls it, and ends with its exit code.

What commands share on their way, imports and errors, is here too. The module of a command is imported when it is
called, so `--help` and every refusal of a flag need neither jax nor numpy.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Sequence

from mixjax.commands import parser
from mixjax.commands.table import COMMANDS
from mixjax.errors import Stopped, UserError, nearest, show
from mixjax.host import terminal
from mixjax.version import __version__


def main(words: Sequence[str] | None = None) -> int:
    """Run `mixjax WORDS`; returns the exit code. words: those of the process where none are given."""
    words = list(sys.argv[1:] if words is None else words)
    if words and words[0] in COMMANDS:
        return run(words[0], words[1:])
    return run_cli(lambda: _without_command(words))


def run(name: str, words: Sequence[str]) -> int:
    """Run `mixjax NAME WORDS`; returns the exit code."""
    command = COMMANDS[name]

    def what() -> int:
        if parser.asks_for_help(words):
            print(parser.help_text(command))
            return 0
        arguments = parser.parse(command, words)
        module, _, function = command.run.partition(':')
        return getattr(importlib.import_module(module), function)(arguments)

    return run_cli(what, command.resume)


def _without_command(words: Sequence[str]) -> int:
    """`mixjax --help`, `mixjax --version`, and what names no command."""
    word = words[0] if words else ''
    if word == '--version':
        print(f'mixjax {__version__}')
        return 0
    if not word or word in ('--help', '-h'):
        print(parser.overview(list(COMMANDS.values()), __version__))
        return 0 if word else UserError.code
    if word.startswith('-'):
        raise UserError(
            f'{parser.short(word)}: a command comes first, such as {COMMANDS["train"].examples[0]} (see mixjax --help)'
        )
    raise UserError(f'there is no command {parser.short(word)!r}{nearest(word, COMMANDS)} (see mixjax --help)')


def import_modules(given: Sequence[str]) -> None:
    """Import what `--import` names; only the words of a person's command line may get here, never a file's."""
    from mixjax.config import method_registry

    for name in given:
        method_registry.import_module(name, '--import')


def run_cli(what: Callable[[], int], go_on: str = '') -> int:
    """Do what a command is there for; returns its exit code.

    go_on: the hint that is printed if the user interrupts it.
    """
    # A CPU has no use for a search of accelerators, and its messages frighten people.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    with terminal.streams() as out:
        code = _run_cli(what, go_on)
        out.flush()
        # A reader that closes a pipe has read enough; any other error loses output.
        if out.fault is not None and out.fault.errno != errno.EPIPE:
            print(f'mixjax: the output cannot be written: {out.fault.strerror}', file=sys.stderr)
            code = code or UserError.code
    return code


def _run_cli(what: Callable[[], int], go_on: str) -> int:
    try:
        return what()
    except UserError as error:
        show(error)
        return error.code
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
