"""SMILE: sample-to-feature mixup (Li et al., https://arxiv.org/abs/2103.13941).

The student f sees mixed images; its features are drawn to the mix of an EMA teacher's features of the
unmixed images, and a second head, on the source classes, to the mix of the teacher's source labels:

    x   = lam x_i + (1 - lam) x_j,   lam ~ Beta(alpha, alpha), folded to [1/2, 1]
    L   = lam CE(z_t, y_i) + (1 - lam) CE(z_t, y_j)
        + w_f || lam G(x_i) + (1 - lam) G(x_j) - F(x) ||_2 / (h w)
        + w_s ( lam CE(z_s, s_i) + (1 - lam) CE(z_s, s_j) ),   s = softmax of the teacher's source logits

The teacher starts as the pretrained network and runs in eval mode. Every `ema_every` steps its
parameters become `ema` old + (1 - `ema`) student; its classifier and its BatchNorm statistics always stay
the pretrained ones. The source head starts as a copy of the pretrained classifier.

As released, and kept here: the average is taken with the student's weights of *before* the step, at
steps 0, 10, 20 ..; the feature norm is one unsquared norm over the whole map before pooling
(`feature='map'`). The paper's text has "feature vector": `feature='vector'` takes the pooled one. Any
other map goes by its name: with an EfficientNet the released code takes the last block's, `stage7`.
The weights 0.01 and 0.1 are the code's; the paper gives none.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import losses, mix
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Data, Head, Method, Net, Prepared, Tree
from mixjax.models.net import NO_CLASSIFIER, Out


def make(
    classes_t: int,
    *,
    alpha: float = 0.2,
    feature_weight: float = 0.01,
    source_weight: float = 0.1,
    ema: float = 0.999,
    ema_every: int = 10,
    feature: str = 'map',
) -> Method:
    """Make SMILE.

    Args:
      classes_t: number of target classes.
      alpha: lam ~ Beta(alpha, alpha).
      feature_weight, source_weight: the weights w_f and w_s.
      ema: decay of the teacher's average.
      ema_every: number of steps between two updates of the teacher.
      feature: 'map' before pooling, 'vector' after it, or the name of another map.
    """
    require(alpha > 0, f'alpha must be above 0, not {alpha}')
    require(min(feature_weight, source_weight) >= 0, 'feature_weight and source_weight must be at least 0')
    require(0 <= ema <= 1 and ema_every >= 1, 'ema must be between 0 and 1, and ema_every at least 1')

    def shown(out: Out) -> Array:
        named = {**out.maps, 'map': out.maps['last'], 'vector': out.features}
        known = ', '.join(sorted(named))
        require(feature in named, f'feature must be one of {known}, not {feature!r}')
        found = named[feature]
        return found.astype(jnp.promote_types(found.dtype, jnp.float32))

    def heads(classes_t: int, classes_s: int, prepared: Prepared) -> dict[str, Head]:
        del prepared
        if not classes_s and not source_weight:  # self-supervised weights
            return {'target': Head(classes_t)}
        return {'target': Head(classes_t), 'source': Head(classes_s, rows=np.arange(classes_s))}

    def init(net: Net, params: Tree, prepared: Prepared, data: Data) -> Tree:
        del params, prepared, data
        teacher = net.pretrained()['params']
        if source_weight:
            has = 'source' in teacher['heads']
            way = f'{NO_CLASSIFIER}; or set source_weight to 0'
            require(has, f'this method needs the pretrained classifier, {way}')
        return {'teacher': teacher}

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        image, label, partner = ctx.batch['image'], ctx.batch['label'], ctx.batch['partner']
        lam = mix.fold(mix.beta(ctx.rng, alpha, alpha))

        # The state and statistics of the pretrained network, so that they never move.
        teacher_variables = {**net.pretrained(), 'params': ctx.state['teacher']}
        teacher, _ = net.apply(teacher_variables, image, train=False)
        feature_t = jax.lax.stop_gradient(shown(teacher))

        image_mix = mix.blend(lam, image, mix.partner(image, partner))
        student, model_state = net.apply(ctx.variables(params), image_mix, train=True)

        target_ce = losses.mixed_cross_entropy(student.logits['target'], label, mix.partner(label, partner), lam).mean()
        feature_mix = mix.blend(lam, feature_t, mix.partner(feature_t, partner))
        feature_loss = losses.feature_mixup(shown(student), feature_mix)
        source_ce = jnp.zeros(())
        if 'source' in student.logits:
            source_t = jax.lax.stop_gradient(jax.nn.softmax(teacher.logits['source']))
            source_mix = mix.blend(lam, source_t, mix.partner(source_t, partner))
            source_ce = losses.soft_cross_entropy(student.logits['source'], source_mix).mean()

        total = target_ce + feature_weight * feature_loss + source_weight * source_ce
        metrics = {'lam': lam, 'target_ce': target_ce, 'feature': feature_loss, 'source_ce': source_ce}
        return total, Aux(model_state, metrics)

    def after_step(net: Net, old: Tree, new: Tree, aux: Aux, ctx: Ctx) -> tuple[Tree, Tree]:
        del net, aux
        teacher = ctx.state['teacher']
        due = ctx.step % ema_every == 0
        # `where`, not `cond`: an elementwise pass that fuses with the optimiser's.
        moved = jax.tree.map(
            lambda t, s: jnp.where(due, ema * t + (1 - ema) * s, t), teacher['backbone'], old['backbone']
        )
        return new, {'teacher': {**teacher, 'backbone': moved}}

    # The feature term is a norm of the whole batch's features.
    return Method(loss, after_step=after_step, heads=heads, init=init, whole_batch=feature_weight > 0)
