"""Lowers a traced JAX function to ONNX nodes: a table with a rule for each primitive.

The function is traced with a symbolic length of the batch, so the graph takes any. What depends on the weights alone is
computed here and becomes a constant: a kernel that is transposed, the scale of a BatchNorm, an embedding of positions.

The axes of a tensor are stored in an order of their own, and those along which it only repeats are not stored. So a
`transpose`, a `broadcast_in_dim` and most of `reshape` are no node, and a convolutional network is NCHW throughout,
although JAX has it NHWC.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jax.extend import core

from mixjax.errors import UserError, user_code
from mixjax.export.onnx_graph import Graph, kind

Order = tuple[int, ...]
BATCH = 1_000_003  # the length of the batch, where shapes are compared: a prime that no other axis has
UNROLLED = 64  # rounds of a loop that are written one after the other
END = (1 << 63) - 1  # of an axis, for Slice


class Value:
    """An array of the traced function: a constant, or a tensor of the graph.

    shape: its shape for JAX, with `BATCH` for the length of the batch.
    dtype: its type in the graph.
    array: the value of a constant, of length 1 along axes where it repeats.
    label: the name of the weights that a constant is made of.
    layouts: of a tensor {its axes in the order in which they are stored: the name}; the last one is preferred. The axes
        that are not stored have length 1, or the tensor repeats along them.
    """

    def __init__(self, shape: Sequence[int], dtype: Any, *, array: np.ndarray | None = None, label: str = '') -> None:
        self.shape, self.dtype = tuple(shape), _stored(dtype)
        self.array, self.label = array, label
        self.layouts: dict[Order, str] = {}

    @property
    def order(self) -> Order:
        """The preferred order of the axes that are stored."""
        return next(reversed(self.layouts))

    @property
    def held(self) -> frozenset[int]:
        """The axes that are stored."""
        return frozenset(self.order)

    @property
    def constant(self) -> np.ndarray:
        """The value of a constant."""
        assert self.array is not None
        return self.array


def _stored(dtype: Any) -> np.dtype:
    """Return the type that values of a JAX type have in the graph: bfloat16 is computed in float32."""
    return np.dtype(np.float32) if dtype == jnp.bfloat16 else np.dtype(dtype)


def _fixed(array: Any, label: str = '') -> Value:
    array = np.asarray(array)
    return Value(array.shape, array.dtype, array=array, label=label)


def _uniform(array: np.ndarray) -> bool:
    return array.size > 0 and bool((array == array.flat[0]).all())


def _batched(size: int) -> bool:
    return size > 0 and size % BATCH == 0


Rule = Callable[['Lowering', Any, list[Value]], 'Value | list[Value]']


class Lowering:
    """One lowering into a graph.

    Args:
      graph: the graph.
      batch: the name of a tensor in it whose first axis is the batch.
    """

    def __init__(self, graph: Graph, batch: str) -> None:
        self.graph = graph
        self._batch, self._length = batch, ''
        (self._symbol,) = export.symbolic_shape('n')

    def add(self, function: Callable[..., Any], variables: Any, images: str, shape: Sequence[int], dtype: Any) -> Any:
        """Add a function (variables, images) -> tree of arrays to the graph; return the tree with the tensors' names.

        Args:
          function: the function.
          variables: its first argument, a tree of arrays; they become constants, named by their paths.
          images: the name of its second argument, whose axes are stored in their order.
          shape: the shape of an image.
          dtype: the type of the images.
        """
        leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
        shown = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), variables)
        batch = jax.ShapeDtypeStruct((self._symbol, *shape), dtype)
        with user_code('the network, traced for a batch of any length,', function):
            closed, made = jax.make_jaxpr(function, return_shape=True)(shown, batch)
        given = tensor((BATCH, *shape), dtype, tuple(range(len(shape) + 1)), images)
        values = self.run(closed.jaxpr, closed.consts, [*(_fixed(leaf, _path(path)) for path, leaf in leaves), given])
        self.graph.scope = ''
        names = [self.full(value, tuple(range(len(value.shape)))) for value in values]
        return jax.tree.unflatten(jax.tree.structure(made), names)

    def run(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
        """Lower the equations of a jaxpr, and return the values of its outputs."""
        known: dict[Any, Value] = dict(zip(jaxpr.constvars, map(_fixed, consts), strict=True))
        known.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            literal: Any = atom
            if isinstance(atom, core.Literal):
                return _fixed(np.asarray(literal.val, literal.aval.dtype))
            return known[atom]

        for equation in jaxpr.eqns:
            self.graph.scope = _scope(equation) or self.graph.scope
            made = self._lowered(equation, [read(atom) for atom in equation.invars])
            known.update(zip(equation.outvars, made if isinstance(made, list) else [made], strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _lowered(self, equation: Any, values: list[Value]) -> Value | list[Value]:
        name = equation.primitive.name
        if name not in CALLS and all(value.array is not None for value in values):
            found = self._folded(equation, values)
            if found is not None:
                return found
        if name not in RULES:
            raise UserError(
                f'the network cannot be written as ONNX: it uses the operation {name} of JAX, for which there is no '
                'rule'
            )
        return RULES[name](self, equation, values)

    def _folded(self, equation: Any, values: list[Value]) -> list[Value] | None:
        """Compute an equation of constants; None where the batch is part of a shape that matters."""
        shapes = [self.sizes(var.aval.shape) for var in equation.outvars]
        if equation.primitive.name in ELEMENTWISE:
            longest = np.broadcast_shapes(*(value.constant.shape for value in values))
            arrays = [np.broadcast_to(value.constant, longest) for value in values]
        elif any(map(_batched, itertools.chain(*shapes, *(value.shape for value in values)))):
            return None
        else:
            arrays = [np.broadcast_to(value.constant, value.shape) for value in values]
        found = equation.primitive.bind(*map(jnp.asarray, arrays), **equation.params)
        label = max(values, key=lambda v: (bool(v.label), v.constant.size)).label if values else ''
        found = found if equation.primitive.multiple_results else [found]
        arrays = [np.asarray(array) for array in found]
        if not label:  # such as the number of places in each window of a pooling
            arrays = [array[(slice(0, 1),) * array.ndim] if _uniform(array) else array for array in arrays]
        return [
            Value(shape, array.dtype, array=array, label=label) for shape, array in zip(shapes, arrays, strict=True)
        ]

    # --- shapes -------------------------------------------------------------------------------------------------------

    def sizes(self, shape: Sequence[Any]) -> tuple[int, ...]:
        """Return a shape of JAX with `BATCH` for the length of the batch."""
        return tuple(size if isinstance(size, int) else self._size(size) for size in shape)

    def _size(self, size: Any) -> int:
        times = size // self._symbol
        if isinstance(times, int) and size == times * self._symbol:
            return times * BATCH
        raise UserError(f'the network cannot be written as ONNX: it has an axis of length {size} in a batch of n')

    def length(self) -> str:
        """Return the name of the length of the batch, (1,) int64."""
        if not self._length:
            self._length = self.graph.add('Shape', self._batch, start=0, end=1)
        return self._length

    def vector(self, sizes: Sequence[int]) -> str:
        """Return the name of a shape as a vector."""
        parts = []
        for batched, group in itertools.groupby(sizes, _batched):
            lengths = list(group)
            if not batched:
                parts.append(self.graph.ints(*lengths))
            for times in [size // BATCH for size in lengths if batched]:
                one = self.length()
                parts.append(one if times == 1 else self.graph.add('Mul', one, self.graph.ints(times)))
        return parts[0] if len(parts) == 1 else self.graph.add('Concat', *parts, axis=0)

    def reshaped(self, name: str, sizes: Sequence[int]) -> str:
        """Return the name of a stored tensor in another shape."""
        if sum(map(_batched, sizes)) > 1:
            return self.graph.add('Reshape', name, self.vector(sizes))
        return self.graph.add('Reshape', name, self.graph.ints(*(-1 if _batched(size) else size for size in sizes)))

    # --- tensors as an operation needs them ---------------------------------------------------------------------------

    def permuted(self, value: Value, order: Order) -> str:
        """Return the name of a tensor with its stored axes in an order, which is preferred from now on."""
        if order in value.layouts:
            value.layouts[order] = value.layouts.pop(order)
        else:
            old = value.order
            name = self.graph.add('Transpose', value.layouts[old], perm=[old.index(axis) for axis in order])
            value.layouts[order] = name
        return value.layouts[order]

    def aligned(self, value: Value, order: Order) -> str:
        """Return the name of an operand that ONNX broadcasts to axes in an order, which are all that it has."""
        if value.array is not None:
            array = _transposed(value, order)
            ones = next((k for k, size in enumerate(array.shape) if size != 1), array.ndim)
            return self.graph.constant(array.reshape(array.shape[ones:]).astype(value.dtype, copy=False), value.label)
        held = tuple(axis for axis in order if axis in value.held)
        name = self.permuted(value, held)
        first = order.index(held[0]) if held else len(order)
        missing = [k - first for k in range(first, len(order)) if order[k] not in held]
        return self.graph.add('Unsqueeze', name, self.graph.ints(*missing)) if missing else name

    def full(self, value: Value, order: Order) -> str:
        """Return the name of a tensor with axes in an order, along none of which it only repeats.

        Args:
          value: the value.
          order: all axes, of which those of length 1 may be missing.
        """
        sizes = [value.shape[axis] for axis in order]
        if value.array is not None:
            array = _transposed(value, order)
            static = [1 if _batched(size) else size for size in sizes]
            array = np.broadcast_to(array, static)
            name = self.graph.constant(array.astype(value.dtype, copy=False), value.label)
            return self.graph.add('Expand', name, self.vector(sizes)) if static != sizes else name
        value = self.without(value, value.held.difference(order))
        held = tuple(axis for axis in order if axis in value.held)
        name = self.permuted(value, held)
        missing = [k for k, axis in enumerate(order) if axis not in held]
        if missing:
            name = self.graph.add('Unsqueeze', name, self.graph.ints(*missing))
        if any(sizes[k] != 1 for k in missing):
            name = self.graph.add('Expand', name, self.vector([s if k in missing else 1 for k, s in enumerate(sizes)]))
        return name

    def without(self, value: Value, axes: Sequence[int] | frozenset[int]) -> Value:
        """Return a tensor that does not store some axes of length 1."""
        dropped = value.held.intersection(axes)
        if not dropped:
            return value
        order = value.order
        places = [k for k, axis in enumerate(order) if axis in dropped]
        name = self.graph.add('Squeeze', value.layouts[order], self.graph.ints(*places))
        return tensor(value.shape, value.dtype, tuple(axis for axis in order if axis not in dropped), name)

    def common(self, values: Sequence[Value]) -> Order:
        """Return an order of the axes that some tensors store, in which the fewest must be transposed."""
        tensors = [value for value in values if value.array is None]
        union = frozenset[int]().union(*(value.held for value in tensors))
        found = [order for value in tensors for order in reversed(value.layouts) if value.held == union]

        def cost(order: Order) -> int:
            return sum(tuple(axis for axis in order if axis in value.held) not in value.layouts for value in tensors)

        return min([*found, tuple(sorted(union))], key=cost)

    def whole(self, value: Value) -> Order:
        """Return an order of all axes of a tensor, in which it need not be transposed."""
        return (*(axis for axis in range(len(value.shape)) if axis not in value.held), *value.order)


def tensor(shape: Sequence[int], dtype: Any, order: Order, name: str) -> Value:
    """Return a tensor that is stored under a name with its axes in an order."""
    value = Value(shape, dtype)
    value.layouts[order] = name
    return value


def _transposed(value: Value, order: Order) -> np.ndarray:
    """Return a constant with its axes in an order; the missing ones have length 1."""
    array = value.constant
    if not array.ndim:
        return array.reshape((1,) * len(order))
    missing = tuple(axis for axis in range(array.ndim) if axis not in order)
    return array.transpose((*missing, *order)).reshape([array.shape[axis] for axis in order])


def _renamed(value: Value, shape: Sequence[int], axes: Mapping[int, int]) -> Value:
    """Return a tensor in another shape, of which each stored axis is one. axes: {old axis: new axis}."""
    made = Value(shape, value.dtype)
    made.layouts = {tuple(axes[axis] for axis in order): name for order, name in value.layouts.items()}
    return made


def _path(path: Sequence[Any]) -> str:
    """Return the keys of a leaf as text, 'params/backbone/stem/conv/kernel'."""
    return '/'.join(str(getattr(key, 'key', key)) for key in path)


def _scope(equation: Any) -> str:
    """Return the module that an equation comes from, 'backbone/stage1/block0/conv1'."""
    return '/'.join(part for part in str(equation.source_info.name_stack).split('/') if part not in ('', 'Network'))


# --- the rules --------------------------------------------------------------------------------------------------------

RULES: dict[str, Rule] = {}
# Elementwise primitives that are one ONNX operation.
SIMPLE = {
    'abs': 'Abs', 'add': 'Add', 'add_any': 'Add', 'and': 'And', 'ceil': 'Ceil', 'cos': 'Cos', 'div': 'Div',
    'eq': 'Equal', 'erf': 'Erf', 'exp': 'Exp', 'floor': 'Floor', 'ge': 'GreaterOrEqual', 'gt': 'Greater',
    'le': 'LessOrEqual', 'log': 'Log', 'logistic': 'Sigmoid', 'lt': 'Less', 'max': 'Max', 'min': 'Min', 'mul': 'Mul',
    'neg': 'Neg', 'not': 'Not', 'or': 'Or', 'pow': 'Pow', 'sign': 'Sign', 'sin': 'Sin', 'sqrt': 'Sqrt', 'sub': 'Sub',
    'tan': 'Tan', 'tanh': 'Tanh', 'xor': 'Xor',
}  # fmt: skip
# Primitives that change no value.
SAME = ('copy', 'copy_p', 'name', 'optimization_barrier', 'sharding_constraint', 'stop_gradient')
# Other elementwise primitives, which have a rule of their own.
OTHERS = (
    'clamp', 'convert_element_type', 'erfc', 'expm1', 'integer_pow', 'is_finite', 'log1p', 'ne', 'rem', 'round',
    'rsqrt', 'select_n', 'square',
)  # fmt: skip
# Of constants they are computed without repeating what repeats.
ELEMENTWISE = frozenset([*SIMPLE, *SAME, *OTHERS])
# Primitives with functions inside, and others that are never computed as one operation of constants.
FUNCTIONS = ('closed_call', 'custom_jvp_call', 'custom_vjp_call', 'jit', 'remat2')
CALLS = frozenset([*FUNCTIONS, 'broadcast_in_dim', 'cond', 'dim_as_value', 'platform_index', 'scan'])


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule for some primitives."""

    def registered(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return registered


def _made(low: Lowering, equation: Any, order: Order, name: str) -> Value:
    """Return the output of an equation, stored under a name with its axes in an order."""
    aval = equation.outvars[0].aval
    return tensor(low.sizes(aval.shape), aval.dtype, order, name)


def _unsupported(what: str) -> UserError:
    return UserError(f'the network cannot be written as ONNX: it has {what}, for which there is no rule')


# --- elementwise operations -------------------------------------------------------------------------------------------


def _operands(low: Lowering, values: Sequence[Value]) -> tuple[list[str], Order]:
    """Return the names of operands that ONNX broadcasts, and the order of the result's axes."""
    order = low.common(values)
    longer = {axis for v in values if v.array is not None for axis, size in enumerate(v.array.shape) if size != 1}
    order = (*sorted(longer.difference(order)), *order)
    return [low.aligned(value, order) for value in values], order


@rule(*SIMPLE)
def _simple(low: Lowering, equation: Any, values: list[Value]) -> Value:
    names, order = _operands(low, values)
    return _made(low, equation, order, low.graph.add(SIMPLE[equation.primitive.name], *names))


@rule(*SAME)
def _same(low: Lowering, equation: Any, values: list[Value]) -> list[Value]:
    del low, equation
    return values


@rule('convert_element_type')
def _convert(low: Lowering, equation: Any, values: list[Value]) -> Value:
    (value,) = values
    to = _stored(equation.params['new_dtype'])
    if to == value.dtype:
        return value
    order = value.order
    name = low.graph.add('Cast', value.layouts[order], notes={'from': kind(value.dtype)}, to=kind(to))
    return _made(low, equation, order, name)


def _composed(build: Callable[..., str]) -> Rule:
    """Return the rule of a primitive that is several nodes; `build` has a function that adds one, and the operands."""

    def lowered(low: Lowering, equation: Any, values: list[Value]) -> Value:
        names, order = _operands(low, values)
        dtype = values[-1].dtype

        def number(value: float) -> str:
            return low.graph.constant(np.asarray(value, dtype))

        return _made(low, equation, order, build(low.graph.add, number, *names, **_settings(equation)))

    return lowered


def _settings(equation: Any) -> dict[str, Any]:
    return {'y': equation.params['y']} if equation.primitive.name == 'integer_pow' else {}


COMPOSED: dict[str, Callable[..., str]] = {
    'clamp': lambda add, number, low, x, high: add('Min', add('Max', x, low), high),
    'erfc': lambda add, number, x: add('Sub', number(1), add('Erf', x)),
    'expm1': lambda add, number, x: add('Sub', add('Exp', x), number(1)),
    'integer_pow': lambda add, number, x, y: add('Mul', x, x) if y == 2 else add('Pow', x, number(y)),
    'is_finite': lambda add, number, x: add('Not', add('Or', add('IsInf', x), add('IsNaN', x))),
    'log1p': lambda add, number, x: add('Log', add('Add', x, number(1))),
    'ne': lambda add, number, a, b: add('Not', add('Equal', a, b)),
    'rem': lambda add, number, a, b: add('Mod', a, b, fmod=1),
    'rsqrt': lambda add, number, x: add('Reciprocal', add('Sqrt', x)),
    'square': lambda add, number, x: add('Mul', x, x),
}
RULES.update({name: _composed(build) for name, build in COMPOSED.items()})


@rule('round')
def _round(low: Lowering, equation: Any, values: list[Value]) -> Value:
    if equation.params['rounding_method'] != lax.RoundingMethod.TO_NEAREST_EVEN:
        raise _unsupported('a rounding of halves away from zero')
    order = values[0].order
    return _made(low, equation, order, low.graph.add('Round', values[0].layouts[order]))


@rule('select_n')
def _select(low: Lowering, equation: Any, values: list[Value]) -> Value:
    which, *cases = values
    if which.array is not None and (which.array == which.array.flat[0]).all():
        return cases[int(which.array.flat[0])]
    if len(cases) != 2 or which.dtype != bool:
        raise _unsupported('a choice between more than two values (select_n)')
    names, order = _operands(low, [which, cases[1], cases[0]])
    return _made(low, equation, order, low.graph.add('Where', *names))


# --- shapes -----------------------------------------------------------------------------------------------------------


@rule('broadcast_in_dim')
def _broadcast(low: Lowering, equation: Any, values: list[Value]) -> Value:
    value, places = values[0], [int(axis) for axis in equation.params['broadcast_dimensions']]
    shape = low.sizes(equation.outvars[0].aval.shape)
    if value.array is not None:
        narrow = [1] * len(shape)
        for axis, size in zip(places, value.array.shape, strict=True):
            narrow[axis] = size
        return Value(shape, value.dtype, array=value.array.reshape(narrow), label=value.label)
    value = low.without(value, [k for k, axis in enumerate(places) if value.shape[k] == 1 != shape[axis]])
    return _renamed(value, shape, dict(enumerate(places)))


@rule('transpose')
def _transpose(low: Lowering, equation: Any, values: list[Value]) -> Value:
    old = equation.params['permutation']
    shape = low.sizes(equation.outvars[0].aval.shape)
    return _renamed(_tensor(low, values[0]), shape, {axis: k for k, axis in enumerate(old)})


@rule('squeeze')
def _squeeze(low: Lowering, equation: Any, values: list[Value]) -> Value:
    gone = equation.params['dimensions']
    kept = [axis for axis in range(len(values[0].shape)) if axis not in gone]
    value = low.without(_tensor(low, values[0]), gone)
    return _renamed(value, low.sizes(equation.outvars[0].aval.shape), {axis: k for k, axis in enumerate(kept)})


@rule('reshape')
def _reshape(low: Lowering, equation: Any, values: list[Value]) -> Value:
    value, shape = _tensor(low, values[0]), low.sizes(equation.outvars[0].aval.shape)
    if equation.params['dimensions'] is not None:
        raise _unsupported('a reshape in another order of the axes')
    value = low.without(value, [axis for axis in value.held if value.shape[axis] == 1])
    groups = _groups(value.shape, shape)
    mixed = [(old, new) for old, new in groups if len(old) > 1 or len(new) > 1]
    if not mixed:
        return _renamed(value, shape, {old[0]: new[0] for old, new in groups})
    order = next((order for order in reversed(value.layouts) if all(_adjacent(old, order) for old, _ in mixed)), None)
    if order is not None:
        name = low.permuted(value, order)
    else:
        order = _side_by_side([old for old, _ in mixed], value)
        name = low.full(value, order)
    becomes = {old[0]: new for old, new in groups}
    after = tuple(axis for first in order if first in becomes for axis in becomes[first])
    return tensor(shape, value.dtype, after, low.reshaped(name, [shape[axis] for axis in after]))


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[Order, Order]]:
    """Return which axes become which in a reshape, without those of length 1: (some old ones, some new ones)."""
    before = [(axis, size) for axis, size in enumerate(old) if size != 1]
    after = [(axis, size) for axis, size in enumerate(new) if size != 1]
    found = []
    while before and after:
        some, others = [before.pop(0)], [after.pop(0)]
        while (gap := math.prod(s for _, s in some) - math.prod(s for _, s in others)) != 0:
            (some if gap < 0 else others).append((before if gap < 0 else after).pop(0))
        found.append((tuple(axis for axis, _ in some), tuple(axis for axis, _ in others)))
    return found


