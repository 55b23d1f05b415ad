"""Torch checkpoints, read without torch; nothing that a file says is ever run.

`torch.save` writes one of two streams:

    zip     (since 1.6) TOP/data.pkl, a pickle of the object, and TOP/data/KEY, the bytes of its storages
    legacy  four pickles (a magic number, a version, facts on the machine, the object), a pickle with the keys of the
            storages, and for each key the number of elements as int64 and the bytes

A tensor is a window (offset, shape, strides) into a storage. In the pickle a storage is a persistent id.

A pickle is a program, and Python's own unpickler would import and call whatever it names. Here a machine of some
thirty opcodes runs it instead (`_Machine`). It builds lists, tuples, dicts and stand-ins of tensors; what it may name
is listed below, and a name outside of the list is refused. It cannot import, call or set anything else. Each size
that a file declares is compared with the file before memory is taken, so a wrong file costs a sentence, no more.
"""

from __future__ import annotations

import math
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from mixjax.errors import UserError, require

# A ResNet-50 takes 12,000 steps and 60 kB; a checkpoint of a large network with its optimizer ten times as much.
STEPS = 500_000
PICKLE_BYTES = 1 << 24
DIRECTORY_BYTES = 1 << 22
TEXT_BYTES = 512  # a line of a text opcode: a module, a name or an integer
RANK = 32

WRAPPERS = ('state_dict', 'model', 'model_state_dict', 'net')  # where training scripts put the state dict

_ZIP = b'PK\x03\x04'
_MAGIC = 0x1950A86A20F9469CFC6C
_TAR = (b'sys_info\0', b'././@PaxHeader')  # how the tar files of before 2017 begin
_DAMAGED = 'is damaged or ends early'

