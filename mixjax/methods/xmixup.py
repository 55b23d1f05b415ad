"""XMixup: cross-domain mixup (Li et al. 2020, https://arxiv.org/abs/2007.10252).

Each target class is paired with the source class whose mean pretrained feature is most similar. Every
target image is mixed with a random source image of its paired class, and so are the labels:

    x = lam x_t + (1 - lam) x_s,   y = lam y_t + (1 - lam) y_s,   lam ~ Beta(alpha, 1) for each image

No code was released, and the paper leaves open
  the label space: `labels='joint'` is one softmax over the target classes and the chosen source
    classes ("combine the labels"); `'two_heads'` is lam CE_t + (1 - lam) CE_s on two heads;
  the start of the source classifier: fresh, or the pretrained rows (`source_rows='pretrained'`);
  evaluation: the largest logit among the target classes;
  alpha: its Fig. 4 recommends 2^-3 .. 2^-1 for Stanford Dogs and 2^0 .. 2^6 elsewhere; here 4;
  the order of the greedy search: the best remaining pair first (`exact=True`: optimal assignment).
Whole rounds of pairing are made until the chosen classes hold `min_images` images (the paper:
200,000, for Stanford Dogs 100,000; 0 is one round). Centroids are means over at most `per_class`
source images, 0 for all of them as in Eq. 1.
"""

from __future__ import annotations

import numpy as np

from mixjax import losses, mix, pairing
from mixjax.errors import UserError, require
from mixjax.method import Array, Aux, Ctx, Data, Head, Method, Net, Prepared, Segments, Tree
from mixjax.models.net import Out


def make(
    classes_t: int,
    *,
    alpha: float = 4.0,
    labels: str = 'joint',
    source_rows: str = 'fresh',
    min_images: int = 0,
    per_class: int = 50,
    exact: bool = False,
) -> Method:
    require(alpha > 0, f'alpha must be above 0, not {alpha}')
    require(labels in ('joint', 'two_heads'), f"labels must be 'joint' or 'two_heads', not {labels!r}")
    require(source_rows in ('fresh', 'pretrained'), f"source_rows must be 'fresh' or 'pretrained', not {source_rows!r}")
    require(min(min_images, per_class) >= 0, 'min_images and per_class must be at least 0')

    def prepare(net: Net, data: Data, rng: Array) -> Prepared:
        del net, rng
        if data.source is None:
            raise UserError('this method mixes with source images: set config.source.name')
        pairing.require_enough(len(data.target.classes), len(data.source.classes))  # before anything is compiled
        sizes = data.source.sizes
        score = pairing.cosine(data.target.class_means(), data.source.class_means(per_class or None))
        pairs = pairing.pair(score, sizes, min_images=min_images, exact=exact)
        chosen = np.sort(pairs.mapping.ravel())
        column = np.full(len(sizes), -1, np.int32)  # source class -> its place among the chosen ones
        column[chosen] = np.arange(len(chosen))
        return Prepared({'chosen': chosen.astype(np.int32), 'column': column}, segments(data, pairs))

    def heads(classes_t: int, classes_s: int, prepared: Prepared) -> dict[str, Head]:
        del classes_s
        chosen = prepared.frozen['chosen']
        rows = chosen if source_rows == 'pretrained' else np.full(len(chosen), -1)
        if labels == 'two_heads':
            return {'target': Head(classes_t), 'source': Head(len(chosen), rows)}
        return {'joint': Head(classes_t + len(chosen), np.concatenate([np.full(classes_t, -1), rows]))}

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        image_t, label_t = ctx.batch['image'], ctx.batch['label']
        label_s = ctx.frozen['column'][ctx.batch['source_label']]
        lam = mix.beta(ctx.rng, alpha, 1.0, label_t.shape)
        image_mix = mix.blend(lam, image_t, ctx.batch['source_image'])
        out, model_state = net.apply(ctx.variables(params), image_mix, train=True)
        if labels == 'two_heads':
            ce_t = losses.cross_entropy(out.logits['target'], label_t)
            ce_s = losses.cross_entropy(out.logits['source'], label_s)
        else:
            ce_t = losses.cross_entropy(out.logits['joint'], label_t)
            ce_s = losses.cross_entropy(out.logits['joint'], classes_t + label_s)
        metrics = {'target_ce': ce_t.mean(), 'source_ce': ce_s.mean()}
        return (lam * ce_t + (1 - lam) * ce_s).mean(), Aux(model_state, metrics)

    def predict(out: Out) -> Array:
        return out.logits['target'] if labels == 'two_heads' else out.logits['joint'][:, :classes_t]

    return Method(loss, prepare=prepare, heads=heads, predict=predict)


def segments(data: Data, pairs: pairing.Pairs) -> Segments:
    """One segment a round for each target class: all source rows of the class it is paired with."""
    assert data.source is not None
    rounds, c = pairs.mapping.shape
    by_class = [np.flatnonzero(data.source.labels == s) for s in pairs.mapping.T.ravel()]
    count = np.array([len(rows) for rows in by_class])
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    return Segments(
        rows=np.concatenate(by_class).astype(np.int32),
        start=start.reshape(c, rounds).astype(np.int32),
        count=count.reshape(c, rounds).astype(np.int32),
        rounds=np.full(c, rounds, np.int32),
        score=pairs.score.T,
    )