def _adjacent(axes: Order, order: Order) -> bool:
    """Return whether some axes are stored side by side."""
    if not set(axes) <= set(order):
        return False
    first = order.index(axes[0])
    return order[first : first + len(axes)] == axes


def _side_by_side(groups: Sequence[Order], value: Value) -> Order:
    """Return an order of the axes of a tensor, like the stored one, in which those of a group follow one another."""
    found: list[int] = []
    for axis in (*value.order, *(axis for axis, size in enumerate(value.shape) if size != 1)):
        if axis not in found:
            found += next((group for group in groups if axis in group), (axis,))
    return tuple(found)


def _tensor(low: Lowering, value: Value) -> Value:
    """Return a value as a tensor, also where it is a constant whose shape depends on the batch."""
    if value.array is None:
        return value
    order = tuple(range(len(value.shape)))
    return tensor(value.shape, value.dtype, order, low.full(value, order))


@rule('slice')
def _slice(low: Lowering, equation: Any, values: list[Value]) -> Value:
    given, shape = equation.params, low.sizes(equation.outvars[0].aval.shape)
    ends, steps = low.sizes(given['limit_indices']), given['strides'] or (1,) * len(shape)
    return _part(low, values[0], list(zip(given['start_indices'], ends, steps, strict=True)), shape)


