"""Co-Train: the target task and a source task trained together (Ge and Yu 2017,
https://arxiv.org/abs/1702.08690), as the XMixup paper compares with it.

Each batch holds as many source images as target images, in one forward pass:

    L = target_weight mean CE(z_t, y_t) + source_weight mean CE(z_s, y_s)

The released joint-training files weigh both by 0.5 and draw both heads from N(0, 0.01^2) with bias 0. The XMixup
paper chooses the source images by its selection, as here, not by Ge and Yu's low-level
neighbours; it does not give the number of source images of a batch. BatchNorm sees both halves together.
"""

from __future__ import annotations

import jax.numpy as jnp

from mixjax import losses
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Data, Head, Method, Net, Prepared, Tree
from mixjax.methods import _source_selection


def _of_pair(x: Array, i: int) -> Array:
    """Return the target's (0) or the source's (1) rows of a batch of pairs: (2B, ..) -> (B, ..)."""
    return x.reshape(-1, 2, *x.shape[1:])[:, i]


def make(
    classes_t: int,
    *,
    target_weight: float = 0.5,
    source_weight: float = 0.5,
    rounds: int = 1,
    min_images: int = 0,
    max_images: int = 0,
    per_class: int = 50,
    exact: bool = False,
) -> Method:
    """Make Co-Train.

    Args:
      classes_t: number of target classes.
      target_weight, source_weight: weights of the two cross-entropies.
      rounds, min_images, max_images, per_class, exact: the source selection, see `_source_selection.paired`.
    """
    require(min(target_weight, source_weight) >= 0, 'target_weight and source_weight must be at least 0')
    _source_selection.check(rounds=rounds, min_images=min_images, max_images=max_images, per_class=per_class)

    def prepare(net: Net, data: Data, rng: Array) -> Prepared:
        del net
        made = _source_selection.paired(
            data, rounds=rounds, min_images=min_images, max_images=max_images, per_class=per_class, exact=exact,
            rng=rng,
        )  # fmt: skip
        return _source_selection.pooled(made, data)

    def heads(classes_t: int, classes_s: int, prepared: Prepared) -> dict[str, Head]:
        del classes_s
        return {'target': Head(classes_t, std=0.01), 'source': Head(len(prepared.frozen['chosen']), std=0.01)}

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        batch = ctx.batch
        # Side by side, not one after the other: images stay on their device where the batch is sharded.
        both = jnp.stack([batch['image'], batch['source_image']], axis=1)
        out, model_state = net.apply(ctx.variables(params), both.reshape(-1, *both.shape[2:]), train=True)
        ce_t = losses.cross_entropy(_of_pair(out.logits['target'], 0), batch['label']).mean()
        ce_s = losses.cross_entropy(
            _of_pair(out.logits['source'], 1), ctx.frozen['column'][batch['source_label']]
        ).mean()
        metrics = {'target_ce': ce_t, 'source_ce': ce_s}
        return target_weight * ce_t + source_weight * ce_s, Aux(model_state, metrics)

    return Method(loss, prepare=prepare, heads=heads)
