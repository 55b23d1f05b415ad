"""Replaces groups of nodes by one that computes the same: means, softmax, layer normalisation, activations.

Each pattern is a function (graph, node) that returns the node to put in its place, the name of a tensor that equals its
output, or None. What is not needed any more is left out when the model is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from mixjax.export.onnx_graph import Graph, Node

REDUCTIONS = ('ReduceMax', 'ReduceMean', 'ReduceMin', 'ReduceSum')
Pattern = Callable[[Graph, Node], 'Node | str | None']


def simplify(graph: Graph) -> dict[str, str]:
    """Apply all patterns to all nodes in the order of computation, until none fits.

    Returns:
      {tensor: the one that takes its place}, of those that are the same as another one.
    """
    same: dict[str, str] = {}
    for place in range(len(graph.nodes)):
        node = graph.nodes[place]
        # The uses of the tensor whose place it takes were counted when it did.
        graph.nodes[place] = node._replace(inputs=tuple(same.get(name, name) for name in node.inputs))
        while True:
            node = graph.nodes[place]
            found = next((new for pattern in PATTERNS if (new := pattern(graph, node)) is not None), None)
            if isinstance(found, Node):
                graph.replace(node, found)
                continue
            if found is not None:
                same[node.outputs[0]] = same.get(found, found)
                graph.uses[found] += graph.uses[node.outputs[0]] - 1
            break
    return same


def _either(node: Node) -> Iterator[tuple[str, str]]:
    """Yield the operands of a commutative operation in both orders."""
    first, second = node.inputs
    yield first, second
    yield second, first


def _with_scalar(graph: Graph, node: Node | None, value: float | None = None) -> tuple[str, float] | None:
    """Return the operand of an operation with a constant number, and the number, which may be given."""
    for name, other in _either(node) if node is not None else ():
        number = graph.scalar(other)
        if number is not None and (value is None or math.isclose(number, value, rel_tol=1e-6)):
            return name, number
    return None


# --- means and pooling ------------------------------------------------------------------------------------------------


def _kept(graph: Graph, node: Node) -> Node | None:
    """Unsqueeze(Reduce(x)) keeps the reduced axes."""
    reduced = graph.made(node.inputs[0], *REDUCTIONS) if node.op == 'Unsqueeze' else None
    if reduced is None or reduced.attributes['keepdims'] or not np.array_equal(
        graph.constants[node.inputs[1]], reduced.notes['axes']
    ):  # fmt: skip
        return None
    return graph.instead(node, reduced.op, *reduced.inputs, notes=reduced.notes, keepdims=1)


def _mean(graph: Graph, node: Node) -> Node | None:
    """ReduceSum(x) / n is a mean."""
    summed = graph.made(node.inputs[0], 'ReduceSum') if node.op == 'Div' else None
    if summed is None or graph.scalar(node.inputs[1]) != summed.notes['count']:
        return None
    return graph.instead(node, 'ReduceMean', *summed.inputs, notes=summed.notes, **summed.attributes)


def _global_mean(graph: Graph, node: Node) -> Node | None:
    """A mean over all places of a map (N, C, h, w) is global pooling."""
    if node.op != 'ReduceMean' or not node.attributes['keepdims']:
        return None
    if (node.notes['axes'], node.notes['rank']) != ([2, 3], 4):
        return None
    return graph.instead(node, 'GlobalAveragePool', node.inputs[0])


def _same_scale(graph: Graph, node: Node) -> str | None:
    """x * n / n is x, as in average pooling."""
    scaled = _with_scalar(graph, graph.made(node.inputs[0], 'Mul')) if node.op == 'Div' else None
    return scaled[0] if scaled and scaled[1] == graph.scalar(node.inputs[1]) else None


# --- normalisation ----------------------------------------------------------------------------------------------------


def _softmax(graph: Graph, node: Node) -> Node | None:
    """exp(x - max x) / sum exp(x - max x) is a softmax."""
    if node.op != 'Div':
        return None
    top, total = graph.made(node.inputs[0], 'Exp'), graph.made(node.inputs[1], 'ReduceSum')
    shifted = graph.made(top.inputs[0], 'Sub') if top else None
    most = graph.made(shifted.inputs[1], 'ReduceMax') if shifted else None
    if not top or not total or not shifted or not most:
        return None
    axes, kept = total.notes['axes'], total.attributes['keepdims'] and most.attributes['keepdims']
    if not kept or len(axes) != 1 or axes != most.notes['axes']:
        return None
    if total.inputs[0] != top.outputs[0] or most.inputs[0] != shifted.inputs[0]:
        return None
    return graph.instead(node, 'Softmax', most.inputs[0], axis=axes[0])


def _layer_norm(graph: Graph, node: Node) -> Node | None:
    """(x - mean) / sqrt(mean of (x - mean)^2 + eps) * scale + bias over the last axis is a layer normalisation."""
    if node.op != 'Add':
        return None
    for name, bias in _either(node):
        scaled = graph.made(name, 'Mul')
        for inner, scale in _either(scaled) if scaled else ():
            normalised = graph.made(inner, 'Mul')
            vectors = [graph.value(one) for one in (scale, bias)]
            if normalised is None or any(vector is None or vector.ndim != 1 for vector in vectors):
                continue
            found = _standardised(graph, normalised)
            if found is not None:
                return graph.instead(node, 'LayerNormalization', found[0], scale, bias, axis=-1, epsilon=found[1])
    return None


def _standardised(graph: Graph, node: Node) -> tuple[str, float] | None:
    """Return (x, eps) of (x - mean) / sqrt(mean of (x - mean)^2 + eps), means over the last axis."""
    for centred, factor in _either(node):
        difference, inverse = graph.made(centred, 'Sub'), _through(graph, factor, 'Unsqueeze', 'Reciprocal', 'Sqrt')
        spread = _with_scalar(graph, graph.made(inverse, 'Add')) if inverse else None
        mean = graph.made(difference.inputs[1], 'ReduceMean') if difference else None
        variance = graph.made(spread[0], 'ReduceMean') if spread else None
        squared = graph.made(variance.inputs[0], 'Mul') if variance else None
        if not spread or not mean or not variance or not squared or not difference:
            continue
        last = [mean.notes['rank'] - 1]
        if mean.inputs[0] != difference.inputs[0] or squared.inputs != (centred, centred):
            continue
        if mean.notes['axes'] == variance.notes['axes'] == last:
            return mean.inputs[0], spread[1]
    return None


def _through(graph: Graph, name: str, *ops: str) -> str | None:
    """Return the tensor that goes into a chain of nodes, given the last one first."""
    for op in ops:
        node = graph.made(name, op)
        if node is None:
            return None
        name = node.inputs[0]
    return name


# --- activations ------------------------------------------------------------------------------------------------------


def _relu(graph: Graph, node: Node) -> Node | str | None:
    """max(x, 0) is a ReLU, and max(x, -inf) is x."""
    found = _with_scalar(graph, node) if node.op == 'Max' and len(node.inputs) == 2 else None
    if not found or found[1] not in (0, -math.inf) or not _activation(graph, node):
        return None
    return graph.instead(node, 'Relu', found[0]) if found[1] == 0 else found[0]


def _activation(graph: Graph, node: Node) -> bool:
    """Return whether an operation with a constant is of a type that activations have."""
    values = [graph.value(name) for name in node.inputs]
    return any(value is not None and value.dtype in (np.float32, np.float16) for value in values)


def _clip(graph: Graph, node: Node) -> Node | None:
    """min(relu(x), c) is a Clip."""
    if node.op != 'Min' or len(node.inputs) != 2:
        return None
    for name, most in _either(node):
        relu = graph.made(name, 'Relu')
        if relu is not None and graph.scalar(most) is not None:
            number = graph.constants[most].reshape(())
            return graph.instead(
                node, 'Clip', relu.inputs[0], graph.constant(np.zeros_like(number)), graph.constant(number)
            )  # fmt: skip
    return None


def _hard_sigmoid(graph: Graph, node: Node) -> Node | None:
    """min(relu(x + 3), 6) / 6 is a hard sigmoid."""
    clip = graph.made(node.inputs[0], 'Clip') if node.op == 'Div' and graph.scalar(node.inputs[1]) == 6 else None
    shifted = _with_scalar(graph, graph.made(clip.inputs[0], 'Add'), 3) if clip else None
    if not clip or not shifted or graph.scalar(clip.inputs[2]) != 6:
        return None
    return graph.instead(node, 'HardSigmoid', shifted[0], alpha=1 / 6, beta=0.5)


def _hard_swish(graph: Graph, node: Node) -> Node | None:
    """x * hard_sigmoid(x) is a hard swish."""
    for name, gate in _either(node) if node.op == 'Mul' else ():
        sigmoid = graph.made(gate, 'HardSigmoid')
        if sigmoid is not None and sigmoid.inputs[0] == name:
            return graph.instead(node, 'HardSwish', name)
    return None


def _gelu(graph: Graph, node: Node) -> Node | None:
    """x / 2 * erfc(-x / sqrt 2) is a GELU."""
    for first, second in _either(node) if node.op == 'Mul' else ():
        half = _with_scalar(graph, graph.made(first, 'Mul'), 0.5)
        rest = graph.made(second, 'Sub')
        erf = graph.made(rest.inputs[1], 'Erf') if rest and graph.scalar(rest.inputs[0]) == 1 else None
        turned = _with_scalar(graph, graph.made(erf.inputs[0], 'Mul'), math.sqrt(0.5)) if erf else None
        negative = graph.made(turned[0], 'Neg') if turned else None
        if half and negative and negative.inputs[0] == half[0]:
            return graph.instead(node, 'Gelu', half[0])
    return None


def _gelu_tanh(graph: Graph, node: Node) -> Node | None:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 is the GELU with tanh."""
    for name, factor in _either(node) if node.op == 'Mul' else ():
        half = _with_scalar(graph, graph.made(factor, 'Mul'), 0.5)
        more = _with_scalar(graph, graph.made(half[0], 'Add'), 1) if half else None
        tanh = graph.made(more[0], 'Tanh') if more else None
        scaled = _with_scalar(graph, graph.made(tanh.inputs[0], 'Mul'), math.sqrt(2 / math.pi)) if tanh else None
        added = graph.made(scaled[0], 'Add') if scaled else None
        for one, other in _either(added) if added else ():
            cubic = _with_scalar(graph, graph.made(other, 'Mul'), 0.044715)
            power = graph.made(cubic[0], 'Pow') if cubic else None
            if power and one == name == power.inputs[0] and graph.scalar(power.inputs[1]) == 3:
                return graph.instead(node, 'Gelu', name, approximate='tanh')
    return None


