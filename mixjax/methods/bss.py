"""Batch spectral shrinkage (Chen et al. 2019,
https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html).

    L = mean_B CE(z, y) + weight * (sum of the k smallest squared singular values of F)

F (B, d) are the batch's pooled features. Small singular values of fine-tuned features carry what does not
transfer. The term is the whole batch's: not divided by B, and over all devices together.
`trunk_factor` is the trunk's share of the learning rate: 1 as in the SMILE repository, 0.1 in the
authors' own code.
"""

from __future__ import annotations

from mixjax import losses
from mixjax.errors import require
from mixjax.method import TASKS, Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int, *, weight: float = 0.001, k: int = 1, trunk_factor: float = 1.0) -> Method:
    """Make batch spectral shrinkage.

    Args:
      classes_t: number of target classes.
      weight: weight of the spectral term.
      k: number of the smallest singular values in it.
      trunk_factor: learning rate of the trunk relative to the head's.
    """
    del classes_t
    require(weight >= 0, f'weight must be at least 0, not {weight}')
    require(k >= 1, f'k must be at least 1, not {k}')
    require(trunk_factor > 0, f'trunk_factor must be above 0, not {trunk_factor}')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        ce = ctx.loss(out.logits['target'], ctx.batch['label']).mean()
        shrinkage = losses.batch_spectral_shrinkage(out.features, k)
        return ce + weight * shrinkage, Aux(model_state, {'ce': ce, 'shrinkage': shrinkage})

    return Method(loss, groups={'trunk': (trunk_factor, 1.0)}, whole_batch=weight > 0, soft_labels=True, tasks=TASKS)
