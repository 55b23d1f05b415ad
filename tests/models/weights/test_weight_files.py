"""Others' files as a config names them: safetensors and torch's, for every network; and what is wrong with a file."""

from __future__ import annotations

import json
import os
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save

from mixjax import models
from mixjax.errors import UserError
from mixjax.main import main
from mixjax.models import weights
from mixjax.models.weights import tensor_names
from mixjax.train import start as start_lib
from tests.support import torch_names
from tests.support.common import assert_trees_equal
from tests.support.networks import NETWORKS, is_vit

SIDE = 32


def fresh(network, classes=7, side=SIDE, colours=3):
    """Variables of a network drawn at random, running statistics too, and an image for it."""
    image = jnp.zeros((1, side, side, colours))
    shapes = jax.eval_shape(lambda key: models.build(network).init(key, image, {'source': classes}), jax.random.key(0))
    rng = np.random.RandomState(0)
    return jax.tree.map(lambda x: (0.5 + rng.rand(*x.shape)).astype(np.float32), shapes), image


@pytest.mark.parametrize('network', ['glyphnet', 'lenet', 'preactresnet18', 'resnet18'])
def test_a_foreign_safetensors_file_becomes_our_variables(network, tmp_path):
    spoken = tensor_names.dialects(network)
    if not spoken:
        pytest.skip(f'nobody else has a {network}')
    variables, image = fresh(network)
    for dialect in spoken:
        path = tmp_path / 'weights.safetensors'
        path.write_bytes(save(tensor_names.to_torch(network, variables, dialect)))
        start = start_lib.pretrained(str(path), models.build(network), network, image)
        assert_trees_equal(jax.tree.map(np.asarray, start.variables), variables)
        assert 'classifier of 7 classes' in start.note
        assert weights.classes(str(path), network) == 7


def test_every_tensor_is_accounted_for(tmp_path):
    variables, image = fresh('resnet18')
    tensors = tensor_names.to_torch('resnet18', variables, 'torchvision')
    tensors['layer9.weight'] = tensors.pop('layer1.0.conv1.weight')
    tensors['layer2.1.bn1.bias'] = np.zeros(3, np.float32)
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(save(tensors))
    with pytest.raises(UserError) as error:
        start_lib.pretrained(str(path), models.build('resnet18'), 'resnet18', image)
    for part in (
        f'weights {path}', 'layer9.weight has no place', 'layer1.0.conv1.weight is not in the file',
        'layer2.1.bn1.bias has shape (3,), the network (128,)',
    ):  # fmt: skip
        assert part in str(error.value)
    with pytest.raises(UserError, match='do not fit a resnet34'):
        start_lib.pretrained(str(path), models.build('resnet34'), 'resnet34', image)


def test_half_precision_is_read_as_float32(tmp_path):
    variables, image = fresh('lenet')
    tensors = tensor_names.to_torch('lenet', variables, 'cifar')
    path = tmp_path / 'weights.safetensors'
    for dtype in (np.float16, jnp.bfloat16):
        path.write_bytes(save({name: tensor.astype(dtype) for name, tensor in tensors.items()}))
        start = start_lib.pretrained(str(path), models.build('lenet'), 'lenet', image)
        assert {leaf.dtype for leaf in jax.tree.leaves(start.variables)} == {np.dtype(np.float32)}
        rounded = jax.tree.map(lambda x, dtype=dtype: x.astype(dtype).astype(np.float32), variables)
        assert_trees_equal(jax.tree.map(np.asarray, start.variables), rounded)


def test_the_classes_must_be_as_many_as_the_source_has(tmp_path):
    variables, image = fresh('lenet')
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(save(tensor_names.to_torch('lenet', variables, 'cifar')))
    net = models.build('lenet')
    assert start_lib.pretrained(str(path), net, 'lenet', image, tuple('abcdefg')).variables is not None
    with pytest.raises(UserError, match='know 7 classes that are not the 3 of the source data set'):
        start_lib.pretrained(str(path), net, 'lenet', image, tuple('abc'))


