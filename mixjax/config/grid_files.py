"""Grid files: config files with `grid()`, which lists the arguments of their cells, and optionally with RUNS."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mixjax.config import files
from mixjax.errors import UserError


def shipped(path: str) -> str:
    """Return the name of the shipped config that a path means, such as `digits/grid` for `configs/digits/grid.py`.

    Returns '' where it means none.
    """
    name = path.removesuffix('.py').removeprefix('configs/')
    return name if name in files.shipped() else ''


def cells(path: str) -> list[str]:
    """Return the arguments that `grid()` of a file lists."""
    module, listed = _opened(path)
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(cell, str) for cell in listed):
        found = f'{path!r} has another' if 'grid' in module else f'{path!r} has none'
        raise UserError(f'a grid is a config file with grid(), which lists arguments for get_config; {found}')
    return list(listed)


def root(path: str) -> str:
    """Return the default folder of the grid's runs: the folder in `runs/` that RUNS names, or one with the grid's name.

    Grids with the same RUNS share a folder: a run that is in several of them is trained once.
    """
    said = _opened(path)[0].get('RUNS', '')
    if not isinstance(said, str) or not re.fullmatch(r'(\w[\w.-]*)?', said):
        raise UserError(f'grid {path!r}: RUNS is the name of a folder in runs/, not {said!r}')
    return f'runs/{said or shipped(path) or Path(path).stem}'


def _opened(path: str) -> tuple[dict[str, Any], Any]:
    """Return the globals of a file, and the result of its `grid()`, None if it has none."""
    file = Path(path)
    if not file.is_file():
        if not shipped(path):
            files.read(path)  # raises an error that lists the shipped configs
        file = Path(str(files.folder().joinpath(f'{shipped(path)}.py')))
    module: dict[str, Any] = {'__name__': '_mixjax_grid', '__file__': str(file)}
    try:
        exec(compile(file.read_bytes(), file, 'exec'), module)
        return module, module['grid']() if 'grid' in module else None
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # the file may raise anything
        raise UserError(f'grid {path!r} could not be read: {type(error).__name__}: {error}') from error
