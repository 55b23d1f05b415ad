"""A reader of torch checkpoints without torch; nothing in a file is ever run.

`torch.save` writes one of two streams:

    zip     (since 1.6) TOP/data.pkl, a pickle of the object, and TOP/data/KEY, the bytes of its storages
    legacy  four pickles (a magic number, a version, facts on the machine, the object), a pickle with the keys of the
            storages, and for each key the number of elements as int64 and the bytes

A tensor is a window (offset, shape, strides) into a storage. In the pickle a storage is a persistent id.

A pickle is a program; a restricted machine (`machine.py`) runs it, and knows only what tensors need. Each size that
a file declares is compared with the file before memory is taken, so a wrong file ends in an error message, no more.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from mixjax.errors import UserError, require
from mixjax.host.untrusted import open_regular
from mixjax.models.weights.torch_file.archive import directory
from mixjax.models.weights.torch_file.machine import Machine
from mixjax.models.weights.torch_file.standins import DAMAGED, Tensor, dtype_of, short

WRAPPERS = ('state_dict', 'model', 'model_state_dict', 'net')  # keys under which training scripts keep the state dict

_ZIP = b'PK\x03\x04'
_MAGIC = 0x1950A86A20F9469CFC6C
_TAR = (b'sys_info\0', b'././@PaxHeader')  # first bytes of the tar files of before 2017


def is_torch(head: bytes) -> bool:
    """Return whether a file with these first bytes (64 are enough) is for `read`: zip or one of torch's forms."""
    legacy = head[:1] == b'\x80' and _MAGIC.to_bytes(10, 'little') in head[:32]
    return head.startswith((_ZIP, *_TAR)) or legacy


def read(path: Path | str) -> dict[str, np.ndarray]:
    """Read the tensors of the state dict in a torch checkpoint, by torch's names and in the file's order.

    The state dict is in one of the entries `WRAPPERS`, or else it is the file itself or any other entry; two that
    could be meant are an error. The rest of a checkpoint is ignored. The prefix `module.` of
    DataParallel is removed when every name has it. float16 and bfloat16 become float32, which holds their
    values exactly. Tensors that share memory in the file may share it here.

    Raises:
      UserError: one sentence that begins with the file's name.
    """
    path = Path(path)
    try:
        require(path.is_file(), 'is not a file')  # reading a pipe would block
        with cast(BufferedReader, open_regular(path)) as file:
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
    """The object of a checkpoint, and its storages.

    root: the object.
    storages: {key: (element, count)}.
    order: byte order.

    where: returns the place of a storage's first byte, and refuses one that is not whole in the file.
    """

    root: Any
    storages: Mapping[str, tuple[str, int]]
    where: Callable[[str], int]
    order: Literal['<', '>']


def _tensors_of(entry: Any) -> dict[str, Tensor]:
    return {key: value for key, value in entry.items() if type(value) is Tensor} if type(entry) is dict else {}


def _state_dict(root: Any) -> dict[str, Tensor]:
    """Return the one state dict of a checkpoint, without `module.`."""
    require(type(root) is dict, 'holds no state dict: give what model.state_dict() returns, saved with torch.save')
    # By identity: many names may refer to one dict, which is then read once.
    entries = {id(root): ('the file itself', root)}
    for key in (*(key for key in WRAPPERS if key in root), *root):
        entries.setdefault(id(root[key]), (key, root[key]))
    every = {key: tensors for key, entry in entries.values() if (tensors := _tensors_of(entry))}
    found = {key: every[key] for key in WRAPPERS if key in every} or every
    require(bool(found), f'holds no tensors (entries: {_listed(root)})')
    require(len(found) == 1, f'holds several state dicts ({_listed(found)}): save the one that is wanted by itself')
    (tensors,) = found.values()
    if all(name.startswith('module.') for name in tensors):
        tensors = {name.removeprefix('module.'): tensor for name, tensor in tensors.items()}
    return tensors


def _listed(names: Mapping[str, Any]) -> str:
    shown = [short(name) for name in list(names)[:8]]
    return ', '.join(shown + ['..'] * (len(names) > 8)) or 'none'


