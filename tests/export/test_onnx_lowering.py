"""Each rule of the table against JAX, on functions of a batch of images and some weights."""

from __future__ import annotations

import collections

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import linen as nn
from jax import lax

from mixjax.errors import UserError
from mixjax.export import engine, onnx_fusion
from mixjax.export.onnx_graph import Graph, Port
from mixjax.export.onnx_lowering import Lowering
from mixjax.models import depthwise

SHAPE = (6, 5, 4)
WEIGHTS = {
    'kernel': np.random.default_rng(0).standard_normal((3, 3, 4, 8), np.float32),
    'depth': np.random.default_rng(1).standard_normal((5, 5, 1, 4), np.float32),
    'dense': np.random.default_rng(2).standard_normal((4, 7), np.float32),
    'vector': np.random.default_rng(3).standard_normal(4).astype(np.float32),
    'token': np.random.default_rng(4).standard_normal((1, 1, 5, 4), np.float32),
}


def built(function, shape=SHAPE, simplify=True):
    """The ONNX model of a function (weights, images (n, ..)) -> array."""
    graph = Graph()
    name = Lowering(graph, 'images').add(function, WEIGHTS, 'images', shape, np.float32)
    if simplify:
        graph.uses[name] += 1
        name = onnx_fusion.simplify(graph).get(name, name)
    out = jax.eval_shape(function, WEIGHTS, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    ports = [Port(name, out.dtype, (None,) * out.ndim)]
    return graph.model([Port('images', np.float32, ('n', *shape))], ports, {})


def operations(model):
    return dict(collections.Counter(node.op_type for node in model.graph.node))


def assert_same(function, shape=SHAPE, simplify=True, tolerance=2e-6):
    """The graph gives for three images, and for one, what JAX does; returns its operations."""
    model = built(function, shape, simplify)
    onnx.checker.check_model(model, full_check=True)
    session = engine.session(model.SerializeToString(), threads=1)
    images = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    wanted = np.asarray(jax.jit(function)(WEIGHTS, images))
    scale = max(float(np.abs(wanted[np.isfinite(wanted)]).max()), 1) if wanted.dtype.kind == 'f' else 1
    for count in (3, 1):
        (found,), expected = session.run(None, {'images': images[:count]}), wanted[:count]
        assert found.dtype == expected.dtype and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)
    return operations(model)


def conv(x, kernel, **options):
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return lax.conv_general_dilated(x, kernel, dimension_numbers=numbers, **options)


def window(x, init, function, size, **options):
    return lax.reduce_window(x, init, function, (1, *size, 1), **options)


def scanned(w, x):
    """A loop with a carry, constants, and what is collected, in reverse order."""

    def body(total, at):
        place, row = at
        seen = lax.dynamic_slice_in_dim(x, place, 2, axis=1).sum((1, 2))
        return total + seen * w['vector'] + row, seen - total

    rows = jnp.moveaxis(x[:, :3, 0], 1, 0)
    total, each = lax.scan(body, jnp.zeros((x.shape[0], 4)), (jnp.arange(3), rows), reverse=True)
    return jnp.moveaxis(jnp.concatenate([total[None], each]), 1, 0)


