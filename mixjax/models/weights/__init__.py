"""Pretrained weights: reading of foreign tensors, from the hub, a file or a run.

`loading` finds a file and reads it; `tensor_names` and `layer_names` translate foreign names of layers; `torch_file`
reads torch's files without torch. Networks themselves are in `mixjax.models`.
"""

from mixjax.models.weights.loading import (
    EMBEDDED,
    EMBEDDED_PREFIX,
    PUBLISHED,
    RANDOM,
    Weights,
    classes,
    fit,
    fitted,
    image,
    load,
    missing,
    to_bytes,
    widths,
)

__all__ = [
    'EMBEDDED', 'EMBEDDED_PREFIX', 'PUBLISHED', 'RANDOM', 'Weights', 'classes', 'fit', 'fitted', 'image', 'load',
    'missing', 'to_bytes', 'widths',
]  # fmt: skip