# --- factors and offsets of channels ----------------------------------------------------------------------------------


def _difference(graph: Graph, node: Node) -> Node | None:
    """x - c is x + (-c), as the patterns below expect it."""
    value = graph.value(node.inputs[1]) if node.op == 'Sub' else None
    if value is None or not np.issubdtype(value.dtype, np.floating):
        return None
    return graph.instead(node, 'Add', node.inputs[0], graph.constant(-value))


def _into_convolution(graph: Graph, node: Node) -> str | None:
    """A factor or offset of each channel behind a convolution, such as BatchNorm, is a part of its weights."""
    for name, other in _either(node) if node.op in ('Add', 'Mul') else ():
        cast = graph.made(name, 'Cast')
        conv = graph.made(cast.inputs[0] if cast else name, 'Conv')
        value = graph.value(other)
        if conv is None or value is None or graph.uses[name] != 1 or graph.uses[conv.outputs[0]] != 1:
            continue
        kernel = graph.value(conv.inputs[1])
        if kernel is None or value.size > 1 and value.shape != (len(kernel), *(1,) * (kernel.ndim - 2)):
            continue
        wide = np.broadcast_to(value.reshape(-1).astype(np.float32), len(kernel))
        bias = graph.constants[conv.inputs[2]].astype(np.float32) if len(conv.inputs) == 3 else np.zeros_like(wide)
        weights = kernel
        if node.op == 'Mul':
            weights = (kernel * wide.reshape(-1, *(1,) * (kernel.ndim - 1))).astype(kernel.dtype)
            bias = bias * wide
        else:
            bias = bias + wide
        inputs = [conv.inputs[0], graph.constant(weights, conv.inputs[1])]
        if len(conv.inputs) == 3 or bias.any():
            inputs.append(graph.constant(bias.astype(kernel.dtype), f'{conv.name}.bias'))
        graph.replace(conv, conv._replace(inputs=tuple(inputs)))
        return name
    return None


