"""Feature extraction: only the head is trained, on the pretrained network's features.

    L = mean_B CE(z, y),   with learning rate and weight decay 0 for the trunk

`bn='frozen'` runs the trunk in eval mode: its features are those of the pretrained network. The
released SMILE code leaves BatchNorm in train mode (`bn='leak'`): the batch's own statistics are used, and
the running ones, by which the network is evaluated, drift to the target data, so that its
"frozen" features change after all.
"""

from __future__ import annotations

from mixjax.errors import require
from mixjax.method import TASKS, Array, Aux, Ctx, Method, Net, Tree


def make(classes_t: int, *, bn: str = 'frozen') -> Method:
    """Make feature extraction.

    Args:
      classes_t: number of target classes.
      bn: 'frozen' runs the trunk in eval mode, 'leak' in train mode.
    """
    del classes_t
    require(bn in ('frozen', 'leak'), f"bn must be 'frozen' or 'leak', not {bn!r}")

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=bn == 'leak')
        return ctx.loss(out.logits['target'], ctx.batch['label']).mean(), Aux(model_state)

    return Method(loss, groups={'trunk': (0.0, 0.0)}, soft_labels=True, tasks=TASKS)
