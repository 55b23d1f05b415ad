"""What reads files that others wrote, each with right files to begin with, and what it promises of wrong ones."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import random
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from mixjax.data.dataset import Dataset, of_folder
from mixjax.data.datasets import array_record, folder_scan, tfds_copy
from mixjax.data.datasets import folder as folder_lib
from mixjax.data.datasets.builders import archive
from mixjax.data.labelled import split_file
from mixjax.data.pixels import decoded_cache, photo
from mixjax.errors import UserError
from tests.hostile.mutate import flawed, flawed_json
from tests.support import raw_images

Flaw = Callable[[bytes, random.Random, list[bytes]], bytes]


class Reader(NamedTuple):
    """good: files that are right. read(file): what mixjax does with a file of a stranger.

    refuses: errors that it may end with, each a sentence. name: of the file. memory: bytes it may take, at most.
    """

    good: Callable[[Path], list[bytes]]
    read: Callable[[Path], Any]
    flaw: Flaw = flawed
    refuses: tuple[type[Exception], ...] = (UserError,)
    name: str = 'file'
    memory: int = 1 << 30


# --- images -----------------------------------------------------------------------------------------------------------


@functools.cache
def images(_: Path) -> list[bytes]:
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (24, 17, 4), np.uint8)
    out = []

    def save(array: np.ndarray, kind: str, mode: str = '', **how: Any) -> None:
        picture = Image.fromarray(array)
        file = io.BytesIO()
        (picture.convert(mode) if mode else picture).save(file, kind, **how)
        out.append(file.getvalue())

    colour, grey = noise[..., :3], noise[..., 0]
    exif = Image.Exif()
    exif[0x0112] = 6
    save(colour, 'JPEG', exif=exif)
    save(colour, 'JPEG', progressive=True)
    save(grey, 'JPEG')
    save(colour, 'JPEG', 'CMYK')
    save(noise, 'PNG')
    save(grey.astype(np.uint16) * 257, 'PNG')
    save(colour, 'PNG', 'P', optimize=True)
    save(colour, 'GIF', 'P', save_all=True, append_images=[Image.fromarray(grey)])
    save(colour, 'WEBP', lossless=True)
    save(colour, 'WEBP')
    save(colour, 'BMP')
    save(colour, 'PPM')
    for how in ('raw', 'tiff_lzw', 'tiff_adobe_deflate', 'packbits'):
        save(colour, 'TIFF', compression=how, exif=exif)
    deep = grey.astype(np.uint16) * 257
    for values in (colour, deep, deep.astype(np.int16), deep * np.uint32(65537), (deep / 65535).astype(np.float32)):
        out += [raw_images.tiff(values, orientation=5), raw_images.tiff(values, tile=16, deflate=True, orientation=8)]
        out.append(raw_images.tiff(values, order='>', photometric=0))
    for kind, values, most in (
        ('1', grey & 1, ''), ('2', deep, '65535'), ('3', colour, '255'), ('4', grey & 1, ''), ('5', deep, '65535'),
        ('6', colour % 100, '99'), ('f', deep / 65535, '-1.0'), ('F', colour / 255, '1.0'),
    ):  # fmt: skip
        out.append(raw_images.pnm(kind, values, most, '# a comment\n'))
    text = raw_images.chunk(b'zTXt', b'a\0\0' + zlib.compress(bytes(9999)))
    out.append(raw_images.png(colour, before=raw_images.chunk(b'eXIf', raw_images.exif(7)) + text))
    save(colour, 'WEBP', save_all=True, append_images=[Image.fromarray(colour[::-1])], exif=exif)
    save(grey, 'BMP', 'P')
    return out


# Where a part of a file begins that may come many times: a segment and a scan of a JPEG, a chunk of a PNG, blocks of a
# GIF, a comment, a frame of a WEBP.
PARTS = (b'\xff\xc4', b'\xff\xda', b'\xff\xe1', b'IDAT', b'zTXt', b'eXIf', b'!\xf9', b'!\xff', b',\0\0', b'#', b'ANMF')


def flawed_image(data: bytes, random_: random.Random, others: list[bytes]) -> bytes:
    """Some bytes changed; or one part of the file many times."""
    places = [data.find(part) - 4 * (part in PARTS[3:6]) for part in PARTS if part in data]
    if random_.random() < 0.85 or not places:
        return flawed(data, random_, others)
    start = max(random_.choice(places), 0)
    later = [place for place in places if place > start] or [len(data)]
    end = start + random_.choice((2, 4, 12, 20)) if random_.random() < 0.3 else random_.choice(later)
    many = random_.choice((2, 30, 1000, 50_000 // max(end - start, 1) + 1))
    return data[:start] + data[start:end] * many + data[end:]


def read_image(path: Path) -> None:
    from PIL import Image

    data = path.read_bytes()
    image = photo.read(data, photo.Rule(side=16, upright=bool(len(data) % 2), channels=3 - 2 * (len(data) % 3 > 1)))
    assert image.shape[:2] == (16, 16) and image.dtype == np.uint8
    stored, seen = photo.decode(data), photo.decode(data, upright=True)
    turns = [np.rot90(one, k) for one in (stored, stored[::-1]) for k in range(4)]
    assert any(np.array_equal(seen, turned) for turned in turns), 'it is turned to another picture'
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=photo.FORMATS) as picture:
        values = np.asarray(picture)
        if picture.mode[0] in 'IF' and values.min() < values.max():
            assert stored.min() < stored.max(), 'it has become one grey'


# --- too little memory ------------------------------------------------------------------------------------------------

RIGHT: dict[bytes, bytes] = {}  # {digest of a file: digest of its pixels}


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()


def large_images(_: Path) -> list[bytes]:
    return _large_images()


@functools.cache  # made before the memory is limited
def _large_images() -> list[bytes]:
    from PIL import Image

    out = []
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)).resize((900, 900))
    for kind, how in (
        ('JPEG', {}), ('JPEG', {'progressive': True}), ('PNG', {'compress_level': 1}), ('WEBP', {'method': 0}),
        ('TIFF', {'compression': 'tiff_lzw'}), ('TIFF', {}), ('BMP', {}), ('GIF', {}), ('PPM', {}),
    ):  # fmt: skip
        file = io.BytesIO()
        image.save(file, kind, **how)
        out.append(file.getvalue())
    RIGHT.update({_digest(data): _digest(photo.decode(data).tobytes()) for data in out})
    return out


def read_large_image(path: Path) -> None:
    """A right file, which is read or refused for lack of memory: never anything else."""
    data = path.read_bytes()
    assert _digest(photo.decode(data).tobytes()) == RIGHT[_digest(data)], 'it has other pixels'


# --- what only looks like a file --------------------------------------------------------------------------------------

SPECIAL = ('fifo', '/dev/zero', '/dev/random', '/dev/full', 'loop', 'nowhere', 'folder', 'sparse')


def special_files(_: Path) -> list[bytes]:
    return [bytes([k]) + name for k in range(len(SPECIAL)) for name in (b'a.jpg', b'a.tar', b'a.zip', b'a.tgz')]


def read_special_file(path: Path) -> None:
    """The first byte says what kind of file it is, and the others its name."""
    data = path.read_bytes()
    name = os.fsdecode(data[1:60].replace(b'\0', b'').replace(b'/', b'')) or 'x'
    kind, top = SPECIAL[data[0] % len(SPECIAL) if data else 0], path.parent / 'special'
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    made = top / (name if name not in ('.', '..') else 'x')
    if kind == 'fifo':
        os.mkfifo(made)
    elif kind == 'folder':
        made.mkdir()
    elif kind == 'sparse':
        made.touch()
        os.truncate(made, 1 << 36)
    else:
        made.symlink_to(made if kind == 'loop' else kind)
    for read in (lambda: photo.file_bytes(made), lambda: archive.read_list(made)):
        try:
            read()
        except (OSError, photo.Unreadable, UserError) as error:
            assert str(error)
        else:
            raise AssertionError('it was read')
    for place in (top, made) if kind != 'sparse' else (made,):
        if place == top or not place.is_dir():
            with contextlib.suppress(UserError):
                for _, load in archive.members(place):
                    load()


# --- data sets --------------------------------------------------------------------------------------------------------


def _field(number: int, data: bytes) -> bytes:
    assert len(data) < 1 << 14
    return bytes([number << 3 | 2, len(data) & 127 | 128, len(data) >> 7]) + data


def record(image: bytes, label: int, name: str) -> bytes:
    values = {'image': _field(1, _field(1, image)), 'label': _field(3, _field(1, bytes([label])))}
    values['id'] = _field(1, _field(1, name.encode()))
    return _field(1, b''.join(_field(1, _field(1, key.encode()) + _field(2, one)) for key, one in values.items()))


def some_records() -> list[bytes]:
    return [record(image, k % 3, f'{k}') for k, image in enumerate(images(Path())[:6])]


INFO = {
    'fileFormat': 'array_record', 'name': 'set', 'version': '1.0.0',
    'splits': [{'name': 'train', 'shardLengths': ['6'], 'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}'}],
}  # fmt: skip


def array_records(folder: Path) -> list[bytes]:
    from array_record.python.array_record_module import ArrayRecordWriter

    out = []
    for options in ('group_size:1', 'group_size:2,uncompressed'):
        writer = ArrayRecordWriter(str(folder / 'made'), options)
        for one in some_records():
            writer.write(one)
        writer.close()
        out.append((folder / 'made').read_bytes())
    (folder / 'made').unlink()
    return out


def read_records(path: Path) -> None:
    (path.parent / 'dataset_info.json').write_text(json.dumps(INFO))
    _read_set(path.parent)


def _read_set(folder: Path) -> None:
    for kept in (folder / tfds_copy.INDEX, tfds_copy._elsewhere(folder)):
        kept.unlink(missing_ok=True)
    known = tfds_copy.index(folder, {'train': 6}, 3)['train']
    read = tfds_copy.Images(tfds_copy.Records(folder, 'train'), known, photo.Rule(side=16), banner=0, shape=(16, 16, 3))
    read(np.arange(6))


def dataset_info(folder: Path) -> list[bytes]:
    (folder / 'set-train.array_record').write_bytes(array_records(folder)[0])
    return [json.dumps(INFO).encode()]


def read_info(path: Path) -> None:
    from mixjax.data.datasets import catalog
    from mixjax.data.datasets.entries import ENTRIES

    facts = next(iter(ENTRIES.values()))._replace(splits=('train', 'train'))
    if not catalog.fault(facts, path.parent):
        _read_set(path.parent)


def indices(folder: Path) -> list[bytes]:
    """The index that is kept beside the records, and arrays of every kind."""
    made = dataset_info(folder)[0]
    (folder / 'dataset_info.json').write_bytes(made)
    tfds_copy.index(folder, {'train': 6}, 3, check=True)
    good = [(folder / tfds_copy.INDEX).read_bytes()]
    (folder / tfds_copy.INDEX).unlink()
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros((300, 40)), b=np.arange(5), c=np.asfortranarray(np.eye(3)), d=np.array('text'))
    return [*good, file.getvalue()]


def read_index(path: Path) -> None:
    from mixjax.host import untrusted

    for name, array in untrusted.arrays(path).items():
        assert isinstance(name, str) and array.nbytes < 1 << 30
    folder = path.parent
    (folder / tfds_copy.INDEX).write_bytes(path.read_bytes())
    stamp = tfds_copy._stamp({'train': array_record.Records(folder, 'train')})
    tfds_copy._load(folder / tfds_copy.INDEX, stamp, False, {'train': array_record.Records(folder, 'train')})


def splits(_: Path) -> list[bytes]:
    made = {
        'target': 'digits', 'classes': ['a', 'b'], 'left out classes': ['c'], 'data': {'train': 'x'},
        'labelled rows': {'0': [0, 1, 2]}, 'labelled ids': {'0': ['i0', 'i1', 'i2']}, 'validation rows': {'0': [3]},
        'validation ids': {'0': ['i3']}, 'per class': {'0': [2, 1]},
    }  # fmt: skip
    return [json.dumps(made).encode(), json.dumps({k: v for k, v in made.items() if 'ids' not in k}).encode()]


def read_splits(path: Path) -> None:
    labels = np.array([0, 1, 0, 1, 0, 1], np.int32)
    ids = tuple(f'i{k}' for k in range(6)) if path.stat().st_size % 2 else ()
    data = Dataset('digits', ('a', 'b'), labels, lambda rows: rows, ids)
    split_file._read.cache_clear()
    split_file.count(str(path), 3)
    chosen = split_file.classes(str(path), 'digits', ('a', 'b', 'c'))
    assert set(chosen) <= {0, 1, 2}
    drawn = split_file.read_draw(str(path), data, np.arange(6), 0, ())
    assert set(drawn.known) <= set(range(6))


def names(_: Path) -> list[bytes]:
    return [b'cat\ndog/1.png\ndog/deep/2.png', 'train\nk\u00e4fer\ntest\n\u732b'.encode()]


def read_names(path: Path) -> None:
    """The bytes as the names of folders and files, one a line."""
    top, cache = path.parent / 'images', path.parent / 'cache'
    png = images(Path())[4]
    for k, line in enumerate(path.read_bytes().splitlines()[:4]):
        parts = [part[:60] for part in line.replace(b'\0', b'').split(b'/') if part not in (b'', b'.', b'..')] or [b'x']
        inside = top.joinpath(*(os.fsdecode(part) for part in parts))
        with contextlib.suppress(OSError):
            inside.mkdir(parents=True, exist_ok=True)
            (inside / f'{k}.png').write_bytes(png + bytes([k]))
            (inside / f'{k + 20}.png').write_bytes(png + bytes([k + 20]))
    try:
        found = folder_lib.scan(str(top), holdout=0.5, cache=cache)
    except UserError as error:
        assert str(error)
        return
    finally:
        shutil.rmtree(top, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
    assert all(line.isprintable() for line in found.notes)
    assert all('..' not in one.path.split('/') for one in (*found.train, *found.test))


def remembered(_: Path) -> list[bytes]:
    return [
        json.dumps(
            {
                'format': folder_scan.FORMAT,
                'files': {'a/1.png': [[5, 6, 7, 8], '0123456789abcdef' * 2, ''], 'b/2.png': [[7, 8, 9, 10], '', 'bad']},
            }
        ).encode()
    ]


def read_remembered(path: Path) -> None:
    for known in folder_scan._read_checks(path).values():
        assert isinstance(known, folder_scan.Known) and bool(known.digest) != bool(known.fault)
        assert all(type(number) is int for number in known.stamp)


# --- folders of every shape, and files that change --------------------------------------------------------------------

PLACES = (
    '',
    'a',
    'b',
    'train',
    'test_set',
    'a/deep',
    'train/a',
    'train/b',
    'test_set/a',
    '.hidden',
    'a/@eaDir',
    'b/c/d',
)


def shapes(_: Path) -> list[bytes]:
    made = [['file', 'a/1.png', ''], ['file', 'b/2.png', ''], ['link', 'a/x', 'b'], ['pipe', 'b/p.jpg', '']]
    return [json.dumps(made).encode()]


def other_shape(_: bytes, random_: random.Random, others: list[bytes]) -> bytes:
    """Files, links, pipes and devices in a few folders, by what lies where."""
    del others

    def one() -> list[str]:
        kind = random_.choice(('file', 'file', 'file', 'link', 'link', 'pipe', 'device'))
        name = random_.choice(('1.png', '2.jpg', 'x', 'y', 'note.txt', '.z.png'))
        place = random_.choice(PLACES)
        return [kind, f'{place}/{name}' if place else name, random_.choice((*PLACES, 'a/x', 'b/y', 'x', 'a/1.png'))]

    return json.dumps([one() for _ in range(random_.choice((4, 12, 40)))]).encode()


def read_shape(path: Path) -> None:
    """The folder that the file tells of, as training and as prediction see it."""
    top, cache = path.parent / 'shape', path.parent / 'cache'
    top.mkdir()
    for number, (kind, name, target) in enumerate(json.loads(path.read_bytes())):
        with contextlib.suppress(OSError):
            (top / name).parent.mkdir(parents=True, exist_ok=True)
            if kind == 'file':
                with (top / name).open('xb') as file:
                    file.write(images(Path())[4] + bytes([number]))
            elif kind == 'pipe':
                os.mkfifo(top / name)
            else:
                (top / name).symlink_to('/dev/zero' if kind == 'device' else top / target)
    try:
        with contextlib.suppress(UserError):
            for found in folder_scan.list_parts(top).parts.values():
                _each_once(top, [one for one, _ in found])
            found = folder_lib.scan(str(top), holdout=0, cache=cache)
            labels = {one.path: found.classes[one.label] for one in (*found.train, *found.val, *found.test)}
            assert all(label in name.split('/')[:2] for name, label in labels.items())
        inside, walked = folder_scan.everything(top)
        _each_once(top, [one for one, _ in inside])
        assert all(one.endswith(str(below)) for one, below in inside) and walked.irregular <= 40
    finally:
        shutil.rmtree(top)
        shutil.rmtree(cache, ignore_errors=True)


def _each_once(top: Path, found: list[str]) -> None:
    """No folder was entered twice, and nothing but files and links that lead nowhere was taken for an image."""
    real = [(os.path.realpath((top / one).parent), os.path.basename(one)) for one in found]
    assert len(set(real)) == len(real), found
    assert all((top / one).is_file() or not (top / one).exists() for one in found)


FOUR = ('a/0.bmp', 'a/1.bmp', 'b/0.bmp', 'b/1.bmp')


@functools.cache
def _bmp(number: int) -> bytes:
    """Images whose files have one size; each fifth is damaged."""
    from PIL import Image

    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    Image.fromarray(pixels).save(file, 'BMP')
    return file.getvalue() if number % 5 else b'x' * len(file.getvalue())


def histories(_: Path) -> list[bytes]:
    return [json.dumps([['list', 0, 0], ['read', 0, 0], ['write', 1, 9], ['read', 0, 0], ['list', 0, 0]]).encode()]


def other_history(_: bytes, random_: random.Random, others: list[bytes]) -> bytes:
    """What becomes of four images, which are listed and read in between."""
    del others
    kinds = ('list', 'read', 'read', 'write', 'swap', 'replace', 'times', 'remove')
    made = [
        [random_.choice(kinds), random_.randrange(4), random_.randrange(12)] for _ in range(random_.choice((4, 12)))
    ]
    return json.dumps([['list', 0, 0], *made, ['list', 0, 0], ['read', 0, 0]]).encode()


def read_history(path: Path) -> None:
    """A listing tells of the files as they are; what is read of it is what was listed, or an error."""
    top, cache, data = path.parent / 'history', path.parent / 'cache', None
    rule = photo.Rule(side=4)

    def put(name: Path, number: int) -> None:
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_bytes(_bmp(number))
        os.utime(name, ns=(10**18, 10**18))

    made = {folder_scan.digest_of(_bmp(number)): _bmp(number) for number in range(16)}
    for number, name in enumerate(FOUR):
        put(top / name, number + 11)
    try:
        for kind, one, number in json.loads(path.read_bytes()):
            name, other = top / FOUR[one], top / FOUR[number % 4]
            with contextlib.suppress(FileNotFoundError):
                if kind == 'write':
                    put(name, number)
                elif kind == 'replace':
                    put(top / 'new', number)
                    os.replace(top / 'new', name)
                elif kind == 'swap':
                    os.replace(name, top / 'new')
                    os.replace(other, name)
                    os.replace(top / 'new', other)
                elif kind == 'times':
                    os.utime(name, ns=(10**18, 10**18 + number))
                elif kind == 'remove':
                    name.unlink()
            with contextlib.suppress(UserError):
                if kind == 'list':
                    data = None
                    with mock.patch.object(folder_scan, 'FRESH', 0):
                        found = folder_lib.scan(str(top), holdout=0, cache=cache)
                    digests = [folder_scan.digest_of((top / one.path).read_bytes()) for one in found.train]
                    assert digests == [one.digest for one in found.train]
                    opened = of_folder(found, found.train, rule)
                    data = found, decoded_cache.stored(opened, 'train', cache / 'images').read
                    time.sleep(0.011)  # a tick of the clock of file systems: listings are remembered
                elif kind == 'read' and data is not None:
                    for row in range(len(data[0].train)):
                        image = photo.read(made[data[0].train[row].digest], rule)
                        with contextlib.suppress(UserError):
                            assert (data[1]([row])[0] == image).all()
    finally:
        shutil.rmtree(top, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)


def archives(_: Path) -> list[bytes]:
    out = []
    files = {'set/a.jpg': b'x' * 3000, 'set/b/c.txt': b'a b\n' * 40, 'set/' + 'long' * 40 + '.jpg': b'y'}
    for mode, form in (
        ('w', tarfile.GNU_FORMAT), ('w', tarfile.PAX_FORMAT), ('w:gz', tarfile.PAX_FORMAT),
        ('w:bz2', tarfile.GNU_FORMAT), ('w:xz', tarfile.PAX_FORMAT),
    ):  # fmt: skip
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode, format=form) as made:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                made.addfile(info, io.BytesIO(data))
        out.append(file.getvalue())
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, 'w', how) as made:
            for name, data in files.items():
                made.writestr(name, data)
        out.append(file.getvalue())
    return out


def flawed_archive(data: bytes, random_: random.Random, others: list[bytes]) -> bytes:
    """Some bytes changed; or a header of a tar file whose sum is right, at times with something long behind it."""
    places = [at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b'ustar']
    if not places or random_.random() < 0.4:
        return flawed(data, random_, others)
    at = random_.choice(places)
    head = bytearray(data[at : at + 512])
    inside = b''
    for _ in range(random_.choice((1, 1, 2))):
        if random_.random() < 0.5:
            head[156] = random_.choice(b'LKxgXS5012\0')
        elif random_.random() < 0.5:
            sizes = (b'00000000000\0', b'77777777777\0', b'\x80' + bytes(3) + b'\xff' * 8, b' ' * 12)
            head[124:136] = random_.choice(sizes)
        else:
            k = random_.randrange(512)
            head[k : k + 8] = random_.randbytes(8)[: 512 - k]
    if random_.random() < 0.5:
        units = (b'1', b'12 a=b\n', b'11 path=..\n', b'1 hdrcharset=', b'20 GNU.sparse.map=1,', b'9 size=1\n')
        unit = random_.choice(units)
        inside = unit * random_.choice((1, 90, 5000, 100_000 // len(unit)))
        head[124:136] = b'%011o\0' % len(inside)
        inside += bytes(-len(inside) % 512)
    head[148:156] = b' ' * 8
    head[148:156] = b'%06o\0 ' % sum(head)
    return data[:at] + (bytes(head) + inside) * random_.choice((1, 1, 3, 200)) + data[at + 512 * bool(not inside) :]


def read_archive(path: Path) -> None:
    data = path.read_bytes()
    place = path.with_suffix('.zip' if data[:2] == b'PK' else '.tar')
    place.write_bytes(data)
    for name, read in archive.members(place):
        assert not name.is_absolute() and '..' not in name.parts
        read()


READERS: dict[str, Reader] = {
    'images': Reader(images, read_image, flawed_image, refuses=(photo.Unreadable,), memory=5 << 29),
    'images, little memory': Reader(
        large_images, read_large_image, lambda data, *_: data, refuses=(photo.OutOfMemory,), memory=12 << 20
    ),
    'special files': Reader(special_files, read_special_file),
    'array records': Reader(array_records, read_records, name='set-train.array_record'),
    'examples': Reader(
        lambda _: some_records(), lambda path: array_record.example(path.read_bytes(), ('image', 'label', 'id')),
        refuses=(ValueError, IndexError),
    ),
    'dataset_info.json': Reader(dataset_info, read_info, flawed_json, name='dataset_info.json'),
    'npz files': Reader(indices, read_index, refuses=(ValueError,), memory=5 << 29),
    'splits.json': Reader(splits, read_splits, flawed_json),
    'names of folders': Reader(names, read_names),
    'listing cache': Reader(remembered, read_remembered, flawed_json),
    'shapes of folders': Reader(shapes, read_shape, other_shape),
    'files that change': Reader(histories, read_history, other_history),
    'archives': Reader(archives, read_archive, flawed_archive),
}  # fmt: skip
