"""Plain fine-tuning, called L2 in the papers: cross-entropy, and weight decay in the optimiser.

    L = mean_B CE(z, y)

Weight decay acts on every parameter, BatchNorm's and biases included, as in SMILE's released code and in
mixup-cifar10, whose settings LaMix uses.
"""

from __future__ import annotations

from mixjax.method import TASKS, Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int) -> Method:
    del classes_t

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        return ctx.loss(out.logits['target'], ctx.batch['label']).mean(), Aux(model_state)

    return Method(loss, soft_labels=True, tasks=TASKS)
