"""An ONNX graph that is being built: its nodes and constants, and the model that they make.

A constant is stored once however often it is used, and only what an output depends on is written.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import UserError, require

OPSET = 20  # the first with Gelu
IR = 10  # version of the file's format that goes with it
MOST_BYTES = (1 << 31) - (1 << 20)  # of a protobuf message, less what is not weights


class Node(NamedTuple):
    """An operation: the names of its inputs and outputs, and its attributes.

    notes: facts for `onnx_fusion` that are not written, such as the number of terms of a sum.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    name: str
    notes: Mapping[str, Any] = {}


class Port(NamedTuple):
    """An input or output of the model: its name, type, and axes as lengths or names."""

    name: str
    dtype: Any
    axes: tuple[int | str, ...]


class Graph:
    """The nodes in the order of computation, and the constants by name.

    scope: the module that new nodes are named after, such as 'stage1/block0'.
    uses: how often each tensor is an input of a node, or kept as an output of the model.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.scope = ''
        self.uses: Counter[str] = Counter()
        self._places: dict[str, int] = {}
        self._digests: dict[Any, str] = {}
        self._labels: dict[str, str] = {}
        self._names: Counter[str] = Counter()

    def add(self, op: str, *inputs: str, notes: Mapping[str, Any] | None = None, **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        return self.add_several(op, inputs, 1, notes=notes, **attributes)[0]

    def add_several(
        self, op: str, inputs: Sequence[str], outputs: int, notes: Mapping[str, Any] | None = None, **attributes: Any
    ) -> tuple[str, ...]:
        """Add a node, and return the names of its outputs."""
        name = self._unique(f'{self.scope}/{op}'.strip('/'))
        names = (name, *(f'{name}.{k}' for k in range(1, outputs)))
        self.uses.update(inputs)
        self._places.update(dict.fromkeys(names, len(self.nodes)))
        self.nodes.append(Node(op, tuple(inputs), names, attributes, name, notes or {}))
        return names

    def instead(
        self, node: Node, op: str, *inputs: str, notes: Mapping[str, Any] | None = None, **attributes: Any
    ) -> Node:
        """Return a node to put in the place of another one."""
        name = self._unique('/'.join([*node.name.split('/')[:-1], op]))
        return Node(op, inputs, node.outputs, attributes, name, notes or {})

    def replace(self, old: Node, new: Node) -> None:
        """Put a node in the place of another one, whose outputs it has."""
        self.uses.subtract(old.inputs)
        self.uses.update(new.inputs)
        self.nodes[self._places[old.outputs[0]]] = new

    def relabel(self, old: str, new: str) -> None:
        """Give a tensor another name, under which nothing uses it yet."""
        place = self._places.pop(old)
        self._places[new] = place
        node = self.nodes[place]
        self.nodes[place] = node._replace(outputs=tuple(new if name == old else name for name in node.outputs))

    def constant(self, array: Any, label: str = '') -> str:
        """Return the name of a constant; equal ones are one.

        Args:
          array: its value.
          label: its name, if it is new.
        """
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        key = array.dtype, array.shape, hashlib.sha256(array.data).digest()
        if key not in self._digests:
            self._digests[key] = name = self._unique(label or 'constant')
            self.constants[name], self._labels[name] = array, self._labels.get(label, label) or 'constant'
        return self._digests[key]

    def ints(self, *values: int) -> str:
        """Return the name of a constant vector of int64, as axes and shapes are."""
        return self.constant(np.array(values, np.int64))

    def made(self, name: str, *ops: str) -> Node | None:
        """Return the node that makes a tensor, if it is one of these operations; else None."""
        place = self._places.get(name)
        return self.nodes[place] if place is not None and self.nodes[place].op in ops else None

    def value(self, name: str) -> np.ndarray | None:
        """Return the value of a constant; None for another tensor."""
        return self.constants.get(name)

    def scalar(self, name: str) -> float | None:
        """Return the value of a constant with one element; None for anything else."""
        array = self.constants.get(name)
        return float(array.reshape(())) if array is not None and array.size == 1 else None

    def used(self, outputs: Sequence[str]) -> list[Node]:
        """Return the nodes that these outputs depend on."""
        wanted, kept = set(outputs), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                wanted.update(node.inputs)
                kept.append(node)
        return kept[::-1]

    def model(self, inputs: Sequence[Port], outputs: Sequence[Port], facts: Mapping[str, str]) -> Any:
        """Return the `onnx.ModelProto` of the graph.

        Args:
          inputs: its inputs.
          outputs: its outputs.
          facts: its `metadata_props`.
        """
        from onnx import helper, numpy_helper

        nodes = self.used([port.name for port in outputs])
        names = {name for node in nodes for name in node.inputs}
        constants = {name: array for name, array in self.constants.items() if name in names}
        tidy = self._tidy(constants)
        total = sum(array.nbytes for array in constants.values())
        require(
            total <= MOST_BYTES,
            f'an ONNX file holds at most 2 GB, and the weights of this network are {total / 1e9:.1f} GB; export a '
            'smaller network, or in float16',
        )
        graph = helper.make_graph(
            [
                helper.make_node(n.op, [tidy.get(one, one) for one in n.inputs], n.outputs, name=n.name, **n.attributes)
                for n in nodes
            ],
            'mixjax', [_described(port) for port in inputs], [_described(port) for port in outputs],
        )  # fmt: skip
        opset = [helper.make_opsetid('', OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR, producer_name='mixjax')
        for name, array in constants.items():  # one by one, so that there are no two copies of all
            model.graph.initializer.add().CopyFrom(numpy_helper.from_array(array, tidy[name]))
        helper.set_model_props(model, dict(facts))
        return model

    def _tidy(self, names: Iterable[str]) -> dict[str, str]:
        """Return the names that constants have in the file: those of the weights they are made of."""
        count: Counter[str] = Counter()
        found = {}
        for name in names:
            label = self._labels[name]
            count[label] += 1
            found[name] = label if count[label] == 1 else f'{label}_{count[label]}'
        return found

    def _unique(self, name: str) -> str:
        self._names[name] += 1
        return name if self._names[name] == 1 else f'{name}_{self._names[name]}'


def kind(dtype: Any) -> int:
    """Return the number that ONNX has for a type."""
    from onnx import helper

    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def _described(port: Port) -> Any:
    from onnx import helper

    return helper.make_tensor_value_info(port.name, kind(port.dtype), port.axes)


def installed() -> None:
    """Raise a `UserError` if the package onnx is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise UserError("an ONNX file needs the package onnx; pip install 'mixjax[onnx]'") from None
