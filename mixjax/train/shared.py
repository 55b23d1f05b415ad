"""The shared parts of a comparison: the data sets, the network with its pretrained weights, the devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mixjax import models
from mixjax.data.dataset import Dataset
from mixjax.data.datasets import resolve
from mixjax.data.feed.augment import Geometry
from mixjax.data.labelled import run_data, splits
from mixjax.data.labelled.run_data import Sets
from mixjax.data.pixels import decoded_cache
from mixjax.data.pixels.decoded_cache import Say
from mixjax.errors import UserError, user_code
from mixjax.host import array_cache, processes, storage
from mixjax.host.array_cache import Cache
from mixjax.models import weights
from mixjax.models.net import Net, bind
from mixjax.rundir import files
from mixjax.train import contract, mesh
from mixjax.train import start as start_lib
from mixjax.version import __version__

Array = jax.Array
Tree = Any


class Shared(NamedTuple):
    """Everything that the methods of a comparison share.

    start: the pretrained network's variables, whole on every device; None from scratch.
    image: zeros of a training image's shape.
    view: the network as `prepare` and `init` see it, and a function from images to pretrained features.
    features: (data set, rows or None for all) -> a cache of what the pretrained network says of these examples.
    note: how the weights were loaded, as a message.
    weights_digest: digest of the weights' tensors; '' without a file.
    initialisers, evaluators: compiled programs that methods share, by the settings in which they differ.
    say: prints a line.
    licence: of the weights; '' where it is not known.
    """

    sets: Sets
    net: Net
    geometry: Geometry
    mesh: Mesh
    start: Tree | None
    image: Array
    view: tuple[Net, Callable[[Array], Array]]
    features: Callable[[Dataset, np.ndarray | None], Cache]
    note: str
    weights_digest: str
    initialisers: dict
    evaluators: dict
    say: Say
    licence: str = ''

    @property
    def start_here(self) -> Tree | None:
        """The pretrained variables as this process may compute with them alone."""
        return mesh.to_local_device(self.start)


def preflight(config: Any) -> None:
    """Refuse a run whose data or weights are missing, all in one message, before anything is read or made."""
    spec = config.model.weights
    # The first process downloads them, so that a disk that all share sees one download; then each looks for itself.
    problems = [processes.from_first(lambda: weights.missing(spec)) or weights.missing(spec)]
    if not config.synthetic.per_class:
        nodes = {node.name: node for node in (config.target, config.source, config.unlabelled) if node.name}
        nodes.pop(splits.REST, None)
        problems += [resolve.missing(node, config.data_dir) for node in nodes.values()]
    found = [problem for problem in problems if problem]
    if found:
        trial = 'to try the config without them, add :smoke to its name'
        raise UserError('cannot start, something is missing:\n\n' + '\n\n'.join(found) + f'\n\n{trial}')


def shared_setup(config: Any, say: Say | None = None) -> Shared:
    """Load the data and the pretrained network; the config's method is not used.

    Args:
      config: the run's config.
      say: prints a line; None is silent.
    """
    sets = run_data.load_sets(config, say)
    net, geometry, image = build_network(config, sets)
    start, note, digest, licence = start_lib.pretrained(
        config.model.weights, net, config.model.name, image, sets.source.classes if sets.source else (),
        head=config.model.head, classes_t=sets.train.classes,
    )  # fmt: skip
    # Each process has read them for itself.
    processes.agree('the data', lambda: json.dumps(run_data.fingerprint(sets)))
    processes.agree('the pretrained network', lambda: digest or array_cache.digest(start))
    devices = mesh.make(config.batch_size // config.accumulate, config.num_seeds, config.devices)
    floats = float_type(config)
    if start is not None:
        start = mesh.replicate(devices, jax.tree.map(lambda x: x.astype(floats), start))
    own = mesh.to_local_device(start)
    known: dict[tuple[str, str], Cache] = {}

    def features(data: Dataset, rows: np.ndarray | None = None) -> Cache:
        name = data.name, '' if rows is None else array_cache.digest(rows)
        if name not in known:
            key = features_key(config, data, name[1], own, digest)
            known[name] = Cache(storage.cache_folder(config.cache_dir), key)
        return known[name]

    return Shared(
        sets, net, geometry, devices, start, image, view(net, own), features, note, digest, {}, {}, say or silent,
        licence,
    )  # fmt: skip


def setup_to_evaluate(config: Any, sets: Sets) -> Shared:
    """Return what the evaluation of a finished run needs: its network and devices; no weights are read.

    Args:
      config: the run's config.
      sets: its data sets.
    """
    net, geometry, image = build_network(config, sets)
    devices = mesh.make(config.batch_size // config.accumulate, config.num_seeds, config.devices)

    def features(data: Dataset, rows: np.ndarray | None = None) -> Cache:
        del data, rows
        return Cache(Path(), None)

    return Shared(sets, net, geometry, devices, None, image, view(net, None), features, '', '', {}, {}, silent)


def silent(line: str) -> None:
    """Print nothing."""
    del line


def build_network(config: Any, sets: Sets) -> tuple[Net, Geometry, Array]:
    """Build the network, its image preprocessing, and zeros of the shape of an image."""
    # float64 is the type of the variables, and the network follows it.
    dtype = 'bfloat16' if config.model.dtype == 'bfloat16' else 'float32'
    net = models.build(
        config.model.name, dtype=dtype, init=config.model.init, remat=config.model.remat,
        drop_path=config.model.drop_path,
    )  # fmt: skip
    channels = run_data.check_images(config, sets)
    side = config.image.crop
    if config.model.name not in models.SHIPPED:
        check_network(config.model.name, net, jnp.zeros((2, side, side, channels), jnp.float32))
    geometry = Geometry(
        config.image.crop, config.image.pad, config.image.flip, tuple(config.image.mean), tuple(config.image.std),
        config.image.augment,
    )  # fmt: skip
    return net, geometry, jnp.zeros((1, geometry.crop, geometry.crop, channels), jnp.float32)


def check_network(name: str, net: Net, image: Array) -> None:
    """Refuse a user's network that does not keep to the contract of a backbone; checks shapes only."""

    def forward(key: Array, image: Array) -> Any:
        out, _ = net.apply(net.init(key, image, {'target': 2}), image, train=False)
        contract.network(name, out, len(image))
        return out.features

    with user_code(f'network {name}:', models.BACKBONES[name]):
        jax.eval_shape(forward, jax.random.key(0), image)


