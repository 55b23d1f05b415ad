"""Self-training: an ensemble labels the unlabelled images, and the network learns from them too (Zhang et al. 2025,
https://arxiv.org/abs/2503.09707).

Before training, each member k of an ensemble gives class probabilities of every unlabelled image u:

    t(u) = mean_k p_k(u)
    L    = mean_B CE(z(x), y) + weight mean_{mu B} sum_c -t_c(u) log softmax(z(u))_c

`labels='hard'` replaces t by its largest class. Images whose largest t is below `threshold` are left out, and count as
0 in the mean. Zhang et al. find that different pretrained networks, each fine-tuned on the labels in several ways, give
better pseudo-labels together than one of them: `teachers` names finished runs on the same classes.

Without teachers the members are linear probes on the features of the pretrained network: ridge regressions of the
one-hot label, each on another bootstrap sample of every class's images, another random half of the features and one of
three strengths. A probe votes for one class, so t is the share of the votes: scores of a regression are no
probabilities, and so all members count alike. Where they disagree the label is soft, so the threshold is 0 by default.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import numpy as np

from mixjax import losses, models
from mixjax.errors import UserError, require
from mixjax.method import Array, Aux, Ctx, Data, Method, Net, Prepared, Tree, View
from mixjax.methods._passes import passed
from mixjax.methods._side_by_side import apart, together

STRENGTHS = (0.01, 0.1, 1.0)  # of the probes, relative to the mean variance of a feature


def make(
    classes_t: int,
    *,
    teachers: str = '',
    members: int = 30,
    labels: str = 'soft',
    threshold: float = 0.0,
    weight: float = 1.0,
    mu: int = 1,
) -> Method:
    """Make self-training.

    Args:
      classes_t: number of target classes.
      teachers: finished runs or other weights with a classifier of the target classes, separated by commas, as in
        `config.model.weights`; '' takes linear probes.
      members: number of probes.
      labels: 'soft' or 'hard' pseudo-labels.
      threshold: the smallest probability of a pseudo-label.
      weight: weight of the unlabelled images.
      mu: number of unlabelled images for each labelled one.
    """
    require(members >= 1 and mu >= 1, f'members and mu must be at least 1, not {members} and {mu}')
    require(labels in ('soft', 'hard'), f"labels must be 'soft' or 'hard', not {labels!r}")
    require(0 <= threshold <= 1, f'threshold must be between 0 and 1, not {threshold}')
    require(weight >= 0, f'weight must be at least 0, not {weight}')
    specs = [spec.strip() for spec in teachers.split(',') if spec.strip()]

    def prepare(net: Net, data: Data, rng: Array) -> Prepared:
        if data.unlabelled is None:
            raise UserError('this method labels unlabelled images: set config.unlabelled.name')
        opinions = of_teachers(specs, data) if specs else of_probes(net, data, members, rng)
        pseudo = np.mean(list(opinions), axis=0)
        best = pseudo.max(axis=1)
        if labels == 'hard':
            pseudo = np.eye(classes_t)[pseudo.argmax(axis=1)]
        kept = best >= threshold
        notes = {'agreement': float(best.mean()), 'pseudo-labelled': float(kept.mean())}
        return Prepared({'pseudo': np.where(kept[:, None], pseudo, 0).astype(np.float32)}, notes=notes)

    def loss(net: Net, params: Tree, ctx: Ctx) -> tuple[Array, Aux]:
        batch = ctx.batch
        images = together(batch['image'], batch['more'])
        out, model_state = net.apply(ctx.variables(params), images, train=True)
        z, z_more = apart(out.logits['target'], 1, mu)
        ce = losses.cross_entropy(z, batch['label']).mean()
        pseudo = ctx.frozen['pseudo'][batch['unlabelled_index']].astype(z_more.dtype)
        pseudo_ce = losses.soft_cross_entropy(z_more, pseudo).mean()
        return ce + weight * pseudo_ce, Aux(model_state, {'ce': ce, 'pseudo_ce': pseudo_ce})

    return Method(loss, prepare=prepare, views={'more': View('unlabelled')}, unlabelled=mu, soft_labels=True)


def of_teachers(specs: list[str], data: Data) -> Iterator[np.ndarray]:
    """Yield for each teacher its probabilities of the unlabelled images, (n, classes)."""
    assert data.unlabelled is not None
    for spec in specs:
        teacher = models.read(spec, classes=data.target.classes)

        @jax.jit
        def predicted(image: Array, teacher: models.Model = teacher) -> Array:
            own = teacher.prepared(image, data)
            out, _ = teacher.net.apply(teacher.variables, own, train=False)
            return jax.nn.softmax(out.logits['target'])

        yield passed(predicted, data.unlabelled)


def of_probes(net: Net, data: Data, members: int, rng: Array) -> Iterator[np.ndarray]:
    """Yield for each linear probe its votes for the classes of the unlabelled images, one-hot (n, classes)."""
    assert data.unlabelled is not None
    classes, labels = len(data.target.classes), data.target.labels
    net.pretrained()  # raises without weights
    known, more = (part.features().astype(np.float64) for part in (data.target, data.unlabelled))
    random = np.random.RandomState(np.asarray(jax.random.bits(rng, (4,), 'uint32')))
    for member in range(members):
        own = [random.choice(rows, len(rows)) for c in range(classes) if len(rows := np.flatnonzero(labels == c))]
        rows = np.concatenate(own)
        columns = random.permutation(known.shape[1])[: max(1, known.shape[1] // 2)]
        score = ridge(known[rows][:, columns], np.eye(classes)[labels[rows]], more[:, columns], STRENGTHS[member % 3])
        yield np.eye(classes)[score.argmax(axis=1)]


def ridge(x: np.ndarray, y: np.ndarray, more: np.ndarray, strength: float) -> np.ndarray:
    """Return the predictions of a ridge regression with intercept.

    Args:
      x: (n, d) features. y: (n, c) targets.
      more: (m, d) features to predict at.
      strength: the weight of the penalty on the squared weights, relative to n times the mean variance of a feature.

    Returns:
      (m, c)
    """
    mean, middle = x.mean(axis=0), y.mean(axis=0)
    centred = x - mean
    gram = centred.T @ centred
    penalty = strength * np.trace(gram) / len(gram) or 1.0  # features without variance: any penalty gives weights of 0
    return (more - mean) @ np.linalg.solve(gram + penalty * np.eye(len(gram)), centred.T @ (y - middle)) + middle

