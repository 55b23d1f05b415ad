"""`mixjax report`: write the report of finished runs, or a paper's table beside them. No jax but for the table."""

from __future__ import annotations

from collections.abc import Sequence

from mixjax.commands.parser import Arguments


def run(arguments: Arguments) -> int:
    """Write, and print where; returns the exit code."""
    from mixjax.report import write

    out = arguments['out'] or None
    if 'table' in arguments.given:
        table(arguments['table'], arguments.positional[0], out, arguments.overrides)
    else:
        print(f'report: {write(*arguments.positional, out=out)}')
    return 0


def table(name: str, folder: str, out: str | None, overrides: Sequence[tuple[str, str]]) -> None:
    """Print a table of a paper beside ours, and write its two files."""
    from mixjax.commands import paper_table

    found, files = paper_table.write(name, folder, out, overrides)
    print(paper_table.text(found))
    print('table: ' + ', '.join(map(str, files)))
