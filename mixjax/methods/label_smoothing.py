"""Label smoothing, "ULS" in LaMix's tables (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567).

    L = mean_B - sum_k t_k log softmax(z)_k,   t = (1 - e) y + e / c

e is `epsilon`. The uniform part includes the true class. On top of mixup it is mixup's own setting.
"""

from __future__ import annotations

from mixjax import losses
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int, *, epsilon: float = 0.1) -> Method:
    """Make training with label smoothing.

    Args:
      classes_t: number of target classes.
      epsilon: share of the uniform label.
    """
    require(0 <= epsilon < 1, f'epsilon must be at least 0 and below 1, not {epsilon}')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        target = losses.one_hot(ctx.batch['label'], classes_t, epsilon)
        return losses.soft_cross_entropy(out.logits['target'], target).mean(), Aux(model_state)

    return Method(loss, soft_labels=True)
