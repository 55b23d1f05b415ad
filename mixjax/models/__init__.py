"""The networks, by name: `build('resnet50')` is a `Net`, and `read('runs/dogs')` a `Model`, which has its weights.

A new family is one file and one row in `registry`.
"""

from mixjax.models.model import About, Model, prepared
from mixjax.models.published import Builder, Published
from mixjax.models.reading import about, read
from mixjax.models.registry import (
    BACKBONES,
    DTYPES,
    NETWORKS,
    SHIPPED,
    build,
    family,
    image_settings,
    names,
    unknown,
)

__all__ = [
    'BACKBONES', 'DTYPES', 'NETWORKS', 'SHIPPED', 'About', 'Builder', 'Model', 'Published', 'about', 'build', 'family',
    'image_settings', 'names', 'prepared', 'read', 'unknown',
]  # fmt: skip
