"""Mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412).

    x = lam x_i + (1 - lam) x_j,   L = lam CE(z, y_i) + (1 - lam) CE(z, y_j),   lam ~ Beta(alpha, alpha)

One lam for the batch and a random partner for each image, as in the authors' code
(mixup-cifar10, alpha = 1). `fold` replaces lam by max(lam, 1 - lam), as the released SMILE code does
(with alpha = 0.2) in its Mixup baseline too; with random partners that changes no distribution.
"""

from __future__ import annotations

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int, *, alpha: float = 1.0, fold: bool = False) -> Method:
    del classes_t
    require(alpha > 0, f'alpha must be above 0, not {alpha}')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        image, label, partner = ctx.batch['image'], ctx.batch['label'], ctx.batch['partner']
        lam = mix.beta(ctx.rng, alpha, alpha)
        lam = mix.fold(lam) if fold else lam
        image_mix = mix.blend(lam, image, mix.partner(image, partner))
        out, model_state = net.apply(ctx.variables(params), image_mix, train=True)
        per_example = losses.mixed_cross_entropy(out.logits['target'], label, mix.partner(label, partner), lam)
        return per_example.mean(), Aux(model_state, {'lam': lam})

    return Method(loss)
