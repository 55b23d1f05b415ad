"""Pretrained weights: reading of foreign tensors, from the hub, a file or a run.

`loading` finds a file and reads it; `tensor_names` translates foreign names of layers, which are in `layer_names` and
in a module of names for each large family; `torch_file` reads torch's files without torch. Networks themselves are in
`mixjax.models`.
"""

from mixjax.models.weights.loading import (
    EMBEDDED,
    EMBEDDED_PREFIX,
    PUBLISHED,
    RANDOM,
    Fitted,
    Weights,
    classes,
    fit,
    fitted,
    image,
    into,
    load,
    missing,
    network,
    to_bytes,
    widths,
    with_classifier,
)

__all__ = [
    'EMBEDDED', 'EMBEDDED_PREFIX', 'PUBLISHED', 'RANDOM', 'Fitted', 'Weights', 'classes', 'fit', 'fitted', 'image',
    'into', 'load', 'missing', 'network', 'to_bytes', 'widths', 'with_classifier',
]  # fmt: skip
