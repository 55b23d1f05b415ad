"""The globals that a torch pickle may name, and the stand-ins for its objects. Nothing of torch or numpy is called."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from mixjax.errors import UserError, require

RANK = 32
DAMAGED = 'is damaged or ends early'

# The storages by element; the elements are little-endian unless the file sets another order.
STORAGES = {
    'torch.FloatStorage': 'f4',
    'torch.DoubleStorage': 'f8',
    'torch.HalfStorage': 'f2',
    'torch.BFloat16Storage': 'bfloat16',
    'torch.LongStorage': 'i8',
    'torch.IntStorage': 'i4',
    'torch.ShortStorage': 'i2',
    'torch.CharStorage': 'i1',
    'torch.ByteStorage': 'u1',
    'torch.BoolStorage': 'bool',
}

# Harmless globals beside a state dict: they are skipped, and appear as `INERT`.
IGNORED = {
    'numpy.core.multiarray.scalar',
    'numpy._core.multiarray.scalar',
    'numpy.core.multiarray._reconstruct',
    'numpy._core.multiarray._reconstruct',
    'numpy.ndarray',
    'numpy.dtype',
    '_codecs.encode',
    'argparse.Namespace',
    'collections.Counter',
    'torch.device',
    *(f'{module}.{name}' for module in ('builtins', '__builtin__') for name in ('set', 'frozenset', 'dict', 'list')),
    *(f'torch.{name}' for name in ('float16', 'bfloat16', 'float32', 'float64', 'int64', 'int32', 'uint8', 'bool')),
}
INERT = object()


class Named(NamedTuple):
    """A global of the list, by its name."""

    name: str


class Storage(NamedTuple):
    """`count` elements from element `start` of the storage `key`."""

    key: str
    element: str
    start: int
    count: int


class Tensor(NamedTuple):
    """A tensor, not read yet; the offset and the strides count elements of the whole storage."""

    key: str
    element: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The number of bytes of the array that `read` returns."""
        width = np.dtype(np.float32 if self.element in ('f2', 'bfloat16') else self.element).itemsize
        return math.prod(self.shape) * width


def dtype_of(element: str) -> np.dtype:
    """Return the numpy type with which a storage is read."""
    return np.dtype({'bfloat16': 'u2', 'bool': 'u1'}.get(element, element))


def short(name: str) -> str:
    """Return a name from a file in a form that is safe to print."""
    return ascii(name[:60])[1:-1]


# --- callables of a pickle --------------------------------------------------------------------------------------------


def _rebuilt(arguments: tuple) -> Tensor:
    """Return a tensor, if its window is inside of its storage."""
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            pass
        case _:
            raise UserError(DAMAGED)
    require(len(shape) == len(strides) <= RANK, DAMAGED)
    require(all(type(number) is int and 0 <= number < 1 << 48 for number in (*shape, *strides, int(offset))), DAMAGED)
    number = math.prod(shape)
    if number == 0:
        require(math.prod(max(1, length) for length in shape) < 1 << 48, DAMAGED)
    else:
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        require(number <= storage.count and last < storage.count, 'holds a tensor that is larger than its storage')
    return Tensor(storage.key, storage.element, storage.start + offset, shape, strides)


def _parameter(arguments: tuple) -> Tensor:
    match arguments:
        case (Tensor() as tensor, *_):
            return tensor
    raise UserError(DAMAGED)


def _size(arguments: tuple) -> tuple:
    match arguments:
        case (tuple(lengths),):
            return lengths
    raise UserError(DAMAGED)


def _dict(arguments: tuple) -> dict[str, Any]:
    """Return a dict: Python 3 fills it after the call, Python 2 passes the items to the call."""
    items = arguments[0] if arguments and type(arguments[0]) is list else []
    filled = {}
    for item in items:
        require(type(item) in (list, tuple) and len(item) == 2, DAMAGED)
        if type(item[0]) is str:
            filled[item[0]] = item[1]
    return filled


CALLS: dict[str, Callable[[tuple], Any]] = {
    'torch._utils._rebuild_tensor': _rebuilt,
    'torch._utils._rebuild_tensor_v2': _rebuilt,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch.Size': _size,
    'collections.OrderedDict': _dict,
    'collections.defaultdict': _dict,
    **dict.fromkeys(IGNORED, lambda arguments: INERT),
}
