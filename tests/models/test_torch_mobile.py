"""timm's networks for small devices with random weights: features, logits, maps and gradients are the same in ours.

Like test_torch.py it needs torch and timm; without them the tests are skipped, and `test_narrow.py` stands for them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import models
from mixjax.models.weights import tensor_names
from tests.support import torch_names, with_torch

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings('ignore')]  # theirs
torch = pytest.importorskip('torch', reason='torch is not installed')

# timm's name -> ours
NAMES = {
    **{f'tf_efficientnet_lite{i}': f'efficientnet_lite{i}' for i in range(5)},
    'efficientnet_lite0': 'efficientnet_lite0_symmetric',
    **{name: name for name in ('mobilenetv3_large_100', 'mobilenetv4_conv_small', 'mobilenetv4_conv_medium')},
}
# Odd and even maps, and the published side for those that are small enough.
NATIVE = ('tf_efficientnet_lite0', 'tf_efficientnet_lite1', 'mobilenetv3_large_100', 'mobilenetv4_conv_small')
SIDES = [(name, side) for name in NAMES for side in (75, 96)] + [
    (name, models.image_settings(NAMES[name])['crop']) for name in NATIVE
]
CONTRAST = 6  # so that ReLU6 and the hard activations saturate


def made(name):
    _, _, timm = with_torch.libraries()
    model = timm.create_model(name, pretrained=False, num_classes=11)
    return model, with_torch.randomise(model)


def images(side, batch=2):
    return CONTRAST * np.random.default_rng(1).standard_normal((batch, side, side, 3)).astype(np.float32)


def theirs(model, image):
    """What timm says in eval mode and float64: logits, features, and the map of each group of blocks."""
    model, x = model.double().eval(), torch.from_numpy(image.astype(np.float64).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        last = model.forward_features(x)
        _, maps = model.forward_intermediates(x, extra_blocks=True)
        out = {'logits': model.forward_head(last), 'features': model.forward_head(last, pre_logits=True)}
    out |= {f'stage{i}': h.permute(0, 2, 3, 1) for i, h in enumerate(maps) if i}  # the first is the stem's
    out['last'] = last.permute(0, 2, 3, 1)
    return {name: value.numpy() for name, value in out.items()}


def variables(network, tensors, dtype):
    wanted = torch_names.shapes(network, 75, tensor_names.classes_in(network, tensors), dtype)
    return jax.tree.map(jnp.asarray, tensor_names.from_torch(network, tensors, wanted))


def ours(network, tensors, image, dtype):
    with jax.enable_x64(dtype == np.float64):
        net = models.build(network)
        out, _ = jax.jit(lambda v, x: net.apply(v, x, train=False))(
            variables(network, tensors, dtype), jnp.asarray(image, dtype)
        )
        found = {'logits': out.logits['source'], 'features': out.features, **out.maps}
        return {name: np.asarray(value) for name, value in found.items()}


def deviation(said, want):
    return np.abs(said - want).max() / max(np.abs(want).max(), 1.0)


@pytest.mark.parametrize(('name', 'side'), SIDES)
def test_the_same_logits_features_and_maps(name, side):
    (model, tensors), image = made(name), images(side)
    want, said = theirs(model, image), ours(NAMES[name], tensors, image, np.float64)
    assert {key for key in said if not key.endswith('.conv')} - want.keys() <= {'stage8'}  # of the lites: `last`
    assert {key: value.shape for key, value in want.items()} == {key: said[key].shape for key in want}
    errors = {key: deviation(said[key], want[key]) for key in want}
    print(f'{name} {side}: {max(errors.values()):.1e}')
    assert np.abs(want['logits'][0] - want['logits'][1]).max() > 1e-3
    assert max(errors.values()) < 1e-9, errors


@pytest.mark.parametrize('name', NAMES)
def test_in_float32(name):
    (model, tensors), image = made(name), images(75)
    want, said = theirs(model, image), ours(NAMES[name], tensors, image, np.float32)
    errors = {key: deviation(said[key], want[key]) for key in want}
    print(f'{name} float32: {max(errors.values()):.1e}')
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize('name', [name for name in NAMES if not name.endswith(('lite2', 'lite3', 'lite4'))])
def test_the_same_gradients(name):
    """Of the mean cross-entropy with the statistics of the batch, for every parameter."""
    (model, tensors), image, label = made(name), images(40, 4), np.array([0, 3, 10, 3])
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Hardsigmoid):
            # torch's own derivative is 1 / 6 in float32, also for float64; this one has the exact derivative.
            module.forward = lambda x: torch.nn.functional.relu6(x + 3) / 6
    x = torch.from_numpy(image.astype(np.float64).transpose(0, 3, 1, 2).copy())
    torch.nn.functional.cross_entropy(model(x), torch.from_numpy(label)).backward()
    want = {key: p.grad.numpy() for key, p in model.named_parameters()}
    network = NAMES[name]
    net = models.build(network)

    def loss(params, state, image):
        out, _ = net.apply({'params': params, **state}, image, train=True)
        logits = jax.nn.log_softmax(out.logits['source'])
        return -jnp.take_along_axis(logits, jnp.asarray(label)[:, None], 1).mean()

    with jax.enable_x64(True):
        tree = variables(network, tensors, np.float64)
        state = {'batch_stats': tree['batch_stats']}
        gradient = jax.jit(jax.grad(loss))(tree['params'], state, jnp.asarray(image, jnp.float64))
        said = tensor_names.to_torch(network, {'params': gradient}, 'timm')
    assert said.keys() == want.keys()
    largest = max(np.abs(g).max() for g in want.values())
    # A gradient that is zero but for rounding has no scale of its own.
    errors = {key: np.abs(said[key] - g).max() / max(np.abs(g).max(), 1e-3 * largest) for key, g in want.items()}
    worst = max(errors, key=errors.__getitem__)
    print(f'{name} gradient: {errors[worst]:.1e} at {worst}')
    assert errors[worst] < 1e-9
