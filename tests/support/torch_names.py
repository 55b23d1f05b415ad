"""The parameters and images that the fixtures were computed with, drawn again from the entries' names."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import models
from mixjax.models.weights import tensor_names

Arrays = dict[str, np.ndarray]


def fill(numbers: Arrays) -> Arrays:
    """The state dict of a fixture, {torch name: float32 array in torch's layout}.

    Every entry is one draw z of a generator seeded with the entry's name: kernels gain z / sqrt(fan_in),
    biases 0.1 z, BN scales 1 + 0.1 z, running means 0.1 z, running variances 1 + 0.1 |z|.
    """
    gain, prefix = float(numbers['kernel_gain']), str(numbers['fill_prefix'])
    laws = {
        'kernel': lambda z: gain * z / np.sqrt(np.prod(z.shape[1:])),
        'bias': lambda z: 0.1 * z,
        'bn_weight': lambda z: 1 + 0.1 * z,
        'running_mean': lambda z: 0.1 * z,
        'running_var': lambda z: 1 + 0.1 * np.abs(z),
    }
    state = {}
    for name, text, role in zip(numbers['param_names'], numbers['param_shapes'], numbers['param_roles'], strict=True):
        rng = np.random.default_rng(zlib.crc32(f'{prefix}{name}'.encode()))
        z = rng.standard_normal(tuple(int(side) for side in str(text).split(',')))
        state[str(name)] = laws[str(role)](z).astype(np.float32)
    return state


def shapes(network: str, side: int, classes: int, dtype: Any = np.float32) -> Any:
    """The variables that the network wants for RGB images of that side, as shapes."""
    net, image = models.build(network), jnp.zeros((2, side, side, 3))
    tree = jax.eval_shape(lambda rng: net.init(rng, image, {'source': classes}), jax.random.key(0))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), tree)


def variables(network: str, numbers: Arrays, state: Arrays) -> Any:
    """The state dict as our variables, in float64. It fails unless every entry has its place, and its shape."""
    wanted = shapes(network, int(numbers['input_shape_nchw'][-1]), int(numbers['eval_logits'].shape[-1]), np.float64)
    return tensor_names.from_torch(network, state, wanted)


def image(numbers: Arrays) -> np.ndarray:
    """The input of a fixture: drawn in NCHW and float32; here NHWC and float64."""
    z = np.random.default_rng(int(numbers['input_seed'])).standard_normal(tuple(numbers['input_shape_nchw']))
    return z.astype(np.float32).astype(np.float64).transpose(0, 2, 3, 1)


def checks(value: np.ndarray) -> np.ndarray:
    """Sum, sum of squares, first and last element, as the fixtures keep of every array."""
    flat = value.astype(np.float64).ravel()
    return np.array([flat.sum(), (flat * flat).sum(), flat[0], flat[-1]])
