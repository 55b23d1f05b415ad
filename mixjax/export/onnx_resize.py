"""The preparation of photographs as ONNX nodes: from pixels of any size to stored images, as `photo.fit` makes them.

An axis is resized by a product of matrices, as in `resample`: a block of pixels shares the source pixels around it, and
has a matrix of weights for them, which the graph computes from the length of the axis. The weights are rounded as in
`fit`, to multiples of 2**-16 or, as Pillow does, of 2**-22; as float64 they and every sum of them are exact. So the
bytes are those of `fit`, with one exception: where Pillow resizes a part of a photograph, it rounds the edges of the
part to float32, and a few bytes in ten thousand differ by 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mixjax.data.pixels import photo, resample
from mixjax.errors import require
from mixjax.export.onnx_graph import Graph, kind

SCOPE = 'prepare'  # of the names of the nodes
BLOCK = resample.BLOCKS[0]  # pixels
PILLOW, QUICK = 1 << 22, 1 << 16  # a weight of 1, there and in `resample`


class _Window(NamedTuple):
    """The source pixels of blocks: `count` of each, from `start` on, (blocks, 1); of all of them, `begin` to `end`."""

    start: str
    count: str
    begin: str
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
    rows, columns = (_Axis(graph, one, short, rule) for one in size)
    quick = _is_quick(graph, rows, columns, rule) if rule.interpolation == 'bilinear' else None
    down, across = rows.window(BLOCK), columns.window(BLOCK)
    # Along the rows first, of those rows that are needed.
    images = graph.add('Slice', images, down.begin, down.end, graph.ints(1), graph.ints(1))
    images = graph.add('Transpose', images, perm=[2, 0, 1, 3])
    images = _resized(graph, images, columns.places(across), columns.weights(across, quick), rule.side)
    images = graph.add('Transpose', images, perm=[2, 1, 0, 3])
    inner = graph.add('Sub', rows.places(down), down.begin)
    images = _resized(graph, images, inner, rows.weights(down, quick), rule.side)
    return graph.add('Transpose', images, perm=[1, 0, 2, 3])


class _Axis:
    """The resizing of one axis. Fractions are kept as whole numerators, so that they are exact.

    Args:
      graph: the graph.
      size: the name of its length, (1,) int64.
      short: that of the shorter side.
      rule: the rule of `photo.fit`.
    """

    def __init__(self, graph: Graph, size: str, short: str, rule: photo.Rule) -> None:
        self._graph, self._size, self._rule = graph, size, rule
        if rule.fit == 'squash':
            self._length, self._first = graph.ints(rule.side), graph.ints(0)
        else:
            self._length = self._do('Div', self._do('Mul', size, rule.side), short)
            rest = self._do('Sub', self._length, rule.side)
            half = self._do('Div', rest, 2)  # the half of an odd number goes to its even neighbour
            self._first = self._do('Add', half, self._do('Mul', self._do('Mod', rest, 2), self._do('Mod', half, 2)))
        self._longest = self._do('Max', size, self._length)

    def _do(self, op: str, *operands: str | int | np.ndarray, **attributes: Any) -> str:
        """Add a node of whole numbers."""
        names = [one if isinstance(one, str) else self._graph.constant(np.asarray(one, np.int64)) for one in operands]
        return self._graph.add(op, *names, **attributes)

    def _pixels(self, block: int) -> np.ndarray:
        """Return the pixels of each block after resizing, (blocks, block, 1); the last one fills up the last block."""
        side = self._rule.side
        return np.minimum(np.arange(-(-side // block) * block), side - 1).reshape(-1, block, 1)

    def _centres(self, pixels: np.ndarray) -> str:
        """Add the centres of pixels in the source, times 2 `length`."""
        doubled = self._do('Mul', self._do('Add', self._first, pixels), 2)
        return self._do('Mul', self._do('Add', doubled, 1), self._size)

    def window(self, block: int) -> _Window:
        """Add the source pixels that blocks of pixels reach."""
        pixels, double = self._pixels(block), self._do('Mul', self._length, 2)
        reach = self._do('Mul', self._longest, 2 * int(photo.REACH[self._rule.interpolation]))
        low = self._do('Sub', self._do('Add', self._centres(pixels[:, 0]), self._length), reach)
        low = self._do('Div', self._do('Max', low, 0), double)
        high = self._do('Add', self._do('Add', self._centres(pixels[:, -1]), self._length), reach)
        high = self._do('Min', self._do('Div', high, double), self._size)
        count = self._do('ReduceMax', self._do('Sub', high, low), keepdims=0)
        start = self._do('Min', low, self._do('Sub', self._size, count))
        end = self._do('Add', self._do('ReduceMax', start, keepdims=0), count)
        begin = self._do('ReduceMin', start, keepdims=0)
        begin, end = (self._graph.add('Reshape', one, self._graph.ints(1)) for one in (begin, end))
        return _Window(start, count, begin, end)

    def places(self, window: _Window) -> str:
        """Add the source pixels of each block, (blocks, count)."""
        return self._do('Add', window.start, self._do('Range', 0, window.count, 1))

    def weights(self, window: _Window, quick: str | None) -> str:
        """Add the weights of the source pixels for each pixel, (blocks, BLOCK, count) float64.

        quick: the name of whether they are those of `resample`; None if they are always Pillow's.
        """
        graph, wide = self._graph, kind(np.float64)
        middle = self._do('Add', self._do('Mul', self.places(window), 2), 1)
        middle = self._do('Mul', graph.add('Unsqueeze', middle, graph.ints(1)), self._length)
        distance = self._do('Abs', self._do('Sub', middle, self._centres(self._pixels(BLOCK))))
        unit = graph.add('Cast', self._do('Mul', self._longest, 2), to=wide)
        weights = WEIGHTS[self._rule.interpolation](
            graph, graph.add('Div', graph.add('Cast', distance, to=wide), unit)
        )  # fmt: skip
        weights = graph.add('Div', weights, graph.add('ReduceSum', weights, graph.ints(-1), keepdims=1))
        if quick is None:
            return _rounded(graph, weights, PILLOW)
        ours = _balanced(graph, _rounded(graph, weights, QUICK))
        return graph.add('Where', quick, ours, _rounded(graph, weights, PILLOW))


def _rounded(graph: Graph, weights: str, one: int) -> str:
    """Add the weights as multiples of 1 / one."""
    whole = graph.add('Floor', graph.add('Add', graph.add('Mul', weights, _number(graph, one)), _number(graph, 0.5)))
    return graph.add('Div', whole, _number(graph, one))


def _balanced(graph: Graph, weights: str) -> str:
    """Add the weights with the largest one of each pixel changed so that their sum is 1."""
    lack = graph.add('Sub', _number(graph, 1), graph.add('ReduceSum', weights, graph.ints(-1), keepdims=1))
    largest = graph.add('ArgMax', weights, axis=-1, keepdims=1)
    count = graph.add('Squeeze', graph.add('Shape', weights, start=2), graph.ints(0))
    places = graph.add('Range', graph.constant(np.int64(0)), count, graph.constant(np.int64(1)))
    return graph.add('Add', weights, graph.add('Where', graph.add('Equal', places, largest), lack, _number(graph, 0)))


def _is_quick(graph: Graph, rows: _Axis, columns: _Axis, rule: photo.Rule) -> str:
    """Add whether `resample.bilinear` resizes an image, which it leaves to Pillow if the products are too large."""
    found = []
    for block in resample.BLOCKS:
        down, across = rows.window(block), columns.window(block)
        high = graph.add('Mul', across.count, graph.add('Sub', down.end, down.begin))
        most = graph.add('Max', high, graph.add('Mul', down.count, graph.ints(rule.side)))
        found.append(graph.add('LessOrEqual', most, graph.ints(resample.ALONE // (block * rule.channels))))
    return graph.add('Or', *found)


def _resized(graph: Graph, images: str, places: str, weights: str, side: int) -> str:
    """Add the resizing of the first axis, (m, a, b, C) uint8 -> (side, a, b, C) uint8.

    Args:
      graph: the graph.
      images: the images.
      places: the source pixels of each block, (blocks, k).
      weights: their weights, (blocks, BLOCK, k) float64.
      side: the number of pixels that are kept.
    """
    shape = graph.add('Shape', images, start=1)
    taken = graph.add('Gather', images, places, axis=0)
    taken = graph.add('Reshape', taken, graph.add('Concat', graph.add('Shape', places), graph.ints(-1), axis=0))
    sums = graph.add('MatMul', weights, graph.add('Cast', taken, to=kind(np.float64)))
    pixels = graph.add('Floor', graph.add('Add', sums, _number(graph, 0.5)))
    pixels = graph.add('Cast', graph.add('Clip', pixels, _number(graph, 0), _number(graph, 255)), to=kind(np.uint8))
    pixels = graph.add('Reshape', pixels, graph.add('Concat', graph.ints(-1), shape, axis=0))
    return graph.add('Slice', pixels, graph.ints(0), graph.ints(side), graph.ints(0), graph.ints(1))


def _number(graph: Graph, value: float) -> str:
    return graph.constant(np.float64(value))


def _bilinear(graph: Graph, x: str) -> str:
    """Add 1 - x, 0 where x > 1."""
    return graph.add('Max', graph.add('Sub', _number(graph, 1), x), _number(graph, 0))


def _bicubic(graph: Graph, x: str) -> str:
    """Add the cubic convolution kernel with a = -1/2 at x >= 0, as the sum of its two parts."""
    near = _polynomial(graph, graph.add('Min', x, _number(graph, 1)), [1.5, -2.5, 0, 1])
    far = _polynomial(graph, graph.add('Clip', x, _number(graph, 1), _number(graph, 2)), [-0.5, 2.5, -4, 2])
    return graph.add('Add', near, far)


def _polynomial(graph: Graph, x: str, coefficients: list[float]) -> str:
    """Add a polynomial. coefficients: from the highest power on."""
    out = _number(graph, coefficients[0])
    for number in coefficients[1:]:
        out = graph.add('Mul', out, x)
        if number:
            out = graph.add('Add', out, _number(graph, number))
    return out


WEIGHTS: dict[str, Callable[[Graph, str], str]] = {'bilinear': _bilinear, 'bicubic': _bicubic}
