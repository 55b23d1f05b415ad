"""A section of a Markdown file that commands write and rewrite."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixjax.errors import UserError
from mixjax.host import storage
from mixjax.host import untrusted as plain_data
from mixjax.host.storage import Place
from mixjax.report import settings, tables
from mixjax.report.read import Folder, read
from mixjax.report.words import count, plain

OWN = 'results.md'  # beside report.html


def results_section(name: str, workdir: str | Path) -> str:
    """Return the accuracy tables of a work directory, with the command that made them and its environment."""
    return '\n'.join([f'## {name}', '', *body(read([workdir]))])


def body(folders: Sequence[Folder]) -> list[str]:
    """Return the command, its environment, and a table for each of the folders."""
    env = folders[0].env
    lines = [
        f'    {plain(settings.command_of(folders[0]))}'.rstrip(),
        '',
        f'{_versions(env)}. {_measure(folders[0])}: mean and standard deviation over n seeds; difference: '
        f'{tables.primary_of(folders[0].results).unit}, paired over seeds, with its standard error.',
        '',
    ]
    for folder in folders:
        lines += ([f'### {_heading(folder)}', ''] if len(folders) > 1 else []) + [_about(folder), '']
        lines += [tables.accuracy_markdown(folder.results)]
        own = tables.measures_markdown(folder.results)
        lines += ['Measures of the methods, mean and standard deviation over the seeds:', '', own] if own else []
    return lines


def _measure(folder: Folder) -> str:
    primary = tables.primary_of(folder.results)
    return 'Accuracy in percent' if primary.percent else f'Test {primary.name}'


def _versions(env: Mapping[str, Any]) -> str:
    known = [f'{name} {env[name]}' for name in ('mixjax', 'jax', 'python') if env.get(name)]
    commit = f'commit {env["commit"]}' if env.get('commit') else 'no commit'
    devices = env.get('devices')
    kinds = sorted(set(map(str, devices))) if isinstance(devices, list) else []
    return plain(', '.join([*known, commit, ' '.join(kinds)]))


def _heading(folder: Folder) -> str:
    return f'{settings.target(folder)}, {folder.name.replace("=", " = ")}'


def _about(folder: Folder) -> str:
    one = folder.runs[0].results
    return (
        f'{count(one["train_examples"], "labelled image")}, {count(one["test_examples"], "test image")}, '
        f'{settings.outputs(one)}, {count(one["steps"], "step")}.'
    )


def check(path: str | Path, workdir: Place | None = None) -> None:
    """Refuse a place where no file can be written, and the file of the report's tables; nothing is made."""
    path = Path(path)
    if workdir is not None and not storage.is_remote(workdir) and path.absolute() == (workdir / OWN).absolute():
        raise UserError(f'config.results: {path} is where the report of this run has its own tables; name another file')
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(f'config.results: {path} cannot be written; name a file in a folder of yours')


def write(path: str | Path, name: str, text: str) -> None:
    """Write `text` between the marks of `name` in a file, in place of the old text, or at its end.

    Args:
      path: the Markdown file.
      name: name of the section.
      text: its new text.
    """
    path = Path(path)
    begin, end = f'<!-- begin {name}: written by a command, not by hand -->', f'<!-- end {name} -->'
    section = f'{begin}\n{text.strip()}\n{end}\n'
    try:
        path = storage.resolve_file(path)
        storage.make_folder(path.parent)
        old = plain_data.read_regular(path).decode() if path.exists() else '# Results\n'
        head, mark, rest = old.partition(begin)
        if not mark:
            new = f'{old.rstrip()}\n\n{section}'
        else:
            inner, closed, tail = rest.partition(f'{end}\n')
            if not closed:
                raise UserError(f'{path} has the mark {begin!r} and not the mark {end!r}; put it back')
            new = head + section + tail
        storage.write(path, new.encode())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(f'config.results: {path} cannot be written ({why})') from error
