"""Shared by the tests: fixtures from disk, and a network small enough to compile in a second."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mixjax.models.net import Net, from_linen

FIXTURES = Path(__file__).parent / 'fixtures'


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f'{name}.npz', allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


class _Stage(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.width, (3, 3), use_bias=False, name='conv')(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name='bn')(x))


class Tiny(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, image, *, train, tap):
        hidden = tap('stem', _Stage(self.width, name='stem')(image, train))
        hidden = tap('stage1', _Stage(self.width, name='stage1')(hidden[:, ::2, ::2], train))
        return hidden.mean((1, 2)), {'stage1': hidden, 'last': hidden}


def tiny_net(width: int = 4) -> Net:
    """Two convolutions with BatchNorm."""
    return from_linen(Tiny(width))


def assert_trees_equal(a, b):
    """Bit for bit, also of typed keys."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
