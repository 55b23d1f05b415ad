"""PuzzleMix's labelling problems, and a solver of them that shares nothing with mixjax's."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_flow

from mixjax.maths.puzzle import mincut, problem


def energy(costs, labels):
    """Four times the energy, as it is written down."""
    unary, down, right = (np.asarray(x, np.int64) for x in costs)
    labels = np.asarray(labels)
    shown = np.take_along_axis(unary, labels[..., None], -1).sum((1, 2, 3))
    vertical = (down * np.diff(labels, axis=1) ** 2).sum((1, 2))
    return 4 * shown + vertical + (right * np.diff(labels, axis=2) ** 2).sum((1, 2))


def least_energy(costs):
    """Four times the least energy, by a minimum cut with two nodes for each block: l >= 1 and l >= 2."""
    return np.array([_cut(*(np.asarray(x, np.int64) for x in one)) for one in zip(*costs, strict=True)])


def _cut(unary, down, right):
    h, w, _ = unary.shape
    one = np.arange(h * w).reshape(h, w)
    two, source, sink = one + h * w, 2 * h * w, 2 * h * w + 1
    edges = []

    def edge(a, b, capacity):
        edges.append([np.broadcast_to(x, capacity.shape).ravel() for x in (a, b, capacity)])

    edge(source, one, 4 * unary[..., 0])
    edge(one, two, 4 * unary[..., 1])
    edge(two, sink, 4 * unary[..., 2])
    edge(two, one, np.full((h, w), 4 * unary.sum()))  # l >= 2 and not l >= 1: never
    for a, b, weight in ((one[1:], one[:-1], down), (one[:, 1:], one[:, :-1], right)):
        for i, j in ((a, b), (b, a)):
            edge(i, j, weight)
            edge(i + h * w, j + h * w, weight)
            edge(i + h * w, j, 2 * weight)
    a, b, capacity = (np.concatenate(x) for x in zip(*edges, strict=True))
    graph = csr_matrix((capacity.astype(np.int32), (a, b)), shape=(2 * h * w + 2,) * 2)
    return maximum_flow(graph, source, sink).flow_value


def pictures(count, side, seed):
    """Smooth images in [0, 1], with 8 bits, and smooth saliencies, some of them concentrated."""
    rng = np.random.default_rng(seed)

    def smooth(channels):
        one = [gaussian_filter(rng.normal(size=(side, side)), rng.uniform(0.5, 4)) for _ in range(channels)]
        return np.stack(one, -1)

    image = np.stack([smooth(3) for _ in range(count)])
    low, high = image.min((1, 2, 3), keepdims=True), image.max((1, 2, 3), keepdims=True)
    image = np.round(255 * (image - low) / (high - low)) / 255
    u = [np.sqrt(np.square(smooth(3)).mean(-1)) * np.exp(rng.uniform(0, 10) * smooth(1)[..., 0]) for _ in range(count)]
    return image.astype(np.float32), np.stack(u).astype(np.float32)


def problems(count, n, seed, lam=None):
    """Labelling problems of the kind that PuzzleMix poses, each with a lam of its own."""
    image, u = pictures(2 * count, 32, seed)
    lams = np.random.default_rng(seed).uniform(size=count) if lam is None else np.full(count, lam)
    pooled = problem.normalised(problem.pool(jnp.asarray(u), 32 // n))
    beta = 1.2 / n / 16
    terms = problem.terms(
        image[:count],
        image[count:],
        pooled[:count],
        pooled[count:],
        neighbourhood=min(4, 32 // n),
        beta=beta,
        gamma=0.5,
    )
    each = jax.vmap(lambda t, lam: problem.costs(jax.tree.map(lambda x: x[None], t), lam, beta=beta, eta=0.2))
    return mincut.Costs(*(np.asarray(x[:, 0]) for x in each(terms, lams.astype(np.float32))))
