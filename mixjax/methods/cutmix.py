"""CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899).

A rectangle of each image is replaced by the same rectangle of its partner:

    x = x_j inside the box, x_i outside;   lam' = 1 - area / (H W)
    L = lam' CE(z, y_i) + (1 - lam') CE(z, y_j)

The box has sides of about H sqrt(1 - lam) and W sqrt(1 - lam), lam ~ Beta(beta, beta), a uniform centre, and is cut
off at the borders; so the label takes the share lam' that is left, not lam. One box for a batch.
With probability 1 - `probability` a batch stays as it is. The authors' code has beta = 1 and
probability 0.5 for CIFAR (1 for ImageNet), the SMILE repository beta = 0.2 and 0.5.
"""

from __future__ import annotations

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int, *, beta: float = 1.0, probability: float = 0.5) -> Method:
    """Make CutMix.

    Args:
      classes_t: number of target classes.
      beta: lam ~ Beta(beta, beta).
      probability: share of the batches that are mixed.
    """
    del classes_t
    require(beta > 0, f'beta must be above 0, not {beta}')
    require(0 <= probability <= 1, f'probability must be between 0 and 1, not {probability}')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        label, partner = ctx.batch['label'], ctx.batch['partner']
        image_mix, lam = mix.cutmix(ctx.rng, ctx.batch['image'], partner, beta, probability)
        out, model_state = net.apply(ctx.variables(params), image_mix, train=True)
        per_example = losses.mixed_cross_entropy(out.logits['target'], label, mix.partner(label, partner), lam)
        return per_example.mean(), Aux(model_state, {'lam': lam})

    return Method(loss)
