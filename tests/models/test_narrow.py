"""Networks of each family, made narrow, against torch: `make_narrow.py` wrote the files, no torch is needed."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mixjax.errors import UserError
from mixjax.models.net import from_linen
from mixjax.models.weights import tensor_names
from tests.support.common import assert_trees_equal, fixture
from tests.support.narrow import NARROW


@pytest.fixture(scope='module', params=NARROW)
def case(request):
    backbone, dialect = NARROW[request.param]
    numbers = fixture(request.param)
    tensors = {name.removeprefix('state/'): value for name, value in numbers.items() if name.startswith('state/')}
    net, image = from_linen(backbone), numbers['image'].astype(np.float32)
    classes = tensor_names.classes_in(backbone, tensors)
    heads = {'source': classes} if classes else {}
    wanted = jax.eval_shape(lambda rng: net.init(rng, jnp.asarray(image), heads), jax.random.key(0))
    return SimpleNamespace(
        backbone=backbone, classes=classes, dialect=dialect, net=net, tensors=tensors, wanted=wanted, image=image,
        logits=numbers['logits'], variables=tensor_names.from_torch(backbone, tensors, wanted),
    )  # fmt: skip


def test_the_logits_are_torchs(case):
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (case.variables, case.image))
        out, _ = jax.jit(lambda v, x: case.net.apply(v, x, train=False))(*double)
        said = np.asarray(out.logits['source'] if case.classes else out.features)
    assert np.abs(case.logits[0] - case.logits[1]).max() > 1e-3  # they depend on the image
    np.testing.assert_allclose(said, case.logits, rtol=1e-9, atol=1e-9)


def test_the_round_trip_is_exact(case):
    assert jax.tree.map(lambda x: (x.shape, x.dtype), case.variables) == jax.tree.map(
        lambda x: (x.shape, x.dtype), case.wanted
    )
    back = tensor_names.to_torch(case.backbone, case.variables, case.dialect)
    kept = {name: value for name, value in case.tensors.items() if not name.endswith('num_batches_tracked')}
    assert (len(kept) < len(case.tensors)) == ('batch_stats' in case.variables)
    assert back.keys() == kept.keys()
    for name, value in kept.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
    for dialect in tensor_names.dialects(case.backbone):
        renamed = tensor_names.to_torch(case.backbone, case.variables, dialect)
        assert_trees_equal(tensor_names.from_torch(case.backbone, renamed, case.wanted), case.variables)
        assert tensor_names.classes_in(case.backbone, renamed) == case.classes in (0, 5)


def test_every_wrong_tensor_is_told_in_one_message(case):
    broken = dict(case.tensors)
    lost, bent = list(name for name in broken if name.endswith('.weight') and broken[name].ndim > 1)[:2]
    broken['extra.weight'] = np.zeros(3, np.float32)
    del broken[lost]
    broken[bent] = broken[bent][..., :0]
    with pytest.raises(UserError) as error:
        tensor_names.from_torch(case.backbone, broken, case.wanted)
    said = str(error.value)
    assert f'in the names of {case.dialect}' in said
    assert f'{lost} is not in the file' in said and 'extra.weight has no place in the network' in said
    assert f'{bent} has shape {broken[bent].shape}, the network {case.tensors[bent].shape}' in said
    assert len(said.splitlines()) == 4


def test_at_most_twenty_are_shown(case):
    strange = {f'x{i:03}.weight': np.zeros(2, np.float32) for i in range(60)}
    with pytest.raises(UserError, match=r'and 40 more$') as error:
        tensor_names.from_torch(case.backbone, {**case.tensors, **strange}, case.wanted)
    assert len(str(error.value).splitlines()) == 22


def test_the_lite_network_clips_at_six():
    """So the comparison with torch sees that the activation is ReLU6."""
    backbone, _ = NARROW['narrow_efficientnet_lite']
    numbers = fixture('narrow_efficientnet_lite')
    tensors = {name.removeprefix('state/'): value for name, value in numbers.items() if name.startswith('state/')}
    image = jnp.asarray(numbers['image'], jnp.float32)
    said = []
    for activation in (nn.relu6, nn.relu):
        net = from_linen(backbone.clone(activation=activation))
        wanted = jax.eval_shape(lambda n=net: n.init(jax.random.key(0), image, {'source': 5}))
        variables = tensor_names.from_torch(backbone, tensors, wanted)
        said.append(jax.jit(lambda v, n=net: n.apply(v, image, train=False)[0].logits['source'])(variables))
    assert jnp.abs(said[0] - said[1]).max() > 0.1
