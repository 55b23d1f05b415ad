"""Write the report again: `python -m mixjax.report WORKDIR [MORE ..] [--out FILE]`.

One folder gives `report.html` in it; several give one page with a section for each.
With `--table=NAME RUNS` it prints a table of the papers with our numbers beside theirs, and writes it as Markdown
and CSV; RUNS is the folder with the runs of the grid configs/tables/NAME.py, and `--config.KEY=VALUE` is what that
grid was given.
Exit codes: 0 done, 2 wrong input (one message says what to do).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mixjax.commands.cli import carry_out
from mixjax.errors import UserError
from mixjax.report import write


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""

    def what() -> int:
        return carried_out(list(sys.argv[1:] if words is None else words))

    return carry_out(what)


def carried_out(words: list[str]) -> int:
    """`main`, where errors may be raised."""
    settings = [word for word in words if word.startswith('--config.')]
    words = [word for word in words if word not in settings]
    parser = argparse.ArgumentParser(prog='python -m mixjax.report', description='Write the report of finished runs.')
    parser.add_argument('--table', metavar='NAME', help='a table of the papers, such as smile_table2, beside our runs')
    parser.add_argument('workdir', nargs='+', help='the work directory of a finished run or comparison')
    parser.add_argument('--out', metavar='FILE', help='where to write (report.html in the folder, or beside several)')
    arguments = parser.parse_args(words)
    if arguments.table is not None:
        table(arguments.table, arguments.workdir, arguments.out, settings)
    elif settings:
        raise UserError(f'{settings[0]} goes with --table: the settings of finished runs are what they were')
    else:
        print(f'report: {write(*arguments.workdir, out=arguments.out)}')
    return 0


def table(name: str, folders: Sequence[str], out: str | None, settings: Sequence[str]) -> None:
    """Print a table of a paper beside ours, and write its two files."""
    from mixjax.commands import paper_table

    if len(folders) > 1:
        raise UserError(f'--table takes one folder, that of all runs of the table, not {len(folders)}')
    pairs = [(key, value) for key, _, value in (word.removeprefix('--config.').partition('=') for word in settings)]
    found, files = paper_table.write(name, folders[0], out, pairs)
    print(paper_table.text(found))
    print('table: ' + ', '.join(map(str, files)))


if __name__ == '__main__':
    sys.exit(main())
