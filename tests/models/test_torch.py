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
]


def made(library, name):
    _, torchvision, timm = with_torch.libraries()
    if library == 'torchvision':
        return torchvision.models.get_model(name, weights=None, num_classes=11)
    if library == 'timm':
        return timm.create_model(name, pretrained=False, num_classes=11)
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
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


@pytest.mark.filterwarnings('ignore')
def test_weights_for_another_padding_are_refused():
    tensors = with_torch.randomise(made('torchvision', 'efficientnet_b0'))
    with pytest.raises(UserError, match="names of torchvision, which fit the network 'efficientnet_b0_symmetric'"):
        tensor_names.classes_in('efficientnet_b0', tensors)
    with pytest.raises(UserError, match="names of torchvision, which fit the network 'efficientnet_b0_symmetric'"):
        tensor_names.from_torch('efficientnet_b0', tensors, torch_names.shapes('efficientnet_b0', SIDE, 11))
