"""The config files that ship with mixjax, by name; nothing is read or imported, so that a shell may ask."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator
from typing import Any


def folder() -> Any:
    """`configs/`: a package of an installed mixjax, a folder beside the package in a source tree."""
    try:
        return importlib.resources.files('mixjax.configs')
    except ModuleNotFoundError:
        return importlib.resources.files('mixjax').joinpath('..', 'configs')


def shipped() -> list[str]:
    """Names of the configs that ship with the package."""
    return sorted(_python_files(folder(), ''))


def _python_files(folder: Any, prefix: str) -> Iterator[str]:
    for item in folder.iterdir():
        if item.is_dir() and not item.name.startswith('_'):
            yield from _python_files(item, f'{prefix}{item.name}/')
        elif item.name.endswith('.py') and not item.name.startswith('_'):
            yield prefix + item.name.removesuffix('.py')