def _part(low: Lowering, value: Value, ranges: Sequence[tuple[int, int, int]], shape: Sequence[int]) -> Value:
    """Return a part of a tensor.

    Args:
      value: the tensor.
      ranges: (start, end, step) of each axis.
      shape: that of the part.
    """
    value = _tensor(low, value)
    cut = {axis: one for axis, one in enumerate(ranges) if one != (0, value.shape[axis], 1) and axis in value.held}
    if any(_batched(value.shape[axis]) for axis in cut):
        raise _unsupported('a part of the batch')
    order = value.order
    name = value.layouts[order]
    if cut:
        starts, ends, steps = zip(*cut.values(), strict=True)
        axes = [order.index(axis) for axis in cut]
        name = low.graph.add('Slice', name, *(low.graph.ints(*some) for some in (starts, ends, axes, steps)))
    return tensor(shape, value.dtype, order, name)


def _window(low: Lowering, value: Value, starts: Mapping[int, Value], lengths: Sequence[int]) -> Value:
    """Return the part of some lengths that begins at some places, moved inside as JAX does.

    Args:
      value: the tensor.
      starts: the place along each axis where it is not 0, (,) int.
      lengths: of all axes.
    """
    ranges = []
    for axis, (size, length) in enumerate(zip(value.shape, lengths, strict=True)):
        start = starts.get(axis)
        if size == length or start is None:
            ranges.append((0, length, 1))
        elif start.array is None:
            raise _unsupported('a part whose place depends on the image (dynamic_slice)')
        else:
            first = min(max(int(start.array), 0), size - length)
            ranges.append((first, first + length, 1))
    return _part(low, value, ranges, lengths)


