"""Torch files without torch: what torch wrote, what Python 2 wrote, and what an enemy or a bad disk wrote.

`tests/fixtures/torch_*` were saved by torch 2.13 from the objects of `state_dict` and `checkpoint` below, in
both streams; the test marked `parity` makes them anew where torch is there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pickle
import random
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from mixjax.errors import UserError
from mixjax.models.weights import torch_file
from tests.support.common import FIXTURES

MIB = 1 << 20
STREAMS = ('zip', 'legacy')


# --- what torch wrote -------------------------------------------------------------------------------------------------


def quarters(*shape: int) -> np.ndarray:
    """0, 1/4, 2/4 ..: exact in every floating type."""
    return (np.arange(np.prod(shape, dtype=int)) / 4).astype(np.float32).reshape(shape)


LINE = quarters(24)
EXPECTED = {
    'conv.weight': quarters(2, 3, 2, 2),
    'tied': quarters(2, 3, 2, 2),
    'transposed': quarters(3, 5).T,
    'strided': LINE[3:20:4],
    'head.a': LINE[:7],
    'head.b': LINE[7:13].reshape(2, 3),
    'parameter': quarters(3) - 1,
    'half': quarters(5),
    'half.transposed': quarters(2, 3).T,
    'bfloat16': quarters(6)[::2] - 1,
    'float64': np.arange(4) / 3,
    'int64': np.arange(4) - (1 << 40),
    'int32': np.arange(3, dtype=np.int32) - 7,
    'int16': np.arange(3, dtype=np.int16) - 7,
    'int8': np.arange(3, dtype=np.int8) - 7,
    'uint8': np.arange(253, 256, dtype=np.uint8),
    'bool': np.array([True, False, True]),
    'batches': np.array(7),
    'scalar': np.array(2.5, np.float32),
    'empty': np.zeros((0, 3), np.float32),
}


def state_dict(torch) -> OrderedDict:
    """`EXPECTED` as torch has it: windows, shared storages, a Parameter, and the attribute `_metadata`."""
    conv, line = torch.from_numpy(quarters(2, 3, 2, 2)), torch.from_numpy(quarters(24))
    tensors = OrderedDict({name: torch.from_numpy(np.array(value)) for name, value in EXPECTED.items()})
    tensors |= {
        'conv.weight': conv,
        'tied': conv,
        'transposed': torch.from_numpy(quarters(3, 5)).t(),
        'strided': line[3:20:4],
        'head.a': line[:7],
        'head.b': line[7:13].view(2, 3),
        'parameter': torch.nn.Parameter(torch.from_numpy(quarters(3) - 1)),
        'half': torch.from_numpy(quarters(5)).half(),
        'half.transposed': torch.from_numpy(quarters(2, 3)).half().t(),
        'bfloat16': (torch.from_numpy(quarters(6)) - 1).bfloat16()[::2],
    }
    tensors._metadata = OrderedDict({'': {'version': 1}})
    return tensors


def checkpoint(torch) -> dict:
    """What a training script saves: the state dict of a DataParallel model among other things."""
    weight = torch.nn.Parameter(torch.ones(3, 2))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    return {
        'epoch': 90,
        'arch': 'resnet50',
        'args': argparse.Namespace(lr=0.1, momentum=0.9),
        'best_acc1': torch.tensor(76.15),
        'mean': np.float64(0.5),
        'schedule': torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60]).state_dict(),
        'device': torch.device('cpu'),
        'dtype': torch.float32,
        'state_dict': OrderedDict({f'module.{name}': value for name, value in state_dict(torch).items()}),
        'optimizer': optimizer.state_dict(),
    }


def assert_expected(tensors: dict[str, np.ndarray]) -> None:
    assert list(tensors) == list(EXPECTED)
    for name, want in EXPECTED.items():
        got = tensors[name]
        assert type(got) is np.ndarray and got.dtype == want.dtype and got.shape == want.shape, name
        assert got.flags.c_contiguous and got.flags.aligned and got.dtype.isnative, name
        np.testing.assert_array_equal(got, want, err_msg=name)


@pytest.mark.parametrize('stream', STREAMS)
@pytest.mark.parametrize('name', ['torch_{}.pth', 'torch_checkpoint_{}.pth.tar'])
def test_the_tensors_of_a_file_by_torch(name, stream):
    path = FIXTURES / name.format(stream)
    assert torch_file.is_torch(path.read_bytes()[:64])
    tensors = torch_file.read(path)
    assert_expected(tensors)
    assert tensors['tied'] is tensors['conv.weight']
    assert_expected(torch_file.read(str(path)))


def same_as_torch(torch, path: Path, tensors: dict) -> None:
    ours = torch_file.read(path)
    assert list(ours) == list(tensors)
    for name, tensor in tensors.items():
        wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
        want = wide.detach().numpy()
        assert ours[name].dtype == want.dtype and ours[name].shape == want.shape
        assert ours[name].tobytes() == want.tobytes(), name


@pytest.mark.parity
@pytest.mark.parametrize('stream', STREAMS)
def test_random_state_dicts_are_those_of_torch(stream, tmp_path):
    torch = pytest.importorskip('torch', reason='torch is not installed')
    path = tmp_path / 'weights.pth'

    def save(saved, **options):
        torch.save(saved, path, _use_new_zipfile_serialization=stream == 'zip', **options)

    for made, name in ((state_dict, 'torch_{}.pth'), (checkpoint, 'torch_checkpoint_{}.pth.tar')):
        save(made(torch))
        assert_expected(torch_file.read(path))
        loaded = torch.load(FIXTURES / name.format(stream), weights_only=False)
        same_as_torch(torch, FIXTURES / name.format(stream), {
            key.removeprefix('module.'): value for key, value in loaded.get('state_dict', loaded).items()
        })  # fmt: skip

    dtypes = (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
    draw = random.Random(0)
    for case in range(60):
        tensors = {}
        for index in range(draw.randint(1, 8)):
            dtype = draw.choice(dtypes)
            shape = [draw.randint(0, 5) for _ in range(draw.randint(0, 4))]
            whole = torch.randn(shape).mul(20).to(torch.uint8 if dtype == torch.uint8 else torch.float64).to(dtype)
            if draw.random() < 0.5 and shape:
                whole = whole.permute(draw.sample(range(len(shape)), len(shape)))
            if draw.random() < 0.5 and shape:
                whole = whole[draw.randint(0, 2) :: draw.randint(1, 3)]
            tensors[f'layer{index}.weight'] = whole
            if draw.random() < 0.2:
                tensors[f'layer{index}.tied'] = whole.t() if whole.ndim == 2 else whole
        save({'net': tensors} if case % 2 else tensors, pickle_protocol=2 + case % 4)
        same_as_torch(torch, path, torch.load(path, weights_only=False)['net'] if case % 2 else tensors)


# --- files by hand ----------------------------------------------------------------------------------------------------

# Pickle code: `text` is a `str` of Python 2, `call` a REDUCE.


def text(value: str) -> bytes:
    return pickle.SHORT_BINSTRING + bytes([len(value)]) + value.encode('latin1')


def number(value: int) -> bytes:
    return pickle.LONG1 + b'\x20' + value.to_bytes(32, 'little', signed=True)


def named(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f'{module}\n{name}\n'.encode()


def tuple_of(*items: bytes) -> bytes:
    return pickle.MARK + b''.join(items) + pickle.TUPLE


def list_of(*items: bytes) -> bytes:
    return pickle.EMPTY_LIST + pickle.MARK + b''.join(items) + pickle.APPENDS


def dict_of(entries: dict[str, bytes]) -> bytes:
    items = b''.join(text(key) + value for key, value in entries.items())
    return pickle.EMPTY_DICT + pickle.MARK + items + pickle.SETITEMS


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + pickle.REDUCE


def program(code: bytes) -> bytes:
    return pickle.PROTO + b'\x02' + code + pickle.STOP


def storage(key: str, count: int, kind: str = 'FloatStorage', *view: bytes) -> bytes:
    parts = (text('storage'), named('torch', kind), text(key), text('cuda:0'), number(count), *view)
    return tuple_of(*parts) + pickle.BINPERSID


def tensor(stored: bytes, shape: tuple, strides: tuple, offset: int = 0) -> bytes:
    """As torch wrote it before 0.4."""
    numbers = [tuple_of(*map(number, values)) for values in (shape, strides)]
    return call(named('torch._utils', '_rebuild_tensor'), stored, number(offset), *numbers)


def legacy(code: bytes, storages: dict[str, np.ndarray], little: bool = True) -> bytes:
    facts = dict_of({'little_endian': pickle.NEWTRUE if little else pickle.NEWFALSE})
    head = [program(number(0x1950A86A20F9469CFC6C)), program(number(1001)), program(facts)]
    head[0] = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    keys = program(list_of(*map(text, storages)))
    tail = [struct.pack('<q' if little else '>q', values.size) + values.tobytes() for values in storages.values()]
    return b''.join((*head, program(code), keys, *tail))


def zipped(code: bytes, storages: dict[str, np.ndarray], top: str = 'archive', **options) -> bytes:
    parts = {f'{top}/data.pkl': program(code), f'{top}/byteorder': b'little'}
    return archive(parts | {f'{top}/data/{key}': values.tobytes() for key, values in storages.items()}, **options)


def archive(parts: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as entries:
        for name, content in parts.items():
            entries.writestr(zipfile.ZipInfo(name), content, compression)
    return file.getvalue()


CLASS = named('collections', 'OrderedDict')
MADE = call(CLASS)
WRITERS = {'zip': zipped, 'legacy': legacy}


@pytest.fixture
def read(tmp_path):
    """`read(bytes)`: what `torch_file.read` makes of a file with them."""

    def reader(content: bytes) -> dict[str, np.ndarray]:
        path = tmp_path / 'weights.pth'
        path.write_bytes(content)
        return torch_file.read(path)

    return reader


@pytest.fixture
def refused(read):
    """`refused(bytes)`: the one sentence they are refused with; within a second, and without much memory."""

    def sentence(content: bytes) -> str:
        tracemalloc.start()
        try:
            start = time.process_time()
            with pytest.raises(UserError) as error:
                read(content)
            assert time.process_time() - start < 10
            assert tracemalloc.get_traced_memory()[1] < 2 * len(content) + 64 * MIB
        finally:
            tracemalloc.stop()
        words = str(error.value)
        assert words.startswith('weights.pth ') and '\n' not in words and len(words) < 300
        return words

    return sentence


def simple(stored: bytes | None = None) -> bytes:
    return tensor(storage('0', 6) if stored is None else stored, (2, 3), (3, 1))


@pytest.mark.parametrize('stream', STREAMS)
def test_a_file_by_python_2(stream, read):
    """As `resnet50_places365.pth.tar` of 2017: `str` for names, the items of the OrderedDict given to the call."""
    shape, strides = tuple_of(b'K\x02', b'\x8a\x01\x03'), tuple_of(b'K\x03', b'K\x01')
    size = call(named('torch', 'Size'), shape)
    weight = call(named('torch._utils', '_rebuild_tensor'), storage('7340', 6), b'K\x00', size, strides)
    hooks = call(named('collections', 'OrderedDict'), list_of())
    bias = call(
        named('torch._utils', '_rebuild_tensor_v2'), storage('7341', 4), b'K\x01', b'K\x03\x85K\x01\x85\x89', hooks
    )
    items = [list_of(text('module.conv1.weight'), weight), list_of(text('module.conv1.\xe9'), bias)]
    code = dict_of({
        'epoch': b'K\x5a',
        'arch': text('resnet50'),
        'state_dict': call(named('collections', 'OrderedDict'), list_of(*items)),
        'best_prec1': pickle.BINFLOAT + struct.pack('>d', 54.65),
        'ids': pickle.EMPTY_DICT + b'I140234234234240\n' + pickle.NONE + pickle.SETITEM,
        'kinds': call(named('__builtin__', 'set'), list_of(b'K\x01')),
        'loss': call(
            named('numpy.core.multiarray', 'scalar'),
            call(named('numpy', 'dtype'), text('f8'), b'K\x00', b'K\x01') + tuple_of(b'K\x03', text('<')) + b'b',
            text('\0' * 8),
        ),
    })  # fmt: skip
    tensors = read(WRITERS[stream](code, {'7340': quarters(6), '7341': quarters(4)}))
    assert list(tensors) == ['conv1.weight', 'conv1.\xe9']
    np.testing.assert_array_equal(tensors['conv1.weight'], quarters(2, 3), strict=True)
    np.testing.assert_array_equal(tensors['conv1.\xe9'], quarters(4)[1:], strict=True)


def test_an_old_view_of_another_storage(read):
    view = storage('root', 12, 'FloatStorage', tuple_of(text('view'), number(4), number(6)))
    tensors = read(legacy(dict_of({'a': tensor(view, (2, 2), (2, 1), 1)}), {'root': quarters(12)}))
    np.testing.assert_array_equal(tensors['a'], quarters(12)[5:9].reshape(2, 2), strict=True)


def test_files_of_big_endian_machines(read):
    brain, none = tensor(storage('1', 3, 'BFloat16Storage'), (3,), (1,)), tensor(storage('2', 0), (0, 3), (3, 1))
    code = dict_of({'a': simple(), 'b': brain, 'none': none})
    bits = (quarters(3).view(np.uint32) >> 16).astype('>u2')
    stored = {'0': quarters(6).astype('>f4'), '1': bits, '2': np.empty(0, '>f4')}
    parts = {'x/data.pkl': program(code), 'x/byteorder': b'big'} | {
        f'x/data/{k}': v.tobytes() for k, v in stored.items()
    }
    for content in (archive(parts), legacy(code, stored, little=False)):
        tensors = read(content)
        np.testing.assert_array_equal(tensors['a'], quarters(2, 3), strict=True)
        np.testing.assert_array_equal(tensors['b'], quarters(3), strict=True)
        assert tensors['none'].shape == (0, 3) and all(value.dtype.isnative for value in tensors.values())


def test_a_zip_file_beyond_4_gib_keeps_its_numbers_elsewhere(read, refused):
    """A record with 64-bit numbers, as it would be beyond 4 GiB, around the same content."""
    content = zipped(dict_of({'a': simple()}), {'0': quarters(6)})
    end = content.rindex(b'PK\x05\x06')
    count, length, start = struct.unpack_from('<HII', content, end + 10)
    record = struct.pack('<4sQHHIIQQQQ', b'PK\x06\x06', 44, 45, 45, 0, 0, count, count, length, start)
    locator = struct.pack('<4sIQI', b'PK\x06\x07', 0, end, 1)
    last = content[end : end + 12] + b'\xff' * 8 + b'\0\0'
    np.testing.assert_array_equal(read(content[:end] + record + locator + last)['a'], quarters(2, 3))

    # An entry, too: all ones in the header, the numbers in the extra field.
    data = content.rindex(b'PK\x01\x02')
    sizes, name = struct.unpack_from('<II', content, data + 20), content[data + 46 : end]
    at = struct.unpack_from('<I', content, data + 42)[0]
    header = bytearray(content[data : data + 46])
    header[20:28], header[30:32], header[42:46] = b'\xff' * 8, struct.pack('<H', 9 + 28), b'\xff' * 4
    last = bytearray(content[end:])
    last[12:16] = struct.pack('<I', length + 9 + 28)

    def moved(*numbers: int) -> bytes:
        extra = struct.pack('<HH5sHHQQQ', 0x5455, 5, b'stamp', 1, 24, *numbers)
        return content[:data] + header + name + extra + last

    np.testing.assert_array_equal(read(moved(sizes[1], sizes[0], at))['a'], quarters(2, 3))
    for numbers in ((sizes[1], sizes[0], (1 << 64) - 1), (1 << 63, 1 << 63, at), (sizes[1], 5, at)):
        refused(moved(*numbers))


def test_bools_must_be_0_or_1(read):
    code = dict_of({'a': tensor(storage('0', 3, 'BoolStorage'), (3,), (1,))})
    flags = read(zipped(code, {'0': np.array([0, 2, 255], np.uint8)}))['a']
    assert flags.dtype == bool and flags.view(np.uint8).tolist() == [0, 1, 1]


def test_float16_tensors_keep_their_order(read):
    halves = {'HalfStorage': quarters(6).astype(np.float16), 'BFloat16Storage': quarters(6).view(np.uint16)[1::2]}
    for kind, stored in halves.items():
        value = read(zipped(dict_of({'a': tensor(storage('0', 6, kind), (3, 2), (1, 3))}), {'0': stored}))['a']
        assert value.flags.c_contiguous
        np.testing.assert_array_equal(value, quarters(2, 3).T, strict=True)


# --- which entry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('wrapper', [*torch_file.WRAPPERS, 'anything', None])
def test_state_dict_is_found_in_known_entries(wrapper, read):
    inner = dict_of({'a': simple(), 'note': text('no tensor')})
    code = dict_of({wrapper: inner, 'epoch': b'K\x01'}) if wrapper else inner
    assert list(read(zipped(code, {'0': quarters(6)}))) == ['a']


def test_usual_entry_wins_and_two_are_ambiguous(read, refused):
    one = dict_of({'a': simple()})
    both = {'best': simple(), 'ema': one, 'state_dict': one}
    assert list(read(zipped(dict_of(both), {'0': quarters(6)}))) == ['a']
    assert 'several state dicts (state_dict, model)' in refused(zipped(dict_of(both | {'model': one}), {}))
    assert 'several state dicts (the file itself, ema)' in refused(zipped(dict_of({'a': simple(), 'ema': one}), {}))
    assert 'several state dicts (x, y)' in refused(zipped(dict_of({'x': one, 'y': one}), {}))


def test_one_dict_by_many_names_is_one(read):
    """And is looked at once: 20,000 names of a dict with 20,000 entries."""
    inner = dict_of({'a': simple()} | {str(i): b'N' for i in range(20_000)}) + b'q\0'
    names = b''.join(text(f'x{i}') + b'h\0' for i in range(20_000))
    code = pickle.EMPTY_DICT + b'q\1(' + text('ema') + inner + text('self') + b'h\1' + names + b'u'
    start = time.process_time()
    assert list(read(zipped(code, {'0': quarters(6)}))) == ['a']
    assert time.process_time() - start < 10


def test_only_strings_are_names(read):
    other = [
        (b'K\1', simple()),
        (tuple_of(b'K\1'), b'N'),
        (pickle.EMPTY_LIST, b'N'),
        (b'N', b'N'),
        (text('a'), simple()),
    ]
    items = pickle.EMPTY_DICT + b'(' + b''.join(key + value for key, value in other) + b'u'
    given = call(CLASS, list_of(*(list_of(*item) for item in other)))
    for code in (items, given):
        assert list(read(zipped(code, {'0': quarters(6)}))) == ['a']


def test_common_prefix_is_removed_only_from_all_names(read):
    code = dict_of({'module.a': simple(), 'module.module.b': simple()})
    assert list(read(zipped(code, {'0': quarters(6)}))) == ['a', 'module.b']
    code = dict_of({'module.a': simple(), 'b': simple()})
    assert list(read(zipped(code, {'0': quarters(6)}))) == ['module.a', 'b']


@pytest.mark.parametrize(
    ('code', 'sentence'),
    [
        (simple(), 'holds no state dict'),
        (list_of(simple()), 'holds no state dict'),
        (dict_of({'epoch': b'K\x01', 'arch\n': text('resnet50')}), r'entries: epoch, arch\n'),
        (dict_of({}), 'entries: none'),
        (dict_of({'x' * 200: b'N'}), 'entries: ' + 'x' * 60),
    ],
)
@pytest.mark.parametrize('stream', STREAMS)
def test_a_file_without_a_state_dict(code, sentence, stream, refused):
    assert sentence in refused(WRITERS[stream](code, {}))


# --- enemies ----------------------------------------------------------------------------------------------------------


def attacks(marker: Path) -> dict[str, bytes]:
    """Pickle code that would run `touch marker`, by the way it is called."""
    command = pickle.BINUNICODE + struct.pack('<I', len(f'touch {marker}')) + f'touch {marker}'.encode()
    system = named('os', 'system')
    stack_global = text('os') + text('system') + pickle.STACK_GLOBAL
    reduce = system + command + pickle.TUPLE1 + pickle.REDUCE
    evaluate = call(named('builtins', 'eval'), text(f'__import__("os").system("touch {marker}")'[:255]))
    return {
        'REDUCE': reduce,
        'STACK_GLOBAL': stack_global + command + pickle.TUPLE1 + pickle.REDUCE,
        'INST': pickle.MARK + command + pickle.INST + b'os\nsystem\n',
        'OBJ': pickle.MARK + system + command + pickle.OBJ,
        'eval': evaluate,
        'getattr': call(call(named('builtins', 'getattr'), system, text('__call__')), command),
        'NEWOBJ': named('subprocess', 'Popen') + b')\x810' + reduce,
        # The first BUILD gives the object a method, and the second calls it.
        'BUILD': MADE + dict_of({'__setstate__': system}) + b'b' + command + b'b',
        'key': pickle.EMPTY_DICT + reduce + b'K\x01s',
        'in a dict': dict_of({'state_dict': dict_of({'a': reduce})}),
        'in a tensor': tuple_of(simple(), reduce),
        'in a call': call(named('collections', 'OrderedDict'), list_of(list_of(text('a'), reduce))),
        'popped': reduce + b'0' + dict_of({'a': simple()}),
        'persistent id': tuple_of(text('storage'), reduce, text('0'), text('cpu'), b'K\x06') + pickle.BINPERSID,
    }  # fmt: skip


ATTACKS = list(attacks(Path('marker')))


@pytest.mark.parametrize('attack', ATTACKS)
def test_nothing_in_a_file_is_run(attack, tmp_path, refused):
    marker = tmp_path / 'marker'
    code = attacks(marker)[attack]

    # The code is no dud: Python's own unpickler runs it.
    class Naive(pickle.Unpickler):
        def find_class(self, module, name):
            return (lambda *given: given) if module.startswith('torch') else super().find_class(module, name)

        def persistent_load(self, pid):
            return pid

    with contextlib.suppress(Exception):  # after the deed, whatever it was
        Naive(io.BytesIO(program(code)), encoding='latin1').load()
    assert marker.exists()
    marker.unlink()

    wrapped = dict_of({'state_dict': dict_of({'a': simple()}), 'extra': code})
    for stream in STREAMS:
        for body in (code, wrapped):
            words = refused(WRITERS[stream](body, {'0': quarters(6)}))
            assert ' names ' in words and 'which mixjax does not run' in words
    # In the other pickles of the older form, too.
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True})]
    body = program(dict_of({'a': simple()}))
    for pickles in (
        [program(code)],
        [*head[:1], program(code)],
        [*head[:2], program(code)],
        [*head, body, program(code)],
    ):
        refused(head[0] + b''.join(pickles))
        refused(b''.join(pickles) if len(pickles) > 1 else head[0] + pickles[0])
    assert not marker.exists()


@pytest.mark.parametrize(
    ('code', 'named_in_it'),
    [
        (named('posix', 'system'), 'posix.system'),
        (named('copyreg', '_reconstructor'), 'copyreg._reconstructor'),
        (named('torch.serialization', 'load'), 'torch.serialization.load'),
        (named('torch._utils', '_rebuild_tensor_v2.__globals__'), 'torch._utils._rebuild_tensor_v2.__globals__'),
        (named('builtins', 'getattr'), 'builtins.getattr'),
        (named('', ''), '.'),
        (named('o\x1bs', 'x' * 400), 'o\\x1bs.' + 'x' * 56),
        (text('os') + text('system') + pickle.STACK_GLOBAL, 'os.system'),
        (pickle.MARK + pickle.INST + b'os\nsystem\n', 'os.system'),
    ],
)
def test_a_name_is_refused_by_name(code, named_in_it, refused):
    assert f'names {named_in_it}, which mixjax does not run' in refused(zipped(dict_of({'a': code}), {}))


@pytest.mark.parametrize(
    'code',
    [
        pickle.EXT1 + b'\x01', pickle.EXT2 + b'\x01\0', pickle.EXT4 + b'\1\0\0\0',  # copyreg's registry
        pickle.MARK + CLASS + pickle.OBJ,
        pickle.MARK + pickle.INST + b'collections\nOrderedDict\n',
        CLASS + pickle.EMPTY_TUPLE + pickle.EMPTY_DICT + b'\x92',  # NEWOBJ_EX
        CLASS + dict_of({'update': b'N'}) + pickle.BUILD,  # attributes of the class itself
        simple() + dict_of({'a': b'N'}) + pickle.BUILD,
        storage('0', 6) + dict_of({'a': b'N'}) + pickle.BUILD,
        call(named('torch', 'FloatStorage')), call(named('torch', 'Size'), b'K\x01'), call(MADE), call(text('os')),
        CLASS + text('ab') + pickle.REDUCE,
        call(CLASS, list_of(text('ab'))), call(CLASS, list_of(list_of(text('a')))),
        call(named('torch._utils', '_rebuild_parameter'), b'K\x01'), call(named('torch._utils', '_rebuild_tensor')),
        text('0') + pickle.BINPERSID, tuple_of(text('module'), CLASS) + pickle.BINPERSID, b'P0\n',
        tuple_of(text('storage'), CLASS, text('0'), text('cpu'), b'K\x06') + pickle.BINPERSID,
        tuple_of(text('storage'), named('torch', 'FloatStorage'), b'K\x01', b'N', b'K\x06') + pickle.BINPERSID,
        tuple_of(storage('0', 6), storage('0', 7)), storage('1', -1), storage('1', 1 << 60),
        storage('0', 6, 'FloatStorage', tuple_of(b'N', number(-1), number(3))),
        storage('0', 6, 'FloatStorage', tuple_of(b'N', number(4), number(3))),
        storage('0', 6, 'FloatStorage', b'K\x01'),
        b']K\1K\2s', b'icollections\nOrderedDict\n', pickle.EMPTY_DICT + b'K\x01a', pickle.EMPTY_DICT + b'(K\x01u',
        b'h\x05', b'j\xff\xff\xff\xff', b'0', b'\x85', b'(\x86', b't', b'e', b'R', b'q\0', b'Q', b'\x93', b'b', b's',
        b'I1e9\n', b'I' + b'1' * 600 + b'\n', b'I' + b'1' * 30 + b'\n', b'X\x01\0\0\0\xff', b'c\xff\n\xff\n',
        b'Xabcd', b'T\xff\xff\xff\xff', b'B\xff\xff\xff\x7f', b'\x8a\xff1', b'\x8d' + b'\xff' * 8,
        b'\x96' + b'\xff' * 8,
        b'N' + b'r\xff\xff\xff\xff', b'\x80\x06N', b'\xffN', b'\x00N',
    ],
)  # fmt: skip
@pytest.mark.parametrize('stream', STREAMS)
def test_what_torch_never_writes_is_refused(code, stream, refused):
    refused(WRITERS[stream](code, {'0': quarters(6)}))
    refused(WRITERS[stream](dict_of({'a': simple(), 'b': code}), {'0': quarters(6)}))


@pytest.mark.parametrize(
    ('shape', 'strides', 'offset'),
    [
        ((7,), (1,), 0), ((2, 3), (3, 1), 1), ((2, 3), (4, 1), 0), ((1,), (1,), 6), ((1,), (1,), -1),
        ((7,), (0,), 0), ((1 << 40,), (0,), 0), ((1 << 47, 2), (0, 0), 0), ((1 << 200,), (1,), 0),  # one element, often
        ((2,), (-1,), 3), ((-1,), (1,), 0), ((2,), (1 << 200,), 0), ((2, 3), (1,), 0), ((1,) * 33, (1,) * 33, 0),
        ((0, 1 << 40, 1 << 40), (1, 1, 1), 0), ((0, 1 << 200), (1, 1), 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize('stream', STREAMS)
def test_a_tensor_outside_of_its_storage(shape, strides, offset, stream, refused):
    code = dict_of({'a': tensor(storage('0', 6), shape, strides, offset)})
    refused(WRITERS[stream](code, {'0': quarters(6)}))
    other = dict_of({'state_dict': dict_of({'a': simple()}), 'optimizer': code})
    refused(WRITERS[stream](other, {'0': quarters(6)}))


@pytest.mark.parametrize('stream', STREAMS)
def test_shapes_that_are_odd_and_right(stream, read):
    shapes = {'one': ((1,) * 32, (1 << 40,) * 32), 'none': ((3, 0), (1 << 40, 1)), 'scalar': ((), ())}
    code = dict_of({name: tensor(storage('0', 6), *numbers, 2) for name, numbers in shapes.items()})
    tensors = read(WRITERS[stream](code, {'0': quarters(6)}))
    assert {name: value.shape for name, value in tensors.items()} == {
        name: shape for name, (shape, _) in shapes.items()
    }
    assert tensors['one'].item() == tensors['scalar'].item() == 0.5


@pytest.mark.parametrize('stream', STREAMS)
def test_storages_that_are_not_there_or_of_another_size(stream, refused):
    code = dict_of({'a': simple()})
    for stored in ({}, {'0': quarters(5)}, {'0': quarters(7)}, {'1': quarters(6)}):
        refused(WRITERS[stream](code, stored))
    refused(WRITERS[stream](dict_of({'a': tensor(storage('0', 1 << 40), (1 << 40,), (1,))}), {'0': quarters(6)}))


def nested(opening: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + pickle.NONE + closing * depth


def doubled(levels: int) -> bytes:
    """Lists of two of the list before: 2 ** levels leaves."""
    return b'Nq\0' + b']q\1(h\0h\0eq\0' * levels


BOMBS = {
    'doubling': doubled(300),
    'doubling tuples as a key': pickle.EMPTY_DICT + b'Nq\0' + b'h\0h\0\x86q\0' * 300 + b'Ns',
    'deep lists': nested(b']', b'a', 150_000),
    'deep tuples': nested(b'', b'\x85', 400_000),
    'a deep key': pickle.EMPTY_DICT + nested(b'', b'\x85', 400_000) + b'Ns',
    'a deep call': nested(named('collections', 'defaultdict') + b'(', b't\x52', 50_000),
    'equal hashes': pickle.EMPTY_DICT + b'(' + b''.join(number(i * (2**61 - 1)) + b'N' for i in range(100_000)) + b'u',
    'objects': b']' * 3_000_000,
    'marks': b'(' * 3_000_000,
    'dicts of one list': b']q\0(' + b'](U\1aNe' * 20_000 + b'e' + CLASS + b'q\2' + b'h\2h\0\x85R' * 90_000,
    'tensors of one shape': storage('0', 6) + b'q\0' + tuple_of(*[b'K\1'] * 32) + b'q\1'
    + named('torch._utils', '_rebuild_tensor') + b'q\2' + b'h\2(h\0K\0h\1h\1tR' * 60_000,
    'a memo': b'N' + b''.join(b'r' + struct.pack('<I', (i << 12) & 0xFFFFFFFF) for i in range(400_000)),
    'wide text': b'X' + struct.pack('<I', 12 * MIB) + b'a' * (12 * MIB - 4) + '\U0001f600'.encode(),
    'a long pickle': b'X' + struct.pack('<I', 17 * MIB) + b'a' * (17 * MIB),
    'a cycle': b'}q\0U\1ah\0s' + b']q\1h\1ah\0' + b'U\1bh\1s',
}  # fmt: skip


@pytest.mark.parametrize('bomb', BOMBS)
def test_decompression_and_nesting_bombs(bomb, refused):
    words = refused(zipped(BOMBS[bomb], {'0': quarters(6)}))
    if bomb in ('objects', 'marks', 'dicts of one list', 'tensors of one shape'):
        assert 'longer than that of any network' in words
    assert ('larger than 16 MiB' in words) == (bomb == 'a long pickle')


@pytest.mark.parametrize('bomb', ['objects', 'a long pickle'])
def test_bombs_in_the_older_form(bomb, refused):
    refused(legacy(BOMBS[bomb], {'0': quarters(6)}))


@pytest.mark.parametrize('stream', STREAMS)
def test_many_large_tensors_in_one_storage(stream, refused):
    """2,000 windows of nearly all of 1 MB of halves would be 4 GB."""
    half = storage('0', 500_000, 'HalfStorage')
    code = dict_of({f'w{i}': tensor(half, (490_000,), (1,), i) for i in range(2000)})
    assert 'overlap' in refused(WRITERS[stream](code, {'0': np.zeros(500_000, np.float16)}))


# --- zip files by an enemy --------------------------------------------------------------------------------------------

PARTS = {'archive/data.pkl': program(dict_of({'a': simple()})), 'archive/data/0': quarters(6).tobytes()}


def test_a_zip_file_of_another_kind(refused):
    assert 'no data.pkl' in refused(archive({'weights.npy': b'x'}))
    assert 'no data.pkl' in refused(archive({'data.pkl': PARTS['archive/data.pkl']}))
    assert 'no data.pkl' in refused(archive(PARTS | {'other/data.pkl': b'.'}))
    assert 'TorchScript' in refused(archive(PARTS | {'archive/constants.pkl': b'.'}))
    assert 'damaged' in refused(archive(PARTS | {'archive/byteorder': b'middle'}))
    assert 'lacks the storage 0' in refused(archive({'archive/data.pkl': PARTS['archive/data.pkl']}))
    refused(archive({}))


def test_a_compressed_zip_file(refused):
    bomb = PARTS | {'archive/data/0': bytes(64 * MIB)}
    assert 'compressed' in refused(archive(bomb, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize('name', ['../archive/x', 'archive/../../x', '/etc/passwd', '\\x'])
def test_zip_names_outside_of_the_archive_folder_are_refused(name, refused, tmp_path):
    assert 'out of their folder' in refused(archive({name: b'x'} | PARTS))
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ['weights.pth']


def test_any_name_of_the_folder(read):
    assert list(read(zipped(dict_of({'a': simple()}), {'0': quarters(6)}, top='r\xe9seau 50'))) == ['a']


def test_inconsistent_zip_directory_is_refused(refused):
    content = archive(PARTS)
    end, record = content.rindex(b'PK\x05\x06'), content.rindex(b'PK\x01\x02')
    longs = (end + 12, end + 16, record + 20, record + 24, record + 42)
    shorts = (record + 8, record + 10, record + 28, record + 30)
    for layout, places, values in (('<I', longs, (1, 0x7FFFFFFF, 0xFFFFFFFF)), ('<H', shorts, (1, 0x7FFF, 0xFFFF))):
        for at in places:
            for value in values:
                changed = bytearray(content)
                struct.pack_into(layout, changed, at, value)
                refused(bytes(changed))


def test_two_zip_entries_of_one_name(refused):
    content = archive(PARTS | {'archive/data/1': PARTS['archive/data/0']})
    refused(content.replace(b'archive/data/1', b'archive/data/0'))


def test_inconsistent_local_zip_header_is_refused(refused):
    """It moves the content of its entry past the end of the file."""
    content = bytearray(archive(PARTS))
    struct.pack_into('<H', content, content.index(b'archive/data/0') - 2, 0xFFFF)
    assert 'damaged' in refused(bytes(content))


def test_overlapping_zip_entries_are_refused(refused):
    """500 entries that are one: 2 MB become 1 GB."""
    size = 500_000
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as entries:
        code = dict_of({f'w{i}': tensor(storage(str(i), size), (1,), (1,)) for i in range(500)})
        entries.writestr('x/data.pkl', program(code))
        entries.writestr('x/data/0', bytes(4 * size))
        first = entries.infolist()[1]
        for index in range(1, 500):
            entry = zipfile.ZipInfo(f'x/data/{index}')
            entry.CRC, entry.file_size, entry.compress_size = first.CRC, first.file_size, first.compress_size
            entry.header_offset, entry.external_attr = first.header_offset, 0
            entries.filelist.append(entry)
    refused(file.getvalue())


def test_a_zip_file_with_too_many_entries(refused):
    assert 'more entries' in refused(archive({f'x/{i:050}': b'' for i in range(46_000)}))


# --- files that are broken --------------------------------------------------------------------------------------------


def test_other_files_are_refused(tmp_path):
    for content in (
        b'',
        b'P',
        b'PK',
        b'short',
        b'\x80\x02',
        b'\x93NUMPY',
        b'\x08\0\0\0\0\0\0\0{}',
        pickle.dumps({'a': 1}),
    ):
        assert not torch_file.is_torch(content[:64])
        (tmp_path / 'x.pth').write_bytes(content)
        with pytest.raises(UserError, match=r'^x\.pth is not a torch file$'):
            torch_file.read(tmp_path / 'x.pth')
    (tmp_path / 'x.pth').write_bytes(b'sys_info'.ljust(1024, b'\0'))
    with pytest.raises(UserError, match='tar form of 2016'):
        torch_file.read(tmp_path / 'x.pth')
    with pytest.raises(UserError, match='is not a file'):
        torch_file.read(tmp_path)
    with pytest.raises(UserError, match=r'^none\.pth is not a file$'):
        torch_file.read(tmp_path / 'none.pth')
    os.mkfifo(tmp_path / 'pipe.pth')
    with pytest.raises(UserError, match='is not a file'):
        torch_file.read(tmp_path / 'pipe.pth')


def test_the_magic_of_another_protocol_and_another_version(read, refused):
    content = legacy(dict_of({'a': simple()}), {'0': quarters(6)})
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    other = pickle.dumps(0x1950A86A20F9469CFC6C, 4)
    assert torch_file.is_torch(other) and list(read(other + content[len(magic) :])) == ['a']
    version = program(number(1001))
    assert 'version' in refused(content.replace(version, program(number(1002))))


@pytest.mark.parametrize('name', ['torch_zip.pth', 'torch_legacy.pth', 'torch_checkpoint_legacy.pth.tar'])
def test_a_file_that_ends_early(name, refused):
    content = (FIXTURES / name).read_bytes()
    for part in range(20):
        refused(content[: len(content) * part // 20])
    refused(content[:-1])


def mutated(draw: random.Random, content: bytes) -> bytes:
    """A file with one to four wounds; most are where its structure is."""
    damaged = bytearray(content)
    start = content.index(b'\x80\x02')
    regions = ((0, len(content)), (start, min(len(content), start + 4000)), (max(0, len(content) - 1500), len(content)))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if not damaged:
            break
        low, high = draw.choice(regions)
        at = min(draw.randrange(low, high), len(damaged) - 1)
        match draw.randrange(8):
            case 0:
                damaged[at] ^= 1 << draw.randrange(8)
            case 1:
                damaged[at] = draw.randrange(256)
            case 2:
                damaged[at] = draw.choice(b'(.0NKMJIX}])tuaesRbcoiqrhjQ\x81\x85\x86\x87\x89\x8a\x8c\x93\x94\x95')
            case 3:
                damaged[at : at + 4] = draw.choice(
                    (b'\xff\xff\xff\xff', b'\xff\xff\xff\x7f', b'\0\0\0\0', b'\0\0\0\x80')
                )
            case 4:
                del damaged[at : at + draw.choice((1, 1, 4, 100))]
            case 5:
                damaged[at:at] = draw.randbytes(draw.choice((1, 1, 4, 100)))
            case 6:
                damaged[at:at] = damaged[at : at + draw.choice((2, 30, 300))] * draw.choice((1, 2, 50))
            case 7:
                other = draw.randrange(len(damaged))
                damaged[at : at + 8] = damaged[other : other + 8]
    return bytes(damaged)


def campaign(content: bytes, folder: Path, cases: int, seed: int) -> dict[str, float]:
    """Read `cases` damaged files; what became of them, and the most memory and time that one took."""
    draw = random.Random(seed)
    path = folder / 'damaged.pth'
    found = {'read': 0, 'refused': 0, 'MiB': 0.0, 'seconds': 0.0}
    tracemalloc.start()
    try:
        for _ in range(cases):
            path.write_bytes(mutated(draw, content))
            tracemalloc.reset_peak()
            before, start = tracemalloc.get_traced_memory()[0], time.process_time()
            try:
                tensors = torch_file.read(path)
                found['read'] += 1
                assert all(type(name) is str and type(value) is np.ndarray for name, value in tensors.items())
            except UserError as error:
                found['refused'] += 1
                assert str(error).startswith('damaged.pth ') and '\n' not in str(error)
            found['seconds'] = max(found['seconds'], time.process_time() - start)
            found['MiB'] = max(found['MiB'], (tracemalloc.get_traced_memory()[1] - before) / MIB)
    finally:
        tracemalloc.stop()
    return found


@pytest.mark.parametrize('name', ['torch_zip.pth', 'torch_legacy.pth', 'torch_checkpoint_legacy.pth.tar'])
def test_damaged_files_are_read_or_refused(name, tmp_path):
    """`MIXJAX_FUZZ` is the number of cases."""
    cases = int(os.environ.get('MIXJAX_FUZZ', 300))
    found = campaign((FIXTURES / name).read_bytes(), tmp_path, cases, seed=len(name))
    print(name, found)
    assert found['read'] + found['refused'] == cases and min(found['read'], found['refused']) > cases // 50
    assert found['MiB'] < 64 and found['seconds'] < 10


# --- cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('stream', STREAMS)
@pytest.mark.parametrize(('kind', 'dtype', 'times'), [('FloatStorage', np.float32, 1), ('HalfStorage', np.float16, 2)])
def test_memory_is_that_of_the_tensors(stream, kind, dtype, times, tmp_path):
    """Float tensors are read into place; a half becomes twice its size, and one storage at a time is beside it."""
    stored = {str(i): np.full(MIB // np.dtype(dtype).itemsize, i, dtype) for i in range(8)}
    code = dict_of({f'w{i}': tensor(storage(i, v.size, kind), (v.size // 2, 2), (2, 1)) for i, v in stored.items()})
    path = tmp_path / 'weights.pth'
    path.write_bytes(WRITERS[stream](code, stored))
    tracemalloc.start()
    try:
        tensors = torch_file.read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [value[-1, -1] for value in tensors.values()] == list(range(8))
    assert peak < (8 * times + 1.5) * MIB
