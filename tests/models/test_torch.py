"""The libraries' own networks with random weights: their tensors through `tensor_names`, then the same logits.

    pip install torch==2.13.0 && pip install --no-deps torchvision==0.28.0 timm==1.0.31 transformers ...
    pytest -m parity tests/models/test_torch.py

Without torch these tests are skipped, and `test_narrow.py` stands for them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import models
from mixjax.errors import UserError
from mixjax.models.weights import tensor_names
from tests.support import torch_names, with_torch

pytestmark = pytest.mark.parity
torch = pytest.importorskip('torch', reason='torch is not installed')

# Odd and even maps at every stride, so that the kinds of padding differ.
SIDE = 75
RESNETS = {
    'resnet18': ('basic', [2, 2, 2, 2], [64, 128, 256, 512]),
    'resnet34': ('basic', [3, 4, 6, 3], [64, 128, 256, 512]),
    'resnet50': ('bottleneck', [3, 4, 6, 3], [256, 512, 1024, 2048]),
    'resnet101': ('bottleneck', [3, 4, 23, 3], [256, 512, 1024, 2048]),
    'resnet152': ('bottleneck', [3, 8, 36, 3], [256, 512, 1024, 2048]),
}
SCALES = ('b0', 'b1', 'b2', 'b3', 'b4')
CONVNEXTS = {
    'convnext_tiny': ([3, 3, 9, 3], 96),
    'convnext_small': ([3, 3, 27, 3], 96),
    'convnext_base': ([3, 3, 27, 3], 128),
    'convnextv2_atto': ([2, 2, 6, 2], 40),
    'convnextv2_nano': ([2, 2, 8, 2], 80),
    'convnextv2_tiny': ([3, 3, 9, 3], 96),
}
# (library, its name, ours)
CASES = [
    *[(library, name, name) for name in (*RESNETS, 'densenet121') for library in ('torchvision', 'timm')],
    *[('transformers', name, name) for name in RESNETS],
    *[('timm', f'tf_efficientnet_{scale}', f'efficientnet_{scale}') for scale in SCALES],
    *[
        (library, f'efficientnet_{s}', f'efficientnet_{s}_symmetric')
        for s in SCALES
        for library in ('torchvision', 'timm')
    ],
    *[('torchvision', name, name) for name in ('convnext_tiny', 'convnext_small', 'convnext_base')],
    *[('transformers', name, name) for name in CONVNEXTS],
]
# timm's networks whose maps, features and gradients are compared too: name -> sides of the images
WHOLE = {
    'convnext_atto': (224, 75, 96),
    'convnext_nano': (64,),
    'convnext_tiny': (224, 75, 96),
    'convnextv2_atto': (224, 75, 96),
    'convnextv2_nano': (64,),
    'convnextv2_tiny': (75,),
    'resnet26d': (224, 75, 96),
    'resnet50d': (75,),
    'resnet101d': (75,),
    'seresnet50': (224, 75, 96),
    'resnetv2_50x1_bit': (224, 75, 96),
    'resnetv2_101x1_bit': (75,),
}
# And those of which one small image is enough.
DEEP = (
    *('convnext_femto', 'convnext_pico', 'convnext_small', 'convnext_base', 'convnext_large'),
    *('convnextv2_femto', 'convnextv2_pico', 'convnextv2_base', 'convnextv2_large'),
)


def made(library, name):
    _, torchvision, timm = with_torch.libraries()
    if library == 'torchvision':
        return torchvision.models.get_model(name, weights=None, num_classes=11)
    if library == 'timm':
        return timm.create_model(name, pretrained=False, num_classes=11)
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    if name in CONVNEXTS:
        depths, width = CONVNEXTS[name]
        second = name.startswith('convnextv2')
        config = transformers.ConvNextV2Config if second else transformers.ConvNextConfig
        made = transformers.ConvNextV2ForImageClassification if second else transformers.ConvNextForImageClassification
        # Its own eps of the last norm is 1e-12; the authors', with which the weights were trained, is 1e-6.
        return made(
            config(depths=depths, hidden_sizes=[width * 2**i for i in range(4)], layer_norm_eps=1e-6, num_labels=11)
        )
    kind, depths, widths = RESNETS[name]
    config = transformers.ResNetConfig(layer_type=kind, depths=depths, hidden_sizes=widths, num_labels=11)
    return transformers.ResNetForImageClassification(config)


def ours(network, tensors, image):
    wanted = torch_names.shapes(network, SIDE, tensor_names.classes_in(network, tensors), np.float64)
    with jax.enable_x64(True):
        variables = jax.tree.map(jnp.asarray, tensor_names.from_torch(network, tensors, wanted))
        net = models.build(network)
        out, _ = jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, jnp.asarray(image))
        return np.asarray(out.logits['source'])


@pytest.mark.filterwarnings('ignore')  # theirs
@pytest.mark.parametrize(('library', 'name', 'network'), CASES)
def test_the_same_logits(library, name, network, record_property):
    model = made(library, name)
    tensors = with_torch.randomise(model)
    image = np.random.default_rng(1).standard_normal((2, SIDE, SIDE, 3))
    want = with_torch.logits(model, image)
    said = ours(network, tensors, image)
    error = np.abs(said - want).max() / max(1.0, np.abs(want).max())
    record_property('error', float(error))
    print(f'{library} {name}: {len(tensors)} tensors, {error:.1e}')
    assert said.shape == want.shape == (2, 11)
    assert np.abs(want[0] - want[1]).max() > 1e-4  # they depend on the image, 1e5 times more than we may be off
    assert error < 1e-9


KINDS = ('logits', 'features', 'stage', 'gradient')


def numbers(model, image, label):
    """What timm says in eval mode: logits, features, the stages' maps, and with labels the gradients."""
    x = torch.from_numpy(image.transpose(0, 3, 1, 2).copy()).to(next(model.parameters()).dtype)
    with torch.set_grad_enabled(label is not None):
        last, maps = model.forward_intermediates(x)
        theirs = {'features': model.forward_head(last, pre_logits=True).reshape(len(x), -1), 'logits': model(x)}
        maps = maps[-4:]  # the ResNets begin with the stem
        theirs |= {f'stage{i + 1}': h.permute(0, 2, 3, 1) for i, h in enumerate(maps)}
        if label is not None:
            torch.nn.functional.cross_entropy(theirs['logits'], torch.from_numpy(label)).backward()
            theirs |= {f'gradient {name}': leaf.grad for name, leaf in model.named_parameters()}
    return {name: value.detach().numpy() for name, value in theirs.items()}


