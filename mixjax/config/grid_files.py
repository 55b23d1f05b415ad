"""Grid files: config files with `grid()`, which lists the arguments of their cells, and perhaps with RUNS."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mixjax.config import files
from mixjax.errors import UserError


def shipped(path: str) -> str:
    """The name of a shipped config that is meant, `digits/grid` of `configs/digits/grid.py`; or ''."""
    name = path.removesuffix('.py').removeprefix('configs/')
    return name if name in files.shipped() else ''


def cells(path: str) -> list[str]:
    """The arguments that `grid()` of a file lists."""
    module, listed = _opened(path)
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(cell, str) for cell in listed):
        found = f'{path!r} has another' if 'grid' in module else f'{path!r} has none'
        raise UserError(f'a grid is a config file with grid(), which lists arguments for get_config; {found}')
    return list(listed)


def root(path: str) -> str:
    """Where its runs lie unless the command says: the folder of `runs/` that it calls RUNS, or one of its name.

    Grids with the same RUNS have one folder: a run that several of them have is one.
    """
    said = _opened(path)[0].get('RUNS', '')
    if not isinstance(said, str) or not re.fullmatch(r'(\w[\w.-]*)?', said):
        raise UserError(f'grid {path!r}: RUNS is the name of a folder in runs/, not {said!r}')
    return f'runs/{said or shipped(path) or Path(path).stem}'


def _opened(path: str) -> tuple[dict[str, Any], Any]:
    """What a file defines, and what its `grid()` gives."""
    file = Path(path)
    if not file.is_file():
        if not shipped(path):
            files.read(path)  # says what is wrong, and what there is
        file = Path(str(files.folder().joinpath(f'{shipped(path)}.py')))
    module: dict[str, Any] = {'__name__': '_mixjax_grid', '__file__': str(file)}
    try:
        exec(compile(file.read_bytes(), file, 'exec'), module)
        return module, module['grid']() if 'grid' in module else None
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a stranger's file does
        raise UserError(f'grid {path!r} could not be read: {type(error).__name__}: {error}') from error
