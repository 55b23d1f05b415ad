"""What is computed once for all channels of DELTA's attention, and what for each."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import losses, models
from mixjax.maths import channel_attention, jaxpr_split
from mixjax.models.net import from_linen
from mixjax.models.resnet import BasicBlock, ResNet
from tests.support import trace


def test_split_jaxpr_computes_the_function():
    def function(given, last):
        once = jnp.sin(given['a']) @ given['b']
        return {'late': once * last[0] + given['a'].sum(), 'once': once, 'given': given['b'], 'one': 1.0}, last

    given = {'a': jnp.arange(6.0).reshape(2, 3), 'b': jnp.ones((3, 2))}
    last = jnp.ones((2, 2)), jnp.arange(4)
    first, rest = jaxpr_split.split(function, given, last)
    once = first(given)
    for other in (last, (jnp.full((2, 2), 3.0), jnp.arange(4) + 1)):
        chex.assert_trees_all_equal(rest(once, other), function(given, other))
    assert 'sin' in str(jax.make_jaxpr(first)(given)) and 'sin' not in str(jax.make_jaxpr(rest)(once, last))
    # What does not depend on `last` is that of the first argument, not of the first call.
    twice = jax.tree.map(lambda x: 2 * x, given)
    chex.assert_trees_all_equal(rest(first(twice), last), function(twice, last))


def test_a_compiled_function_inside_stays_whole():
    inside = jax.jit(lambda a, b: jnp.sin(a) * b)
    first, rest = jaxpr_split.split(lambda a, b: jax.nn.relu(inside(a, b)), jnp.ones(3), jnp.ones(3))
    once = first(jnp.ones(3))
    assert 'sin' in str(jax.make_jaxpr(rest)(once, jnp.ones(3)))
    np.testing.assert_allclose(jax.jit(rest)(once, 2 * jnp.ones(3)), 2 * np.sin(1), rtol=1e-6)


def convolutions(function, *given):
    return len(trace.convolutions(jax.make_jaxpr(function)(*given)))


# Convolutions of GlyphNet: the stem; two in every stage, and from the second on one in the shortcut.
@pytest.mark.parametrize(('layer', 'behind'), [('stage1.conv', 6), ('stage2.conv', 3), ('stage3.conv', 0)])
def test_only_what_is_behind_the_layer_is_computed_for_each_channel(layer, behind):
    net, image = models.build('glyphnet'), jnp.zeros((2, 16, 16, 1))
    variables = jax.eval_shape(lambda key: net.init(key, image, {'target': 3}), jax.random.key(0))
    given = variables, image, jnp.zeros(2, jnp.int32)
    width = 16 * 2 ** (int(layer[5]) - 1)
    masks = np.ones((4, width), bool)
    assert convolutions(lambda v, x: net.apply(v, x, train=False)[0].logits, variables, image) == 9
    first, rest = jaxpr_split.split(channel_attention.rises(net, layer, 'target'), given, masks)
    once = jax.eval_shape(first, given)
    assert convolutions(rest, once, masks) == behind
    # The examples of all these channels are one batch.
    for eqn in trace.convolutions(jax.make_jaxpr(rest)(once, masks)):
        assert eqn.invars[0].aval.shape[0] == len(masks) * len(image)


@pytest.mark.parametrize(('layer', 'chunk'), [('stage1.conv', 2), ('stage2.conv', 16)])
def test_scores_are_those_of_the_definition(layer, chunk):
    """One channel after the other, by its filter, through shortcuts and further stages; in float64."""
    with jax.enable_x64(True):
        net = from_linen(ResNet(BasicBlock, (1, 1), width=3))
        random = np.random.default_rng(0)
        images, labels = random.standard_normal((2, 4, 16, 16, 3)), random.integers(0, 3, (2, 4))
        batches = [{'image': jnp.asarray(x), 'label': jnp.asarray(y)} for x, y in zip(images, labels, strict=True)]
        made = net.init(jax.random.key(0), batches[0]['image'], {'target': 3})
        made = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), made)
        stage = layer.removesuffix('.conv')

        @jax.jit
        def loss(kernel, batch):
            trunk = made['params']['backbone']
            block = {**trunk[stage]['block0'], 'conv2': {'kernel': kernel}}
            trunk = {**trunk, stage: {**trunk[stage], 'block0': block}}
            out, _ = net.apply({**made, 'params': {**made['params'], 'backbone': trunk}}, batch['image'], train=False)
            return losses.cross_entropy(out.logits['target'], batch['label']).mean()

        kernel = made['params']['backbone'][stage]['block0']['conv2']['kernel']
        wanted = [
            np.mean([loss(kernel.at[..., j].set(0), batch) - loss(kernel, batch) for batch in batches])
            for j in range(kernel.shape[-1])
        ]
        assert np.ptp(wanted) > 1e-4
        found = channel_attention.channel_scores(net, made, batches, layer, chunk=chunk)
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-14)
