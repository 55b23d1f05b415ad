"""`mixjax best`: search for the best classifier of a folder in the time that there is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments
from mixjax.host import storage

UNKNOWN = '0.05'  # share of the images of known classes that --unknown may give up


def run(arguments: Arguments) -> int:
    """Search, print what was found, and write its report; returns the exit code."""
    import_modules(arguments['import'])
    from mixjax import config as config_lib
    from mixjax.host import compile_cache, signals
    from mixjax.report.best import write
    from mixjax.search import best

    overrides = settings(arguments)
    config = config_lib.load('folder', overrides)
    folder = storage.resolve_links(storage.to_place(arguments['workdir'] or best.workdir_of(config.target.dir)))
    compile_cache.enable(config.cache_dir)
    with signals.handle_sigterm():
        found = best.best(overrides, folder, say=say, dry_run=arguments['dry-run'], command=written(arguments))
    if found:
        print(text(found))
        print(f'\nmodel:  mixjax predict --workdir={shlex.quote(str(folder))} IMAGE ..\nreport: {write(folder)}')
    return 0


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def settings(arguments: Arguments) -> list[tuple[str, str]]:
    """Return the settings of a command line as (key, text): those of its flags first."""
    (folder,) = arguments.positional
    found = [('target.dir', folder)]
    flags = {'minutes': arguments['minutes'], 'networks': ','.join(arguments['networks']),
             'methods': ','.join(arguments['methods']), 'unknown': UNKNOWN if arguments['unknown'] else ''}  # fmt: skip
    found += [(f'search.{name}', value) for name, value in flags.items() if value]
    return [*found, *arguments.overrides]


def written(arguments: Arguments) -> str:
    """Return the command line again."""
    flags = [f'--{name}={value}' if value else f'--{name}' for name, value in arguments.given.items()]
    more = [f'--config.{key}={value}' for key, value in arguments.overrides]
    return shlex.join(['mixjax', 'best', *arguments.positional, *flags, *more])


def text(found: Mapping[str, Any]) -> str:
    """Format the answer for a terminal."""
    from mixjax.report.best import headline, sentences, table

    rows = table(found)
    width = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        '  '.join([row[0].ljust(width[0]), *(cell.rjust(wide) for cell, wide in zip(row[1:], width[1:], strict=True))])
        for row in rows
    ]
    return '\n'.join(['', *lines, '', headline(found), *sentences(found)])
