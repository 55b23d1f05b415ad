"""RIFLE: re-initialising the head during training (Li et al. 2020, https://arxiv.org/abs/2007.03349).

    L = mean_B CE(z, y);   the head is redrawn after each step i with
    (i + 1) mod floor(steps / n) = 0  and  i + 1 < steps

n is `resets`. Where it divides the number of steps the head is redrawn n - 1 times (once for the default
2, never for 1), else n times or more, all as in the released SMILE code: n = 2 for CUB, 4 for Cars
and Aircraft. That code redraws between the forward and the backward pass, which today's torch refuses; here it
comes after the optimiser's step. The head's momentum is kept and the learning rate does not restart, as there.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixjax.errors import require
from mixjax.method import TASKS, Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int, *, resets: int = 2) -> Method:
    """Make RIFLE.

    Args:
      classes_t: number of target classes.
      resets: the number n in the module's formula.
    """
    del classes_t
    require(resets >= 1, f'resets must be at least 1, not {resets}')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        return ctx.loss(out.logits['target'], ctx.batch['label']).mean(), Aux(model_state)

    def after_step(net: Net, old: Tree, new: Tree, aux: Aux, ctx: Ctx) -> tuple[Tree, Tree]:
        del old, aux
        total = ctx.run.total_steps
        require(resets <= total, f'resets must be at most the number of steps, {total}, not {resets}')
        due = ((ctx.step + 1) % (total // resets) == 0) & (ctx.step + 1 < total)
        redrawn = net.redraw(ctx.rng, new, 'target')
        heads = jax.tree.map(lambda fresh, kept: jnp.where(due, fresh, kept), redrawn['heads'], new['heads'])
        return {**new, 'heads': heads}, ctx.state

    return Method(loss, after_step=after_step, soft_labels=True, tasks=TASKS)
