"""`mixjax analyse`: measure what the papers measure of a finished run, besides its accuracy."""

from __future__ import annotations

import shlex
import sys

from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments, parse
from mixjax.commands.table import ANALYSE, MEASURES
from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host.storage import Place


def of_config(text: str, workdir: str | Place) -> Arguments:
    """Parse `config.analyse` as arguments of this command."""
    try:
        arguments = parse(ANALYSE, [f'--workdir={workdir}', *shlex.split(text)])
        if arguments['import']:  # the words of a config, which may come from a file
            raise UserError('--import belongs on the command line')
        return arguments
    except (UserError, ValueError) as error:
        raise UserError(f'config.analyse={text!r}: {error}') from error


def measure(arguments: Arguments, again: bool = True) -> int:
    """Measure, print and write; returns the exit code. again: also what was measured before."""
    from mixjax.analysis import folders, words
    from mixjax.analysis.measures import Asked

    folder, every = storage.reachable(arguments['workdir']), 'all' in arguments['what']
    what = MEASURES if every else arguments['what']
    if not again and not every and folders.known(folder, what):
        print(f'{", ".join(what)}: measured before; mixjax analyse measures again')
        return 0
    asked = Asked(**{name: arguments[name.replace('_', '-')] for name in Asked._fields})
    found: dict[str, list] = {name: [] for name in what}
    lacking = []
    for one in folders.measure(folder, what, asked):
        if one.lacking:
            lacking.append(one)
            continue
        found[one.what].append((one.label, one.numbers))
        for note in one.notes:
            print(f'{one.label}, {one.what}: {note}', file=sys.stderr)
    for name, rows in found.items():
        if rows:
            print(f'\n{words.table(name, rows)}')
    for one in lacking:
        print(f'not measured: {one.what} of {one.label}: {one.lacking}', file=sys.stderr)
    wanted = [name for name, rows in found.items() if not rows]
    return 2 if wanted and not every or not any(found.values()) else 0


def run(arguments: Arguments) -> int:
    """`measure`, then write the report again; returns the exit code."""
    import_modules(arguments['import'])
    code = measure(arguments)
    if code == 0:
        from mixjax import report

        print(f'\nreport: {report.write(arguments["workdir"])}')
    return code