# --- files that lie ---------------------------------------------------------------------------------------------------


class Call:
    """What runs a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}',)


def header(**tensors):
    """A safetensors file that promises tensors, with sixteen bytes of data."""
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, 'little') + text + bytes(16)


HOSTILE = {
    'truncated': lambda marker: save({'fc.weight': np.zeros((9, 9), np.float32)})[:-40],
    'empty': lambda marker: b'',
    'wrong magic': lambda marker: b'\x7fELF' + bytes(400),
    'not a header': lambda marker: (1 << 60).to_bytes(8, 'little') + b'{}',
    'a pickle that calls': lambda marker: pickle.dumps({'state_dict': Call(marker)}),
    'an old pickle that calls': lambda marker: pickle.dumps(Call(marker), protocol=0),
    'an absurd shape': lambda marker: header(w={'dtype': 'F32', 'shape': [1 << 40, 1 << 20], 'data_offsets': [0, 16]}),
    'a negative shape': lambda marker: header(w={'dtype': 'F32', 'shape': [-4], 'data_offsets': [0, 16]}),
    'bytes that belong to nobody': lambda marker: header(w={'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}),
    'NaN': lambda marker: save({'fc.weight': np.full((3, 512), np.nan, np.float32)}),
}


@pytest.mark.parametrize('kind', HOSTILE)
@pytest.mark.parametrize('name', ['w.safetensors', 'w.pth'])
def test_a_hostile_file_ends_in_one_sentence(kind, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / 'marker'
    (tmp_path / name).write_bytes(HOSTILE[kind](marker))
    words = [
        '--config=quickstart', '--config.method.name=finetune', '--config.model.name=resnet18',
        f'--config.model.weights={name}', '--config.source.name=', '--workdir=run', '--config.devices=1',
    ]  # fmt: skip
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'mixjax: weights {name}') and error.count('\n') == 1, error
    assert 'Traceback' not in error and len(error) < 400
    assert not marker.exists() and not (tmp_path / 'run').exists()


# --- real torch -------------------------------------------------------------------------------------------------------


SMALL_VITS = ('vit_tiny_patch16_224', 'vit_small_patch14_reg4_dinov2', 'vit_small_patch16_dinov3_qkvb')


@pytest.mark.parity
@pytest.mark.parametrize('network', [name for name in models.names() if not is_vit(name) or name in SMALL_VITS])
def test_torch_writes_and_we_read(network, tmp_path):
    """safetensors, today's zip form with `module.` prefixes, and the legacy stream: the same variables each time."""
    torch = pytest.importorskip('torch', reason='torch is not installed')
    spoken = list(tensor_names.dialects(network))
    if not spoken:
        pytest.skip(f'nobody else has a {network}')
    wanted = torch_names.shapes(network, NETWORKS[network][1][1] if is_vit(network) else SIDE, 7)
    rng = np.random.RandomState(0)
    variables = jax.tree.map(lambda x: rng.rand(*x.shape).astype(np.float32), wanted)
    state = {
        name: torch.from_numpy(np.array(t)) for name, t in tensor_names.to_torch(network, variables, spoken[0]).items()
    }
    (tmp_path / 'a.safetensors').write_bytes(save({name: tensor.numpy() for name, tensor in state.items()}))
    checkpoint = {'epoch': 3, 'arch': network, 'state_dict': {f'module.{name}': t for name, t in state.items()}}
    torch.save(checkpoint, tmp_path / 'b.pth')
    torch.save(checkpoint, tmp_path / 'c.pth.tar', _use_new_zipfile_serialization=False)
    for name in ('a.safetensors', 'b.pth', 'c.pth.tar'):
        loaded = weights.load(str(tmp_path / name))
        assert_trees_equal(weights.fitted(name, loaded, network, wanted), variables)