FUNCTIONS = {
    'arithmetic': lambda w, x: (x * w['vector'] + 2 * x - w['vector'][::-1]) / (1.5 + x * x),
    'functions': lambda w, x: jnp.exp(-jnp.abs(x)) + jnp.tanh(x) + jax.nn.sigmoid(x) + jnp.sqrt(x * x + 1) + lax.erf(x),
    'more functions': lambda w, x: jnp.log1p(x * x) + jnp.expm1(x / 4) + jnp.sin(x) * jnp.cos(x) + lax.erfc(x),
    'roots and powers': lambda w, x: lax.rsqrt(x * x + 1) + x**3 + lax.square(x) + jnp.abs(x) ** 0.7 + jnp.sign(x),
    'rounding': lambda w, x: jnp.floor(3 * x) + jnp.ceil(2 * x) + jnp.round(x) * (jnp.floor(x) % 2),
    'integers': lambda w, x: ((7 * x).astype(jnp.int32) // 3 + (7 * x).astype(jnp.int32) % 5).astype(jnp.float32),
    'choices': lambda w, x: jnp.where((x > 0.2) & ~(x >= 1) | (x < w['vector']), x, 2 * w['vector'])
    + jnp.clip(x, -0.5, 0.25) + jnp.where(x != x.max((1, 2, 3), keepdims=True), 1.0, 0.0),
    'finite': lambda w, x: jnp.isfinite(1 / jnp.maximum(x, 0)).astype(jnp.float32),
    'log of sums': lambda w, x: jax.nn.logsumexp(x, axis=(1, 3)) + jax.nn.log_softmax(x, axis=2)[:, 0, 0, :1],
    'types': lambda w, x: ((9 * x).astype(jnp.int32).astype(jnp.float16) / 2).astype(jnp.bfloat16).astype(jnp.float32),
    'a constant': lambda w, x: jnp.broadcast_to(w['token'] * 2, x.shape),
    'reductions': lambda w, x: x.sum((1, 2)) + x.max((1, 2)) - x.min((1, 2)) * jnp.prod(x[:, :2, :2], (1, 2)),
    'mean of what repeats': lambda w, x: jnp.broadcast_to(x.mean((1, 2), keepdims=True), x.shape).sum((1, 2)),
    'one axis from a map': lambda w, x: conv(x, w['kernel'], window_strides=(1, 1), padding='SAME').mean(-1),
    'merged axes': lambda w, x: x.reshape(x.shape[0], 30, 4) @ w['dense'],
    'all axes': lambda w, x: x.reshape(x.shape[0], -1)[:, ::7],
    'groups of channels': lambda w, x: conv(x, w['kernel'], window_strides=(1, 1), padding='SAME')
    .reshape(x.shape[0], 6, 5, 2, 4).mean((1, 2, 4)),
    'axes across': lambda w, x: jnp.swapaxes(x.reshape(x.shape[0], 6, 5, 2, 2), 1, 3).reshape(x.shape[0], 2, 60),
    'squeezed': lambda w, x: jnp.squeeze(x.mean((1, 2), keepdims=True), (1, 2))[:, None, :, None] * 2,
    'joined': lambda w, x: jnp.concatenate([jnp.broadcast_to(w['token'], (x.shape[0], 1, 5, 4)), x, x[:, ::-1]], 1),
    'joined maps': lambda w, x: jnp.concatenate(
        [conv(x, w['kernel'], window_strides=(1, 1), padding='SAME'), x, x.sum((1, 2), keepdims=True) + 0 * x], -1
    ),
    'parts': lambda w, x: x[:, 1:5:2, 2:] + x[:, 1:2, :1] + x[:, -1:, 3:4],
    'one place': lambda w, x: x[:, 3] * x[:, 0, 1][:, None],
    'several places': lambda w, x: x[:, jnp.array([4, 0, 4])] - x[:, :3][..., jnp.array([3, 2, 1, 0])],
    'halves': lambda w, x: (lambda a, b: a * jnp.flip(b, -1))(*jnp.split(x, 2, axis=1)),
    'padding': lambda w, x: jnp.pad(x, ((0, 0), (1, 0), (2, 3), (0, 1)), constant_values=-2),
    'products': lambda w, x: jnp.einsum('nijc,nkjc->nikj', x, x) @ jnp.ones((5, 2)),
    'attention': lambda w, x: jax.nn.dot_product_attention(x, x * 2, x + w['vector']),
    'two axes summed': lambda w, x: jnp.einsum('nijc,njkc->nik', x, jnp.swapaxes(x, 1, 2)),
    'weights on the left': lambda w, x: jnp.einsum('cd,nijc->ndij', w['dense'], x),
    'matrix and vector': lambda w, x: x @ w['vector'],
    'convolution': lambda w, x: conv(
        x, w['kernel'], window_strides=(2, 1), padding=((0, 1), (2, 1)), rhs_dilation=(1, 2)
    ),
    'groups': lambda w, x: conv(
        x, w['kernel'][:, :, :2], window_strides=(1, 1), padding='VALID', feature_group_count=2
    ),
    'depthwise': lambda w, x: depthwise.convolve(x, w['depth'], (2, 1), ((2, 2), (1, 3))),
    'max pooling': lambda w, x: nn.max_pool(x - 9, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1))),
    'max pooling inside': lambda w, x: nn.max_pool(x, (2, 3), strides=(2, 1)),
    'max pooling of zeros': lambda w, x: nn.max_pool(jnp.pad(x - 9, ((0, 0), (1, 1), (1, 1), (0, 0))), (3, 3), (2, 2)),
    'average pooling': lambda w, x: nn.avg_pool(x, (3, 2), strides=(2, 1), padding=((1, 1), (0, 1))),
    'average of what is inside': lambda w, x: nn.avg_pool(
        x, (3, 2), strides=(2, 1), padding=((1, 1), (0, 1)), count_include_pad=False
    ),
    'sums of windows': lambda w, x: window(x, 0.0, lax.add, (2, 2), window_strides=(1, 2, 2, 1), padding='VALID'),
    'best': lambda w, x: lax.top_k(x.sum((2, 3)), 3)[0],
    'places of the best': lambda w, x: lax.top_k(x.sum((2, 3)), 3)[1],
    'one hot': lambda w, x: jax.nn.one_hot(lax.top_k(x.sum((2, 3)), 2)[1], 6),
    'functions inside': lambda w, x: jax.checkpoint(jax.jit(lambda y: jax.nn.relu(y) + jax.nn.silu(y)))(x),
    'known branch': lambda w, x: lax.cond(w['vector'].shape[0] > 3, lambda y: y + 1, lambda y: y * 0, x),
    'branch of the weights': lambda w, x: lax.switch(jnp.int32(1), [lambda y: y, lambda y: -y], x),
    'loop': scanned,
    'size of the batch': lambda w, x: lax.dynamic_slice_in_dim(x, -2, 1, axis=1) * lax.stop_gradient(x[:, :1]),
}  # fmt: skip


