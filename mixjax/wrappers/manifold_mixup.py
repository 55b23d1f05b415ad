"""Manifold mixup in front of another method's loss (Verma et al. 2019, https://arxiv.org/abs/1806.05236).

    h = lam h_i + (1 - lam) h_j at one of `layers`,   t = lam y_i + (1 - lam) y_j,   lam ~ Beta(alpha, alpha)

The method sees t in the place of the labels, and every forward pass of its loss mixes at the drawn layer: also one in
eval mode, and that of the pretrained network, so that a method which compares two networks compares them on the same
mixture. With the one layer `input` it is the wrapper `mixup`; around `finetune` it is the method `manifold_mixup` with
`loss='ce'`.
"""

from __future__ import annotations

from mixjax import mix
from mixjax.errors import require
from mixjax.method import Ctx, Method, Net, Tree
from mixjax.models.net import tapped
from mixjax.wrappers import Mixed, mixing


def wrap(
    method: Method,
    classes_t: int,
    *,
    alpha: float = 2.0,
    layers: tuple[str, ...] = ('input', 'stage1', 'stage2'),
) -> Method:
    """Wrap a method in manifold mixup.

    Args:
      method: the method to wrap.
      classes_t: number of target classes.
      alpha: lam ~ Beta(alpha, alpha).
      layers: names of the taps to draw from.
    """
    require(alpha > 0, f'alpha must be above 0, not {alpha}')
    mix.check_layers(layers)

    def mixed(net: Net, params: Tree, ctx: Ctx) -> Mixed:
        del params
        tap, lam, check = mix.manifold(ctx.rng, ctx.batch['partner'], layers, alpha)
        return Mixed(tapped(net, tap), ctx.batch['image'], lam, check)

    return mixing('manifold_mixup', method, classes_t, mixed)
