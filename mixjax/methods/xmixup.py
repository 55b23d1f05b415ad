"""XMixup: cross-domain mixup (Li et al. 2020, https://arxiv.org/abs/2007.10252).

Each target class is paired with the source class whose mean pretrained feature is most similar. Every
target image is mixed with a random source image of its paired class, and so are the labels:

    x = lam x_t + (1 - lam) x_s,   y = lam y_t + (1 - lam) y_s,   lam ~ Beta(alpha, 1) for each image

No code was released, and the paper leaves open
  the label space: `labels='joint'` is one softmax over the target classes and the chosen source
    classes ("combine the labels"); `'two_heads'` is lam CE_t + (1 - lam) CE_s on two heads;
  the start of the source classifier: fresh, or the pretrained rows (`source_rows='pretrained'`);
  evaluation: the largest logit among the target classes is used here;
  alpha: its Fig. 4 recommends 2^-3 .. 2^-1 for Stanford Dogs and 2^0 .. 2^6 elsewhere; here 4;
  which source images: see `mixjax/methods/_source_selection.py`. The paper pairs until 200,000 images are chosen
    (`min_images`; 100,000 for Stanford Dogs), here one round; its Eq. 2 has the sign of the cosine wrong.
Its ablations: `auxiliary='random'` takes as many random source images (Table 3), `'all'` takes every source image
for every target class, without a selection (the right end of Fig. 3), `'target'` mixes within the target batch, and
`labels='target'` mixes images without their labels (Table 4).
"""

from __future__ import annotations

import numpy as np

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Data, Head, Method, Net, Prepared, Tree
from mixjax.methods import _source_selection as choose
from mixjax.models.net import Out


def make(
    classes_t: int,
    *,
    alpha: float = 4.0,
    labels: str = 'joint',
    source_rows: str = 'fresh',
    auxiliary: str = 'paired',
    rounds: int = 1,
    min_images: int = 0,
    max_images: int = 0,
    per_class: int = 50,
    exact: bool = False,
    union: bool = False,
) -> Method:
    """Make XMixup.

    Args:
      classes_t: number of target classes.
      alpha: lam ~ Beta(alpha, 1).
      labels: 'joint', 'two_heads' or 'target', the label space.
      source_rows: 'fresh' or 'pretrained', the start of the source classifier.
      auxiliary: 'paired', 'random', 'all' or 'target', the images to mix with.
      rounds, min_images, max_images, per_class, exact, union: the selection, see `_source_selection.paired`.
    """
    require(alpha > 0, f'alpha must be above 0, not {alpha}')
    spaces = ('joint', 'two_heads', 'target')
    require(labels in spaces, f"labels must be 'joint', 'two_heads' or 'target', not {labels!r}")
    require(source_rows in ('fresh', 'pretrained'), f"source_rows must be 'fresh' or 'pretrained', not {source_rows!r}")
    kinds = ('paired', 'random', 'all', 'target')
    require(auxiliary in kinds, f"auxiliary must be 'paired', 'random', 'all' or 'target', not {auxiliary!r}")
    choose.check(rounds=rounds, min_images=min_images, max_images=max_images, per_class=per_class)
    inside = auxiliary == 'target'

    def prepare(net: Net, data: Data, rng: Array) -> Prepared:
        del net
        if inside:
            return Prepared()
        if auxiliary == 'all':
            return choose.everything(data)
        made = choose.paired(
            data, rounds=rounds, min_images=min_images, max_images=max_images, per_class=per_class,
            exact=exact, union=union, rng=rng,
        )  # fmt: skip
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
        lam = mix.beta(ctx.rng, alpha, 1.0, label.shape)
        other = mix.partner(image, ctx.batch['partner']) if inside else ctx.batch['source_image']
        out, model_state = net.apply(ctx.variables(params), mix.blend(lam, image, other), train=True)
        ce_t = losses.cross_entropy(out.logits['joint' if 'joint' in out.logits else 'target'], label)
        if labels == 'target':
            return ce_t.mean(), Aux(model_state)
        ce_s = other_ce(out.logits, ctx.batch, ctx.frozen)
        metrics = {'target_ce': ce_t.mean(), 'other_ce': ce_s.mean()}
        return (lam * ce_t + (1 - lam) * ce_s).mean(), Aux(model_state, metrics)

    def predict(out: Out) -> Array:
        return out.logits['joint'][:, :classes_t] if 'joint' in out.logits else out.logits['target']

    return Method(loss, prepare=prepare, heads=heads, predict=predict)
