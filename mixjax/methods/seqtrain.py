"""Seq-Train: mid-tuning on selected source images, then fine-tuning (Cui et al. 2018,
https://arxiv.org/abs/1806.06193), as the XMixup paper compares with it.

First the network is trained on the source images that XMixup would choose, with a head for their
classes; then it is fine-tuned on the target with a fresh head:

    L = mean CE(z_s, y_s) for `share` x steps,   then   L = mean CE(z_t, y_t)

The XMixup paper states that its Seq-Train takes its selection (cosine of mean features) and not Cui et
al.'s (earth mover's distance). It does not give the schedule of the first stage: here it has the
run's schedule, and as many steps.
"""

from __future__ import annotations

from mixjax.errors import require
from mixjax.method import Array, Data, First, Method, Net, Prepared
from mixjax.methods import _source_selection, finetune


def make(
    classes_t: int,
    *,
    share: float = 1.0,
    rounds: int = 1,
    min_images: int = 0,
    max_images: int = 0,
    per_class: int = 50,
    exact: bool = False,
) -> Method:
    """Make Seq-Train.

    Args:
      classes_t: number of target classes.
      share: length of the first stage, relative to the steps of the run.
      rounds, min_images, max_images, per_class, exact: the source selection, see `_source_selection.paired`.
    """
    require(share > 0, f'share must be above 0, not {share}')
    _source_selection.check(rounds=rounds, min_images=min_images, max_images=max_images, per_class=per_class)

    def prepare(net: Net, data: Data, rng: Array) -> Prepared:
        del net
        return _source_selection.paired(
            data, rounds=rounds, min_images=min_images, max_images=max_images, per_class=per_class, exact=exact,
            rng=rng,
        )  # fmt: skip

    return Method(finetune.make(classes_t).loss, prepare=prepare, first=First(finetune.make, share), soft_labels=True)