# The storages by element; the elements are little-endian unless the file says otherwise.
_STORAGES = {
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

# What stands beside a state dict without harm: it is read over, and comes out as `_INERT`.
_IGNORED = {
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
_INERT = object()


class _Named(NamedTuple):
    """A global of the list, by its name."""

    name: str


class _Storage(NamedTuple):
    """`count` elements from element `start` of the storage `key`."""

    key: str
    element: str
    start: int
    count: int


class _Tensor(NamedTuple):
    """A tensor, not read yet; the offset and the strides count elements of the whole storage."""

    key: str
    element: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of the array that `read` returns."""
        width = np.dtype(np.float32 if self.element in ('f2', 'bfloat16') else self.element).itemsize
        return math.prod(self.shape) * width


def is_torch(head: bytes) -> bool:
    """Whether a file with these first bytes (64 are enough) is for `read`: a zip file or a form of torch's own."""
    legacy = head[:1] == b'\x80' and _MAGIC.to_bytes(10, 'little') in head[:32]
    return head.startswith((_ZIP, *_TAR)) or legacy


def read(path: Path | str) -> dict[str, np.ndarray]:
    """The tensors of the state dict in a torch checkpoint, by torch's names and in the file's order.

    The state dict is in one of the entries `WRAPPERS`, or else it is the file itself or any other entry; two that
    could be meant are an error. What else a checkpoint holds is left alone. The prefix `module.` of
    DataParallel is taken off when every name has it. float16 and bfloat16 become float32, which holds their
    values exactly. Tensors that share memory in the file may share it here.

    Raises:
      UserError: one sentence, which begins with the file's name.
    """
    path = Path(path)
    try:
        require(path.is_file(), 'is not a file')  # a pipe would be waited for
        with path.open('rb') as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(64)
            require(is_torch(head), 'is not a torch file')
            require(
                not head.startswith(_TAR), 'has the tar form of 2016: load it and save it again with any later torch'
            )
            checkpoint = _zip(file, size) if head.startswith(_ZIP) else _legacy(file, size)
            return _arrays(file, size, checkpoint, _state_dict(checkpoint.root))
    except UserError as error:
        raise UserError(f'{path.name} {error}') from error
    except OSError as error:
        raise UserError(f'{path.name} cannot be read ({error.strerror})') from error
    except MemoryError as error:
        raise UserError(f'{path.name} needs more memory than there is') from error


# --- from the object to arrays ----------------------------------------------------------------------------------------


class _Checkpoint(NamedTuple):
    """root: the object. storages: {key: (element, count)}. where: first byte of a storage. order: '<' or '>'."""

    root: Any
    storages: Mapping[str, tuple[str, int]]
    where: Callable[[str], int]
    order: Literal['<', '>']


def _tensors_of(entry: Any) -> dict[str, _Tensor]:
    return {key: value for key, value in entry.items() if type(value) is _Tensor} if type(entry) is dict else {}


def _state_dict(root: Any) -> dict[str, _Tensor]:
    """The one state dict of a checkpoint, without `module.`."""
    require(type(root) is dict, 'holds no state dict: give what model.state_dict() returns, saved with torch.save')
    inside = {key: tensors for key, entry in root.items() if (tensors := _tensors_of(entry))}
    own = _tensors_of(root)
    usual = {key: inside[key] for key in WRAPPERS if key in inside}
    found = usual or {**({'the file itself': own} if own else {}), **inside}
    require(bool(found), f'holds no tensors: its entries are {_listed(root)}')
    require(len(found) == 1, f'holds several state dicts ({_listed(found)}): save the one that is wanted by itself')
    (tensors,) = found.values()
    if all(name.startswith('module.') for name in tensors):
        tensors = {name.removeprefix('module.'): tensor for name, tensor in tensors.items()}
    return tensors


def _listed(names: Mapping[str, Any]) -> str:
    shown = [_short(name) for name in list(names)[:8]]
    return ', '.join(shown + ['..'] * (len(names) > 8)) or 'none'


def _short(name: str) -> str:
    """A name from a file, fit to be printed."""
    return ascii(name[:60])[1:-1]


def _arrays(
    file: BufferedReader, size: int, checkpoint: _Checkpoint, tensors: dict[str, _Tensor]
) -> dict[str, np.ndarray]:
    """Read the tensors storage by storage, so that no more than one storage stands beside the result."""
    # Each fits into its storage, but thousands of them may lie over one another. Halves double, hence the 2.
    total = sum(tensor.nbytes for tensor in set(tensors.values()))
    require(total <= 2 * size, 'holds tensors that overlap: together they are larger than the file')
    result: dict[str, Any] = dict.fromkeys(tensors)
    users: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        users.setdefault(tensor.key, []).append(name)
    for key, names in users.items():
        storage: np.ndarray | None = None
        made: dict[_Tensor, np.ndarray] = {}
        for name in names:
            tensor = tensors[name]
            if tensor not in made:
                if storage is None:
                    storage = _storage(file, size, checkpoint, key)
                made[tensor] = _array(storage, tensor)
            result[name] = made[tensor]
    return result


def _storage(file: BufferedReader, size: int, checkpoint: _Checkpoint, key: str) -> np.ndarray:
    """The elements of a storage; bfloat16 as its bits, bool as bytes."""
    element, count = checkpoint.storages[key]
    dtype = np.dtype({'bfloat16': 'u2', 'bool': 'u1'}.get(element, element)).newbyteorder(checkpoint.order)
    if count == 0:
        return np.empty(0, dtype)
    where = checkpoint.where(key)
    require(where + count * dtype.itemsize <= size, _DAMAGED)
    values = np.empty(count, dtype)
    file.seek(where)
    require(file.readinto(values.view(np.uint8).data) == values.nbytes, _DAMAGED)
    return values if values.dtype.isnative else values.astype(values.dtype.newbyteorder('='))


def _array(storage: np.ndarray, tensor: _Tensor) -> np.ndarray:
    if math.prod(tensor.shape) == 0:
        window = np.empty(tensor.shape, storage.dtype)
    else:
        strides = tuple(stride * storage.itemsize for stride in tensor.strides)
        # `_rebuilt` has seen to it that the window lies inside of the storage.
        window = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides)
    if tensor.element == 'bool':
        return window != 0  # a byte that is neither 0 nor 1 would be no bool to numpy
    if tensor.element == 'bfloat16':  # the upper half of a float32
        wide = window.astype(np.uint32, order='C')
        wide <<= 16
        return wide.view(np.float32)
    return np.asarray(window, np.float32 if tensor.element == 'f2' else None, order='C')


# --- the two streams --------------------------------------------------------------------------------------------------


def _legacy(file: BufferedReader, size: int) -> _Checkpoint:
    """Pickles one after another, and then the storages."""
    file.seek(0)
    machine = _Machine(file, size)
    require(machine.run() == _MAGIC and machine.run() == 1001, 'is of a version of the older form that torch never had')
    facts = machine.run()
    order = '>' if type(facts) is dict and facts.get('little_endian') is False else '<'
    root = machine.run()
    keys = machine.run()
    require(type(keys) is list, _DAMAGED)
    places: dict[str, int] = {}
    at = file.tell()
    for key in keys:
        require(type(key) is str and key in machine.storages and key not in places, _DAMAGED)
        element, count = machine.storages[key]
        file.seek(at)
        require(file.read(8) == struct.pack(order + 'q', count), _DAMAGED)
        places[key] = at + 8
        at += 8 + count * _width(element)
        require(at <= size, _DAMAGED)

    def where(key: str) -> int:
        require(key in places, _DAMAGED)
        return places[key]

    return _Checkpoint(root, machine.storages, where, order)


def _width(element: str) -> int:
    return 2 if element == 'bfloat16' else np.dtype(element).itemsize


def _zip(file: BufferedReader, size: int) -> _Checkpoint:
    """An archive whose one folder has any name."""
    entries = _directory(file, size)
    tops = [name.removesuffix('data.pkl') for name in entries if name.endswith('/data.pkl') and name.count('/') == 1]
    require(len(tops) == 1, 'is a zip file, but not of torch: it has no data.pkl')
    top = tops[0]
    require(
        f'{top}constants.pkl' not in entries, 'is a TorchScript archive: save the state_dict() of the model instead'
    )

    def where(name: str) -> int:
        """First byte of an entry; it follows a second header, whose length only that header tells."""
        start, _ = entries[name]
        file.seek(start)
        header = file.read(30)
        require(len(header) == 30 and header.startswith(_ZIP), _DAMAGED)
        return start + 30 + sum(struct.unpack_from('<HH', header, 26))

    order = b'little'
    if f'{top}byteorder' in entries:
        file.seek(where(f'{top}byteorder'))
        order = file.read(min(entries[f'{top}byteorder'][1], 16))
        require(order in (b'little', b'big'), _DAMAGED)
    length = entries[f'{top}data.pkl'][1]
    file.seek(where(f'{top}data.pkl'))
    machine = _Machine(file, length)
    root = machine.run()

    def storage(key: str) -> int:
        name = f'{top}data/{key}'
        element, count = machine.storages[key]
        require(name in entries and entries[name][1] // _width(element) == count, f'lacks the storage {_short(key)}')
        return where(name)

    return _Checkpoint(root, machine.storages, storage, '<' if order == b'little' else '>')


def _directory(file: BufferedReader, size: int) -> dict[str, tuple[int, int]]:
    """{name: (first byte of its header, length)} of a zip file whose entries are stored as they are.

    `zipfile` would do, but takes memory by what the file declares.
    """
    tail_at = max(0, size - 65557)  # the last record is 22 bytes and a comment
    file.seek(tail_at)
    tail = file.read(size - tail_at)
    end = tail.rfind(b'PK\x05\x06')
    require(0 <= end <= len(tail) - 22, _DAMAGED)
    length, start = struct.unpack_from('<II', tail, end + 12)
    if 0xFFFFFFFF in (length, start):  # beyond 4 GiB the numbers are in a longer record; a locator is before this one
        require(end >= 20 and tail.startswith(b'PK\x06\x07', end - 20), _DAMAGED)
        file.seek(min(size, struct.unpack_from('<Q', tail, end - 12)[0]))
        record = file.read(56)
        require(len(record) == 56 and record.startswith(b'PK\x06\x06'), _DAMAGED)
        length, start = struct.unpack_from('<QQ', record, 40)
    require(start + length <= size, _DAMAGED)
    require(length <= DIRECTORY_BYTES, 'has more entries than any torch file')
    file.seek(start)
    records = file.read(length)
    entries: dict[str, tuple[int, int]] = {}
    at = 0
    while at < length:
        require(at + 46 <= length and records.startswith(b'PK\x01\x02', at), _DAMAGED)
        flags, method = struct.unpack_from('<HH', records, at + 8)
        numbers = list(struct.unpack_from('<II', records, at + 20))
        lengths = struct.unpack_from('<HHH', records, at + 28)
        numbers.append(struct.unpack_from('<I', records, at + 42)[0])
        name_at, extra_at = at + 46, at + 46 + lengths[0]
        at += 46 + sum(lengths)
        require(at <= length, _DAMAGED)
        # Where a number is all ones the true one is in the extra field: the unpacked size comes first there.
        longer = _longer(records[extra_at : extra_at + lengths[1]])
        for index in (1, 0, 2):
            if numbers[index] == 0xFFFFFFFF and longer:
                numbers[index] = longer.pop(0)
        packed, unpacked, header_at = numbers
        name = records[name_at:extra_at].decode('utf-8', 'replace')
        require(not flags & 1 and method == 0 and packed == unpacked, 'is compressed, which torch files are not')
        require(name not in entries, _DAMAGED)
        require(
            '..' not in name.split('/') and name[:1] not in ('/', '\\'), 'has entries that lead out of their folder'
        )
        require(header_at + packed <= size, _DAMAGED)
        entries[name] = (header_at, packed)
    # Entries that lie over one another would make a small file a large one.
    require(sum(packed for _, packed in entries.values()) <= size, _DAMAGED)
    return entries


def _longer(extra: bytes) -> list[int]:
    """The 8-byte numbers in the extra field of a zip entry."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from('<HH', extra, at)
        if kind == 1:
            length = min(length, len(extra) - at - 4) // 8 * 8
            return list(struct.unpack_from(f'<{length // 8}Q', extra, at + 4))
        at += 4 + length
    return []


# --- what a pickle may call -------------------------------------------------------------------------------------------


def _rebuilt(arguments: tuple) -> _Tensor:
    """A tensor, if its window lies inside of its storage."""
    match arguments:
        case (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            pass
        case _:
            raise UserError(_DAMAGED)
    require(len(shape) == len(strides) <= RANK, _DAMAGED)
    require(all(type(number) is int and 0 <= number < 1 << 48 for number in (*shape, *strides, int(offset))), _DAMAGED)
    number = math.prod(shape)
    if number == 0:
        require(math.prod(max(1, length) for length in shape) < 1 << 48, _DAMAGED)
    else:
        last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
        require(number <= storage.count and last < storage.count, 'holds a tensor that is larger than its storage')
    return _Tensor(storage.key, storage.element, storage.start + offset, shape, strides)


def _parameter(arguments: tuple) -> _Tensor:
    match arguments:
        case (_Tensor() as tensor, *_):
            return tensor
    raise UserError(_DAMAGED)


def _size(arguments: tuple) -> tuple:
    match arguments:
        case (tuple(lengths),):
            return lengths
    raise UserError(_DAMAGED)


def _dict(arguments: tuple) -> dict[str, Any]:
    """Python 3 fills a dict after the call; Python 2 gives the items to the call."""
    items = arguments[0] if arguments and type(arguments[0]) is list else []
    filled = {}
    for item in items:
        require(type(item) in (list, tuple) and len(item) == 2, _DAMAGED)
        if type(item[0]) is str:
            filled[item[0]] = item[1]
    return filled


_CALLS: dict[str, Callable[[tuple], Any]] = {
    'torch._utils._rebuild_tensor': _rebuilt,
    'torch._utils._rebuild_tensor_v2': _rebuilt,
    'torch._utils._rebuild_parameter': _parameter,
    'torch._utils._rebuild_parameter_with_state': _parameter,
    'torch.Size': _size,
    'collections.OrderedDict': _dict,
    'collections.defaultdict': _dict,
    **dict.fromkeys(_IGNORED, lambda arguments: _INERT),
}


# --- the machine ------------------------------------------------------------------------------------------------------


class _Machine:
    """Runs pickles that follow one another in a file; it has lists, tuples, dicts with names, and stand-ins.

    Only strings are kept as keys of dicts: the numbers in an optimizer's state are not needed, and hashes of
    chosen numbers or nested tuples can be made slow. No step takes more memory or time than what it reads.

    Args:
      file: at the first pickle. limit: how many bytes may be read.

    `storages` afterwards: {key: (element, count)} of every storage that the pickles named.
    """

    def __init__(self, file: BufferedReader, limit: int) -> None:
        self.file, self.left, self.steps = file, min(limit, PICKLE_BYTES), STEPS
        self.storages: dict[str, tuple[str, int]] = {}

    def run(self) -> Any:
        """The object of one pickle."""
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # what was on the stack at each mark
        self.memo: dict[int, Any] = {}
        try:
            while True:
                opcode = self.take(1)
                self.spend(1)
                if opcode == pickle.STOP:
                    return self.stack.pop()
                if opcode not in _STEPS:
                    raise UserError(
                        f'has the opcode {ascii(opcode)[1:]} in its pickle, which torch.save does not write'
                    )
                _STEPS[opcode](self)
        except (IndexError, KeyError, ValueError, struct.error) as error:
            raise UserError(_DAMAGED) from error

    def take(self, count: int) -> bytes:
        self.left -= count
        require(self.left >= 0, f'has a pickle that ends early, or is larger than {PICKLE_BYTES >> 20} MiB')
        read = self.file.read(count)
        require(len(read) == count, _DAMAGED)
        return read

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        read = self.file.readline(min(self.left, TEXT_BYTES))
        self.left -= len(read)
        require(read.endswith(b'\n'), _DAMAGED)
        return read[:-1].decode()

    def spend(self, steps: int) -> None:
        self.steps -= steps
        require(self.steps >= 0, 'has a pickle that is longer than that of any network')

    # Each method below is an opcode or what several share.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def version(self) -> None:
        require(self.take(1) <= b'\x05', 'has a pickle of a later protocol')

    def text(self, layout: str, encoding: str) -> None:
        self.push(self.take(self.number(layout)).decode(encoding, 'surrogatepass' if encoding == 'utf-8' else 'strict'))

    def long(self) -> None:
        self.push(int.from_bytes(self.take(self.number('B')), 'little', signed=True))

    def decimal(self) -> None:
        """Python 2 writes integers beyond 32 bits, such as ids in an optimizer's state, as text."""
        line = self.line()
        require(len(line) <= 20, _DAMAGED)
        self.push(int(line))

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """What was pushed since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def tuple_of(self, count: int) -> None:
        require(len(self.stack) >= count, _DAMAGED)
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.push(items)

    def put(self, index: int) -> None:
        require(index < STEPS, _DAMAGED)  # pickles count from 0
        self.memo[index] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        require(type(self.stack[-1]) is list, _DAMAGED)
        self.stack[-1].extend(items)

    def set(self, items: list[Any]) -> None:
        filled = self.stack[-1]
        require(len(items) % 2 == 0 and (type(filled) is dict or filled is _INERT), _DAMAGED)
        if type(filled) is dict:
            filled.update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if type(k) is str)

    def item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set([key, value])

    def named(self, module: str, name: str) -> None:
        full = f'{module}.{name}'
        require(
            full in _CALLS or full in _STORAGES,
            f"names {_short(full)}, which mixjax does not run: save the model's state_dict() alone with torch.save",
        )
        self.push(_Named(full))

    def by_name(self) -> None:
        self.named(self.line(), self.line())

    def instance(self) -> None:
        """Name and call in one; only here to refuse it by the name."""
        self.by_name()
        raise UserError(_DAMAGED)

    def by_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        require(type(name) is type(module) is str, _DAMAGED)
        self.named(module, name)

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        require(type(arguments) is tuple and type(function) is _Named and function.name in _CALLS, _DAMAGED)
        # One list can be given to many calls, and each makes a dict of it; one shape to many tensors.
        self.spend(sum(len(argument) for argument in arguments if type(argument) in (list, tuple)))
        self.push(_CALLS[function.name](arguments))

    def build(self) -> None:
        """The attributes of an object; `_metadata` of a state dict is one. None is needed."""
        self.stack.pop()
        require(type(self.stack[-1]) is dict or self.stack[-1] is _INERT, _DAMAGED)

    def persistent(self) -> None:
        """A storage: ('storage', its type, key, device, count), and in legacy files None or a window of another."""
        match self.stack.pop():
            case ('storage', _Named(kind), str(key), _, int(count), *view) if kind in _STORAGES and len(view) <= 1:
                pass
            case _:
                raise UserError('refers to something outside of its pickle that is not a storage')
        element = _STORAGES[kind]
        require(0 <= count < 1 << 48, _DAMAGED)
        require(self.storages.setdefault(key, (element, count)) == (element, count), _DAMAGED)
        match view:
            case [] | [None]:
                start = 0
            case [(_, int(start), int(length))]:
                require(start >= 0 and length >= 0 and start + length <= count, _DAMAGED)
                count = length
            case _:
                raise UserError(_DAMAGED)
        self.push(_Storage(key, element, start, count))


_STEPS: dict[bytes, Callable[[_Machine], object]] = {
    pickle.PROTO: _Machine.version,
    pickle.FRAME: lambda m: m.take(8),
    pickle.MARK: _Machine.mark,
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number('<i')),
    pickle.BININT1: lambda m: m.push(m.number('B')),
    pickle.BININT2: lambda m: m.push(m.number('<H')),
    pickle.LONG1: _Machine.long,
    pickle.INT: _Machine.decimal,
    pickle.BINFLOAT: lambda m: m.push(m.number('>d')),
    pickle.BINUNICODE: lambda m: m.text('<I', 'utf-8'),
    pickle.SHORT_BINUNICODE: lambda m: m.text('B', 'utf-8'),
    pickle.BINSTRING: lambda m: m.text('<I', 'latin1'),  # a `str` of Python 2
    pickle.SHORT_BINSTRING: lambda m: m.text('B', 'latin1'),
    pickle.BINBYTES: lambda m: m.push(m.take(m.number('<I'))),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.take(m.number('B'))),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE: lambda m: m.push(tuple(m.marked())),
    pickle.TUPLE1: lambda m: m.tuple_of(1),
    pickle.TUPLE2: lambda m: m.tuple_of(2),
    pickle.TUPLE3: lambda m: m.tuple_of(3),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.APPEND: lambda m: m.append([m.stack.pop()]),
    pickle.APPENDS: lambda m: m.append(m.marked()),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.SETITEM: _Machine.item,
    pickle.SETITEMS: lambda m: m.set(m.marked()),
    pickle.EMPTY_SET: lambda m: m.push([]),  # what is in a set is not needed
    pickle.ADDITEMS: lambda m: m.append(m.marked()),
    pickle.FROZENSET: lambda m: m.push(m.marked()),
    pickle.BINPUT: lambda m: m.put(m.number('B')),
    pickle.LONG_BINPUT: lambda m: m.put(m.number('<I')),
    pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
    pickle.BINGET: lambda m: m.push(m.memo[m.number('B')]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number('<I')]),
    pickle.GLOBAL: _Machine.by_name,
    pickle.STACK_GLOBAL: _Machine.by_stack,
    pickle.INST: _Machine.instance,
    pickle.REDUCE: _Machine.call,
    pickle.NEWOBJ: _Machine.call,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.persistent,
}
