"""The preparation of photographs as ONNX nodes: from pixels of any size to stored images, as `photo.fit` makes them.

An axis is resized by a product of matrices, as in `resample`: a block of pixels shares the source pixels around it, and
has a matrix of weights for them, which the graph computes from the length of the axis. Pillow's weights are multiples
of 2**-22; as float64 they and every sum of them are exact. So the bytes are Pillow's for a whole image. Those of
`photo.fit` differ by 1 in at most two of a thousand: it gives Pillow the edges of a crop in float32, and rounds the
weights of small photographs to 2**-16.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mixjax.data.pixels import photo
from mixjax.errors import require
from mixjax.export.onnx_graph import Graph, kind

SCOPE = 'prepare'  # of the names of the nodes
BLOCK = 8  # pixels
ONE = 1 << 22  # a weight of 1


class _Axis(NamedTuple):
    """An axis that is resized: the source pixels of each block, (blocks, k) int64, and their weights, float64.

    weights: (blocks, BLOCK, k). first, end: the source pixels that are needed, (1,) int64.
    """

    places: str
    weights: str
    first: str
    end: str


def add(graph: Graph, images: str, rule: photo.Rule) -> str:
    """Add the resizing and cropping of photographs of one size; return the name of the stored images.

    Args:
      graph: the graph.
      images: the name of a tensor (n, H, W, C) uint8 with any H and W.
      rule: the rule of `photo.fit`.

    Returns:
      The name of a tensor (n, side, side, C) uint8.
    """
    require(
        rule.interpolation in WEIGHTS,
        f'images of interpolation {rule.interpolation} are not resized in ONNX; the networks that are exported have '
        f'{" or ".join(WEIGHTS)}',
    )
    graph.scope = SCOPE
    size = [graph.add('Shape', images, start=axis, end=axis + 1) for axis in (1, 2)]
    short = graph.add('Min', *size)
    rows, columns = (_axis(graph, one, short, rule) for one in size)
    # Along the rows first, of those rows that are needed.
    steps = graph.ints(1)
    images = graph.add('Slice', images, rows.first, rows.end, graph.ints(1), steps)
    images = _resized(graph, graph.add('Transpose', images, perm=[2, 0, 1, 3]), columns, rule)
    inner = rows._replace(places=graph.add('Sub', rows.places, rows.first))
    images = _resized(graph, graph.add('Transpose', images, perm=[2, 1, 0, 3]), inner, rule)
    return graph.add('Transpose', images, perm=[1, 0, 2, 3])


def _axis(graph: Graph, size: str, short: str, rule: photo.Rule) -> _Axis:
    """Add the places and weights of an axis. All fractions are kept as whole numerators until the weights."""

    def ints(value: int | np.ndarray) -> str:
        return graph.constant(np.asarray(value, np.int64))

    def total(*terms: str) -> str:
        out = terms[0]
        for term in terms[1:]:
            out = graph.add('Add', out, term)
        return out

    side, radius = rule.side, int(photo.REACH[rule.interpolation])
    blocks = math.ceil(side / BLOCK)
    if rule.fit == 'squash':
        length, first = graph.ints(side), graph.ints(0)
    else:
        length = graph.add('Div', graph.add('Mul', size, ints(side)), short)
        rest = graph.add('Sub', length, ints(side))
        half = graph.add('Div', rest, ints(2))  # the half of an odd number goes to the even neighbour
        odd = graph.add('Mul', graph.add('Mod', rest, ints(2)), graph.add('Mod', half, ints(2)))
        first = graph.add('Add', half, odd)
    # The centre of output pixel i is centres[i] / (2 length), and the filter reaches reach / (2 length) around it.
    pixels = np.minimum(np.arange(blocks * BLOCK), side - 1).reshape(blocks, BLOCK, 1)
    double = graph.add('Mul', length, ints(2))
    longest = graph.add('Max', size, length)

    def centres(at: np.ndarray) -> str:
        odd = graph.add('Add', graph.add('Mul', graph.add('Add', first, ints(at)), ints(2)), ints(1))
        return graph.add('Mul', odd, size)

    reach = graph.add('Mul', longest, ints(2 * radius))
    low = graph.add('Sub', total(centres(pixels[:, 0]), length), reach)
    low = graph.add('Div', graph.add('Max', low, ints(0)), double)
    high = graph.add('Div', total(centres(pixels[:, -1]), length, reach), double)
    high = graph.add('Min', high, size)
    count = graph.add('ReduceMax', graph.add('Sub', high, low), keepdims=0)
    start = graph.add('Min', low, graph.add('Sub', size, count))
    places = graph.add('Add', start, graph.add('Range', ints(0), count, ints(1)))
    # The distance of a source pixel from a centre, in units of the filter.
    middle = graph.add('Add', graph.add('Mul', places, ints(2)), ints(1))
    middle = graph.add('Mul', graph.add('Unsqueeze', middle, graph.ints(1)), length)
    distance = graph.add('Abs', graph.add('Sub', middle, centres(pixels)))
    wide = kind(np.float64)
    distance = graph.add('Cast', distance, to=wide)
    distance = graph.add('Div', distance, graph.add('Cast', graph.add('Mul', longest, ints(2)), to=wide))
    weights = WEIGHTS[rule.interpolation](graph, distance)
    weights = graph.add('Div', weights, graph.add('ReduceSum', weights, graph.ints(-1), keepdims=1))
    weights = graph.add('Round', graph.add('Mul', weights, _number(graph, ONE)))
    begin = graph.add('ReduceMin', start, keepdims=0)
    end = graph.add('Add', graph.add('ReduceMax', start, keepdims=0), count)
    begin, end = (graph.add('Reshape', one, graph.ints(1)) for one in (begin, end))
    return _Axis(places, weights, begin, end)


def _resized(graph: Graph, images: str, axis: _Axis, rule: photo.Rule) -> str:
    """Add the resizing of the first axis: (m, a, b, C) uint8 -> (side, a, b, C) uint8."""
    shape = graph.add('Shape', images, start=1)
    taken = graph.add('Gather', images, axis.places, axis=0)
    taken = graph.add('Reshape', taken, graph.add('Concat', graph.add('Shape', axis.places), graph.ints(-1), axis=0))
    sums = graph.add('MatMul', axis.weights, graph.add('Cast', taken, to=kind(np.float64)))
    sums = graph.add('Div', graph.add('Add', sums, _number(graph, ONE // 2)), _number(graph, ONE))
    pixels = graph.add('Clip', graph.add('Floor', sums), _number(graph, 0), _number(graph, 255))
    pixels = graph.add('Cast', pixels, to=kind(np.uint8))
    pixels = graph.add('Reshape', pixels, graph.add('Concat', graph.ints(-1), shape, axis=0))
    return graph.add('Slice', pixels, graph.ints(0), graph.ints(rule.side), graph.ints(0), graph.ints(1))


def _number(graph: Graph, value: float) -> str:
    return graph.constant(np.float64(value))


def _bilinear(graph: Graph, x: str) -> str:
    """Add 1 - x, 0 where x > 1."""
    return graph.add('Max', graph.add('Sub', _number(graph, 1), x), _number(graph, 0))


def _bicubic(graph: Graph, x: str) -> str:
    """Add the cubic convolution kernel with a = -1/2 at x >= 0, as a sum of its two parts."""
    near = graph.add('Min', x, _number(graph, 1))
    near = _polynomial(graph, near, [1.5, -2.5, 0, 1])
    far = graph.add('Clip', x, _number(graph, 1), _number(graph, 2))
    return graph.add('Add', near, _polynomial(graph, far, [-0.5, 2.5, -4, 2]))


def _polynomial(graph: Graph, x: str, coefficients: list[float]) -> str:
    """Add a polynomial. coefficients: from the highest power on."""
    out = _number(graph, coefficients[0])
    for number in coefficients[1:]:
        out = graph.add('Mul', out, x)
        if number:
            out = graph.add('Add', out, _number(graph, number))
    return out


WEIGHTS: dict[str, Callable[[Graph, str], str]] = {'bilinear': _bilinear, 'bicubic': _bicubic}
