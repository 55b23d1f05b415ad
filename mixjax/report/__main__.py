"""Write the report again: `python -m mixjax.report WORKDIR [MORE ..] [--out FILE]`.

One folder gives `report.html` in it; several give one page with a section for each.
Exit codes: 0 done, 2 wrong input (one message says what to do).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mixjax.errors import UserError
from mixjax.report import write


def main(words: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog='python -m mixjax.report', description='Write the report of finished runs.')
    parser.add_argument('workdir', nargs='+', help='the work directory of a finished run or comparison')
    parser.add_argument('--out', metavar='FILE', help='where to write (report.html in the folder, or beside several)')
    try:
        arguments = parser.parse_args(words)
    except SystemExit as stop:  # argparse has said what is wrong, or shown the help
        return int(stop.code or 0)
    try:
        print(f'report: {write(*arguments.workdir, out=arguments.out)}')
    except UserError as error:
        print(f'mixjax: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
