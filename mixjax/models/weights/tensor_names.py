"""Translation of foreign tensor names: between torch's files and our variables.

A `Dialect` (dialect.py; the tables are in layer_names.py) gives the names of layers in torch code, for example

    ('backbone', 'stage1', 'block0', 'conv1') -> 'layer1.0.conv1'        ('heads', 'source') -> 'fc'

The rest is the same for all: kernel and scale are `.weight`, bias `.bias`, mean `.running_mean`, var
`.running_var`; a convolution's kernel is OIHW there and HWIO here, a linear one's (out, in) and (in, out).
`num_batches_tracked` has no counterpart here and is dropped. The file's classifier is the head `source`; a
self-supervised network's file has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from flax import linen as nn
from flax import traverse_util

from mixjax.errors import UserError, require
from mixjax.models import registry
from mixjax.models.efficientnet import EfficientNet
from mixjax.models.weights import layer_names
from mixjax.models.weights.dialect import STEM, Dialect, Keys, Tensors

Tree = Any

LEAVES = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
DROPPED = 'num_batches_tracked'
SHOWN = 20


def dialects(network: str | nn.Module) -> dict[str, Dialect]:
    """Return {name: dialect} of a network.

    Args:
      network: a name that `models.build` knows, or a backbone.
    """
    return layer_names.of(_backbone(network))


def classes_in(network: str | nn.Module, tensors: Tensors) -> int:
    """Return the number of classes of the classifier in a foreign file, 0 without one: self-supervised networks."""
    known = _known(network)
    heads = [(dialect.read(tensors), dialect.layer(('heads', 'source'))) for dialect in known.values()]
    for here, layer in heads:
        shape = np.shape(here.get(f'{layer}.weight', ()))
        if len(shape) == 2:
            return shape[0]
    _refuse_a_sibling(network, tensors)
    if any(f'{dialect.layer(STEM)}.weight' in dialect.read(tensors) for dialect in known.values()):
        return 0
    looked = ', '.join(f'{layer}.weight' for layer in dict.fromkeys(layer for _, layer in heads))
    raise UserError(f'there is no classifier of a {_called(network)} among the tensors (looked for {looked})')


def from_torch(network: str | nn.Module, tensors: Tensors, wanted: Tree) -> Tree:
    """Return foreign tensors as our variables; the error lists every tensor without a counterpart.

    The dialect with the most names in common is used; of equal ones, that with the fewest names left over.

    Args:
      network: a name that `models.build` knows, or a backbone.
      tensors: {torch's name: array in torch's layout}.
      wanted: the variables tree to fill, with a head `source` of width `classes_in`; only its shapes and types matter.
    """
    flat = _flat(wanted)
    assert wanted['params'].get('heads', {}).keys() <= {'source'}, 'a file has one classifier'
    given = {name: tensor for name, tensor in tensors.items() if name.rpartition('.')[2] != DROPPED}
    best, names, tensors, most = '', {}, given, (-1, 0)
    for name, dialect in _known(network).items():
        here, read = {_name(dialect, keys): keys for keys in flat}, dialect.read(given)
        fit = len(here.keys() & read.keys()), -len(read.keys() - here.keys())
        if fit > most:
            best, names, tensors, most = name, here, read, fit
    if not names.keys() & tensors.keys():
        _refuse_a_sibling(network, tensors)
    wrong = [f'{name} is not in the file' for name in names if name not in tensors]
    wrong += [f'{name} has no place in the network' for name in tensors if name not in names]
    for name in names.keys() & tensors.keys():
        have, want, leaf = tuple(tensors[name].shape), flat[names[name]].shape, names[name][-1]
        if tuple(have[i] for i in _axes(leaf, have)) != tuple(want):
            wrong.append(f'{name} has shape {have}, the network {tuple(want[i] for i in _back(leaf, want))}')
    if wrong:
        shown = sorted(wrong)[:SHOWN] + ([f'and {len(wrong) - SHOWN} more'] if len(wrong) > SHOWN else [])
        raise UserError(f'the tensors do not fit a {_called(network)} in the names of {best}:\n  ' + '\n  '.join(shown))
    new = {keys: _to_ours(keys[-1], np.asarray(tensors[name]), flat[keys].dtype) for name, keys in names.items()}
    return traverse_util.unflatten_dict(new)


def to_torch(network: str | nn.Module, variables: Tree, dialect: str, head: str = 'source') -> dict[str, np.ndarray]:
    """Return our variables under foreign names and in their layout, with `head` as the classifier.

    Args:
      network: a name that `models.build` knows, or a backbone.
      variables: the variables tree.
      dialect: one of `dialects(network)`.
      head: name of the head that becomes the classifier.
    """
    known = _known(network)
    require(dialect in known, f'dialect must be one of {", ".join(known)}, not {dialect!r}')
    require(
        head in variables.get('params', {}).get('heads', {head: ()}), f'head must be one of the network, not {head!r}'
    )
    new = {}
    for keys, leaf in _flat(variables).items():
        if keys[1] == 'heads':
            if keys[2] != head:
                continue
            keys = (keys[0], 'heads', 'source', *keys[3:])
        leaf = np.asarray(leaf)
        new[_name(known[dialect], keys)] = np.ascontiguousarray(leaf.transpose(_back(keys[-1], leaf.shape)))
    return dict(known[dialect].write(new))


# --- rules for all dialects -------------------------------------------------------------------------------------------


def _flat(tree: Tree) -> dict[Keys, Any]:
    """Return {('params', 'backbone', .., 'kernel'): leaf}."""
    return traverse_util.flatten_dict(tree)  # pyright: ignore[reportReturnType]


def _name(dialect: Dialect, keys: Keys) -> str:
    if keys[-1] in LEAVES:
        return f'{dialect.layer(keys[1:-1])}.{LEAVES[keys[-1]]}'
    return dialect.layer(keys[1:])


def _axes(leaf: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the order in which torch's axes are ours, OIHW to HWIO and (out, in) to (in, out) for kernels."""
    if leaf != 'kernel':
        return tuple(range(len(shape)))
    return (2, 3, 1, 0) if len(shape) == 4 else tuple(reversed(range(len(shape))))


