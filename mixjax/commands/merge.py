"""`mixjax merge`: make one network of finished runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from mixjax.commands.cli import import_modules
from mixjax.commands.parser import Arguments


def run(arguments: Arguments) -> int:
    """Merge, and print the accuracies and where the network is; returns the exit code."""
    import_modules(arguments['import'])
    from mixjax.analysis import merge

    out = merge.merge(
        arguments.positional, arguments['workdir'], start=bool(arguments['with']), share=arguments['share'],
        uniform=arguments['uniform'], seeds=arguments['seeds'], statistics=arguments['statistics'],
        command=written(arguments),
    )  # fmt: skip
    print(text(out))
    return 0


def written(arguments: Arguments) -> str:
    """The command line again."""
    flags = [f'--{name}={value}' if value else f'--{name}' for name, value in arguments.given.items()]
    return shlex.join(['mixjax', 'merge', *arguments.positional, *flags])


def text(out: Any) -> str:
    """Format the result of a merge: a line for each network, then the kept one and its folder."""
    parts = [(name, one) for name, one in (('val', out.val_examples), ('test', out.test_examples)) if one]
    lines = []
    if parts:
        titles = {'val': 'validation %', 'test': 'test %'}
        rows = [['network', *(titles[name] for name, _ in parts)]]
        rows += [[one.name, *(f'{100 * getattr(one, name)["accuracy"]:.2f}' for name, _ in parts)] for one in out.tried]
        lines += [*table(rows), ', '.join(f'{titles[name].removesuffix(" %")}: {n} images' for name, n in parts), '']
    if out.note:
        averaged = ', and statistics of BatchNorm are averaged' if out.statistics == 'average' else ''
        lines.append(f'no accuracies{averaged}: {out.note}')
    made = ', '.join(f'{share:.4g} of {name}' for name, share in out.parts.items())
    chosen = out.val_examples and (out.rule == 'greedy' or out.rule == 'start' and len(out.tried) > 1)
    lines.append(f'kept: {made}{" (the best on the validation part)" if chosen else ""}')
    lines.append(f'model: {out.workdir / "model.safetensors"}')
    return '\n'.join(lines)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns: the first to the left, numbers to the right."""
    width = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return [
        '  '.join([row[0].ljust(width[0]), *(cell.rjust(w) for cell, w in zip(row[1:], width[1:], strict=True))])
        for row in rows
    ]