def _arrays(
    file: BufferedReader, size: int, checkpoint: _Checkpoint, tensors: dict[str, Tensor]
) -> dict[str, np.ndarray]:
    """Read the tensors storage by storage, so that no more than one storage is in memory beside the result."""
    # Each fits into its storage, but thousands of them may overlap. Half precision doubles, hence the 2.
    total = sum(tensor.nbytes for tensor in set(tensors.values()))
    require(total <= 2 * size, 'holds tensors that overlap: together they are larger than the file')
    result: dict[str, Any] = dict.fromkeys(tensors)
    users: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        users.setdefault(tensor.key, []).append(name)
    for key, names in users.items():
        storage: np.ndarray | None = None
        made: dict[Tensor, np.ndarray] = {}
        for name in names:
            tensor = tensors[name]
            if tensor not in made:
                if storage is None:
                    storage = _storage(file, checkpoint, key)
                made[tensor] = _array(storage, tensor)
            result[name] = made[tensor]
    return result


def _storage(file: BufferedReader, checkpoint: _Checkpoint, key: str) -> np.ndarray:
    """Read the elements of a storage; bfloat16 as its bits, bool as bytes."""
    element, count = checkpoint.storages[key]
    dtype = dtype_of(element)
    if count == 0:
        return np.empty(0, dtype)
    # `where` has compared the count with the file.
    file.seek(checkpoint.where(key))
    values = np.empty(count, dtype.newbyteorder(checkpoint.order))
    require(file.readinto(values.view(np.uint8).data) == values.nbytes, DAMAGED)
    return values.astype(dtype, copy=False)


def _array(storage: np.ndarray, tensor: Tensor) -> np.ndarray:
    if math.prod(tensor.shape) == 0:
        window = np.empty(tensor.shape, storage.dtype)
    else:
        strides = tuple(stride * storage.itemsize for stride in tensor.strides)
        # `_rebuilt` has checked that the window is inside of the storage.
        window = np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides)
    if tensor.element == 'bool':
        return window != 0  # a byte that is neither 0 nor 1 is not a valid bool of numpy
    if tensor.element == 'bfloat16':  # the upper half of a float32
        wide = window.astype(np.uint32, order='C')
        wide <<= 16
        return wide.view(np.float32)
    return np.asarray(window, np.float32 if tensor.element == 'f2' else None, order='C')


# --- the two streams --------------------------------------------------------------------------------------------------


def _legacy(file: BufferedReader, size: int) -> _Checkpoint:
    """Read pickles one after another, and then the storages."""
    file.seek(0)
    machine = Machine(file, size)
    require(machine.run() == _MAGIC and machine.run() == 1001, 'is of a version of the older form that torch never had')
    facts = machine.run()
    order = '>' if type(facts) is dict and facts.get('little_endian') is False else '<'
    root = machine.run()
    keys = machine.run()
    require(type(keys) is list, DAMAGED)
    places: dict[str, int] = {}
    at = file.tell()
    for key in keys:
        require(type(key) is str and key in machine.storages and key not in places, DAMAGED)
        element, count = machine.storages[key]
        file.seek(at)
        require(file.read(8) == struct.pack(order + 'q', count), DAMAGED)
        places[key] = at + 8
        at += 8 + count * dtype_of(element).itemsize
        require(at <= size, DAMAGED)

    def where(key: str) -> int:
        require(key in places, DAMAGED)
        return places[key]

    return _Checkpoint(root, machine.storages, where, order)


def _zip(file: BufferedReader, size: int) -> _Checkpoint:
    """Read an archive whose one folder has any name."""
    entries = directory(file, size)
    tops = [name.removesuffix('data.pkl') for name in entries if name.endswith('/data.pkl') and name.count('/') == 1]
    require(len(tops) == 1, 'is a zip file, but not of torch: it has no data.pkl')
    top = tops[0]
    require(
        f'{top}constants.pkl' not in entries, 'is a TorchScript archive: save the state_dict() of the model instead'
    )

    def where(name: str) -> int:
        """Return the first byte of an entry; it follows a second header, whose length is in that header only."""
        start, _ = entries[name]
        file.seek(start)
        header = file.read(30)
        require(len(header) == 30 and header.startswith(_ZIP), DAMAGED)
        return start + 30 + sum(struct.unpack_from('<HH', header, 26))

    order = b'little'
    if f'{top}byteorder' in entries:
        file.seek(where(f'{top}byteorder'))
        order = file.read(min(entries[f'{top}byteorder'][1], 16))
        require(order in (b'little', b'big'), DAMAGED)
    length = entries[f'{top}data.pkl'][1]
    file.seek(where(f'{top}data.pkl'))
    machine = Machine(file, length)
    root = machine.run()

    def storage(key: str) -> int:
        name = f'{top}data/{key}'
        element, count = machine.storages[key]
        require(
            name in entries and entries[name][1] // dtype_of(element).itemsize == count,
            f'lacks the storage {short(key)}',
        )
        return where(name)

    return _Checkpoint(root, machine.storages, storage, '<' if order == b'little' else '>')
