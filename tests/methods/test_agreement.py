"""Methods whose loss compares outputs of one batch: R-Drop and supervised contrastive fine-tuning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mixjax import losses
from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.methods import rdrop
from mixjax.models import net as net_lib
from mixjax.train import program, seeds
from tests.support.common import Tiny, assert_trees_equal, tiny_net
from tests.support.method_setting import CLASSES, B, assert_close, of, setting
from tests.support.toy import opened, settings, tiny, walk  # noqa: F401 (for every test: tiny)


@pytest.mark.parametrize(
    ('method', 'knob', 'value'),
    [
        ('rdrop', 'alpha', -1.0),
        ('rdrop', 'rate', 1.0),
        ('supcon', 'weight', 1.0),
        ('supcon', 'temperature', 0.0),
        ('supcon', 'projection', -1),
    ],
)
def test_impossible_values(method, knob, value):
    with pytest.raises(UserError, match=f'{knob}.* must be'):
        method_registry.load(method)(10, **{knob: value})


# --- R-Drop -----------------------------------------------------------------------------------------------------------


class Dropped(Tiny):
    """The tiny network with dropout of a half in front of its last stage."""

    @nn.compact
    def __call__(self, image, *, train, tap):
        image = nn.Dropout(0.5, deterministic=net_lib.dropout_off(self, train))(image)
        return Tiny.__call__(self, image, train=train, tap=tap)


def kl(p, q):
    return (p * (np.log(p) - np.log(q))).sum(axis=1)


def by_hand(one, alpha, first, second):
    label = np.asarray(one.ctx.batch['label'])
    p, q = (np.asarray(jax.nn.softmax(z), np.float64) for z in (first, second))
    rows = np.arange(B)
    ce = -(np.log(p[rows, label]) + np.log(q[rows, label])).mean() / 2
    gap = (kl(p, q) + kl(q, p)).mean() / 2
    return ce, gap, ce + alpha * gap


def masks(one, rate, d):
    return [np.asarray(jax.random.bernoulli(k, 1 - rate, (B, d))) / (1 - rate) for k in jax.random.split(one.ctx.rng)]


def test_rdrop_by_hand():
    one = setting('rdrop', alpha=0.8, rate=0.4)
    value, aux, _ = of(one)
    out, state = one.net.apply(one.ctx.variables(one.params), one.ctx.batch['image'], train=True)
    head = one.params['heads']['target']
    z = [(mask * out.features) @ head['kernel'] + head['bias'] for mask in masks(one, 0.4, out.features.shape[1])]
    ce, gap, expected = by_hand(one, 0.8, *z)
    assert gap > 1e-3
    np.testing.assert_allclose(aux.metrics['ce'], ce, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics['divergence'], gap, rtol=1e-4)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert_close(aux.model_state, state, 1e-6)


def test_rdrop_without_any_dropout_is_fine_tuning():
    one, plain = setting('rdrop', rate=0.0), setting('finetune')
    value, aux, grads = of(one)
    expected, _, of_plain = of(plain)
    assert float(aux.metrics['divergence']) == 0
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert_close(grads, of_plain, 1e-6)


def counted(net):
    """The net, and a list that grows by one at each forward pass in train mode that is computed."""
    seen = []

    def apply(variables, image, *, train, tap=net_lib.no_tap, rng=net_lib.BOUND):
        if train and rng is net_lib.BOUND:
            seen.append(1)
        return net.apply(variables, image, train=train, tap=tap, rng=rng)

    return net._replace(apply=apply), seen


def test_rdrop_passes_twice_only_through_a_network_with_dropout():
    one = setting('rdrop', rate=0.0, alpha=2.0)
    one.net, seen = counted(one.net)
    one.method.loss(one.net, one.params, one.ctx)
    assert len(seen) == 1
    keys = net_lib.call_keys(jax.random.key(5))
    net = net_lib.from_linen(Dropped(4))
    one.net, seen = counted(net_lib.bind(net, one.start, keys))
    value, aux = one.method.loss(one.net, one.params, one.ctx)
    assert len(seen) == 2
    again = net_lib.call_keys(jax.random.key(5))
    variables, image = one.ctx.variables(one.params), one.ctx.batch['image']
    z = [net.apply(variables, image, train=True, rng=again())[0].logits['target'] for _ in range(2)]
    ce, gap, expected = by_hand(one, 2.0, *z)
    assert gap > 1e-3
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@pytest.mark.parametrize(('net', 'has'), [(tiny_net(), False), (net_lib.from_linen(Dropped(4)), True)])
def test_a_network_with_dropout_is_known_by_its_trace(net, has):
    image = jnp.zeros((2, 8, 8, 3))
    variables = net.init(jax.random.key(0), image, {'target': 3})
    assert rdrop.has_dropout(net, variables, image) is has
    # The same inside of a transformation.
    assert jax.jit(jax.grad(lambda x: x.sum() * rdrop.has_dropout(net, variables, x)))(image).sum() == has * image.size


# --- supervised contrastive fine-tuning -------------------------------------------------------------------------------


def contrastive(features, label, temperature):
    """The loss of each anchor, in loops."""
    f = np.asarray(features, np.float64)
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    out = []
    for i in range(len(f)):
        others = [a for a in range(len(f)) if a != i]
        below = np.log(sum(np.exp(f[i] @ f[a] / temperature) for a in others))
        own = [f[i] @ f[p] / temperature - below for p in others if label[p] == label[i]]
        out.append(-np.mean(own) if own else 0.0)
    return np.array(out)


def test_contrastive_loss_of_three_examples():
    """Two of one class at a right angle, one of another opposite to the first."""
    features = jnp.array([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    found = losses.supervised_contrastive(features, jnp.array([0, 0, 1]), 0.5)
    # First: cosines 0 and -1, so log(1 + e^-2). Second: cosines 0 and 0, so log 2. Third: alone in its class.
    np.testing.assert_allclose(found, [np.log(1 + np.exp(-2)), np.log(2), 0], rtol=1e-5)


def test_contrastive_loss_by_loops():
    rng = np.random.RandomState(0)
    features, label = rng.normal(size=(9, 4)), np.array([0, 1, 0, 2, 1, 1, 0, 3, 2])
    with jax.enable_x64(True):
        found = losses.supervised_contrastive(jnp.asarray(features), jnp.asarray(label), 0.2)
    np.testing.assert_allclose(found, contrastive(features, label, 0.2), rtol=1e-9)


@pytest.mark.parametrize('features', [jnp.ones((1, 3)), jnp.zeros((4, 3)), jnp.ones((4, 3))])
@pytest.mark.parametrize('same', [True, False])
def test_contrastive_loss_is_finite_where_nothing_is_to_be_compared(features, same):
    label = jnp.zeros(len(features), int) if same else jnp.arange(len(features))
    value, grad = jax.value_and_grad(lambda x: losses.supervised_contrastive(x, label, 0.1).sum())(features)
    assert np.isfinite(value) and np.isfinite(grad).all()
    if not same:
        assert value == 0 and not grad.any()


def test_contrastive_loss_names_the_shapes_it_takes():
    with pytest.raises(AssertionError, match='class indices'):
        losses.supervised_contrastive(jnp.zeros((4, 3)), jnp.zeros((4, 5)))
    with pytest.raises(AssertionError, match=r'\(N, d\)'):
        losses.supervised_contrastive(jnp.zeros((4, 3, 2)), jnp.zeros(4, int))


def test_supcon_by_hand():
    one = setting('supcon', weight=0.4, temperature=0.5)
    value, aux, _ = of(one)
    images = jnp.concatenate([one.ctx.batch['image'], one.ctx.batch['second']])
    label = np.tile(one.ctx.batch['label'], 2)
    out, state = one.net.apply(one.ctx.variables(one.params), images, train=True)
    ce = losses.cross_entropy(out.logits['target'], jnp.asarray(label)).mean()
    expected = contrastive(out.features, label, 0.5).mean()
    np.testing.assert_allclose(aux.metrics['ce'], ce, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics['contrastive'], expected, rtol=1e-4)
    np.testing.assert_allclose(value, 0.6 * ce + 0.4 * expected, rtol=1e-4)
    assert_close(aux.model_state, state, 1e-5)


def test_supcon_compares_projected_features():
    one = setting('supcon', weight=0.4, temperature=0.5, projection=3)
    assert method_registry.load('supcon')(CLASSES).parameters is not one.method.parameters
    one.params = one.method.parameters(one.net, one.params, jax.random.key(3))
    layers = one.params['projection']
    assert {n: layers[n]['kernel'].shape for n in layers} == {'hidden': (4, 4), 'out': (4, 3)}
    assert all((jnp.abs(x) <= 0.5).all() for x in jax.tree.leaves(layers))  # torch's law: 1 / sqrt(4)
    value, aux, grads = of(one)
    images = jnp.concatenate([one.ctx.batch['image'], one.ctx.batch['second']])
    out, _ = one.net.apply(one.ctx.variables(one.params), images, train=True)
    hidden = np.maximum(out.features @ layers['hidden']['kernel'] + layers['hidden']['bias'], 0)
    shown = hidden @ layers['out']['kernel'] + layers['out']['bias']
    expected = contrastive(shown, np.tile(one.ctx.batch['label'], 2), 0.5).mean()
    np.testing.assert_allclose(aux.metrics['contrastive'], expected, rtol=1e-4)
    assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads['projection']))


def test_the_projection_is_trained_and_left_out_of_what_is_evaluated(tmp_path):
    built, data, ts = opened(settings({'name': 'supcon', 'projection': 4}), tmp_path)
    before = jax.tree.map(np.array, ts.params['projection'])
    ts, _ = walk(built, data, ts, 3)
    after = jax.tree.map(np.array, ts.params['projection'])
    assert not any(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, after)), strict=True))
    shown = built.evaluated(ts)
    assert set(shown['params']) == {'backbone', 'heads'}
    assert_trees_equal(shown['params']['backbone'], ts.params['backbone'])


def test_supcon_needs_whole_batches(tmp_path):
    with pytest.raises(UserError, match='config.accumulate=1'):
        program.build(settings('supcon', accumulate=2))
    seeds.build_and_try(settings({'name': 'supcon', 'weight': 0.0}, accumulate=2), tmp_path)
