"""Target images mixed with source images of their paired class, and their labels: what XMixup and its kin share.

    x, lam = a mix of x_t and x_s,   y = lam y_t + (1 - lam) y_s

A method of this kind is made of a function that mixes images; the settings of `method` are explained in
`mixjax/methods/xmixup.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Data, Head, Method, Net, Prepared, Tree
from mixjax.methods import _source_selection as choose
from mixjax.models.net import Out

Mix = Callable[[Array, Array, Array], tuple[Array, Array]]


def method(
    classes_t: int, mixed: Mix, *, labels: str, source_rows: str, auxiliary: str, selection: Mapping[str, Any]
) -> Method:
    """Make a method that mixes each target image with an image of its paired source class.

    Args:
      classes_t: number of target classes.
      mixed: (key, target images, images to mix them with) -> (mixed images, (B,) the share lam of each target label).
      labels: 'joint', 'two_heads' or 'target', the label space.
      source_rows: 'fresh' or 'pretrained', the start of the source classifier.
      auxiliary: 'paired', 'random', 'all' or 'target', the images to mix with.
      selection: the arguments of `_source_selection.paired`.
    """
    spaces = ('joint', 'two_heads', 'target')
    require(labels in spaces, f"labels must be 'joint', 'two_heads' or 'target', not {labels!r}")
    require(source_rows in ('fresh', 'pretrained'), f"source_rows must be 'fresh' or 'pretrained', not {source_rows!r}")
    kinds = ('paired', 'random', 'all', 'target')
    require(auxiliary in kinds, f"auxiliary must be 'paired', 'random', 'all' or 'target', not {auxiliary!r}")
    choose.check(**{name: selection[name] for name in ('rounds', 'min_images', 'max_images', 'per_class')})
    inside = auxiliary == 'target'

    def prepare(net: Net, data: Data, rng: Array) -> Prepared:
        del net
        if inside:
            return Prepared()
        if auxiliary == 'all':
            return choose.everything(data)
        made = choose.paired(data, **selection, rng=rng)
        # Only the number of images of the pairs is used then, so the key is used once.
        return choose.at_random(data, int(made.notes['source images']), rng) if auxiliary == 'random' else made

    def heads(classes_t: int, classes_s: int, prepared: Prepared) -> dict[str, Head]:
        del classes_s
        if inside or labels == 'target':
            return {'target': Head(classes_t)}
        chosen = prepared.frozen['chosen']
        rows = chosen if source_rows == 'pretrained' else np.full(len(chosen), -1)
        if labels == 'two_heads':
            return {'target': Head(classes_t), 'source': Head(len(chosen), rows)}
        return {'joint': Head(classes_t + len(chosen), np.concatenate([np.full(classes_t, -1), rows]))}

    def other_ce(logits: dict[str, Array], batch: dict[str, Array], frozen: Tree) -> Array:
        """Return the cross-entropy with the label of the image that was mixed in: (B,)."""
        if inside:
            return losses.cross_entropy(logits['target'], mix.partner(batch['label'], batch['partner']))
        label_s = frozen['column'][batch['source_label']]
        if labels == 'two_heads':
            return losses.cross_entropy(logits['source'], label_s)
        return losses.cross_entropy(logits['joint'], classes_t + label_s)

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        image, label = ctx.batch['image'], ctx.batch['label']
        other = mix.partner(image, ctx.batch['partner']) if inside else ctx.batch['source_image']
        image_mix, lam = mixed(ctx.rng, image, other)
        out, model_state = net.apply(ctx.variables(params), image_mix, train=True)
        ce_t = losses.cross_entropy(out.logits['joint' if 'joint' in out.logits else 'target'], label)
        if labels == 'target':
            return ce_t.mean(), Aux(model_state)
        ce_s = other_ce(out.logits, ctx.batch, ctx.frozen)
        metrics = {'target_ce': ce_t.mean(), 'other_ce': ce_s.mean()}
        return (lam * ce_t + (1 - lam) * ce_s).mean(), Aux(model_state, metrics)

    def predict(out: Out) -> Array:
        return out.logits['joint'][:, :classes_t] if 'joint' in out.logits else out.logits['target']

    return Method(loss, prepare=prepare, heads=heads, predict=predict)
