"""A probe: a classifier on the features of the frozen pretrained network; nothing else is trained.

    logistic   W = argmin sum_i CE(W^T x_i + b, y_i) + ||W||^2 / (2 C)
    means      the nearest class mean, as a linear classifier
    knn        each of the k nearest examples votes for its class with the weight exp(cos / temperature)

x are the pooled features of the centre crop, without augmentation, in eval mode, computed once and kept. C is chosen by
cross-validation on the labelled examples, with the highest accuracy, of equal ones the lowest log loss; the whole path
of strengths and all folds are one program (`mixjax.maths.probe`). The classifier becomes the network's head, so what is
exported is an ordinary network.

This is the linear evaluation of DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193) and scikit-learn's
`LogisticRegressionCV`; k = 20 and the temperature 0.07 are DINO's (Caron et al. 2021,
https://arxiv.org/abs/2104.14294).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import losses
from mixjax.errors import require
from mixjax.maths import probe as probes
from mixjax.method import Array, Aux, Ctx, Data, Head, Method, Net, Prepared, Tree
from mixjax.models.net import Out

NEVER = -1e30  # the bias of a place in the head of the neighbours without an example


def make(
    classes_t: int,
    *,
    kind: str = 'logistic',
    strength: float = 0.0,
    folds: int = 5,
    repeats: int = 3,
    standardize: bool = True,
    k: int = 20,
    temperature: float = 0.07,
) -> Method:
    """Make a probe.

    Args:
      classes_t: number of target classes.
      kind: 'logistic', 'means' or 'knn'.
      strength: C of the logistic regression, or the scale of the class means; 0 chooses it by cross-validation.
      folds, repeats: number of folds, and of times that they are drawn anew: one draw says little of few labels.
      standardize: whether features are divided by their standard deviation before they are fitted.
      k, temperature: number of neighbours, and temperature of their votes, for 'knn'.
    """
    require(kind in probes.KINDS, f'kind must be one of {", ".join(probes.KINDS)}, not {kind!r}')
    require(0 <= strength < math.inf, f'strength must be at least 0, not {strength}')
    require(folds >= 2 and repeats >= 1, f'there must be at least 2 folds and 1 repeat, not {folds} and {repeats}')
    require(k >= 1 and temperature > 0, f'k must be at least 1 and temperature above 0, not {k} and {temperature}')

    def prepare(net: Net, data: Data, rng: Array) -> Prepared:
        net.pretrained()  # raises without weights: random features are no start
        examples = probes.examples(data.target.features(), data.target.labels, classes_t)
        held = probes.folds(data.target.labels, folds, rng=rng, repeats=repeats)
        settings = probes.of_kind(kind, k if kind == 'knn' else strength, standardize=standardize)
        if isinstance(settings, probes.Neighbours):
            settings = settings._replace(temperature=temperature)
        found = probes.cross_validate(settings, examples, held)
        name = {'logistic': 'C', 'means': 'scale', 'knn': 'k'}[kind]
        notes = {name: found.best}
        if found.folds:
            notes |= {'cv_accuracy': found.score[0], 'cv_loss': -found.score[1]}
        if kind == 'knn':
            return Prepared(neighbours(examples, classes_t), notes=notes)
        fitted = probes.fit(settings, examples, found.best)
        assert isinstance(fitted, probes.Linear)
        return Prepared({'kernel': np.asarray(fitted.kernel), 'bias': np.asarray(fitted.bias)}, notes=notes)

    def heads(classes_t: int, classes_s: int, prepared: Prepared) -> dict[str, Head]:
        del classes_t, classes_s
        kernel, bias = (prepared.frozen[name] for name in ('kernel', 'bias'))
        return {'neighbours' if kind == 'knn' else 'target': Head(len(bias), kernel=kernel, bias=bias)}

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        out, _ = net.apply(ctx.variables(params), ctx.batch['image'], train=False)
        return losses.cross_entropy(predict(out), ctx.batch['label']).mean(), Aux(ctx.model_state)

    def predict(out: Out) -> Array:
        return votes(out, classes_t, k, temperature) if kind == 'knn' else out.logits['target']

    return Method(loss, prepare=prepare, heads=heads, predict=predict, trains=False)


def neighbours(examples: probes.Examples, classes: int) -> dict[str, np.ndarray]:
    """Return the examples as a head: kernel (d, classes * m), bias (classes * m,).

    The columns are the features of the examples at length 1, those of each class side by side: m of them, the number of
    the largest class. A column without an example has the bias `NEVER`.
    """
    features, labels = np.asarray(examples.features), np.asarray(examples.targets).argmax(1)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    features = features / np.where(lengths > 0, lengths, 1)
    most = int(np.bincount(labels, minlength=classes).max())
    kernel = np.zeros((features.shape[1], classes, most), np.float32)
    bias = np.full((classes, most), NEVER, np.float32)
    for label in range(classes):
        mine = features[labels == label]
        kernel[:, label, : len(mine)], bias[label, : len(mine)] = mine.T, 0
    return {'kernel': kernel.reshape(len(kernel), -1), 'bias': bias.ravel()}


def votes(out: Out, classes: int, k: int, temperature: float) -> Array:
    """Return the log of each class's share of the votes: (B, classes).

    The share is mixed with 0.001 of the uniform distribution, since a class may have no vote.
    """
    found = out.logits['neighbours']
    lengths = jnp.linalg.norm(out.features.astype(found.dtype), axis=-1, keepdims=True)
    similar = jnp.where(found <= NEVER / 2, -jnp.inf, found / jnp.where(lengths > 0, lengths, 1))
    nearest, places = jax.lax.top_k(similar, min(k, found.shape[-1]))
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
    owners = jax.nn.one_hot(places // (found.shape[-1] // classes), classes, dtype=found.dtype)
    share = jnp.einsum('bk,bkc->bc', weights, owners) / weights.sum(-1, keepdims=True)
    return jnp.log((1 - probes.FLOOR) * share + probes.FLOOR / classes)
