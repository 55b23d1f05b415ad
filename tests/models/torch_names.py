"""The way from torch's names and layouts to ours, and the parameters that the fixtures were computed with."""

from __future__ import annotations

import re
import zlib
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]

TOP = {
    'conv1': ('backbone', 'stem', 'conv'),
    'bn1': ('backbone', 'stem', 'bn'),
    'fc': ('heads', 'source'),
    'linear': ('heads', 'source'),
}
SHORTCUT = {'downsample.0': 'shortcut_conv', 'downsample.1': 'shortcut_bn', 'shortcut.0': 'shortcut_conv'}
STATS = {'running_mean': 'mean', 'running_var': 'var'}


def module_path(module: str) -> tuple[str, ...]:
    """`layer1.0.conv2` is backbone/stage1/block0/conv2; the top's names are those of `TOP`."""
    if match := re.fullmatch(r'layer(\d+)\.(\d+)\.(.+)', module):
        stage, block, layer = match.groups()
        return 'backbone', f'stage{stage}', f'block{block}', SHORTCUT.get(layer, layer)
    return TOP[module]


def path(name: str) -> tuple[str, ...]:
    """Keys in `variables` of an entry of torch's state dict."""
    module, leaf = name.rsplit('.', 1)
    keys = module_path(module)
    if leaf in STATS:
        return 'batch_stats', *keys, STATS[leaf]
    if leaf == 'weight':
        leaf = 'scale' if 'bn' in keys[-1] else 'kernel'
    return 'params', *keys, leaf


def to_ours(value: np.ndarray) -> np.ndarray:
    """OIHW to HWIO, (out, in) to (in, out); vectors stay."""
    return value.transpose((2, 3, 1, 0) if value.ndim == 4 else tuple(reversed(range(value.ndim))))


def get(tree: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        tree = tree[key]
    return tree


def fill(numbers: Arrays) -> Arrays:
    """The state dict of a fixture, {torch name: float32 array in torch's layout}.

    Every entry is one draw z of a generator seeded with the entry's name: kernels gain z / sqrt(fan_in),
    biases 0.1 z, BN scales 1 + 0.1 z, running means 0.1 z, running variances 1 + 0.1 |z|.
    """
    gain, prefix = float(numbers['kernel_gain']), str(numbers['fill_prefix'])
    laws = {
        'kernel': lambda z: gain * z / np.sqrt(np.prod(z.shape[1:])),
        'bias': lambda z: 0.1 * z,
        'bn_weight': lambda z: 1 + 0.1 * z,
        'running_mean': lambda z: 0.1 * z,
        'running_var': lambda z: 1 + 0.1 * np.abs(z),
    }
    state = {}
    for name, text, role in zip(numbers['param_names'], numbers['param_shapes'], numbers['param_roles'], strict=True):
        rng = np.random.default_rng(zlib.crc32(f'{prefix}{name}'.encode()))
        z = rng.standard_normal(tuple(int(side) for side in str(text).split(',')))
        state[str(name)] = laws[str(role)](z).astype(np.float32)
    return state


def variables(state: Arrays) -> dict[str, Any]:
    """The state dict as our variables, in float64."""
    tree: dict[str, Any] = {}
    for name, value in state.items():
        *keys, leaf = path(name)
        node = tree
        for key in keys:
            node = node.setdefault(key, {})
        assert leaf not in node, f'two entries for {name}'
        node[leaf] = to_ours(value).astype(np.float64)
    return tree


def image(numbers: Arrays) -> np.ndarray:
    """The input of a fixture: drawn in NCHW and float32; here NHWC and float64."""
    z = np.random.default_rng(int(numbers['input_seed'])).standard_normal(tuple(numbers['input_shape_nchw']))
    return z.astype(np.float32).astype(np.float64).transpose(0, 2, 3, 1)


def checks(value: np.ndarray) -> np.ndarray:
    """Sum, sum of squares, first and last element, as the fixtures keep of every array."""
    flat = value.astype(np.float64).ravel()
    return np.array([flat.sum(), (flat * flat).sum(), flat[0], flat[-1]])