def errors(theirs, ours):
    """The largest error of each, relative to the largest number."""
    assert theirs.keys() == ours.keys()
    found = {}
    for name, want in theirs.items():
        assert want.shape == ours[name].shape, name
        found[name] = float(np.abs(ours[name] - want).max() / max(np.abs(want).max(), 1e-6))
    return found


def all_of_ours(network, tensors, image, label):
    """The same of our network, with the gradients in timm's names."""
    net, dtype = models.build(network), image.dtype
    wanted = torch_names.shapes(network, image.shape[1], tensor_names.classes_in(network, tensors), dtype)

    def loss(params, state, x):
        out, _ = net.apply({'params': params, **state}, x, train=False)
        log = jax.nn.log_softmax(out.logits['source'])
        return 0.0 if label is None else -log[jnp.arange(len(label)), label].mean(), out

    with jax.enable_x64(dtype == np.float64):
        variables = jax.tree.map(jnp.asarray, tensor_names.from_torch(network, tensors, wanted))
        params, state = variables['params'], {key: tree for key, tree in variables.items() if key != 'params'}
        if label is None:
            _, out = jax.jit(loss)(params, state, jnp.asarray(image))
            gradient = {}
        else:
            (_, out), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, state, jnp.asarray(image))
            gradient = tensor_names.to_torch(network, {'params': jax.device_get(grad)}, 'timm')
    said = {'features': out.features, 'logits': out.logits['source']}
    said |= {name: out.maps[name] for name in out.maps if name.startswith('stage') and '.' not in name}
    said |= {f'gradient {name}': value for name, value in gradient.items()}
    return {name: np.asarray(value) for name, value in said.items()}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('dtype', ['float64', 'float32'])