@rule('dynamic_slice')
def _dynamic_slice(low: Lowering, equation: Any, values: list[Value]) -> Value:
    return _window(low, values[0], dict(enumerate(values[1:])), low.sizes(equation.params['slice_sizes']))


@rule('rev')
def _rev(low: Lowering, equation: Any, values: list[Value]) -> Value:
    value, axes = values[0], equation.params['dimensions']
    ranges = [(-1, -END, -1) if axis in axes else (0, size, 1) for axis, size in enumerate(value.shape)]
    return _part(low, value, ranges, value.shape)


@rule('split')
def _split(low: Lowering, equation: Any, values: list[Value]) -> list[Value]:
    value, axis = _tensor(low, values[0]), equation.params['axis']
    order = value.order if axis in value.held else low.whole(value)
    name = value.layouts[order] if axis in value.held else low.full(value, order)
    sizes = [int(size) for size in equation.params['sizes']]
    names = low.graph.add_several(
        'Split', [name, low.graph.ints(*sizes)], len(sizes), axis=order.index(axis)
    )  # fmt: skip
    shapes = [low.sizes(var.aval.shape) for var in equation.outvars]
    return [tensor(shape, value.dtype, order, one) for shape, one in zip(shapes, names, strict=True)]


@rule('concatenate')
def _concatenate(low: Lowering, equation: Any, values: list[Value]) -> Value:
    axis = equation.params['dimension']
    return _made(low, equation, *_joined(low, values, axis))


