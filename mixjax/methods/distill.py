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
import jax.numpy as jnp
import numpy as np
import optax

from mixjax import losses, models
from mixjax.errors import require
from mixjax.method import Array, Aux, Ctx, Data, Method, Net, Prepared, Tree
from mixjax.methods._passes import passed

STEPS = 100  # of the probe's L-BFGS


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
        features = passed(lambda image: net.source(image).features, data.target)
        return Prepared({'teacher': probe(features, data.target.labels, classes_t)})

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


def probe(x: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, np.ndarray]:
    """Return a classifier {'kernel': (d, classes), 'bias': (classes,)}, fitted to features (n, d).

    It minimises sum_i CE(W^T s(x_i) + b, y_i) + ||W||^2 / 2, s(x) the features with mean 0 and standard deviation 1.
    """
    mean, std = x.mean(axis=0), x.std(axis=0)
    std = np.where(std > 0, std, 1)
    shown, y = jnp.asarray((x - mean) / std, jnp.float32), jnp.asarray(labels)

    def objective(weights: Tree) -> Array:
        ce = losses.cross_entropy(shown @ weights['kernel'] + weights['bias'], y)
        return (ce.sum() + losses.squared_norm(weights['kernel']) / 2) / len(y)

    tx = optax.lbfgs()
    both = optax.value_and_grad_from_state(objective)

    def step(at: tuple[Tree, Tree], _: None) -> tuple[tuple[Tree, Tree], None]:
        weights, state = at
        value, grad = both(weights, state=state)
        updates, state = tx.update(grad, state, weights, value=value, grad=grad, value_fn=objective)
        return (optax.apply_updates(weights, updates), state), None

    begin = {'kernel': jnp.zeros((x.shape[1], classes)), 'bias': jnp.zeros(classes)}
    (found, _), _ = jax.jit(lambda at: jax.lax.scan(step, at, None, length=STEPS))((begin, tx.init(begin)))
    kernel = np.asarray(found['kernel'], np.float64) / std[:, None]
    bias = np.asarray(found['bias'], np.float64) - mean @ kernel
    return {'kernel': kernel.astype(np.float32), 'bias': bias.astype(np.float32)}
