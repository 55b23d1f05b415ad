"""What reads files that others wrote, each with right files to begin with, and what it promises of wrong ones."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mixjax.data import folder as folder_lib
from mixjax.data import listing, photo, prepared, records, split_file
from mixjax.data.builders import archive
from mixjax.data.catalog import Dataset
from mixjax.errors import UserError
from tests.hostile.mutate import flawed, flawed_json

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
        save(colour, 'TIFF', compression=how)
    return out


def read_image(path: Path) -> None:
    data = path.read_bytes()
    image = photo.read(data, photo.Rule(side=16, upright=bool(len(data) % 2), channels=3 - 2 * (len(data) % 3 > 1)))
    assert image.shape[:2] == (16, 16) and image.dtype == np.uint8


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
    for kept in (folder / prepared.INDEX, prepared._elsewhere(folder)):
        kept.unlink(missing_ok=True)
    known = prepared.index(folder, {'train': 6}, 3)['train']
    read = prepared.Images(prepared.Records(folder, 'train'), known, photo.Rule(side=16), banner=0, shape=(16, 16, 3))
    read(np.arange(6))


def dataset_info(folder: Path) -> list[bytes]:
    (folder / 'set-train.array_record').write_bytes(array_records(folder)[0])
    return [json.dumps(INFO).encode()]


def read_info(path: Path) -> None:
    from mixjax.data import catalog
    from mixjax.data.entries import ENTRIES

    facts = next(iter(ENTRIES.values()))._replace(splits=('train', 'train'))
    if not catalog.fault(facts, path.parent):
        _read_set(path.parent)


def indices(folder: Path) -> list[bytes]:
    """The index that is kept beside the records, and arrays of every kind."""
    made = dataset_info(folder)[0]
    (folder / 'dataset_info.json').write_bytes(made)
    prepared.index(folder, {'train': 6}, 3, check=True)
    good = [(folder / prepared.INDEX).read_bytes()]
    (folder / prepared.INDEX).unlink()
    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros((300, 40)), b=np.arange(5), c=np.asfortranarray(np.eye(3)), d=np.array('text'))
    return [*good, file.getvalue()]


def read_index(path: Path) -> None:
    from mixjax import plain

    for name, array in plain.arrays(path).items():
        assert isinstance(name, str) and array.nbytes < 1 << 30
    folder = path.parent
    (folder / prepared.INDEX).write_bytes(path.read_bytes())
    stamp = prepared._stamp({'train': records.Records(folder, 'train')})
    prepared._load(folder / prepared.INDEX, stamp, False, {'train': records.Records(folder, 'train')})


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
    drawn = split_file.drawn(str(path), data, np.arange(6), 0, ())
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
        found = folder_lib.look(str(top), holdout=0.5, cache=cache)
    except UserError as error:
        assert str(error)
        return
    finally:
        import shutil

        shutil.rmtree(top, ignore_errors=True)
        shutil.rmtree(cache, ignore_errors=True)
    assert all(line.isprintable() for line in found.notes)
    assert all('..' not in one.path.split('/') for one in (*found.train, *found.test))


def remembered(_: Path) -> list[bytes]:
    return [
        json.dumps({'format': 1, 'files': {'a/1.png': [5, 6, 'digest', ''], 'b/2.png': [7, 8, '', 'bad']}}).encode()
    ]


def read_remembered(path: Path) -> None:
    for known in listing._remembered(path).values():
        assert isinstance(known, listing.Known)


def archives(_: Path) -> list[bytes]:
    out = []
    files = {'set/a.jpg': b'x' * 3000, 'set/b/c.txt': b'a b\n' * 40, 'set/' + 'long' * 40 + '.jpg': b'y'}
    for mode in ('w', 'w:gz', 'w:bz2', 'w:xz'):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode=mode) as made:
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


def read_archive(path: Path) -> None:
    data = path.read_bytes()
    place = path.with_suffix('.zip' if data[:2] == b'PK' else '.tar')
    place.write_bytes(data)
    for name, read in archive.members(place):
        assert not name.is_absolute() and '..' not in name.parts
        read()


READERS: dict[str, Reader] = {
    'images': Reader(images, read_image, refuses=(photo.Unreadable,), memory=5 << 29),
    'array records': Reader(array_records, read_records, name='set-train.array_record'),
    'examples': Reader(
        lambda _: some_records(), lambda path: records.example(path.read_bytes(), ('image', 'label', 'id')),
        refuses=(ValueError, IndexError),
    ),
    'dataset_info.json': Reader(dataset_info, read_info, flawed_json, name='dataset_info.json'),
    'npz files': Reader(indices, read_index, refuses=(ValueError,), memory=5 << 29),
    'splits.json': Reader(splits, read_splits, flawed_json),
    'names of folders': Reader(names, read_names),
    'listing cache': Reader(remembered, read_remembered, flawed_json),
    'archives': Reader(archives, read_archive),
}  # fmt: skip
