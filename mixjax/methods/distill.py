"""Distillation: the predictions of another network as soft labels (Hinton et al. 2015,
https://arxiv.org/abs/1503.02531).

    L = T^2 mean_B KL(p_T || q_T) + hard_weight mean_B CE(z, y),   p_T = softmax(z_teacher / T),   q_T = softmax(z / T)

T^2 keeps the size of the soft term's gradient when T changes. T = 2 and hard_weight = 0.5 are the values of the paper's
speech experiment. The teacher is constant and in eval mode; it sees each image as the student does, augmented and
perhaps mixed, but with the colours and size that it was trained with.

`teacher` names a finished run, or other weights with a classifier of the target classes, as `config.model.weights`
does. Its variables are kept with the run (`prepare`), once a seed. Without a name the teacher is the pretrained network
itself with a linear probe, a logistic regression of the labels on its features (standardised, with the penalty
||W||^2 / 2 beside the sum of cross-entropies). That teacher knows no more than the labels and the pretrained network
do, and keeps the student near to what they say together; a better network is a better teacher.
"""

from __future__ import annotations

from functools import cache

import jax
import numpy as np

from mixjax import losses, models
from mixjax.errors import require
from mixjax.maths import probe as probes
from mixjax.method import Array, Aux, Ctx, Data, Method, Net, Prepared, Tree


def make(
    classes_t: int, *, teacher: str = '', network: str = '', temperature: float = 2.0, hard_weight: float = 0.5
) -> Method:
    """Make distillation.

    Args:
      classes_t: number of target classes.
      teacher: a finished run or other weights, as in `config.model.weights`; '' is a probe on the pretrained network.
      network: name of the teacher's network, for weights that do not say it; those of mixjax do.
      temperature: T.
      hard_weight: weight of the cross-entropy with the labels.
    """
    require(temperature > 0, f'temperature must be above 0, not {temperature}')
    require(hard_weight >= 0, f'hard_weight must be at least 0, not {hard_weight}')

    @cache
    def read(classes: tuple[str, ...] = ()) -> models.Model:
        """Read the teacher when it is first needed, perhaps in a trace: a trained student is used without it."""
        with jax.ensure_compile_time_eval():
            return models.read(teacher, network, classes=classes)

    def prepare(net: Net, data: Data, rng: Array) -> Prepared:
        del rng
        if teacher:
            found = read(data.target.classes)
            return Prepared({'teacher': jax.tree.map(np.asarray, found.variables)})
        net.pretrained()  # raises without weights
        examples = probes.examples(data.target.features(), data.target.labels, classes_t)
        fitted = probes.fit(probes.Logistic(standardize=True), examples, 1.0)
        assert isinstance(fitted, probes.Linear)
        return Prepared({'teacher': {'kernel': np.asarray(fitted.kernel), 'bias': np.asarray(fitted.bias)}})

    def predicted(net: Net, ctx: Ctx) -> Array:
        """Return the teacher's logits, (B, classes_t)."""
        image, frozen = ctx.batch['image'], ctx.frozen['teacher']
        if not teacher:
            return net.source(image).features @ frozen['kernel'] + frozen['bias']
        own = read()
        out, _ = own.net.apply(frozen, own.prepared(image, ctx.run), train=False)
        return out.logits['target']

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        z, z_teacher = out.logits['target'], jax.lax.stop_gradient(predicted(net, ctx))
        gap = losses.divergence(z_teacher / temperature, z / temperature).mean()
        ce = losses.cross_entropy(z, ctx.batch['label']).mean()
        total = temperature**2 * gap + hard_weight * ce
        return total, Aux(model_state, {'ce': ce, 'divergence': gap})

    return Method(loss, prepare=prepare, soft_labels=True)
