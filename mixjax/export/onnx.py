"""Writes a predictor as one ONNX file: from pixels of any size to probabilities, with weights and preprocessing.

    onnx.write('model.onnx', mixjax.load('runs/dogs'), {})

The input `images` is (n, H, W, C) uint8 with any n, H and W; the output `probabilities` is (n, classes) float32, the
numbers of a network for regression. The preprocessing is the run's: resize, crop, border, colours and the views of
`config.image.tta`. All that is known of the network is in the file too, as JSON under the key `mixjax` of its metadata;
`engine.open_onnx` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import models
from mixjax.data.feed import augment
from mixjax.errors import nearest, require
from mixjax.export import onnx_fusion, onnx_graph, onnx_int8, onnx_resize
from mixjax.export.onnx_graph import Graph, Port
from mixjax.export.onnx_lowering import Lowering
from mixjax.host import storage
from mixjax.inference import Network
from mixjax.models.net import from_linen
from mixjax.version import __version__

if TYPE_CHECKING:
    from mixjax.inference import Predictor

Array = jax.Array
Tree = Any

PRECISIONS = ('float32', 'float16', 'int8')
FORMAT = 1  # of the metadata


class Written(NamedTuple):
    """Facts of a file that was written.

    bytes: its size. nodes: number of its operations. facts: its metadata.
    notes: sentences on what is not as in the run.
    """

    bytes: int
    nodes: int
    facts: dict[str, Any]
    notes: tuple[str, ...]


def write(
    path: storage.Place | str,
    predictor: Predictor,
    about: Mapping[str, Any],
    *,
    precision: str = 'float32',
    calibration: np.ndarray | None = None,
) -> Written:
    """Write a predictor as an ONNX file.

    Args:
      path: the file.
      predictor, about, precision, calibration: see `to_bytes`.

    Returns:
      The facts of the file.
    """
    data, found = to_bytes(predictor, about, precision=precision, calibration=calibration)
    storage.write_named(storage.to_place(str(path)), data)
    return found


def to_bytes(
    predictor: Predictor,
    about: Mapping[str, Any],
    *,
    precision: str = 'float32',
    calibration: np.ndarray | None = None,
) -> tuple[bytes, Written]:
    """Return the contents of an ONNX file, and facts of it.

    Args:
      predictor: what `mixjax.load` gives.
      about: more facts for the metadata, anything that JSON can hold.
      precision: what weights and network are computed in, one of `PRECISIONS`; inputs, outputs and the preprocessing of
        the images are the same in each.
      calibration: training images (n, side, side, C) uint8 as the run stores them, which int8 takes its ranges from;
        a hundred are enough.
    """
    require(
        precision in PRECISIONS,
        f'unknown precision {precision!r}{nearest(precision, PRECISIONS)}; choose {", ".join(PRECISIONS)}',
    )
    facts = {**metadata(predictor, precision), **about}
    made = model(predictor, facts, 'float16' if precision == 'float16' else 'float32')
    if precision == 'int8':
        require(
            calibration is not None and len(calibration) > 0,
            'int8 takes the ranges of its numbers from training images, and none were given',
        )
        made = onnx_int8.quantised(made, np.asarray(calibration))
    data = made.SerializeToString()
    return data, Written(len(data), len(made.graph.node), facts, notes(predictor))


def model(predictor: Predictor, facts: Mapping[str, Any], precision: str = 'float32') -> Any:
    """Return the `onnx.ModelProto` of a predictor.

    Args:
      predictor: the predictor.
      facts: the metadata.
      precision: 'float32' or 'float16'.
    """
    onnx_graph.installed()
    graph, rule = Graph(), predictor.rule
    images = Port('images', np.uint8, ('n', 'height', 'width', rule.channels))
    stored = onnx_resize.add(graph, images.name, rule)
    network = in_precision(predictor, precision)
    name = Lowering(graph, images.name).add(
        _values(network, predictor), network.variables, stored, (rule.side, rule.side, rule.channels), np.uint8
    )
    outputs = _outputs(graph, {'probabilities': name}, {'probabilities': ('n', len(predictor.classes))})
    return graph.model([images], outputs, {'mixjax': json.dumps(facts, ensure_ascii=False)})


def notes(predictor: Predictor) -> tuple[str, ...]:
    """Return sentences on what a file does otherwise than the predictor."""
    if predictor.about.get('dtype') != 'bfloat16':
        return ()
    return (
        'the network computes in bfloat16 in mixjax and with more digits in the file, so their probabilities differ by '
        'the rounding of bfloat16',
    )


def metadata(predictor: Predictor, precision: str = 'float32') -> dict[str, Any]:
    """Return what is known of a predictor, for the metadata of a file: all that is needed to use it alone."""
    rule, geometry, about = predictor.rule, predictor.network.geometry, predictor.about
    image = {
        'side': rule.side, 'fit': rule.fit, 'interpolation': rule.interpolation, 'channels': rule.channels,
        'crop': geometry.crop, 'mean': list(geometry.mean), 'std': list(geometry.std), 'tta': predictor.network.tta,
    }  # fmt: skip
    found = {
        'format': FORMAT, 'version': __version__, 'classes': list(predictor.classes), 'task': predictor.task.name,
        'temperature': predictor.temperature, 'threshold': predictor.threshold, 'image': image,
        'licence': about.get('licence', ''), 'network': about['model'], 'precision': precision,
        'trained_in': about.get('dtype', 'float32'), 'model': dict(about),
    }  # fmt: skip
    if predictor.scale is not None:
        found['scale'] = {name: values.tolist() for name, values in predictor.scale._asdict().items()}
    return found


def in_precision(predictor: Predictor, precision: str) -> Network:
    """Return the network of a predictor so that it computes in float32 or float16, also one of bfloat16.

    In float16 it has the types that a bfloat16 network has: maps and kernels are half as wide, and sums over a map,
    normalisations, the softmax and the classifier are float32.
    """
    name, network = predictor.about['model'], predictor.network
    if precision == 'float32':
        return network._replace(net=models.build(name))
    return network._replace(net=from_linen(models.BACKBONES[name](dtype=jnp.float16)))


def _values(network: Network, predictor: Predictor) -> Callable[[Tree, Array], Array]:
    """Return the function from stored images to what a user sees, as `Predictor.values`."""

    def values(variables: Tree, images: Array) -> Array:
        logits = network.logits(variables, images).astype(jnp.float32)
        if predictor.temperature != 1:
            logits = logits / jnp.float32(predictor.temperature)
        if predictor.scale is not None:
            mean, std = (jnp.asarray(one, jnp.float32) for one in predictor.scale)
            return mean + std * logits
        return jax.nn.sigmoid(logits) if predictor.task.rows else jax.nn.softmax(logits, axis=-1)

    return values


def _outputs(graph: Graph, tensors: Mapping[str, str], axes: Mapping[str, tuple[int | str, ...]]) -> list[Port]:
    """Simplify the graph, and make tensors its outputs under names of their own."""
    for name in tensors.values():
        graph.uses[name] += 1
    same = onnx_fusion.simplify(graph)
    ports = []
    for name, inner in tensors.items():
        graph.relabel(graph.add('Identity', same.get(inner, inner)), name)
        ports.append(Port(name, np.float32, axes[name]))
    return ports


# --- layers -----------------------------------------------------------------------------------------------------------


def layers(predictor: Predictor, images: np.ndarray, precision: str = 'float32') -> dict[str, np.ndarray]:
    """Compute the maps inside the exported network, to find the first one that differs from `maps`.

    Args:
      predictor: the predictor.
      images: stored images, (n, side, side, C) uint8, as `predictor.read` gives them.
      precision: 'float32' or 'float16'.

    Returns:
      {name: (n, ..) float32} in the order of computation, the names of `maps`.
    """
    from mixjax.export import engine

    onnx_graph.installed()
    graph, network, shape = Graph(), in_precision(predictor, precision), images.shape[1:]
    names: list[str] = []

    def traced(variables: Tree, images: Array) -> list[Array]:
        found = maps(network, variables, images)
        names.extend(found)
        return [value.astype(jnp.float32) for value in found.values()]

    tensors = Lowering(graph, 'images').add(traced, network.variables, 'images', shape, np.uint8)
    axes = jax.eval_shape(traced, network.variables, jax.ShapeDtypeStruct((1, *shape), jnp.uint8))
    found = dict(zip(names, tensors, strict=False))
    ports = _outputs(graph, found, {name: ('n', *one.shape[1:]) for name, one in zip(found, axes, strict=True)})
    made = graph.model([Port('images', np.uint8, ('n', *shape))], ports, {})
    return dict(zip(found, engine.session(made.SerializeToString()).run(None, {'images': images}), strict=True))


def maps(network: Network, variables: Tree, images: Array) -> dict[str, Array]:
    """Return what a network computes of the centres of stored images, in the order of computation.

    Args:
      network: `predictor.network`.
      variables: its variables.
      images: (n, side, side, C) uint8.

    Returns:
      The normalised `input`, the maps `stage1.conv`, `stage1` .. `last` of `Out.maps`, `features` and `logits`.
    """
    inputs = augment.centre(images, network.geometry)
    out = network.forward(variables, inputs)
    return {'input': inputs, **out.maps, 'features': out.features, 'logits': network.predict(out)}