@pytest.mark.parametrize(
    ('name', 'side'), [(n, s) for n, sides in WHOLE.items() for s in sides] + [(n, 32) for n in DEEP]
)
def test_the_same_maps_features_and_gradients(name, side, dtype, record_property):
    model = made('timm', name)
    tensors = with_torch.randomise(model)
    model = model.to(getattr(torch, dtype)).eval()
    image = np.random.default_rng(1).standard_normal((2, side, side, 3)).astype(dtype)
    label = np.array([3, 7]) if side == 75 or WHOLE.get(name) == (side,) else None
    if name.startswith('resnetv2') and dtype == 'float32':
        label = None  # rounding turns ReLUs on and off: torch's own gradients in float32 are 6% off those in float64
    theirs, ours = numbers(model, image, label), all_of_ours(name, tensors, image, label)
    found = errors(theirs, ours)
    worst = {kind: max((e for key, e in found.items() if key.startswith(kind)), default=0) for kind in KINDS}
    record_property('errors', worst)
    print(f'{name} {side} {dtype}: ' + ', '.join(f'{kind} {error:.1e}' for kind, error in worst.items()))
    assert np.abs(np.diff(theirs['logits'], axis=0)).max() > 1e-3  # they depend on the image
    assert max(found.values()) < {'float64': 1e-9, 'float32': 1e-4}[dtype]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['convnext_tiny', 'convnextv2_atto'])
def test_timm_reads_the_authors_names_as_we_do(name):
    _, _, timm = with_torch.libraries()
    model = made('timm', name)
    tensors = with_torch.randomise(model)
    variables = tensor_names.from_torch(name, tensors, torch_names.shapes(name, SIDE, 11))
    theirs = tensor_names.to_torch(name, variables, 'facebook')
    assert not theirs.keys() & tensors.keys()
    theirs = {key: torch.from_numpy(value) for key, value in theirs.items()}
    read = timm.models.convnext.checkpoint_filter_fn(theirs, model)
    assert read.keys() == tensors.keys()
    for key, value in tensors.items():
        np.testing.assert_array_equal(read[key].numpy(), value, err_msg=key)


NAMED = [name for name in models.names() if models.family(name) == 'convnext' or name in WHOLE]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', NAMED)
def test_timms_tensors_and_images(name):
    """Of the largest ones too: shapes need no memory."""
    _, _, timm = with_torch.libraries()
    with torch.device('meta'):
        state = timm.create_model(name).state_dict()
    want = {key: tuple(value.shape) for key, value in state.items() if not key.endswith('num_batches_tracked')}
    shapes = torch_names.shapes(name, 64, 1000)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    dialect = tensor_names.dialects(name)['timm']
    written = dialect.write(
        {tensor_names._name(dialect, keys): leaf.transpose(tensor_names._back(keys[-1], leaf.shape))
         for keys, leaf in tensor_names._flat(zeros).items()}
    )  # fmt: skip
    assert {key: value.shape for key, value in written.items()} == want
    said, facts = models.NETWORKS[name].image, timm.get_pretrained_cfg(name)
    assert (said['crop'], said['interpolation']) == (facts.input_size[-1], facts.interpolation)
    assert (said['mean'], said['std']) == (facts.mean, facts.std)
    assert said['resize'] == int(said['crop'] / facts.crop_pct)


@pytest.mark.filterwarnings('ignore')
def test_weights_for_another_padding_are_refused():
    tensors = with_torch.randomise(made('torchvision', 'efficientnet_b0'))
    with pytest.raises(UserError, match="names of torchvision, which fit the network 'efficientnet_b0_symmetric'"):
        tensor_names.classes_in('efficientnet_b0', tensors)
    with pytest.raises(UserError, match="names of torchvision, which fit the network 'efficientnet_b0_symmetric'"):
        tensor_names.from_torch('efficientnet_b0', tensors, torch_names.shapes('efficientnet_b0', SIDE, 11))
