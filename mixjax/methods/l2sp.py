"""L2-SP: weight decay towards the starting point (Li et al. 2018, https://arxiv.org/abs/1802.01483).

    L = mean_B CE(z, y) + alpha / 2 ||w - w0||^2 + beta / 2 ||head||^2

w are all parameters of the trunk, BatchNorm's included, w0 the pretrained ones; the head's bias counts.

`form='delta'` is the paper's form, as in DELTA's and RIFLE's code: the optimiser decays nothing. Its
0.01 and 0.01 are the defaults; RIFLE's code has beta = 0.0001. `form='smile'` is the SMILE repository's:
only the term in alpha, with the optimiser's own decay towards 0 of all parameters on top of it, so
`beta` is unused; its alpha is 0.001 for CUB and Aircraft and 0.0001 for Cars.
"""

from __future__ import annotations

from mixjax import losses
from mixjax.errors import require
from mixjax.method import TASKS, Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int, *, form: str = 'delta', alpha: float = 0.01, beta: float = 0.01) -> Method:
    """Make L2-SP.

    Args:
      classes_t: number of target classes.
      form: 'delta' as in the paper, or 'smile' as in the SMILE repository.
      alpha: weight of the trunk's distance to its start.
      beta: weight of the head's squared norm.
    """
    del classes_t
    require(form in ('delta', 'smile'), f"form must be 'delta' or 'smile', not {form!r}")
    require(min(alpha, beta) >= 0, 'alpha and beta must be at least 0')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        ce = ctx.loss(out.logits['target'], ctx.batch['label']).mean()
        distance = losses.l2sp(params['backbone'], net.pretrained()['params']['backbone'])
        total = ce + alpha * distance
        if form == 'delta':
            total = total + beta * 0.5 * losses.squared_norm(params['heads'])
        return total, Aux(model_state, {'ce': ce, 'distance': distance})

    groups = {'trunk': (1.0, 0.0), 'heads': (1.0, 0.0)} if form == 'delta' else {}
    return Method(loss, groups=groups, soft_labels=True, tasks=TASKS)