@pytest.mark.parametrize('name', FUNCTIONS)
def test_rules_compute_what_jax_does(name):
    assert_same(FUNCTIONS[name], simplify=False)


@pytest.mark.parametrize('name', ['attention', 'average pooling', 'joined maps', 'log of sums', 'max pooling'])
def test_simplified_graphs_compute_the_same(name):
    assert_same(FUNCTIONS[name])


def test_max_pooling_ignores_what_is_outside():
    """Every value is negative, so a border of zeros would be the largest of its windows."""

    def pooled(w, x):
        return nn.max_pool(-jnp.abs(x) - 1, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    assert assert_same(pooled)['MaxPool'] == 1
    session = engine.session(built(pooled).SerializeToString())
    assert session.run(None, {'images': np.zeros((1, *SHAPE), np.float32)})[0].max() == -1


def test_layouts_cost_no_transposes():
    """Two convolutions with everything between them are NCHW; the input is turned, and the output is turned back."""

    def function(w, x):
        h = conv(x, w['kernel'], window_strides=(1, 1), padding='SAME')
        h = (h - h.mean((1, 2), keepdims=True)).reshape(x.shape[0], 6, 5, 2, 4) * jnp.arange(4.0)
        h = jnp.swapaxes(h, 3, 4).reshape(x.shape[0], 6, 5, 8)[..., :4] + w['vector']
        return conv(nn.max_pool(jax.nn.relu(h), (2, 2)), w['kernel'], window_strides=(1, 1), padding='SAME')

    found = operations(built(function))
    assert found['Conv'] == 2 and found['Transpose'] == 3  # swapping the axes inside of the channels is one


def test_weights_are_stored_once():
    model = built(lambda w, x: conv(conv(x, w['kernel'][..., :4], window_strides=(1, 1), padding='SAME'),
                                    w['kernel'][..., :4], window_strides=(1, 1), padding='SAME'))  # fmt: skip
    kernels = [one for one in model.graph.initializer if len(one.dims) == 4]
    assert [tuple(one.dims) for one in kernels] == [(4, 4, 3, 3)] and kernels[0].name == 'kernel'


def test_nodes_have_the_names_of_their_modules():
    module = nn.Sequential([nn.Dense(3), nn.relu])
    variables = module.init(jax.random.key(0), jnp.zeros((1, 4)))
    graph = Graph()
    Lowering(graph, 'x').add(module.apply, variables, 'x', (4,), np.float32)
    assert [node.name for node in graph.nodes if node.op == 'MatMul'] == ['Sequential/layers_0/MatMul']
    assert set(graph.constants) >= {'params/layers_0/kernel', 'params/layers_0/bias'}


@pytest.mark.parametrize(
    'function, said',
    [
        (lambda w, x: jnp.sort(x), 'the operation sort of JAX'),
        (lambda w, x: lax.while_loop(lambda y: y.sum() < 0, lambda y: y + 1, x), 'the operation while of JAX'),
        (lambda w, x: lax.cond(x.sum() > 0, lambda y: y, lambda y: -y, x), 'a branch that depends on the image'),
        (lambda w, x: lax.scan(lambda c, i: (c + i, None), x, jnp.arange(99.0))[0], 'a loop of 99 rounds'),
        (lambda w, x: lax.dynamic_slice_in_dim(x, x.sum().astype(jnp.int32), 1, 1), 'depends on the image'),
        (lambda w, x: lax.conv_transpose(x, w['kernel'], (2, 2), 'SAME'), 'a transposed convolution'),
        (lambda w, x: lax.pad(x, 0.0, [(0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0)]), 'between the elements'),
        (lambda w, x: x[:1], 'symbolic|part of the batch'),
        (lambda w, x: x[::-1], 'of length n - 1 in a batch of n|part of the batch'),
        (lambda w, x: x.reshape(len(x), -1), 'the network, traced for a batch of any length'),
        (lambda w, x: x[:, jnp.array([1, 2]), jnp.array([3, 0])], 'a choice of elements other than a part'),
        (lambda w, x: x[:, jnp.argmin(w['vector'][None] + x.sum((0, 1, 2)))], 'argmin'),
    ],
)
def test_what_has_no_rule_is_named_in_one_sentence(function, said):
    with pytest.raises(UserError, match=said) as error:
        built(function)
    assert '\n' not in str(error.value)


# --- patterns ---------------------------------------------------------------------------------------------------------


def layer_norm(w, x, axis=-1, eps=1e-6):
    h = x - x.mean(axis, keepdims=True)
    return h * lax.rsqrt((h * h).mean(axis, keepdims=True) + eps) * w['vector'] + w['vector'][::-1]


def batch_norm(h):
    c = jnp.arange(1.0, h.shape[-1] + 1)
    return (h - 0.1 * c) * (lax.rsqrt(c + 1e-5) * c[::-1]) + jnp.sin(c)


def block(w, x):
    return jax.nn.relu(batch_norm(conv(x, w['kernel'], window_strides=(1, 1), padding='SAME')))


@pytest.mark.parametrize(
    'function, wanted',
    [
        (lambda w, x: jax.nn.softmax(x * 3, axis=-1), {'Mul': 1, 'Softmax': 1}),
        (lambda w, x: jax.nn.softmax(x, axis=1), {'Softmax': 1}),
        (lambda w, x: layer_norm(w, x), {'LayerNormalization': 1}),
        (lambda w, x: jax.nn.gelu(x, approximate=False), {'Gelu': 1}),
        (lambda w, x: jax.nn.gelu(x, approximate=True), {'Gelu': 1}),
        (lambda w, x: jax.nn.relu6(x), {'Clip': 1}),
        (lambda w, x: jax.nn.hard_swish(x), {'HardSwish': 1}),
        (lambda w, x: jax.nn.hard_sigmoid(x), {'HardSigmoid': 1}),
        (lambda w, x: batch_norm(x), {'Mul': 1, 'Add': 1}),
        (lambda w, x: block(w, x), {'Conv': 1, 'Relu': 1, 'Transpose': 2}),
        (lambda w, x: nn.avg_pool(x, (2, 2)), {'AveragePool': 1, 'Transpose': 2}),
        (lambda w, x: x.mean((1, 2), keepdims=True) * x, {'ReduceMean': 1, 'Mul': 1}),
    ],
)
def test_patterns_become_one_operation(function, wanted):
    assert assert_same(function) == wanted


@pytest.mark.parametrize(
    'function, missing',
    [
        (lambda w, x: jnp.exp(x - x.max(-1, keepdims=True)) / jnp.exp(x).sum(-1, keepdims=True), 'Softmax'),
        (lambda w, x: jax.nn.softmax(x, axis=(1, 2)), 'Softmax'),
        (lambda w, x: layer_norm(w, x, axis=2), 'LayerNormalization'),
        (lambda w, x: layer_norm(w, x, axis=(2, 3)), 'LayerNormalization'),
        (lambda w, x: 0.6 * x * lax.erfc(-x * np.float32(0.5**0.5)), 'Gelu'),
        (lambda w, x: 0.5 * x * lax.erfc(-x * 0.7), 'Gelu'),
        (lambda w, x: jnp.minimum(jax.nn.relu(x + 3), 6) / 5, 'HardSigmoid'),
        (lambda w, x: x.sum((1, 2)) / 29, 'ReduceMean'),
        (lambda w, x: jnp.maximum(x, 0.5), 'Relu'),
    ],
)
def test_other_formulas_stay_as_they_are(function, missing):
    assert missing not in assert_same(function, tolerance=1e-5)


def test_a_convolution_with_two_uses_keeps_its_weights():
    def function(w, x):
        h = conv(x, w['kernel'], window_strides=(1, 1), padding='SAME')
        return batch_norm(h) * h

    found = assert_same(function)
    assert found['Conv'] == 1 and found['Mul'] == 2


def test_half_precision_is_not_widened_in_vain():
    """A BatchNorm in float32 behind a convolution in float16 leaves no cast between the two convolutions."""

    def function(w, x):
        for _ in range(2):
            h = conv(x.astype(jnp.float16), w['kernel'][..., :4].astype(jnp.float16), window_strides=(1, 1),
                     padding='SAME')  # fmt: skip
            x = jax.nn.relu((h.astype(jnp.float32) * w['vector'] + 1).astype(jnp.float16))
        return x.astype(jnp.float32)

    found = assert_same(function, tolerance=5e-3)
    assert found == {'Cast': 2, 'Conv': 2, 'Relu': 2, 'Transpose': 2}