def _one_offset(graph: Graph, node: Node) -> Node | None:
    """(x + a) b + c is x b + (a b + c), as in BatchNorm in front of a convolution."""
    for name, last in _either(node) if node.op == 'Add' else ():
        scaled, offset = graph.made(name, 'Mul'), graph.value(last)
        for inner, factor in _either(scaled) if scaled and offset is not None else ():
            shifted, scale = graph.made(inner, 'Add'), graph.value(factor)
            for x, first in _either(shifted) if shifted and scale is not None else ():
                value = graph.value(first)
                if value is not None and graph.uses[name] == graph.uses[inner] == 1:
                    assert scaled is not None and scale is not None and offset is not None
                    graph.replace(scaled, scaled._replace(inputs=(x, factor)))
                    return graph.instead(node, 'Add', name, graph.constant(value * scale + offset))
    return None


# --- types ------------------------------------------------------------------------------------------------------------


def _narrow_again(graph: Graph, node: Node) -> str | None:
    """A half-precision tensor that was widened and is narrowed again is itself."""
    wide = graph.made(node.inputs[0], 'Cast') if node.op == 'Cast' else None
    same = wide is not None and wide.notes.get('from') == node.attributes['to']
    return wide.inputs[0] if wide is not None and same and node.notes.get('from') == wide.attributes['to'] else None


PATTERNS: tuple[Pattern, ...] = (
    _kept, _mean, _global_mean, _same_scale, _softmax, _layer_norm, _relu, _clip, _hard_sigmoid, _hard_swish, _gelu,
    _gelu_tanh, _difference, _into_convolution, _one_offset, _narrow_again,
)  # fmt: skip
