"""ConvNeXt's own layers, stochastic depth, and blocks whose activations are computed again."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mixjax import models
from mixjax.errors import UserError
from mixjax.models.bit import BitResNet
from mixjax.models.convnext import Block, ConvNeXt, ResponseNorm
from mixjax.models.layers import drop_rates
from mixjax.models.net import from_linen
from mixjax.models.resnet import BasicBlock, ResNet
from mixjax.models.weights import tensor_names
from tests.support import trace
from tests.support.filled import filled

SMALL = partial(ConvNeXt, (1, 1, 2, 1), (4, 4, 8, 8))
RNG = np.random.default_rng(0)


def drawn(net, image):
    return filled(lambda: net.init(jax.random.key(0), image, {'target': 3}))


def test_response_norm_is_the_formula_in_float64():
    x, scale, bias = RNG.standard_normal((2, 3, 5, 4)), RNG.standard_normal(4), RNG.standard_normal(4)
    norms = np.sqrt((x * x).sum((1, 2), keepdims=True))
    want = x + scale * x * norms / (norms.mean(-1, keepdims=True) + 1e-6) + bias
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, {'scale': scale, 'bias': bias})
        said = ResponseNorm().apply({'params': params}, jnp.asarray(x))
    np.testing.assert_allclose(said, want, rtol=1e-12, atol=1e-12)


def test_a_silent_channel_has_a_derivative_in_response_norm():
    x = jnp.asarray(RNG.standard_normal((2, 3, 3, 4)), jnp.float32).at[..., 1].set(0)
    params = {'scale': jnp.ones(4), 'bias': jnp.zeros(4)}
    slope = jax.grad(lambda h: ResponseNorm().apply({'params': params}, h).sum())(x)
    assert np.isfinite(slope).all() and np.abs(slope[..., 1]).max() > 0


def test_a_new_network_starts_as_published():
    """Kernels N(0, 0.02^2), biases 0, LayerScale 1e-6, and V2's response normalisation at the identity."""
    image = jnp.zeros((1, 32, 32, 3))
    for grn in (False, True):
        net = from_linen(ConvNeXt((1, 1), (16, 32), grn=grn))
        params = jax.jit(lambda rng, n=net: n.init(rng, image, {}))(jax.random.key(0))['params']['backbone']
        block = params['stage2']['block0']
        assert ('gamma' in block) != grn and ('grn' in block) == grn
        for kernel in (block['fc1'], block['fc2'], block['conv_dw'], params['stem']['conv']):
            np.testing.assert_allclose(np.std(kernel['kernel']), 0.02, rtol=0.1)
            np.testing.assert_array_equal(kernel['bias'], 0)
        if grn:
            np.testing.assert_array_equal(block['grn']['scale'], 0)
            np.testing.assert_array_equal(block['grn']['bias'], 0)
        else:
            np.testing.assert_array_equal(block['gamma'], np.float32(1e-6))


