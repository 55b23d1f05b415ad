"""A restricted machine for the pickle in a torch checkpoint: it builds lists, dicts and stand-ins of tensors.

A pickle is a program, and Python's own unpickler would import and call everything that it names. This machine has some
forty opcodes. The names that a pickle may use are listed in `standins.py`, any other name is refused, and the
machine cannot import, call or set anything else. Each size that is declared is compared with the file before
memory is taken.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from io import BufferedReader
from typing import Any

from mixjax.errors import UserError, require
from mixjax.models.weights.torch_file.standins import CALLS, DAMAGED, INERT, STORAGES, Named, Storage, short

# A ResNet-50 takes 12,000 steps and 60 kB; a checkpoint of a large network with its optimizer ten times as much.
STEPS = 500_000
PICKLE_BYTES = 1 << 24
TEXT_BYTES = 512  # a line of a text opcode: a module, a name or an integer


class Machine:
    """A runner of pickles that follow one another in a file, with lists, tuples, dicts with names, and stand-ins.

    Only strings are kept as keys of dicts: the numbers in an optimizer's state are not needed, and hashes of
    chosen numbers or nested tuples can be made slow. No step takes more memory or time than the data it reads.

    Args:
      file: the open file, at the first pickle.
      limit: number of bytes that may be read.

    `storages` afterwards: {key: (element, count)} of every storage that the pickles named.
    """

    def __init__(self, file: BufferedReader, limit: int) -> None:
        self.file, self.left, self.steps = file, min(limit, PICKLE_BYTES), STEPS
        self.storages: dict[str, tuple[str, int]] = {}

    def run(self) -> Any:
        """Run one pickle and return its object."""
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stack below each mark
        self.memo: dict[int, Any] = {}
        try:
            while True:
                opcode = self.take(1)
                self.spend(1)
                if opcode == pickle.STOP:
                    return self.stack.pop()
                if opcode not in OPCODES:
                    raise UserError(
                        f'has the opcode {ascii(opcode)[1:]} in its pickle, which torch.save does not write'
                    )
                OPCODES[opcode](self)
        except (IndexError, KeyError, ValueError, struct.error) as error:
            raise UserError(DAMAGED) from error

    def take(self, count: int) -> bytes:
        self.left -= count
        require(self.left >= 0, f'has a pickle that ends early, or is larger than {PICKLE_BYTES >> 20} MiB')
        read = self.file.read(count)
        require(len(read) == count, DAMAGED)
        return read

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        read = self.file.readline(min(self.left, TEXT_BYTES))
        self.left -= len(read)
        require(read.endswith(b'\n'), DAMAGED)
        return read[:-1].decode()

    def spend(self, steps: int) -> None:
        self.steps -= steps
        require(self.steps >= 0, 'has a pickle that is longer than that of any network')

    # Each method below is an opcode, or is shared by several.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def version(self) -> None:
        require(self.take(1) <= b'\x05', 'has a pickle of a later protocol')

    def text(self, layout: str, encoding: str) -> None:
        self.push(self.take(self.number(layout)).decode(encoding, 'surrogatepass' if encoding == 'utf-8' else 'strict'))

    def long(self) -> None:
        self.push(int.from_bytes(self.take(self.number('B')), 'little', signed=True))

    def decimal(self) -> None:
        """Push an integer written as text: Python 2's form beyond 32 bits, such as ids in an optimizer's state."""
        line = self.line()
        require(len(line) <= 20, DAMAGED)
        self.push(int(line))

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        """Pop everything that was pushed since the last mark."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def tuple_of(self, count: int) -> None:
        require(len(self.stack) >= count, DAMAGED)
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        self.push(items)

    def put(self, index: int) -> None:
        require(index < STEPS, DAMAGED)  # pickles count from 0
        self.memo[index] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        require(type(self.stack[-1]) is list, DAMAGED)
        self.stack[-1].extend(items)

    def set(self, items: list[Any]) -> None:
        filled = self.stack[-1]
        require(len(items) % 2 == 0 and (type(filled) is dict or filled is INERT), DAMAGED)
        if type(filled) is dict:
            filled.update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if type(k) is str)

    def item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set([key, value])

    def named(self, module: str, name: str) -> None:
        full = f'{module}.{name}'
        require(
            full in CALLS or full in STORAGES,
            f"names {short(full)}, which mixjax does not run: save the model's state_dict() alone with torch.save",
        )
        self.push(Named(full))

    def by_name(self) -> None:
        self.named(self.line(), self.line())

    def instance(self) -> None:
        """Refuse, by its name, the opcode that names and calls in one."""
        self.by_name()
        raise UserError(DAMAGED)

    def by_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        require(type(name) is type(module) is str, DAMAGED)
        self.named(module, name)

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        require(type(arguments) is tuple and type(function) is Named and function.name in CALLS, DAMAGED)
        # One list can be given to many calls, and each makes a dict of it; one shape to many tensors.
        self.spend(sum(len(argument) for argument in arguments if isinstance(argument, (list, tuple))))
        self.push(CALLS[function.name](arguments))

    def build(self) -> None:
        """Drop the attributes of an object, such as `_metadata` of a state dict: none is needed."""
        self.stack.pop()
        require(type(self.stack[-1]) is dict or self.stack[-1] is INERT, DAMAGED)

    def persistent(self) -> None:
        """Push a storage: ('storage', type, key, device, count), and in legacy files None or a window of another."""
        match self.stack.pop():
            case ('storage', Named(kind), str(key), _, int(count), *view) if kind in STORAGES and len(view) <= 1:
                pass
            case _:
                raise UserError('refers to something outside of its pickle that is not a storage')
        element = STORAGES[kind]
        require(0 <= count < 1 << 48, DAMAGED)
        require(self.storages.setdefault(key, (element, count)) == (element, count), DAMAGED)
        match view:
            case [] | [None]:
                start = 0
            case [(_, int(start), int(length))]:
                require(start >= 0 and length >= 0 and start + length <= count, DAMAGED)
                count = length
            case _:
                raise UserError(DAMAGED)
        self.push(Storage(key, element, start, count))


OPCODES: dict[bytes, Callable[[Machine], object]] = {
    pickle.PROTO: Machine.version,
    pickle.FRAME: lambda m: m.take(8),
    pickle.MARK: Machine.mark,
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.number('<i')),
    pickle.BININT1: lambda m: m.push(m.number('B')),
    pickle.BININT2: lambda m: m.push(m.number('<H')),
    pickle.LONG1: Machine.long,
    pickle.INT: Machine.decimal,
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
    pickle.SETITEM: Machine.item,
    pickle.SETITEMS: lambda m: m.set(m.marked()),
    pickle.EMPTY_SET: lambda m: m.push([]),  # the contents of a set are not needed
    pickle.ADDITEMS: lambda m: m.append(m.marked()),
    pickle.FROZENSET: lambda m: m.push(m.marked()),
    pickle.BINPUT: lambda m: m.put(m.number('B')),
    pickle.LONG_BINPUT: lambda m: m.put(m.number('<I')),
    pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
    pickle.BINGET: lambda m: m.push(m.memo[m.number('B')]),
    pickle.LONG_BINGET: lambda m: m.push(m.memo[m.number('<I')]),
    pickle.GLOBAL: Machine.by_name,
    pickle.STACK_GLOBAL: Machine.by_stack,
    pickle.INST: Machine.instance,
    pickle.REDUCE: Machine.call,
    pickle.NEWOBJ: Machine.call,
    pickle.BUILD: Machine.build,
    pickle.BINPERSID: Machine.persistent,
}
