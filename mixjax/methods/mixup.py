"""Mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412).

    x = lam x_i + (1 - lam) x_j,   t = lam y_i + (1 - lam) y_j,   lam ~ Beta(alpha, alpha)
    L = mean_B - sum_k t_k log softmax(z)_k  =  lam CE(z, y_i) + (1 - lam) CE(z, y_j)

One lam for the batch and a random partner for each image, as in the authors' code
(mixup-cifar10, alpha = 1). `fold` replaces lam by max(lam, 1 - lam), as the released SMILE code does
(with alpha = 0.2) in its Mixup baseline too; with random partners that changes no distribution.
With `label_smoothing` e the target is (1 - e) t + e / c: LaMix's "Mixup + ULS".
"""

from __future__ import annotations

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.method import TASKS, Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int, *, alpha: float = 1.0, fold: bool = False, label_smoothing: float = 0.0) -> Method:
    """Make mixup.

    Args:
      classes_t: number of target classes.
      alpha: lam ~ Beta(alpha, alpha).
      fold: whether to replace lam by max(lam, 1 - lam).
      label_smoothing: the share e of the uniform label.
    """
    require(alpha > 0, f'alpha must be above 0, not {alpha}')
    require(0 <= label_smoothing < 1, f'label_smoothing must be at least 0 and below 1, not {label_smoothing}')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        partner = ctx.batch['partner']
        image_mix, lam = mix.mixup(ctx.rng, ctx.batch['image'], partner, alpha, fold)
        out, model_state = net.apply(ctx.variables(params), image_mix, train=True)
        y = losses.one_hot(ctx.batch['label'], classes_t, label_smoothing)
        target = mix.blend(lam, y, mix.partner(y, partner))
        return ctx.loss(out.logits['target'], target).mean(), Aux(model_state, {'lam': lam})

    # A label is smoothed over classes of which one is right.
    return Method(loss, tasks=TASKS[:1] if label_smoothing else TASKS)
