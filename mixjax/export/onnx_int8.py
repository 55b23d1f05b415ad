"""Quantises an ONNX model to int8 with onnxruntime: convolutions and linear layers with 8-bit weights and inputs.

Every weight is rounded to 8 bits with a scale for each output channel. The ranges of the inputs are those that they
have for some training images. In the file a quantised tensor is a pair of QuantizeLinear and DequantizeLinear (QDQ),
which any runtime can compute. The preparation of the images and the products inside of attention stay as they are.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mixjax.errors import UserError
from mixjax.export.onnx_resize import SCOPE

# With Clip and Relu among them the range of a convolution is that of its activation, not the wider one in front of it.
OPERATIONS = ('Add', 'AveragePool', 'Clip', 'Concat', 'Conv', 'GlobalAveragePool', 'MatMul', 'MaxPool', 'Relu')
TOGETHER = 8  # images


def quantised(model: Any, images: np.ndarray) -> Any:
    """Return a model with its weights and activations as int8.

    Args:
      model: an `onnx.ModelProto` of float32.
      images: training images, (n, side, side, C) uint8.
    """
    import onnx

    try:
        from onnxruntime import quantization
        from onnxruntime.quantization import CalibrationDataReader
    except ImportError:
        raise UserError("int8 needs the package onnxruntime; pip install 'mixjax[onnx]'") from None

    class Reader(CalibrationDataReader):
        """The training images, a few at once."""

        def __init__(self) -> None:
            self._batches = _batches(images)

        def get_next(self) -> Any:
            return next(self._batches, None)

    given = onnx.ModelProto()
    given.CopyFrom(model)  # it moves the weights out of what it is given
    quiet = logging.getLogger()
    before = quiet.level
    quiet.setLevel(logging.ERROR)  # it recommends what `onnx_fusion` has done
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / 'model.onnx'
            quantization.quantize_static(
                given, path, Reader(), quant_format=quantization.QuantFormat.QDQ, per_channel=True,
                activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=list(OPERATIONS), nodes_to_exclude=_excluded(model),
            )  # fmt: skip
            found = onnx.load(path)
    finally:
        quiet.setLevel(before)
    del found.metadata_props[:]
    found.metadata_props.extend(model.metadata_props)
    return found


def _batches(images: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(images), TOGETHER):
        yield {'images': images[start : start + TOGETHER]}


def _excluded(model: Any) -> list[str]:
    """Return the names of the nodes that are not quantised."""
    constants = {one.name for one in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.name.startswith(f'{SCOPE}/') or node.op_type == 'MatMul' and not constants.intersection(node.input)
    ]
