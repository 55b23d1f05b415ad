"""mixjax: transfer learning and mixup in JAX/Flax.

`mixjax.load(WORKDIR)` gives the network that a run left, ready to predict.

Importing the package imports nothing else; `mixjax.losses`, `mixjax.config`, `mixjax.train` .. load
when they are first used.
"""

import importlib
from typing import Any

from mixjax.version import __version__ as __version__

_MODULES = (
    'analysis', 'config', 'data', 'errors', 'inference', 'losses', 'maths', 'method', 'methods', 'mix', 'models',
    'report', 'rundir', 'train', 'wrappers',
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == 'load':
        return importlib.import_module('mixjax.inference').load
    if name in _MODULES:
        return importlib.import_module(f'mixjax.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), 'load', *_MODULES])
