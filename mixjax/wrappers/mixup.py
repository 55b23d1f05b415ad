"""Mixup in front of another method's loss (Zhang et al. 2018, https://arxiv.org/abs/1710.09412).

    x = lam x_i + (1 - lam) x_j,   t = lam y_i + (1 - lam) y_j,   lam ~ Beta(alpha, alpha)

The method sees x and t in the place of the images and labels; around `finetune` it is the method `mixup`. `fold` as
there.
"""

from __future__ import annotations

from mixjax import mix
from mixjax.errors import require
from mixjax.method import Ctx, Method, Net, Tree
from mixjax.wrappers import Mixed, mixing


def wrap(method: Method, classes_t: int, *, alpha: float = 1.0, fold: bool = False) -> Method:
    """Wrap a method in mixup.

    Args:
      method: the method to wrap.
      classes_t: number of target classes.
      alpha: lam ~ Beta(alpha, alpha).
      fold: whether to replace lam by max(lam, 1 - lam).
    """
    require(alpha > 0, f'alpha must be above 0, not {alpha}')

    def mixed(net: Net, params: Tree, ctx: Ctx) -> Mixed:
        del params
        return Mixed(net, *mix.mixup(ctx.rng, ctx.batch['image'], ctx.batch['partner'], alpha, fold))

    return mixing('mixup', method, classes_t, mixed)
