"""Data sets of a few images: published files in their original layout, and prepared copies."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from mixjax.data.datasets import catalog


def pixels(seed: int, height: int = 30, width: int = 40) -> np.ndarray:
    """(H, W, 3) uint8, smooth, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def picture(seed: int, form: str = 'JPEG', mode: str = 'RGB', size: tuple[int, int] = (30, 40)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed, *size)).convert(mode).save(file, form)
    return file.getvalue()


# What is in published archives under names that end in .jpg.
ODD = {
    'grey': lambda seed: picture(seed, mode='L'),
    'cmyk': lambda seed: picture(seed, mode='CMYK'),
    'png': lambda seed: picture(seed, 'PNG'),
    'gif': lambda seed: picture(seed, 'GIF', 'P'),
    'plain': picture,
}


def odd(number: int, size: tuple[int, int] = (30, 40)) -> bytes:
    """The number-th odd case."""
    del size
    return list(ODD.values())[number % len(ODD)](number)


def shown(data: bytes) -> np.ndarray:
    """(H, W, 3), by Pillow alone."""
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))


# --- published files --------------------------------------------------------------------------------------------------


def tar(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, 'w:gz' if path.suffix in ('.gz', '.tgz') else 'w') as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def aircraft() -> tuple[dict[str, bytes], dict[str, tuple[str, bytes]]]:
    """(files of the archive, {name of an example: (class, bytes)})."""
    variants = ['707-320', 'F/A-18', 'F-16A/B']
    examples = {f'{1_000_000 + k}': (variants[k % 3], picture(k, size=(60 + k, 80))) for k in range(10)}
    data = 'fgvc-aircraft-2013b/data/'
    lines = [f'{name} {variant}\n' for name, (variant, _) in examples.items()]
    files = {f'{data}images/{name}.jpg': image for name, (_, image) in examples.items()}
    files |= {
        f'{data}images/0000001.jpg': picture(99),  # of no list
        f'{data}images_variant_trainval.txt': ''.join(lines[:7]).encode(),
        f'{data}images_variant_test.txt': ''.join(lines[7:]).encode(),
        f'{data}variants.txt': '\n'.join(catalog.class_names('fgvc_aircraft')).encode(),
    }
    return files, examples


def indoor() -> tuple[dict[str, bytes], dict[str, bytes], dict[str, tuple[str, bytes]]]:
    """(files of the archive, the lists, {name: (class, bytes)}); one name is spelt with other capitals in a list."""
    kinds = ['airport_inside', 'bowling', 'winecellar']
    examples = {f'{kinds[k % 3]}/Room {k}.jpg': (kinds[k % 3], odd(k)) for k in range(10)}
    files = {f'Images/{name}': image for name, (_, image) in examples.items()}
    files['Images/bowling/unlisted.jpg'] = picture(99)
    files['Images/bowling/ROOM 1.JPG'] = picture(98)  # another image, whose name differs in capitals only
    names = list(examples)
    train = [name.replace('Room 3', 'room 3') for name in names[:7]]
    lists = {'TrainImages.txt': '\n'.join(train).encode(), 'TestImages.txt': '\r\n'.join(names[7:]).encode()}
    return files, lists, examples


def tiny() -> tuple[dict[str, bytes], dict[str, tuple[str, bytes]]]:
    kinds = catalog.class_names('tiny_imagenet')[:3]
    examples, files, lines = {}, {}, []
    for k in range(7):
        wnid, image = kinds[k % 3].split(' ')[0], picture(k, mode='L' if k == 2 else 'RGB', size=(64, 64))
        examples[f'{wnid}_{k}.JPEG'] = (kinds[k % 3], image)
        files[f'tiny-imagenet-200/train/{wnid}/images/{wnid}_{k}.JPEG'] = image
        files[f'tiny-imagenet-200/train/{wnid}/{wnid}_boxes.txt'] = b''
    for k in range(3):
        image = picture(50 + k, size=(64, 64))
        examples[f'val_{k}.JPEG'] = (kinds[2 - k], image)
        files[f'tiny-imagenet-200/val/images/val_{k}.JPEG'] = image
        lines.append(f'val_{k}.JPEG\t{kinds[2 - k].split(" ")[0]}\t0\t0\t62\t62\n')
        files[f'tiny-imagenet-200/test/images/test_{k}.JPEG'] = picture(70 + k, size=(64, 64))
    files['tiny-imagenet-200/val/val_annotations.txt'] = ''.join(lines).encode()
    files['tiny-imagenet-200/wnids.txt'] = '\n'.join(kind.split(' ')[0] for kind in reversed(kinds)).encode()
    return files, examples