def _joined(low: Lowering, values: Sequence[Value], axis: int) -> tuple[Order, str]:
    """Return the order of the axes, and the name of values one after the other along an axis."""
    order = low.common(values)
    long = {k for value in values for k, size in enumerate(value.shape) if size != 1} | {axis}
    order = (*sorted(long.difference(order)), *order)
    return order, low.graph.add('Concat', *(low.full(value, order) for value in values), axis=order.index(axis))


@rule('pad')
def _pad(low: Lowering, equation: Any, values: list[Value]) -> Value:
    value, fill = _tensor(low, values[0]), values[1]
    config = equation.params['padding_config']
    if any(inner for _, _, inner in config) or any(low < 0 or high < 0 for low, high, _ in config):
        raise _unsupported('a padding that is negative or between the elements (pad)')
    order = low.whole(value)
    pads = [config[axis][side] for side in (0, 1) for axis in order]
    name = low.graph.add('Pad', low.full(value, order), low.graph.ints(*pads), low.aligned(fill, ()))
    return _made(low, equation, order, name)


@rule('gather')
def _gather(low: Lowering, equation: Any, values: list[Value]) -> Value:
    """Lower the choice of a part, `x[:, 1:]`, and of places along one axis, `x[:, places]`, also of both."""
    (value, places), shape = values, low.sizes(equation.outvars[0].aval.shape)
    numbers, lengths = equation.params['dimension_numbers'], list(low.sizes(equation.params['slice_sizes']))
    axes, gone = numbers.start_index_map, numbers.collapsed_slice_dims
    if places.array is None:
        raise _unsupported('a choice of elements at places that depend on the image (gather)')
    # One column for each axis; rows are the places that are taken.
    columns = dict(zip(axes, np.moveaxis(np.broadcast_to(places.array, places.shape), -1, 0), strict=True))
    inside = all((at >= 0).all() and (at <= value.shape[k] - lengths[k]).all() for k, at in columns.items())
    moving = [axis for axis, at in columns.items() if at.ndim and (axis in gone or not _uniform(at))]
    if not inside or len(moving) > 1 or numbers.operand_batching_dims or moving and gone != tuple(moving):
        raise _unsupported('a choice of elements other than a part, or whole rows along one axis (gather)')
    for axis in moving:
        lengths[axis] = value.shape[axis]
    starts = {axis: _fixed(at.flat[0]) for axis, at in columns.items() if axis not in moving}
    value = _window(low, value, starts, lengths)
    if not moving:
        kept = [axis for axis in range(len(lengths)) if axis not in gone]
        return _renamed(low.without(value, gone), shape, dict(zip(kept, numbers.offset_dims, strict=True)))
    rank, order = places.array.ndim - 1, tuple(range(len(shape)))
    if numbers.offset_dims != tuple(axis for axis in order if not moving[0] <= axis < moving[0] + rank):
        raise _unsupported('a choice of rows that become another axis (gather)')
    at = low.graph.constant(columns[moving[0]].astype(np.int64))
    name = low.graph.add('Gather', low.full(value, tuple(range(len(value.shape)))), at, axis=moving[0])
    return tensor(shape, value.dtype, order, name)


