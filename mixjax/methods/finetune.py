"""Plain fine-tuning, called L2 in the papers: cross-entropy, and weight decay in the optimiser.

    L = mean_B CE(z, y)

With `label_smoothing` e the label is (1 - e) y + e / c. Weight decay acts on every parameter, BatchNorm's
and biases included, as in the released code of the three papers.
"""

from __future__ import annotations

from mixjax import losses
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int, *, label_smoothing: float = 0.0) -> Method:
    require(0 <= label_smoothing < 1, f'label_smoothing must be at least 0 and below 1, not {label_smoothing}')

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        target = losses.one_hot(ctx.batch['label'], classes_t, label_smoothing)
        return losses.soft_cross_entropy(out.logits['target'], target).mean(), Aux(model_state)

    return Method(loss)