def _back(leaf: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Return the order in which our axes are torch's."""
    if leaf != 'kernel':
        return tuple(range(len(shape)))
    return (3, 2, 0, 1) if len(shape) == 4 else tuple(reversed(range(len(shape))))


def _to_ours(leaf: str, tensor: np.ndarray, dtype: Any) -> np.ndarray:
    return np.ascontiguousarray(tensor.transpose(_axes(leaf, tensor.shape)), dtype=dtype)


def _known(network: str | nn.Module) -> dict[str, Dialect]:
    found = dialects(network)
    require(bool(found), f'a {_called(network)} has no names but ours: give a file that mixjax wrote')
    return found


def _backbone(network: str | nn.Module) -> nn.Module:
    return registry.BACKBONES[network]() if isinstance(network, str) else network


def _called(network: str | nn.Module) -> str:
    return network if isinstance(network, str) else type(network).__name__


def _refuse_a_sibling(network: str | nn.Module, tensors: Iterable[str]) -> None:
    """Refuse names that belong to the same EfficientNet with another padding, and name it.

    All the shapes agree but the outputs would not, so the names decide.
    """
    backbone = _backbone(network)
    if not isinstance(backbone, EfficientNet):
        return
    tensors = set(tensors)
    mine = dialects(backbone)
    for sibling, build in registry.BACKBONES.items():
        other = build()
        if not isinstance(other, EfficientNet) or other.clone(padding=backbone.padding) != backbone:
            continue
        for name, dialect in dialects(other).items():
            if name not in mine and f'{dialect.layer(STEM)}.weight' in tensors:
                raise UserError(f'these are names of {name}, which fit the network {sibling!r} and not this one')