@pytest.mark.parametrize('side', [32, 37, 63])
def test_the_last_pixels_that_fill_no_patch_are_left_out(side):
    net, image = from_linen(SMALL()), jnp.zeros((1, side, side, 3))
    out, _ = jax.eval_shape(lambda: net.apply(drawn(net, image), image, train=False))
    stages = [out.maps[f'stage{i + 1}'].shape[1] for i in range(4)]
    assert stages == [side // 4, side // 8, side // 16, side // 32]


def test_the_map_is_pooled_before_it_is_normalised():
    net, image = from_linen(SMALL()), jnp.asarray(RNG.standard_normal((2, 64, 64, 3)), jnp.float32)
    variables = drawn(net, image)
    out, state = net.apply(variables, image, train=True)
    mean = np.asarray(out.maps['last'], np.float64).mean((1, 2))
    final = variables['params']['backbone']['final']
    plain = (mean - mean.mean(1, keepdims=True)) / np.sqrt(mean.var(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(out.features, plain * final['scale'] + final['bias'], rtol=1e-3, atol=1e-4)
    assert state == {}


# --- stochastic depth -------------------------------------------------------------------------------------------------


def test_rates_grow_linearly_from_zero_at_the_first_block_to_the_rate_at_the_last():
    rates = drop_rates(0.4, (1, 2, 2))
    assert [len(stage) for stage in rates] == [1, 2, 2]
    assert [rate for stage in rates for rate in stage] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert drop_rates(0.5, (1,)) == [(0.0,)]


def test_a_block_is_left_out_for_an_example_as_a_whole():
    h = jnp.asarray(RNG.standard_normal((64, 4, 4, 4)), jnp.float32)
    block = Block(True, 1.0, 0.3)
    variables = filled(lambda: block.init(jax.random.key(0), h, False, lambda x: x))

    def run(rngs):
        return block.apply(variables, h, True, lambda x: x, rngs=rngs)[0]

    plain, dropped = jax.jit(lambda key: (run({}), run({'dropout': key})))(jax.random.key(2))
    gone = np.array([np.array_equal(y, x) for y, x in zip(dropped, h, strict=True)])
    np.testing.assert_allclose(dropped[~gone], (h + (plain - h) / 0.7)[~gone], rtol=1e-4, atol=1e-5)
    assert 8 < gone.sum() < 31  # 64 draws at 0.3, within three standard deviations


def test_nothing_is_left_out_in_eval_mode_without_a_key_or_at_rate_zero():
    image, key = jnp.zeros((2, 32, 32, 3)), jax.random.key(1)
    still, net = from_linen(SMALL()), from_linen(SMALL(drop_path=0.5))
    variables = drawn(net, image)

    def program(of, **options):
        return str(jax.make_jaxpr(lambda v, x: of.apply(v, x, **options))(variables, image))

    assert program(still, train=False) == program(net, train=False, rng=key)
    assert program(still, train=True, rng=key) == program(net, train=True) != program(net, train=True, rng=key)


def test_the_settings_are_set_by_name():
    def fields(net):
        found = {}

        def record(call, args, kwargs, context):
            module = context.module
            if isinstance(module, ConvNeXt):
                found['network'] = (module.drop_path, module.remat)
            if isinstance(module, nn.Dropout):
                found[module.path[-3:-1]] = module.rate
            return call(*args, **kwargs)

        image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        with nn.intercept_methods(record):
            jax.eval_shape(lambda x: net.init(jax.random.key(0), x, {}), image)
        return found

    rates = fields(models.build('convnextv2_atto', drop_path=0.22, remat=True))
    assert rates.pop('network') == (0.22, True)
    order = [rates[f'stage{s + 1}', f'block{b}'] for s, count in enumerate((2, 2, 6, 2)) for b in range(count)]
    assert order == pytest.approx([0.02 * i for i in range(12)])
    assert fields(models.build('convnextv2_atto'))['network'] == (0.0, False)
    with pytest.raises(UserError, match="resnet50 has no setting 'drop_path'; these networks have it: convnext_"):
        models.build('resnet50', drop_path=0.1)


# --- activations that are computed again ------------------------------------------------------------------------------

REMAT = {
    'convnextv2': SMALL(grn=True, drop_path=0.4),
    'resnet': ResNet(BasicBlock, (1, 2), width=4),
    'bit': BitResNet((1, 1), width=4, groups=2),
}


@pytest.mark.parametrize('kind', REMAT)
def test_activations_that_are_computed_again_change_no_number(kind):
    """Loss, gradient and statistics, with dropout's masks and a tap inside of a block."""
    nets = [from_linen(REMAT[kind].clone(remat=remat)) for remat in (False, True)]
    with jax.enable_x64(True):
        image = jnp.asarray(RNG.standard_normal((4, 48, 48, 3)))
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), drawn(nets[0], image))
        assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, drawn(nets[1], image))
        params, state = variables['params'], {k: tree for k, tree in variables.items() if k != 'params'}

        def loss(params, mix, net):
            def tap(name, h):
                return h + mix * h[::-1] if name in ('stage1.conv', 'stage2') else h

            out, new = net.apply(
                {'params': params, **state}, image, train=True, tap=tap, rng=jax.random.key(3)
            )  # fmt: skip
            return (out.logits['target'] ** 2).sum() + (out.maps['stage2.conv'] ** 2).sum(), new

        runs = [jax.value_and_grad(partial(loss, net=net), (0, 1), has_aux=True) for net in nets]
        plain, again = (jax.jit(run)(params, 0.3) for run in runs)
        programs = [str(jax.make_jaxpr(run)(params, 0.3)) for run in runs]
    assert ['remat' in program for program in programs] == [False, True]
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(plain[1]))


