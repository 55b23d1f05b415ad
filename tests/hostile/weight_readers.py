"""What reads weights and what lies beside them, for `readers.READERS`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from mixjax.errors import UserError
from mixjax.models import weights
from mixjax.models.weights import hub, shards
from tests.hostile.mutate import flawed_json
from tests.hostile.readers import Reader
from tests.support.common import FIXTURES

ABOUT = {
    'format': 1, 'model': 'glyphnet', 'dtype': 'float32', 'classes': ['a', 'b'], 'data': 'digits', 'channels': 1,
    'image': {'resize': 16, 'crop': 16, 'interpolation': 'bilinear', 'mean': [0.0], 'std': [1.0],
              'fit': 'short', 'pad': 0},
    'method': {'name': 'finetune'}, 'steps': 4, 'step': 4,
}  # fmt: skip


def safetensors(_: Path) -> list[bytes]:
    rng = np.random.default_rng(0)
    ours = {
        'params': {
            'backbone': {'stem': {'kernel': rng.normal(size=(3, 3, 1, 4)).astype(np.float32)}},
            'heads': {'target': {'kernel': np.ones((4, 2), np.float32), 'bias': np.zeros(2, np.float32)}},
        }
    }
    theirs = {'fc.weight': np.ones((3, 4), np.float16), 'fc.bias': np.zeros(3), 'n': np.array(7), 'e': np.zeros((0, 2))}
    return [weights.to_bytes(ours), weights.to_bytes(theirs)]


def read_weights(path: Path) -> None:
    path.with_suffix('.json').write_text(json.dumps(ABOUT))
    loaded = weights.load(str(path))
    assert all(isinstance(tensor, np.ndarray) for tensor in loaded.tensors.values())
    weights.widths(loaded, 'glyphnet')


def torch_files(_: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(FIXTURES.glob('torch_*.pth*'))]


def beside(_: Path) -> list[bytes]:
    timm = {'pretrained_cfg': {'input_size': [3, 224, 224], 'crop_pct': 0.9, 'mean': [0.5] * 3, 'std': [0.5] * 3}}
    hugging = {'image_mean': [0.5] * 3, 'image_std': [0.5] * 3, 'size': {'shortest_edge': 256}, 'resample': 3}
    return [json.dumps(one).encode() for one in (timm, hugging, ABOUT)]


def read_beside(path: Path) -> None:
    said = hub.settings_beside(path.with_name('model.safetensors'))
    assert said.keys() <= {'model', 'image'} and 0 < said.get('image', {'crop': 1})['crop'] <= 4096
    path.with_name('model.json').write_bytes(path.read_bytes())
    path.with_name('model.safetensors').touch()
    found = weights.image(str(path.with_name('model.safetensors')), 'glyphnet')
    assert type(found['resize']) is int and len(found['mean']) in (1, 3)


def indices(_: Path) -> list[bytes]:
    where = {'fc.weight': 'model-00001-of-00002.safetensors', 'fc.bias': 'model-00002-of-00002.safetensors'}
    return [json.dumps({'metadata': {'total_size': 28}, 'weight_map': where}).encode()]


def read_index(path: Path) -> None:
    weights_of = {'1': {'fc.weight': np.ones((3, 2), np.float32)}, '2': {'fc.bias': np.zeros(3, np.float32)}}
    for number, tensors in weights_of.items():
        path.with_name(f'model-0000{number}-of-00002.safetensors').write_bytes(save(tensors))
    missing = weights.missing(str(path))
    if missing:  # it names a plain file that is not there
        raise UserError(missing)
    assert weights.load(str(path)).tensors.keys() == {'fc.weight', 'fc.bias'}


def cards(_: Path) -> list[bytes]:
    return [
        b'---\nlicense: other\nlicense_name: of-its-own\ntags:\n- timm\n---\n# Card\n',
        b'---\nlicense:\n- mit\n---\n',
    ]


def read_card(path: Path) -> None:
    said = hub.settings_beside(path.with_name('model.safetensors')).get('licence', 'none')
    assert 0 < len(said) < 500 and said.isprintable()


READERS = {
    'safetensors': Reader(safetensors, read_weights, name='model.safetensors'),
    'torch files': Reader(torch_files, read_weights, name='model.pth'),
    'beside weights': Reader(beside, read_beside, flawed_json, name='config.json'),
    'indices of weights': Reader(indices, read_index, flawed_json, name=shards.INDEX),
    'cards': Reader(cards, read_card, name='README.md'),
}
