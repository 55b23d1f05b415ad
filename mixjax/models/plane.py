"""A bottleneck of two numbers behind the pooling, to look at: LaMix's Fig. 8 (https://openreview.net/forum?id=mLtPtH2SIHX).

The pooled features go through tanh layers of 2, 100 and d units, d as many as they were, and the heads see the last.
What the two units say is the map `plane`, (B, 1, 1, 2), each number in [-1, 1].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixjax.models.net import Linear

Array = jax.Array


class Plane(nn.Module):
    """(B, d) -> (B, d) by way of two numbers; also these, (B, 2). Layers as torch draws linear ones."""

    middle: int = 100

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        codes = jnp.tanh(Linear(2, name='narrow')(features))
        h = jnp.tanh(Linear(self.middle, name='middle')(codes))
        return jnp.tanh(Linear(features.shape[-1], name='wide')(h)), codes


def behind(features: Array, maps: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """The features and maps of a backbone after a `Plane` of its own, part `final`; call inside the backbone."""
    features, codes = Plane(name='final')(features)
    return features, {**maps, 'plane': codes[:, None, None]}
