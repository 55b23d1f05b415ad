"""A method with all that its loss is called with: a bound network, parameters, a batch; no trainer is needed."""

from functools import lru_cache
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mixjax.config import method_registry
from mixjax.method import Ctx, Data, Part, Run
from mixjax.models import net as net_lib
from tests.support.common import tiny_net

CLASSES = 5
B = 16


@lru_cache
def drawn(key, head, width, dtype=jnp.float32):
    """Variables of a tiny network with one head, its statistics away from (0, 1)."""
    image = jax.random.normal(jax.random.key(key + 100), (B, 8, 8, 3))
    variables = tiny_net().init(jax.random.key(key), image, {head: width})
    _, state = jax.jit(lambda v, x: tiny_net().apply(v, x, train=True))(variables, image)
    return jax.tree.map(lambda x: x.astype(dtype), {'params': variables['params'], **state})


def setting(name, *, dtype=jnp.float32, groups=1, rng=0, moved=0.1, **knobs):
    """A method, a network bound to pretrained weights, parameters beside them, and a context for the loss."""
    method = method_registry.load(name)(CLASSES, **knobs)
    start = drawn(0, 'source', 7, dtype)
    net = net_lib.bind(tiny_net(), start)
    other = drawn(1, 'target', CLASSES, dtype)['params']
    trunk = jax.tree.map(lambda a, b: a + moved * b, start['params']['backbone'], other['backbone'])
    params = {'backbone': trunk, 'heads': other['heads']}
    keys = jax.random.split(jax.random.key(7), 3)
    size = B // groups
    batch = {
        'image': jax.random.normal(keys[0], (B, 8, 8, 3), dtype),
        'label': jax.random.randint(keys[1], (B,), 0, CLASSES),
        'index': jnp.arange(B),
        'partner': jnp.stack([jax.random.permutation(k, size) for k in jax.random.split(keys[2], groups)]),
    }
    more = method.unlabelled * B
    if more:
        batch['unlabelled_index'] = jnp.arange(more) % 7
    for i, (view, one) in enumerate(sorted(method.views.items())):
        count = more if one.of == 'unlabelled' else B
        batch[view] = jax.random.normal(jax.random.key(20 + i), (count, 8, 8, 3), dtype)
    state = {key: tree for key, tree in start.items() if key != 'params'}
    run = Run(total_steps=12, steps_per_epoch=3.0, mean=(0.5,), std=(0.5,))
    ctx = Ctx(state, (), (), batch, jax.random.key(rng), jnp.zeros((), jnp.int32), run)
    return SimpleNamespace(method=method, net=net, params=params, ctx=ctx, start=start)


def of(one):
    """(loss, aux, gradient), compiled."""

    @jax.jit
    def run(params, ctx):
        ctx = ctx._replace(run=one.ctx.run)  # Python numbers
        return jax.value_and_grad(lambda p: one.method.loss(one.net, p, ctx), has_aux=True)(params)

    (value, aux), grads = run(one.params, one.ctx._replace(run=None))
    return value, aux, grads


def assert_close(a, b, atol):
    """Two trees, leaf by leaf."""
    chex.assert_trees_all_close(a, b, rtol=0, atol=atol)


def part(count=40):
    """A target set of random images, as `prepare` sees it; `served` counts the batches taken of it."""
    images = jax.random.normal(jax.random.key(3), (count, 8, 8, 3))
    labels = np.arange(count) % CLASSES
    served = []

    def batches(size, augmented=False, per_class=None):
        assert augmented and per_class is None
        while True:
            rows = np.arange(len(served) * size, (len(served) + 1) * size) % count
            served.append(size)
            yield {'image': images[rows], 'label': jnp.asarray(labels[rows]), 'index': jnp.asarray(rows)}

    names = tuple('abcde')
    return Data(
        Part(names, labels, np.bincount(labels), batches, lambda per_class=None: np.zeros((CLASSES, 4)))
    ), served
