"""FixMatch: pseudo-labels of weakly augmented images for strongly augmented ones (Sohn et al. 2020,
https://arxiv.org/abs/2001.07685).

Besides B labelled images a batch has mu B unlabelled ones u, each in a weak view (crop and flip) and a strong one:

    q = softmax(z(weak(u))),   q^ = argmax q, without a gradient
    L = mean_B CE(z(x), y) + weight mean_{mu B} [max q >= threshold] CE(z(strong(u)), q^)

Defaults are the paper's and the released code's: threshold 0.95, weight 1, mu 7. The strong view is the paper's variant
with RandAugment, two operations and then a cut-out (here a random erasing of half of the images); its other variant is
CTAugment. The second mean is over all unlabelled images, not over those above the threshold.

All images pass the network together, as released, so BatchNorm sees all three kinds, and its statistics follow them.
They stand side by side, an example's 1 + 2 mu images one after the other: BatchNorm does not depend on the order, and
so images stay on their device where the batch is sharded. The released code evaluates a moving average of the
parameters (0.999), which is the wrapper `ema` here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixjax import losses
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Method, Net, Tree, View
from mixjax.methods._side_by_side import apart, together


def make(
    classes_t: int,
    *,
    threshold: float = 0.95,
    weight: float = 1.0,
    mu: int = 7,
    strong: str = 'randaugment(2,10),erase(0.5)',
) -> Method:
    """Make FixMatch.

    Args:
      classes_t: number of target classes.
      threshold: the smallest probability of a pseudo-label.
      weight: weight of the unlabelled images.
      mu: number of unlabelled images for each labelled one.
      strong: operations of the strong view after the crop and flip, as in `config.image.augment`.
    """
    del classes_t
    require(0 <= threshold <= 1, f'threshold must be between 0 and 1, not {threshold}')
    require(weight >= 0, f'weight must be at least 0, not {weight}')
    require(mu >= 1, f'mu must be at least 1, not {mu}')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        batch = ctx.batch
        images = together(batch['image'], batch['weak'], batch['strong'])
        out, model_state = net.apply(ctx.variables(params), images, train=True)
        z, z_weak, z_strong = apart(out.logits['target'], 1, mu, mu)
        q = jax.nn.softmax(jax.lax.stop_gradient(z_weak))
        sure = jnp.max(q, axis=-1) >= threshold
        ce = losses.cross_entropy(z, batch['label']).mean()
        pseudo_ce = (sure * losses.cross_entropy(z_strong, jnp.argmax(q, axis=-1))).mean()
        metrics = {'ce': ce, 'pseudo_ce': pseudo_ce, 'mask': sure.astype(q.dtype).mean()}
        return ce + weight * pseudo_ce, Aux(model_state, metrics)

    # The weak view has the crop and flip only, whatever config.image.augment does to the labelled images.
    views = {'weak': View('unlabelled', ''), 'strong': View('unlabelled', strong)}
    return Method(loss, views=views, unlabelled=mu, soft_labels=True)
