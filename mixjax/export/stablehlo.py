"""Networks as StableHLO, by `jax.export`: one file for CPUs, CUDA and TPUs, with a symbolic batch.

The file is a function from stored images (n, side, side, C) uint8 to what a user sees, (n, classes) float32; weights,
crop, colours, views and temperature are in it. A StableHLO file has no place for names, so `model.json` beside it says
the classes, and how an image file becomes a stored image.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from mixjax.errors import UserError
from mixjax.export.network import Exported
from mixjax.host.storage import Place

Array = jax.Array
FILE = 'model.stablehlo'
PLATFORMS = ('cpu', 'cuda', 'tpu')


def contents(exported: Exported) -> dict[str, bytes]:
    """Return the files of a network, {name: contents}."""
    predictor = exported.predictor
    network = predictor.network
    if predictor.task.scaled and predictor.scale is not None:
        mean, std = (jnp.asarray(values, jnp.float32) for values in predictor.scale)
    else:
        mean = std = None

    def function(images: Array) -> Array:
        logits = network.logits(network.variables, images).astype(jnp.float32) / jnp.float32(predictor.temperature)
        if mean is not None and std is not None:
            return logits * std + mean
        return jax.nn.sigmoid(logits) if predictor.task.rows else jax.nn.softmax(logits)

    side, channels = predictor.rule.side or network.geometry.crop, predictor.rule.channels
    (batch,) = jax_export.symbolic_shape('batch')
    shape = jax.ShapeDtypeStruct((batch, side, side, channels), jnp.uint8)
    try:
        made = jax_export.export(jax.jit(function), platforms=PLATFORMS)(shape)
    except Exception as error:
        raise UserError(
            f'{exported.about["model"]} cannot be exported as StableHLO with a batch of any size: {error}'
        ) from error
    return {FILE: bytes(made.serialize())}


def open_file(path: Place) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of a file: stored images (n, side, side, C) uint8 -> (n, classes)."""
    try:
        function = jax.jit(jax_export.deserialize(bytearray(path.read_bytes())).call)
    except Exception as error:  # of the flatbuffer, or a newer version of jax
        raise UserError(f'{path} is no StableHLO file of jax.export, or of a newer jax than this one') from error
    return lambda images: np.asarray(function(jnp.asarray(images)))