@rule('dim_as_value')
def _dim_as_value(low: Lowering, equation: Any, values: list[Value]) -> Value:
    del values
    times = low.sizes((equation.params['dim'],))[0] // BATCH
    length = low.graph.add('Mul', low.length(), low.graph.ints(times))
    to = kind(_stored(equation.outvars[0].aval.dtype))
    name = low.graph.add('Cast', low.graph.add('Squeeze', length, low.graph.ints(0)), to=to)
    return _made(low, equation, (), name)


# --- sums, products and convolutions ----------------------------------------------------------------------------------

REDUCTIONS = {
    'reduce_max': 'ReduceMax', 'reduce_min': 'ReduceMin', 'reduce_prod': 'ReduceProd', 'reduce_sum': 'ReduceSum',
}  # fmt: skip


@rule(*REDUCTIONS)
def _reduce(low: Lowering, equation: Any, values: list[Value]) -> Value:
    value, axes = _tensor(low, values[0]), {int(axis) for axis in equation.params['axes']}
    repeated = [axis for axis in axes if axis not in value.held and value.shape[axis] != 1]
    if repeated and equation.primitive.name in ('reduce_prod', 'reduce_sum'):
        order = tuple(range(len(value.shape)))
        value = tensor(value.shape, value.dtype, order, low.full(value, order))
    canonical = tuple(sorted(value.held))
    if canonical and axes == {canonical[-1]}:  # in this order it may become a LayerNormalization
        low.permuted(value, canonical)
    order, name = value.order, value.layouts[value.order]
    places = [k for k, axis in enumerate(order) if axis in axes]
    if places:
        notes = {'axes': places, 'rank': len(order), 'count': math.prod(value.shape[order[k]] for k in places)}
        name = low.graph.add(
            REDUCTIONS[equation.primitive.name], name, low.graph.ints(*places), notes=notes, keepdims=0
        )  # fmt: skip
    kept = [axis for axis in range(len(value.shape)) if axis not in axes]
    return _made(low, equation, tuple(kept.index(axis) for axis in order if axis not in axes), name)


