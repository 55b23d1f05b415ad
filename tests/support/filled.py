"""Variables with random values, drawn by numpy: no program has to be compiled for them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def filled(init: Any, seed: int = 0) -> Any:
    """The tree that `init()` would make, with plain random values: kernels of gain sqrt(2), no trivial statistics."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> jax.Array:
        kind, z = path[-1].key, rng.standard_normal(leaf.shape)
        if kind == 'kernel':
            value = z * (2 / np.prod(leaf.shape[:-1])) ** 0.5
        else:
            laws = {'scale': 1 + 0.1 * z, 'gamma': 1 + 0.1 * z, 'var': 1 + 0.1 * np.abs(z)}
            value = laws.get(kind, 0.1 * z)
        return jnp.asarray(value, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))