@pytest.mark.parametrize('kind', REMAT)
def test_in_eval_mode_nothing_is_computed_again(kind):
    image = jnp.zeros((2, 32, 32, 3))
    nets = [from_linen(REMAT[kind].clone(remat=remat)) for remat in (False, True)]
    variables = drawn(nets[0], image)
    plain, again = (
        str(jax.make_jaxpr(lambda v, n=net: n.apply(v, image, train=False))(variables)) for net in nets
    )  # fmt: skip
    assert plain == again


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def second():
    backbone = SMALL(grn=True, conv_mlp=True)
    net, image = from_linen(backbone), jnp.zeros((1, 32, 32, 3))
    variables = jax.device_get(filled(lambda: net.init(jax.random.key(0), image, {'source': 5})))
    return backbone, variables


def test_each_library_has_its_shapes(second):
    backbone, variables = second
    shapes = {
        dialect: {name: value.shape for name, value in tensor_names.to_torch(backbone, variables, dialect).items()}
        for dialect in ('timm', 'transformers', 'facebook')
    }
    assert shapes['timm']['stages.1.blocks.0.mlp.fc1.weight'] == (16, 4, 1, 1)
    assert shapes['timm']['stages.1.blocks.0.mlp.grn.weight'] == (16,)
    assert shapes['transformers']['convnextv2.encoder.stages.1.layers.0.pwconv1.weight'] == (16, 4)
    assert shapes['transformers']['convnextv2.encoder.stages.1.layers.0.grn.bias'] == (1, 1, 1, 16)
    assert shapes['facebook']['stages.1.0.grn.gamma'] == shapes['facebook']['stages.1.0.grn.beta'] == (1, 1, 1, 16)
    first = drawn(from_linen(SMALL()), jnp.zeros((1, 32, 32, 3)))
    first = tensor_names.to_torch(SMALL(), first, 'torchvision', head='target')
    assert first['features.3.0.layer_scale'].shape == (4, 1, 1) and first['features.2.1.weight'].shape == (4, 4, 2, 2)


def test_timms_files_may_have_linear_layers_or_convolutions(second):
    backbone, variables = second
    linear = tensor_names.to_torch(backbone.clone(conv_mlp=False), variables, 'timm')
    assert linear['stages.1.blocks.0.mlp.fc1.weight'].shape == (16, 4)
    read = tensor_names.from_torch(backbone, linear, variables)
    jax.tree.map(np.testing.assert_array_equal, read, variables)


def test_a_file_that_ends_before_the_pooling_gets_a_last_norm_at_the_identity(second):
    """What V2 learned without labels has neither a classifier nor the norm in front of one."""
    backbone, variables = second
    tensors = tensor_names.to_torch(backbone, variables, 'timm')
    for name in ('head.fc.weight', 'head.fc.bias', 'head.norm.weight', 'head.norm.bias'):
        del tensors[name]
    assert tensor_names.classes_in(backbone, tensors) == 0
    wanted = {'params': {'backbone': variables['params']['backbone']}}
    final = tensor_names.from_torch(backbone, tensors, wanted)['params']['backbone']['final']
    np.testing.assert_array_equal(final['scale'], 1)
    np.testing.assert_array_equal(final['bias'], 0)
    # With a classifier, or in the first version, it is missing.
    damaged = {**tensor_names.to_torch(backbone, variables, 'timm')}
    del damaged['head.norm.weight']
    with pytest.raises(UserError, match=r'head\.norm\.weight is not in the file'):
        tensor_names.from_torch(backbone, damaged, variables)


def test_all_sums_of_a_bfloat16_network_are_float32():
    image = jnp.zeros((2, 32, 32, 3))
    for backbone in (SMALL(), SMALL(grn=True), BitResNet((1, 1), width=4, groups=2)):
        net = from_linen(backbone.clone(dtype=jnp.bfloat16, remat=True))
        variables = drawn(net, image)

        def loss(params, n=net):
            return n.apply({'params': params}, image, train=True)[0].logits['target'].sum()

        jaxpr = jax.make_jaxpr(jax.grad(loss))(variables['params'])
        narrow = trace.primitives_of(jaxpr, jnp.bfloat16)
        assert 'conv_general_dilated' in narrow and not narrow & trace.WIDE
