"""PuzzleMix (Kim et al. 2020, https://arxiv.org/abs/2009.06962).

Blocks of two images are put together such that salient ones stay visible and neighbours match:

    u = sqrt(mean over channels of g^2),   g = d mean CE(z, y) / d x        saliency, of the network in eval mode
    m in {0, 1/2, 1}^(n x n)   least cost: saliency not shown + smoothness + prior of lam   (`mixjax.maths.puzzle`)
    x = m T(x_i) + (1 - m) T'(x_j)        T moves salient blocks to where the mask shows them
    t = w y_i + (1 - w) y_j,   w = mean(m);        lam ~ Beta(alpha, alpha),   n from 2, 4, 8, 16, both a batch

As released, labels are weighted by the mean of the mask and not by lam, and the loss is the binary
cross-entropy of the softmax (`loss='ce'` for the paper's). `clean` > 0 is the Tiny-ImageNet recipe: the
saliency comes from a pass over the clean images in train mode whose loss, 2 clean CE / c, is learned too.

Different from the released code: labels are optimal (its alpha-beta swap misses the optimum now and then, and
overflows where one block holds most of the saliency), everything runs on the device, and the saliency takes one
backward pass without the parameters' half.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.maths import puzzle
from mixjax.method import Array, Aux, Ctx, Method, Net, Tree

LOSSES = {'bce': losses.binary_cross_entropy, 'ce': losses.soft_cross_entropy}


def make(
    classes_t: int,
    *,
    alpha: float = 1.0,
    loss: str = 'bce',
    clean: float = 0.0,
    beta: float = 1.2,
    gamma: float = 0.5,
    eta: float = 0.2,
    neighbourhood: int = 4,
    transport: bool = True,
    transport_size: int = 0,
    transport_eps: float = 0.8,
) -> Method:
    """Make PuzzleMix.

    Args:
      classes_t: number of target classes.
      alpha: lam ~ Beta(alpha, alpha).
      loss: 'bce' or 'ce'.
      clean: weight of the loss of the clean images; 0 takes the saliency in eval mode.
      beta, gamma, eta, neighbourhood, transport, transport_size, transport_eps: the solver, see `puzzle.Settings`.
    """
    require(alpha > 0, f'alpha must be above 0, not {alpha}')
    require(loss in LOSSES, f"loss must be 'bce' or 'ce', not {loss!r}")
    require(clean >= 0, f'clean must be at least 0, not {clean}')
    settings = puzzle.Settings(beta, gamma, eta, neighbourhood, transport, transport_size, transport_eps).checked()

    def value(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        image, label, partner = ctx.batch['image'], ctx.batch['label'], ctx.batch['partner']
        for_lam, for_blocks = jax.random.split(ctx.rng)
        lam = mix.beta(for_lam, alpha, alpha)
        still, model_state = jax.lax.stop_gradient(params), ctx.model_state

        def clean_loss(params: Tree, image: Array) -> tuple[Array, Tree]:
            out, model_state = net.apply(ctx.variables(params), image, train=True)
            return 2 * clean / classes_t * losses.cross_entropy(out.logits['target'], label).mean(), model_state

        if clean:
            both = jax.value_and_grad(clean_loss, argnums=(0, 1), has_aux=True)
            (learned, model_state), (slope, gradient) = both(still, image)
            u = puzzle.rms(gradient)
            # The same value with the same gradient by the parameters, without a second pass.
            change = jax.tree.map(lambda g, new, old: jnp.vdot(g, new - old), slope, params, still)
            learned += sum(jax.tree.leaves(change))
        else:
            learned = 0.0
            u = puzzle.saliency(
                lambda x: net.apply(ctx.variables(still), x, train=False)[0].logits['target'], image, label
            )

        image_mix, weight = puzzle.mix(
            for_blocks, image, u, partner, lam, mean=ctx.run.mean, std=ctx.run.std, settings=settings
        )
        out, model_state = net.apply({'params': params, **model_state}, image_mix, train=True)
        y = losses.one_hot(label, classes_t)
        target = mix.blend(weight, y, mix.partner(y, partner))
        total = LOSSES[loss](out.logits['target'], target).mean() + learned
        return total, Aux(model_state, {'lam': lam, 'weight': weight.mean()})

    return Method(value)
