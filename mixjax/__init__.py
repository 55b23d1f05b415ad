"""mixjax: transfer learning and mixup in JAX/Flax.

    results = mixjax.train.run(mixjax.config.load('quickstart'), 'runs/quickstart')
    predictor = mixjax.load('runs/quickstart/smile')

Importing the package imports nothing else; `mixjax.losses`, `mixjax.config`, `mixjax.train` .. load
when they are first used. `__init__.pyi` beside this file has the types.
"""

import importlib
from typing import Any

from mixjax.version import __version__ as __version__

_MODULES = (
    'analysis', 'config', 'data', 'errors', 'inference', 'losses', 'maths', 'method', 'methods', 'mix', 'models',
    'report', 'rundir', 'search', 'train', 'wrappers',
)  # fmt: skip
_NAMES = {
    'Config': 'mixjax.config',
    'Dataset': 'mixjax.data.dataset',
    'Prediction': 'mixjax.inference',
    'Predictor': 'mixjax.inference',
    'Results': 'mixjax.api',
    'best': 'mixjax.api',
    'create_model': 'mixjax.models.create',
    'load': 'mixjax.inference',
    'merge': 'mixjax.analysis.merge',
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f'mixjax.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES, *_MODULES])