@rule('top_k')
def _top_k(low: Lowering, equation: Any, values: list[Value]) -> list[Value]:
    order = tuple(range(len(values[0].shape)))
    name, count = low.full(values[0], order), low.graph.ints(int(equation.params['k']))
    best, places = low.graph.add_several('TopK', [name, count], 2, axis=-1)
    kinds = [var.aval for var in equation.outvars]
    places = low.graph.add('Cast', places, to=kind(kinds[1].dtype))
    return [tensor(low.sizes(one.shape), one.dtype, order, n) for one, n in zip(kinds, (best, places), strict=True)]


@rule('dot_general')
def _dot(low: Lowering, equation: Any, values: list[Value]) -> Value:
    (left_sum, right_sum), (left_batch, right_batch) = equation.params['dimension_numbers']
    left, right = (_widened(low, equation, value) for value in values)
    left_free, right_free = (
        [axis for axis in range(len(value.shape)) if axis not in (*summed, *batch)]
        for value, summed, batch in ((left, left_sum, left_batch), (right, right_sum, right_batch))
    )
    shape = low.sizes(equation.outvars[0].aval.shape)
    rows = [axis for axis in left_free if left.shape[axis] != 1]
    columns = [axis for axis in right_free if right.shape[axis] != 1]
    # Where the axes of the result are: those of the batch, then the left and the right ones.
    place = {('b', k): k for k in range(len(left_batch))}
    place |= {('l', axis): len(place) + k for k, axis in enumerate(left_free)}
    place |= {('r', axis): len(place) + k for k, axis in enumerate(right_free)}
    batch = [k for k in range(len(left_batch)) if left.shape[left_batch[k]] != 1]
    after = (*batch, *(place['l', axis] for axis in rows), *(place['r', axis] for axis in columns))
    left_name = low.full(left, (*(left_batch[k] for k in batch), *rows, *left_sum))
    right_name = low.full(right, (*(right_batch[k] for k in batch), *right_sum, *columns))
    # MatMul takes further axes of the rows, but only if there is no batch.
    sums = math.prod(left.shape[axis] for axis in left_sum)
    plain_left = len(left_sum) == 1 and (len(rows) == 1 or not batch and rows)
    if not plain_left:
        sizes = [left.shape[left_batch[k]] for k in batch]
        left_name = low.reshaped(left_name, [*sizes, math.prod(left.shape[axis] for axis in rows), sums])
    plain_right = len(right_sum) == len(columns) == 1
    if not plain_right:
        sizes = [right.shape[right_batch[k]] for k in batch]
        right_name = low.reshaped(right_name, [*sizes, sums, math.prod(right.shape[axis] for axis in columns)])
    name = low.graph.add('MatMul', left_name, right_name)
    if not (plain_left and plain_right):
        name = low.reshaped(name, [shape[axis] for axis in after])
    return _made(low, equation, after, name)


def _widened(low: Lowering, equation: Any, value: Value) -> Value:
    """Return an operand in the type of the result."""
    to = _stored(equation.outvars[0].aval.dtype)
    if value.dtype == to:
        return value
    if value.array is not None:
        return Value(value.shape, to, array=value.array.astype(to), label=value.label)
    return tensor(value.shape, to, value.order, low.graph.add('Cast', value.layouts[value.order], to=kind(to)))


@rule('conv_general_dilated')
def _conv(low: Lowering, equation: Any, values: list[Value]) -> Value:
    given = equation.params
    numbers, pads = given['dimension_numbers'], given['padding']
    if given['batch_group_count'] != 1 or any(step != 1 for step in given['lhs_dilation']):
        raise _unsupported('a transposed convolution')
    if any(size < 0 for pair in pads for size in pair):
        raise _unsupported('a convolution with negative padding')
    image, kernel = (_widened(low, equation, value) for value in values)
    name = low.graph.add(
        'Conv', low.full(image, tuple(numbers.lhs_spec)), low.full(kernel, tuple(numbers.rhs_spec)),
        strides=list(given['window_strides']), dilations=list(given['rhs_dilation']), pads=_both(pads),
        group=given['feature_group_count'], kernel_shape=[kernel.shape[axis] for axis in numbers.rhs_spec[2:]],
    )  # fmt: skip
    return _made(low, equation, tuple(numbers.out_spec), name)