def cars() -> tuple[dict[str, dict[str, bytes]], dict[str, tuple[str, bytes]]]:
    """({archive: its files}, {name: (class, bytes)})."""
    names = catalog.class_names('stanford_cars')
    labels = {'train': [1, 196, 174, 1, 196, 174, 1], 'test': [196, 174, 1]}  # 174: Ram C/V Cargo Van Minivan 2012
    archives: dict[str, dict[str, bytes]] = {'car_devkit.tgz': {}}
    examples = {}
    for part, (split, classes) in enumerate(labels.items()):
        files = {f'{k + 1:05d}.jpg': odd(20 * part + k) for k in range(len(classes))}
        archives[f'cars_{split}.tgz'] = {f'cars_{split}/{name}': data for name, data in files.items()}
        for (name, data), label in zip(files.items(), classes, strict=True):
            examples[f'{split}/{name}'] = (names[label - 1], data)
        table = annotations(list(files), classes)
        if split == 'train':
            archives['car_devkit.tgz']['devkit/cars_train_annos.mat'] = table
        else:
            archives['cars_test_annos_withlabels.mat'] = {'': table}
    archives['car_devkit.tgz']['devkit/cars_test_annos.mat'] = annotations(['00001.jpg'], None)
    return archives, examples


def annotations(names: list[str], labels: list[int] | None) -> bytes:
    """A table of the devkit, with the fields in its order."""
    fields = [(name, object) for name in ('bbox_x1', 'bbox_y1', 'bbox_x2', 'bbox_y2')]
    fields += [('class', object)] * (labels is not None) + [('fname', object)]
    table = np.zeros((1, len(names)), fields)
    for k, name in enumerate(names):
        table[0, k] = (1, 2, 30, 20, *([labels[k]] if labels else []), name)
    file = io.BytesIO()
    savemat(file, {'annotations': table})
    return file.getvalue()


def publish(name: str, folder: Path) -> dict[str, tuple[str, bytes]]:
    """Put the published files of a set into a folder; {name of an example: (class, bytes)}."""
    folder.mkdir(parents=True, exist_ok=True)
    if name == 'fgvc_aircraft':
        files, examples = aircraft()
        tar(folder / 'fgvc-aircraft-2013b.tar.gz', files)
    elif name == 'mit_indoor67':
        files, lists, examples = indoor()
        tar(folder / 'indoorCVPR_09.tar', files)
        unpacked(folder, lists)
    elif name == 'tiny_imagenet':
        files, examples = tiny()
        zipped(folder / 'tiny-imagenet-200.zip', files)
    else:
        archives, examples = cars()
        for archive, files in archives.items():
            if archive.endswith('.mat'):
                (folder / archive).write_bytes(files[''])
            else:
                tar(folder / archive, files)
    return examples


# --- prepared copies --------------------------------------------------------------------------------------------------


def field(number: int, data: bytes) -> bytes:
    """A field of a protobuf message that holds bytes."""
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(value: int) -> bytes:
    value, out = value % (1 << 64), bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def record(features: dict[str, object], *, packed: bool = True) -> bytes:
    """A serialised tf.train.Example of bytes, integers and lists of floats."""
    entries = []
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        elif isinstance(value, int):
            feature = field(3, field(1, varint(value)) if packed else varint(1 << 3) + varint(value))
        else:
            feature = field(2, field(1, np.array(value, np.float32).tobytes()))
        entries.append(field(1, field(1, name.encode()) + field(2, feature)))
    return field(1, b''.join(entries))


def copy(name: str, root: Path, parts: dict[str, list[list[bytes]]]) -> Path:
    """A prepared copy as TensorFlow Datasets writes it; parts: {part: the records of each file}."""
    from array_record.python.array_record_module import ArrayRecordWriter

    facts = catalog.entry(name)
    folder = root / facts.tfds / facts.version
    folder.mkdir(parents=True)
    splits = []
    for part, files in parts.items():
        for k, records in enumerate(files):
            path = folder / f'{facts.tfds}-{part}.array_record-{k:05d}-of-{len(files):05d}'
            writer = ArrayRecordWriter(str(path), 'group_size:1')
            for one in records:
                writer.write(one)
            writer.close()
        splits.append(
            {
                'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
                'name': part,
                'shardLengths': [str(len(records)) for records in files],
            }
        )
    info = {'fileFormat': 'array_record', 'name': facts.tfds, 'splits': splits, 'version': facts.version}
    (folder / 'dataset_info.json').write_text(json.dumps(info))
    return folder
