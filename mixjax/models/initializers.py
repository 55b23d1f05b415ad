"""Initializers: the distributions of a fresh network's kernels and biases.

Each network uses its authors' initializers. A named one redraws everything, for experiments that need another:

    torch     kernel and bias U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's default for convolutions and linear layers
    kaiming   kernels of convolutions N(0, 2/fan_out), their biases 0; linear layers as in torch. torchvision's choice
    flax      kernels N(0, 1/fan_in) cut off at two standard deviations, biases 0: flax's default

fan_in is the number of inputs of one output, kh kw C_in / groups; fan_out is kh kw C_out, as torch counts it, also for
a depthwise convolution. Normalisations are unchanged.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Tree = Any
Law = Callable[[Array, Array, tuple[int, ...]], Array]  # key, the old leaf, shape of its kernel -> the new leaf


def _uniform(rng: Array, leaf: Array, kernel: tuple[int, ...]) -> Array:
    bound = math.prod(kernel[:-1]) ** -0.5
    return jax.random.uniform(rng, leaf.shape, leaf.dtype, -bound, bound)


def _fan_out(rng: Array, leaf: Array, kernel: tuple[int, ...]) -> Array:
    if len(kernel) != 4:
        return _uniform(rng, leaf, kernel)
    if leaf.ndim == 1:
        return jnp.zeros_like(leaf)
    return jax.random.normal(rng, leaf.shape, leaf.dtype) * (2 / (kernel[0] * kernel[1] * kernel[3])) ** 0.5


def _lecun(rng: Array, leaf: Array, kernel: tuple[int, ...]) -> Array:
    if leaf.ndim == 1:
        return jnp.zeros_like(leaf)
    return jax.nn.initializers.lecun_normal()(rng, leaf.shape, leaf.dtype)


LAWS: dict[str, Law] = {'torch': _uniform, 'kaiming': _fan_out, 'flax': _lecun}


def draw(law: str, rng: Array, params: Tree) -> Tree:
    """Return `params` with every kernel, and every bias beside one, redrawn; with law '' they are unchanged.

    A leaf's key comes from its path, so that one network's draws do not depend on the rest of the tree.

    Args:
      law: one of `LAWS`, or ''.
      rng: key of the draws.
      params: the parameters, a tree.
    """
    if not law:
        return params

    def layer(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
        new = {}
        for name, leaf in tree.items():
            here = f'{path}/{name}'
            if isinstance(leaf, Mapping):
                leaf = layer(leaf, here)
            elif 'kernel' in tree:
                leaf = LAWS[law](jax.random.fold_in(rng, zlib.crc32(here.encode())), leaf, tree['kernel'].shape)
            new[name] = leaf
        return new

    return layer(params, '')
