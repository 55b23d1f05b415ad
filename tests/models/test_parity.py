"""Networks against torch in float64: forward, gradients and running statistics, without any weight file.

The fixtures were computed by mixup-cifar10's `ResNet18()`, PuzzleMix's `preactresnet18` and torchvision's
`resnet50()`, with parameters that `torch_names.fill` makes again from the entries' names.
"""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import models
from tests.common import assert_trees_equal, fixture
from tests.models import torch_names

FILES = {
    'preactresnet18': 'model_fb_resnet18',
    'preactresnet18_raw': 'model_preactresnet18',
    'resnet50': 'model_tv_resnet50_96',
}
CONVS = {
    'stage1.conv': 'layer1_2_conv3',
    'stage2.conv': 'layer2_3_conv3',
    'stage3.conv': 'layer3_5_conv3',
    'stage4.conv': 'layer4_2_conv3',
}
TOLERANCE = 1e-9


def assert_close(ours, theirs):
    """max |a - b| / max(1, max |b|) < 1e-9: six orders above what two float64 programs differ by."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape and ours.dtype == np.float64
    assert np.abs(ours - theirs).max() <= TOLERANCE * max(1.0, np.abs(theirs).max())


@pytest.fixture(scope='module', params=sorted(FILES))
def case(request):
    """What torch said (`want`) and what our network says in eval and in train mode."""
    want = fixture(FILES[request.param])
    state = torch_names.fill(want)
    net = models.build(request.param)

    def loss(params, stats, image):
        out, new = net.apply({'params': params, **stats}, image, train=True)
        logits = out.logits['source']
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(want['train_labels'])[:, None], 1)
        return -picked.mean(), (logits, out.features, new)

    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.asarray, torch_names.variables(state))
        image = jnp.asarray(torch_names.image(want))
        evaluated, same = jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, image)
        stats = {'batch_stats': variables['batch_stats']}
        trained = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables['params'], stats, image)
        (value, (logits, features, new)), grad = jax.device_get(trained)
        fields = jax.device_get({'variables': variables, 'image': image, 'evaluated': evaluated, 'same': same})
    return SimpleNamespace(
        name=request.param,
        want=want,
        state=state,
        loss=value,
        logits=logits,
        features=features,
        new=new,
        grad=grad,
        **fields,
    )


def test_fill_makes_the_parameters_that_torch_was_given(case):
    for name, want in zip(case.want['param_names'], case.want['param_checks'], strict=True):
        np.testing.assert_allclose(torch_names.checks(case.state[name]), want, rtol=1e-12, atol=1e-10, err_msg=name)
    nchw = case.image.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(torch_names.checks(nchw), case.want['input_checks'], rtol=1e-12)


def test_torch_names_cover_the_network_and_the_shapes_agree(case):
    net, heads = models.build(case.name), {'source': int(case.logits.shape[-1])}
    ours = jax.eval_shape(lambda rng: net.init(rng, jnp.zeros(case.image.shape), heads), jax.random.key(0))
    assert jax.tree.map(np.shape, case.variables) == jax.tree.map(lambda x: x.shape, ours)


def test_eval_mode(case):
    out, want = case.evaluated, case.want
    assert_close(out.logits['source'], want['eval_logits'])
    assert_close(out.features[:, :16], want['eval_features_first16'])
    assert_close(out.features.mean(1), want['eval_features_mean'])
    assert_close(np.linalg.norm(out.features, axis=1), want['eval_features_norm'])
    assert_trees_equal(case.same, {'batch_stats': case.variables['batch_stats']})


@pytest.mark.parametrize('case', ['resnet50'], indirect=True)
@pytest.mark.parametrize(('ours', 'theirs'), [*CONVS.items(), ('last', 'layer4')])
def test_maps(case, ours, theirs):
    value = case.evaluated.maps[ours]
    numbers = {
        key: case.want[f'eval_map_{theirs}_{key}'] for key in ('shape_nhwc', 'sum_sqsum', 'corner8', 'last_corner8')
    }
    assert value.shape == tuple(numbers['shape_nhwc'])
    assert_close(np.stack([value.sum(), (value * value).sum()]), numbers['sum_sqsum'])
    assert_close(value[:, 0, 0, :8], numbers['corner8'])
    assert_close(value[:, -1, -1, -8:], numbers['last_corner8'])


def test_train_mode(case):
    assert_close(case.loss, case.want['train_ce_mean'])
    assert_close(case.logits, case.want['train_logits'])
    assert_close(case.features[:, :16], case.want['train_features_first16'])


def test_gradients(case):
    want = case.want
    grads = {name: torch_names.get({'params': case.grad}, torch_names.path(name)) for name in want['train_grad_names']}
    assert len(grads) == len(jax.tree.leaves(case.grad))
    for (name, grad), norm in zip(grads.items(), want['train_grad_norms'], strict=True):
        np.testing.assert_allclose(np.linalg.norm(grad), norm, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
    first = grads[f'{want["first_conv"]}.weight']
    assert_close(np.linalg.norm(first), want['train_grad_first_conv_norm'])
    assert_close(first[..., 0], want['train_grad_first_conv_out0_hwi'])
    assert_close(grads[f'{want["last_linear"]}.bias'], want['train_grad_last_bias'])


def test_running_statistics(case):
    want, layers = case.want, case.new['batch_stats']
    stats = [torch_names.get(layers, torch_names.module_path(name)) for name in want['bn_names']]
    assert 2 * len(stats) == len(jax.tree.leaves(layers))
    for key in ('mean', 'var'):
        assert_close(np.stack([bn[key].mean() for bn in stats]), want[f'bn_new_running_{key}_avg'])
        assert_close(stats[0][key], want[f'bn_first_running_{key}'])
        assert_close(stats[-1][key], want[f'bn_last_running_{key}'])
