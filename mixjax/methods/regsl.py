"""RegSL: regularised self-labelling (Li & Zhang 2021, https://arxiv.org/abs/2111.04578).

Two components. Weights stay near their pretrained values: after each step each kernel of stage i and, channel
by channel, each BatchNorm multiplier is projected into the ball of radius k_i around its start, and the
classifier's kernel into one of radius `head_distance` around 0:

    k = distance * (1, 1, scale, scale^2, ..)    w <- w0 + (w - w0) min(1, k_i / ||w - w0||)

`form='penalty'` adds weight * (1, 1, scale, ..)_i ||w - w0||^2 to the loss instead; `norm='row'` measures
the L1 norm of each output channel. The stem and all biases are free. With `self_label` the labels are
corrected too: from epoch `adaptive_epoch` on a batch's losses l are weighted, and from `correct_epoch` on a stored
label that the network contradicts with a probability above `threshold` is overwritten, before the loss:

    L = sum_B softmax_B(-l / temp) l,    temp falls from `temperature` to its half after `adaptive_epoch`

As released, `self_label` is off: the commands for clean data use the constraint alone, the paper's RegSL has both.
Each of seven data sets has a separate (distance, head_distance, scale); the defaults are MIT-Indoor's, the median of
the seven in the first and the last. For the penalty no weights were published; 0.01 is L2-SP's. The authors
train with Adam (AMSGrad, 1e-4, no decay). The mathematics is in `mixjax.maths.regsl`.
"""

from __future__ import annotations

import jax.numpy as jnp

from mixjax import losses
from mixjax.errors import require
from mixjax.maths import regsl as regsl_lib
from mixjax.method import Array, Aux, Ctx, Data, Method, Net, Prepared, Tree


def make(
    classes_t: int,
    *,
    distance: float = 0.1368,
    head_distance: float = 6.408,
    scale: float = 2.529,
    norm: str = 'frobenius',
    form: str = 'projection',
    weight: float = 0.01,
    head_weight: float = 0.01,
    self_label: bool = False,
    adaptive_epoch: int = 5,
    correct_epoch: int = 10,
    temperature: float = 2.0,
    threshold: float = 0.9,
) -> Method:
    """Make RegSL.

    Args:
      classes_t: number of target classes.
      distance, head_distance: radii of the trunk's first stages and of the classifier.
      scale: growth of the radius, or of the weight of the penalty, from stage to stage.
      norm: 'frobenius', or 'row' for the L1 norm of each output channel.
      form: 'projection', 'penalty' or 'none'.
      weight, head_weight: weights of the penalty for the trunk and the classifier.
      self_label: whether to weigh examples and correct labels.
      adaptive_epoch, correct_epoch: the epochs from which on examples are weighed and labels corrected.
      temperature: temperature of the weights.
      threshold: probability above which a contradicted label is corrected.
    """
    del classes_t
    require(norm in ('frobenius', 'row'), f"norm must be 'frobenius' or 'row', not {norm!r}")
    require(form in ('projection', 'penalty', 'none'), f"form must be 'projection', 'penalty' or 'none', not {form!r}")
    require(min(distance, head_distance) >= 0, 'distance and head_distance must be at least 0')
    require(min(weight, head_weight) >= 0 and scale > 0, 'weight and head_weight must be at least 0, scale above 0')
    require(temperature > 0, f'temperature must be above 0, not {temperature}')
    require(0 < threshold <= 1, f'threshold must be above 0 and at most 1, not {threshold}')

    def init(net: Net, params: Tree, prepared: Prepared, data: Data) -> Tree:
        del params, prepared
        if form != 'none':
            net.pretrained()  # raises if there is none
        return {'label': jnp.asarray(data.target.labels, jnp.int32)} if self_label else ()

    def doubted(logits: Array, ctx: Ctx) -> tuple[Array, Tree, dict[str, Array]]:
        """Return the batch's loss with self-labelling, the state after it, and metrics."""
        index, stored = ctx.batch['index'], ctx.state['label']
        epoch = regsl_lib.epoch(ctx.step, ctx.run.steps_per_epoch)
        corrected = regsl_lib.correct(stored, index, logits, threshold)
        stored = jnp.where(epoch >= correct_epoch, corrected, stored)
        per_example = losses.cross_entropy(logits, stored[index])
        heat = regsl_lib.temperature(epoch, temperature, adaptive_epoch)
        adaptive = regsl_lib.adaptive_weights(per_example, heat)
        weights = jnp.where(epoch >= adaptive_epoch, adaptive, 1 / len(per_example))
        metrics = {'relabelled': (stored[index] != ctx.batch['label']).mean()}
        return (weights * per_example).sum(), {'label': stored}, metrics

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
        logits, state, metrics = out.logits['target'], (), {}
        if self_label:
            total, state, metrics = doubted(logits, ctx)
        else:
            total = losses.cross_entropy(logits, ctx.batch['label']).mean()
        if form == 'penalty':
            weights = regsl_lib.parts(params, weight, head_weight, scale, group=net.group)
            terms = regsl_lib.penalty(params, net.pretrained()['params'], weights, norm, group=net.group)
            metrics = {**metrics, 'target_ce': total, 'penalty': sum(terms.values())}
            total = total + metrics['penalty']
        return total, Aux(model_state, metrics, state)

    def after_step(net: Net, old: Tree, new: Tree, aux: Aux, ctx: Ctx) -> tuple[Tree, Tree]:
        del old, ctx
        if form != 'projection':
            return new, aux.carry
        start = net.pretrained()
        radius = regsl_lib.parts(new, distance, head_distance, scale, group=net.group)
        stats, stats0 = aux.model_state.get('batch_stats', {}), start.get('batch_stats', {})
        return regsl_lib.project(new, start['params'], stats, stats0, radius, norm, group=net.group), aux.carry

    # With self-labelling, examples are weighted by a softmax over the batch, and labels are stored as integers.
    return Method(loss, after_step=after_step, init=init, whole_batch=self_label, soft_labels=not self_label)
