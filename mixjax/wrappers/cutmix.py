"""CutMix in front of another method's loss (Yun et al. 2019, https://arxiv.org/abs/1905.04899).

    x = x_j inside a box, x_i outside,   t = lam' y_i + (1 - lam') y_j,   lam' = 1 - area / (H W)

The method sees x and t in the place of the images and labels; around `finetune` it is the method `cutmix`, whose
settings these are.
"""

from __future__ import annotations

from mixjax import mix
from mixjax.errors import require
from mixjax.method import TASKS, Ctx, Method, Net, Tree
from mixjax.wrappers import Mixed, mixing


def wrap(method: Method, classes_t: int, *, beta: float = 1.0, probability: float = 0.5) -> Method:
    """Wrap a method in CutMix.

    Args:
      method: the method to wrap.
      classes_t: number of target classes.
      beta: lam ~ Beta(beta, beta).
      probability: share of the batches that are mixed.
    """
    require(beta > 0, f'beta must be above 0, not {beta}')
    require(0 <= probability <= 1, f'probability must be between 0 and 1, not {probability}')

    def mixed(net: Net, params: Tree, ctx: Ctx) -> Mixed:
        del params
        return Mixed(net, *mix.cutmix(ctx.rng, ctx.batch['image'], ctx.batch['partner'], beta, probability))

    # A number is not the mean of those of the pieces of an image.
    return mixing('cutmix', method, classes_t, mixed, TASKS[:2])
