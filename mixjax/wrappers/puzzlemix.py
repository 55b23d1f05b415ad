"""PuzzleMix in front of another method's loss (Kim et al. 2020, https://arxiv.org/abs/2009.06962).

    x = m T(x_i) + (1 - m) T'(x_j),   t = w y_i + (1 - w) y_j,   w = mean(m)

m is the mask of least cost and T moves salient blocks, as in the method `puzzlemix`, whose settings these are. The
saliency is that of the cross-entropy of what the method predicts, in eval mode. The method sees x and t in the place of
the images and labels; around `finetune` it is the method `puzzlemix` with `loss='ce'`.
"""

from __future__ import annotations

import jax

from mixjax import mix
from mixjax.errors import require
from mixjax.maths import puzzle
from mixjax.method import TASKS, Array, Ctx, Method, Net, Tree
from mixjax.wrappers import Mixed, mixing


def wrap(
    method: Method,
    classes_t: int,
    *,
    alpha: float = 1.0,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
    neighbourhood: int = 4,
    transport: bool = True,
    transport_size: int = 0,
    transport_eps: float = 0.8,
) -> Method:
    """Wrap a method in PuzzleMix.

    Args:
      method: the method to wrap.
      classes_t: number of target classes.
      alpha: lam ~ Beta(alpha, alpha).
      beta, gamma, eta, neighbourhood, transport, transport_size, transport_eps: the solver, see `puzzle.Settings`.
    """
    require(alpha > 0, f'alpha must be above 0, not {alpha}')
    settings = puzzle.Settings(beta, gamma, eta, neighbourhood, transport, transport_size, transport_eps).checked()

    def mixed(net: Net, params: Tree, ctx: Ctx) -> Mixed:
        image, partner = ctx.batch['image'], ctx.batch['partner']
        for_lam, for_blocks = jax.random.split(ctx.rng)
        lam = mix.beta(for_lam, alpha, alpha)
        still = jax.lax.stop_gradient(params)

        def logits(x: Array) -> Array:
            return method.predict(net.apply(ctx.variables(still), x, train=False)[0])

        u = puzzle.saliency(logits, image, ctx.batch['label'])
        shown = puzzle.mix(for_blocks, image, u, partner, lam, mean=ctx.run.mean, std=ctx.run.std, settings=settings)
        return Mixed(net, *shown)

    # The saliency is that of one class.
    return mixing('puzzlemix', method, classes_t, mixed, TASKS[:1])
