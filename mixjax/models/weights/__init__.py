"""Pretrained weights: everything about reading other people's tensors, from the hub, a file or a run.

Which file is meant and what it holds is `loading`; the names that others give to layers are `tensor_names` and
`layer_names`; torch's own files are read without torch by `torch_file`. Networks themselves are in `mixjax.models`.
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
