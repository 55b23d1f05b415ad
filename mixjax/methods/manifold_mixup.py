"""Manifold mixup (Verma et al. 2019, https://arxiv.org/abs/1806.05236).

Mixup of the hidden activations h of a layer that is drawn at random for each batch:

    h = lam h_i + (1 - lam) h_j,   t = lam y_i + (1 - lam) y_j,   lam ~ Beta(alpha, alpha)
    L = mean over examples and classes of -[t log p + (1 - t) log(1 - p)],   p = softmax(z)

`layers` names the taps to draw from, `input` being the image. As in the released code (alpha = 2 for
CIFAR, 0.2 for Tiny-ImageNet) the loss is the binary cross-entropy, about c times smaller than the
paper's cross-entropy (`loss='ce'`), so learning rate and weight decay weigh differently.
"""

from __future__ import annotations

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Method, Net, Tree

LOSSES = {'bce': losses.binary_cross_entropy, 'ce': losses.soft_cross_entropy}


def make(
    classes_t: int, *, alpha: float = 2.0, layers: tuple[str, ...] = ('input', 'stage1', 'stage2'), loss: str = 'bce'
) -> Method:
    """Make manifold mixup.

    Args:
      classes_t: number of target classes.
      alpha: lam ~ Beta(alpha, alpha).
      layers: names of the taps to draw from.
      loss: 'bce' or 'ce'.
    """
    require(alpha > 0, f'alpha must be above 0, not {alpha}')
    mix.check_layers(layers)
    require(loss in LOSSES, f"loss must be 'bce' or 'ce', not {loss!r}")
    objective = LOSSES[loss]

    def value(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        partner = ctx.batch['partner']
        tap, lam, check = mix.manifold(ctx.rng, partner, layers, alpha)
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True, tap=tap)
        check()
        y = losses.one_hot(ctx.batch['label'], classes_t)
        target = mix.blend(lam, y, mix.partner(y, partner))
        return objective(out.logits['target'], target).mean(), Aux(model_state, {'lam': lam})

    return Method(value)
