"""LaMix: one averaged image, learned soft labels, two heads
(https://openreview.net/forum?id=mLtPtH2SIHX).

Mini-batches alternate. Even steps see the original images, odd steps the plain average of two:

    x = x_i (even),  0.5 x_i + 0.5 x_j (odd)
    p = softmax(sigmoid(W_t S))                       the global label, from the head `global`
    t = beta (lam y_i + (1 - lam) y_j) + (1 - beta) p,   lam ~ U(0, 1); lam = 1 on even steps
    L = - mean_B sum_k t_k log softmax(W_l S)_k       W_l is the head `target`, the only one in use later

No code was released. Where the paper leaves a choice:
  the gradient flows through p, into W_t and the features S. With a stopped gradient W_t would learn
    nothing and p stay near 1/c, against the paper's Fig. 3 (`stop_global=True` shows it);
  `local_label='mean'` is the 0.5 / 0.5 label of its Fig. 1; Eq. 10 has the random lam, used here;
  lam is one number for each mini-batch, as in mixup-cifar10, whose settings the paper takes; the paper leaves
    open whether each pair has another. The measure `targets` draws it in the same way;
  alternation is by mini-batch, and original batches learn the mixed target too (section 3.1).
`mixing='puzzle'` is its Eq. 5: odd steps see the PuzzleMix of the two images at lam 1/2 (`mixjax.maths.puzzle`), by
the saliency of the head `target` in eval mode; the paper has it with `beta=1`. `local_label='mask'` then
takes the mean of the mask for lam, one number for each example.
`beta=1` leaves the global label out; `originals=False` trains on mixed batches only (Table 7).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.maths import puzzle
from mixjax.method import Array, Aux, Ctx, Head, Method, Net, Prepared, Tree


def make(
    classes_t: int,
    *,
    beta: float = 0.5,
    local_label: str = 'lambda',
    originals: bool = True,
    stop_global: bool = False,
    mixing: str = 'mixup',
) -> Method:
    """Make LaMix.

    Args:
      classes_t: number of target classes.
      beta: weight of the local label; 1 leaves the global label out.
      local_label: 'lambda', 'mean', or 'mask' with PuzzleMix.
      originals: whether every other batch has the original images.
      stop_global: whether to stop the gradient through the global label.
      mixing: 'mixup' averages two images, 'puzzle' is PuzzleMix.
    """
    require(0 <= beta <= 1, f'beta must be between 0 and 1, not {beta}')
    require(mixing in ('mixup', 'puzzle'), f"mixing must be 'mixup' or 'puzzle', not {mixing!r}")
    choices = ('lambda', 'mean', 'mask') if mixing == 'puzzle' else ('lambda', 'mean')
    require(local_label in choices, f"local_label must be one of {choices} with mixing '{mixing}', not {local_label!r}")

    def heads(classes_t: int, classes_s: int, prepared: Prepared) -> dict[str, Head]:
        del classes_s, prepared
        return {'target': Head(classes_t), 'global': Head(classes_t)}

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        image, label, partner = ctx.batch['image'], ctx.batch['label'], ctx.batch['partner']
        # Arithmetic on the inputs instead of a branch: one trace, one program for both kinds of batch.
        original = (ctx.step % 2 == 0) & originals
        drawn = jax.random.uniform(ctx.rng) if local_label == 'lambda' else jnp.asarray(0.5)
        if mixing == 'mixup':
            share = jnp.where(original, 1.0, 0.5)
            image_mix = mix.blend(share, image, mix.partner(image, partner))
        else:
            still = ctx.variables(jax.lax.stop_gradient(params))
            u = puzzle.saliency(lambda x: net.apply(still, x, train=False)[0].logits['target'], image, label)
            rng = jax.random.fold_in(ctx.rng, 1)
            image_mix, share = puzzle.mix(rng, image, u, partner, 0.5, mean=ctx.run.mean, std=ctx.run.std)
            image_mix = jnp.where(original, image, image_mix)
            drawn = share if local_label == 'mask' else drawn
        lam = jnp.where(original, 1.0, drawn)

        out, model_state = net.apply(ctx.variables(params), image_mix, train=True)
        y = losses.one_hot(label, classes_t)
        local = mix.blend(lam, y, mix.partner(y, partner))
        learned = losses.global_label(out.logits['global'])
        learned = jax.lax.stop_gradient(learned) if stop_global else learned
        target = beta * local + (1 - beta) * learned
        metrics = {'lam': lam.mean(), 'global_max': learned.max(axis=-1).mean()}
        return losses.soft_cross_entropy(out.logits['target'], target).mean(), Aux(model_state, metrics)

    return Method(loss, heads=heads, batch_kinds=('original', 'mixed') if originals else ())
