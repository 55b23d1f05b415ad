"""A two-unit bottleneck after the pooling, for plots: LaMix's Fig. 8 (https://openreview.net/forum?id=mLtPtH2SIHX).

The d pooled features go through tanh layers of 2, 100 and d units, and the heads see the last one. The outputs of the
two units are the map `plane`, (B, 1, 1, 2), each number in [-1, 1].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from mixjax.models.net import Linear

Array = jax.Array


class Plane(nn.Module):
    """A map (B, d) -> (B, d) through two units; it also returns these, (B, 2). Layers are initialized as torch's."""

    middle: int = 100

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        codes = jnp.tanh(Linear(2, name='narrow')(features))
        h = jnp.tanh(Linear(self.middle, name='middle')(codes))
        return jnp.tanh(Linear(features.shape[-1], name='wide')(h)), codes


def behind(features: Array, maps: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
    """Apply a new `Plane`, part `final`, to the features and maps of a backbone; call inside the backbone."""
    features, codes = Plane(name='final')(features)
    return features, {**maps, 'plane': codes[:, None, None]}