def view(net: Net, start: Tree | None) -> tuple[Net, Callable[[Array], Array]]:
    """Return the network as `prepare` and `init` see it, and pretrained features of images; compiled once."""
    # A key of dropout for training inside `prepare`; the same for all.
    bound = bind(net, start, jax.random.key(0))
    if start is None:
        return bound, lambda image: bound.source(image).features
    compiled = jax.jit(lambda variables, image: net.apply(variables, image, train=False)[0])
    features = jax.jit(lambda variables, image: net.apply(variables, image, train=False)[0].features)
    return bound._replace(source=lambda image: compiled(start, image)), lambda image: features(start, image)


def features_key(config: Any, data: Dataset, rows: str, start: Tree | None, digest: str) -> Any:
    """Return the cache key of what the pretrained network says of some examples; None if it is not worth keeping.

    Args:
      config: the run's config.
      data: the data set.
      rows: digest of the rows of the examples; '' for all.
      start: variables of the pretrained network; None from scratch.
      digest: digest of the weights' file; '' without a file.
    """
    if start is None or config.synthetic.per_class:
        return None
    records = decoded_cache.stamp_of(data.read)
    first = np.arange(min(8, len(data.labels)))
    return {
        **({'records': records} if records else {}),
        **({'rows': rows} if rows else {}),
        'version': __version__,
        'backend': jax.default_backend(),
        'network': config.model.name,
        'dtype': config.model.dtype,
        'weights': digest or array_cache.digest(start),
        'data': data.name,
        'split': 'train',
        'examples': array_cache.digest((data.labels, data.read(first))),
        'classes': data.classes,
        'image': {key: value for key, value in files.to_data(config.image).items() if key not in ('augment', 'tta')},
        'batch': config.eval_batch_size,
    }


def float_type(config: Any) -> Any:
    """Return the type of parameters and statistics."""
    if config.model.dtype != 'float64':
        return jnp.float32
    if not jax.config.read('jax_enable_x64'):
        raise UserError('config.model.dtype=float64 needs the environment variable JAX_ENABLE_X64=1')
    return jnp.float64
