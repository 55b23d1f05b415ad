"""Configs: every setting with its default, reading of config files, overrides of the command line, and all checks.

A config is data only, an `ml_collections.ConfigDict` that is locked once it is complete: an unknown key is an error
that names the nearest known one. `base()` holds every default; a file in `configs/` starts from it and changes what
its experiment needs. Code that acts on a config (data, networks, training) does not belong here.
"""

from mixjax.config.defaults import Config, base
from mixjax.config.files import read, shipped
from mixjax.config.loading import check, complete, from_data, load, make_smoke, settle
from mixjax.config.variants import methods, swept

__all__ = [
    'Config', 'base', 'check', 'complete', 'from_data', 'load', 'make_smoke', 'methods', 'read', 'settle', 'shipped',
    'swept',
]  # fmt: skip
