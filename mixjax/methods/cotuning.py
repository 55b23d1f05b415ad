"""Co-Tuning (You et al. 2020,
https://proceedings.nips.cc/paper_files/paper/2020/hash/c8067ad1937f728f51288b3eb986afaa-Abstract.html).

The pretrained classifier stays as a second head z_s, and learns for each target class y the source classes
that it resembles, R_y = p(y_s | y_t = y), estimated before training from the pretrained network's predictions:

    L = mean CE(z_t, y) + weight mean_B sum_k -R[y, k] log softmax(z_s)_k

`relation='reverse'` fits p(y_t | y_s) on the labelled examples and turns it around; `'direct'` takes the
mean prediction on each class (`mixjax.maths.class_relation`). A prediction is softmax(s z_s), with s calibrated on at
most `per_class` source images of each class; `calibration` gives s itself (released code: 0.8840456604957581, for
torchvision's ResNet-50; Transfer Learning Library: 1, none).

Not as released: the reverse form chooses its regularisation and scale on a validation set. Here that is the
share `val` of each class's labelled examples, at least one, and training still uses all of them. The
regressions are solved to the end; the released solver stops early (2e-3 in R). As released: trunk and source
head learn at a tenth of the target head's rate (`trunk_factor`); only the marginal of y_s enters R.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from mixjax import losses
from mixjax.errors import UserError, require
from mixjax.maths import class_relation as relation_lib
from mixjax.method import Array, Aux, Ctx, Data, Head, Method, Net, Prepared, Tree
from mixjax.models.net import NO_CLASSIFIER

BATCH = 100  # images in one pass of the pretrained network


def make(
    classes_t: int,
    *,
    weight: float = 2.3,
    relation: str = 'reverse',
    calibration: float = 0.0,
    per_class: int = 50,
    val: float = 1 / 3,
    trunk_factor: float = 0.1,
) -> Method:
    """Make Co-Tuning.

    Args:
      classes_t: number of target classes.
      weight: weight of the source classifier's term.
      relation: 'reverse' or 'direct', the estimate of p(y_s | y_t).
      calibration: the scale s of the source logits; 0 calibrates it.
      per_class: maximum number of source images of each class for the calibration.
      val: share of the labelled examples for choosing the regularisation of 'reverse'.
      trunk_factor: learning rate of trunk and source head relative to the target head's.
    """
    require(relation in ('reverse', 'direct'), f"relation must be 'reverse' or 'direct', not {relation!r}")
    require(min(weight, calibration, trunk_factor) >= 0, 'weight, calibration and trunk_factor must be at least 0')
    require(per_class >= 1, f'per_class must be at least 1, not {per_class}')
    require(0 < val < 1, f'val must be above 0 and below 1, not {val}')

    def prepare(net: Net, data: Data, rng: Array) -> Prepared:
        labels = data.target.labels
        # Refuse impossible data before anything is computed.
        held = np.zeros(len(labels), bool)
        if relation == 'reverse':
            held = relation_lib.held_out(labels, classes_t, val, rng)
        if not calibration and data.source is None:
            raise UserError(
                'the pretrained classifier is calibrated on source images: set config.source.name, '
                'or give config.method.calibration a number (1: trust the classifier as it is)'
            )
        scale = calibration
        if not calibration and data.source is not None:
            scale = relation_lib.calibrate(*source_logits(net, data.source.batches(BATCH, per_class=per_class)))
        prob = relation_lib.softmax(scale * source_logits(net, data.target.batches(BATCH))[0])
        if relation == 'direct':
            return Prepared({'relation': relation_lib.direct(prob, labels, classes_t)}, notes={'calibration': scale})
        found = relation_lib.reverse_fit(prob[~held], labels[~held], prob[held], labels[held], classes_t)
        notes = {
            'calibration': scale,
            'C': relation_lib.GRID[found.chosen],
            'scale': found.scale,
            'validation accuracy': float(found.accuracy[found.chosen]),
        }
        return Prepared({'relation': found.relation}, notes=notes)

    def heads(classes_t: int, classes_s: int, prepared: Prepared) -> dict[str, Head]:
        del prepared
        return {'target': Head(classes_t, std=0.01), 'source': Head(classes_s, rows=np.arange(classes_s))}

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        label = ctx.batch['label']
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        z_s = out.logits['source']
        target_ce = losses.cross_entropy(out.logits['target'], label).mean()
        relation = losses.label_rows(ctx.frozen['relation'].astype(z_s.dtype), label)
        source_ce = losses.soft_cross_entropy(z_s, relation).mean()
        return target_ce + weight * source_ce, Aux(model_state, {'target_ce': target_ce, 'source_ce': source_ce})

    slow = (trunk_factor, 1.0)
    return Method(loss, prepare=prepare, heads=heads, groups={'trunk': slow, 'head:source': slow}, soft_labels=True)


def source_logits(net: Net, batches: Iterator[dict[str, Array]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the source logits of the pretrained network, (n, m), and the labels, (n,)."""
    logits, labels = [], []
    for batch in batches:
        n = len(batch['label'])
        filled = jnp.pad(batch['image'], [(0, BATCH - n), (0, 0), (0, 0), (0, 0)])  # one shape, one compilation
        found = net.source(filled).logits
        require('source' in found, f'this method needs the pretrained classifier, {NO_CLASSIFIER}')
        logits.append(np.asarray(found['source'])[:n])
        labels.append(np.asarray(batch['label']))
    return np.concatenate(logits), np.concatenate(labels)