def _both(pads: Sequence[tuple[int, int]]) -> list[int]:
    """Return the padding of the axes as ONNX has it: all at the beginning, then all at the end."""
    return [int(pair[side]) for side in (0, 1) for pair in pads]


@rule('reduce_window_max', 'reduce_window_sum')
def _pool(low: Lowering, equation: Any, values: list[Value]) -> Value:
    value, given = _tensor(low, values[0]), equation.params
    window, steps, pads = given['window_dimensions'], given['window_strides'], given['padding']
    rank = len(window)
    moved = [k for k in range(rank) if (window[k], steps[k], tuple(pads[k])) != (1, 1, (0, 0))]
    still = [k for k in range(rank) if k not in moved]
    # MaxPool and AveragePool take (N, C, axes of the map ..); the first pads with -inf, the second with 0.
    moved = still[2:] + moved
    if len(still) < 2 or any(step != 1 for step in given['base_dilation']):
        raise _unsupported('pooling over other axes than those of a map (reduce_window)')
    order = (*still[:2], *sorted(moved))
    pooled = order[2:]
    options: dict[str, Any] = {
        'kernel_shape': [window[k] for k in pooled], 'strides': [steps[k] for k in pooled],
        'pads': _both([pads[k] for k in pooled]),
    }  # fmt: skip
    if any(step != 1 for step in given['window_dilation']):  # onnxruntime's int8 pooling has no such attribute
        options['dilations'] = [given['window_dilation'][k] for k in pooled]
    name = low.full(value, order)
    if equation.primitive.name == 'reduce_window_max':
        return _made(low, equation, order, low.graph.add('MaxPool', name, **options))
    mean = low.graph.add('AveragePool', name, count_include_pad=1, **options)
    count = low.graph.constant(np.asarray(math.prod(window), value.dtype))
    return _made(low, equation, order, low.graph.add('Mul', mean, count))


# --- functions inside -------------------------------------------------------------------------------------------------


@rule(*FUNCTIONS)
def _function(low: Lowering, equation: Any, values: list[Value]) -> list[Value]:
    inside = equation.params.get('call_jaxpr', equation.params.get('jaxpr'))
    return _inlined(low, inside, values)


def _inlined(low: Lowering, inside: Any, values: list[Value]) -> list[Value]:
    if isinstance(inside, core.ClosedJaxpr):
        return low.run(inside.jaxpr, inside.consts, values)
    return low.run(inside, [], values)


@rule('platform_index')
def _platform(low: Lowering, equation: Any, values: list[Value]) -> Value:
    """Choose what `lax.platform_dependent` computes by default, since a file is for no platform."""
    del low, values
    return _fixed(np.int32(len(equation.params['platforms']) - 1))


@rule('cond')
def _cond(low: Lowering, equation: Any, values: list[Value]) -> list[Value]:
    which, *inputs = values
    if which.array is None:
        raise _unsupported('a branch that depends on the image (cond)')
    branches = equation.params['branches']
    return _inlined(low, branches[min(max(int(which.array), 0), len(branches) - 1)], inputs)


@rule('scan')
def _scan(low: Lowering, equation: Any, values: list[Value]) -> list[Value]:
    """Write a loop of a few rounds as its rounds, as over the views of test-time augmentation."""
    given = equation.params
    rounds, consts, carried = given['length'], given['num_consts'], given['num_carry']
    if not isinstance(rounds, int) or rounds > UNROLLED:
        raise _unsupported(f'a loop of {rounds} rounds (scan)')
    fixed, carry, over = values[:consts], values[consts : consts + carried], values[consts + carried :]
    each: list[list[Value]] = []
    for k in range(rounds)[:: -1 if given['reverse'] else 1]:
        now = [_item(low, value, k) for value in over]
        outputs = _inlined(low, given['jaxpr'], [*fixed, *carry, *now])
        carry = outputs[:carried]
        each.append(outputs[carried:])
    each = each[:: -1 if given['reverse'] else 1]
    return [*carry, *(_stacked(low, list(some)) for some in zip(*each, strict=True))]


def _item(low: Lowering, value: Value, k: int) -> Value:
    """Return the k-th element along the first axis."""
    if value.array is not None:
        return Value(value.shape[1:], value.dtype, array=value.array[min(k, len(value.array) - 1)], label=value.label)
    order = low.whole(value) if 0 not in value.held else value.order
    name = low.graph.add('Gather', low.full(value, order), low.graph.constant(np.int64(k)), axis=order.index(0))
    return tensor(value.shape[1:], value.dtype, tuple(axis - 1 for axis in order if axis), name)


def _stacked(low: Lowering, values: list[Value]) -> Value:
    """Return values one after the other along a new first axis."""
    shape = (len(values), *values[0].shape)
    deeper = []
    for value in values:
        if value.array is not None:
            value = Value((1, *value.shape), value.dtype, array=value.array[None])
        else:
            value = _renamed(value, (1, *value.shape), {axis: axis + 1 for axis in value.held})
        deeper.append(value)
    return tensor(shape, values[0].dtype, *_joined(low, deeper, 0))
