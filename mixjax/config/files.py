"""Config files: shipped ones by name, and those of the user by path."""

from __future__ import annotations

import importlib.util
import inspect
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mixjax.errors import UserError, nearest
from mixjax.host.shipped import folder, shipped


def read(path: str, argument: str = '') -> Any:
    """Read a config file, or a shipped config by its name; a config file may call this to start from another one.

    Args:
      path: path of a Python file with `get_config`, or name of a shipped config.
      argument: the argument of `get_config`; '' calls it without one.

    Returns:
      The `ConfigDict` that `get_config` returns.
    """
    file = Path(path)
    if not file.is_file():
        # `configs/quickstart.py` and `quickstart` both name the shipped file, in any folder.
        name = path.removesuffix('.py').removeprefix('configs/')
        if name not in shipped():
            raise UserError(
                f'there is no config {path!r}{nearest(name, shipped())}; '
                f'give a file, or one of the shipped configs: {", ".join(shipped())}'
            )
        file = Path(str(folder().joinpath(name + '.py')))
    spec = importlib.util.spec_from_file_location('_mixjax_config', file)
    if spec is None or spec.loader is None:
        raise UserError(f'config {path!r} is not a Python file (its name must end in .py)')
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        make = module.get_config
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f'config {path!r} could not be read: {type(error).__name__}: {error}') from error
    if argument and not inspect.signature(make).parameters:
        raise UserError(f'config {path!r} takes no argument, and {argument!r} was given')
    try:
        config = make(argument) if argument else make()
    except UserError:
        raise
    except Exception as error:  # the file may raise anything
        raise UserError(f'config {path!r}: {type(error).__name__}: {error}') from error
    if not isinstance(config, ConfigDict):
        raise UserError(f'config {path!r}: get_config() must return an ml_collections.ConfigDict')
    return config
