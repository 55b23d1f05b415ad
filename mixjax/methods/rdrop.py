"""R-Drop: two passes with different dropout that must agree (Liang et al. 2021, https://arxiv.org/abs/2106.14448).

    L = mean_B (CE(z_1, y) + CE(z_2, y)) / 2 + alpha mean_B (KL(p_1 || p_2) + KL(p_2 || p_1)) / 2,   p = softmax(z)

z_1 and z_2 are the logits under two masks of dropout. The pooled features in front of the head have dropout of `rate`,
applied here (in the place of the network's own at this point), so that R-Drop works on a network without dropout too.
The rest of the network is passed twice only if it has dropout or drop-connect of its own; two passes of another one
would be the same, so it is passed once, at the cost of fine-tuning.

alpha: the paper has 0.6 for vision transformers, with the sum of the two cross-entropies; with their mean that is 0.3.
The released code for images has 0.3 too, but sums the divergence over the batch. rate: 0.1, the transformers' own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixjax import losses
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int, *, alpha: float = 0.3, rate: float = 0.1) -> Method:
    """Make R-Drop.

    Args:
      classes_t: number of target classes.
      alpha: weight of the divergence.
      rate: share of the pooled features that is left out in front of the head.
    """
    del classes_t
    require(alpha >= 0, f'alpha must be at least 0, not {alpha}')
    require(0 <= rate < 1, f'rate must be at least 0 and below 1, not {rate}')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        variables, image, label = ctx.variables(params), ctx.batch['image'], ctx.batch['label']
        out, model_state = net.apply(variables, image, train=True)
        # BatchNorm's statistics are those of the first pass; they depend on the mask, but each is as good as the other.
        again = net.apply(variables, image, train=True)[0] if has_dropout(net, variables, image) else out
        keys = jax.random.split(ctx.rng)
        z_1, z_2 = (head(params, x.features, key, rate) for x, key in zip((out, again), keys, strict=True))
        ce = (losses.cross_entropy(z_1, label) + losses.cross_entropy(z_2, label)).mean() / 2
        gap = (losses.divergence(z_1, z_2) + losses.divergence(z_2, z_1)).mean() / 2
        return ce + alpha * gap, Aux(model_state, {'ce': ce, 'divergence': gap})

    return Method(loss, soft_labels=True)


def head(params: Tree, features: Array, key: Array, rate: float) -> Array:
    """Return the logits (B, c) of pooled features (B, d) with dropout."""
    target = params['heads']['target']
    kept = jax.random.bernoulli(key, jnp.float32(1 - rate), features.shape)
    shown = jnp.where(kept, features / (1 - rate), 0).astype(target['kernel'].dtype)
    return shown @ target['kernel'] + target['bias']


def has_dropout(net: Net, variables: Tree, image: Array) -> bool:
    """Return whether a forward pass in train mode depends on its key. It is traced for that, and not computed."""

    def passed(key: Array, variables: Tree, image: Array) -> Array:
        return net.apply(variables, image, train=True, rng=key)[0].features

    given = jax.eval_shape(lambda: (jax.random.key(0), variables, image))
    traced = jax.make_jaxpr(passed)(*given).jaxpr
    return any(traced.invars[0] is used for line in traced.eqns for used in line.invars)
