"""The sets that TensorFlow Datasets prepares, from published files in their original layout to two steps of training.

This step, and no other, needs TensorFlow: these tests run where it is installed (pip install -e .[test,prepare]).
Its downloads are replaced by files that the tests write.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from mixjax.commands.prepare import prepare
from mixjax.data.datasets import catalog
from mixjax.data.pixels import photo
from tests.support.miniature import picture, shown, tar, unpacked
from tests.support.trained import draw_of, small, trained  # noqa: F401

pytest.importorskip('tensorflow', reason='mixjax[prepare] is not installed')
pytestmark = pytest.mark.filterwarnings('default')  # of TensorFlow, on its way in

Examples = dict[str, tuple[int, Any]]  # name: (label, file or pixels or what compares them)


@pytest.fixture
def published(monkeypatch, tmp_path):
    """A folder for files, and how to say which URL leads to which: publish(file name, path, unpacked=path)."""
    import tensorflow_datasets as tfds

    places: dict[tuple[str, bool], Path] = {}

    def resolve(urls, extract):
        if isinstance(urls, dict):
            return {key: resolve(url, extract) for key, url in urls.items()}
        if isinstance(urls, list | tuple):
            return [resolve(url, extract) for url in urls]
        name = str(urls).split('/')[-1].partition('?')[0]
        return str(places.get((name, extract)) or places[name, False])

    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, 'download', lambda self, urls: resolve(urls, False))
    monkeypatch.setattr(manager, 'download_and_extract', lambda self, urls: resolve(urls, True))

    def publish(name: str, packed: Path | None = None, unpacked: Path | None = None) -> None:
        for path, extract in ((packed, False), (unpacked, True)):
            if path is not None:
                places[name, extract] = path

    folder = tmp_path / 'published'
    folder.mkdir()
    return folder, publish


def check(name: str, root: Path, examples: Examples) -> None:
    told = prepare(name, data_dir=str(root), allow_counts=True)
    seen = []
    for split in ('train', 'test'):
        data = catalog.load(name, split, data_dir=str(root))
        assert f'{len(data.labels)} ' + ('training' if split == 'train' else 'test') in told
        for key, label, image in zip(data.ids, data.labels, data.read(np.arange(len(data.labels))), strict=True):
            expected_label, expected = examples[key]
            if callable(expected):
                expected(image)
                seen.append(key)
                continue
            if isinstance(expected, bytes):
                expected = photo.read(expected, photo.Rule(image.shape[0], channels=image.shape[2]))
            assert label == expected_label, key
            np.testing.assert_array_equal(image, expected, err_msg=key)
            seen.append(key)
    assert sorted(seen) == sorted(examples)
    trains(name, root)


def trains(name: str, root: Path) -> None:
    """Two steps with both feeds."""
    results = trained(root / 'runs', target__name=name, target__splits=draw_of(name, root), data_dir=str(root))
    assert results['train_examples'] > 0 and results['test_examples'] > 0


def close(data: bytes) -> Callable[[np.ndarray], None]:
    """For an image that was encoded anew from that file."""

    def compare(image: np.ndarray) -> None:
        np.testing.assert_allclose(image, photo.fit(shown(data), photo.Rule(image.shape[0])), atol=24)

    return compare


def test_stanford_dogs(published, tmp_path):
    """Class names come from the training list; 'Images/n02085620-Chihuahua' is written with a capital there."""
    folder, publish = published
    files, boxes, lists, examples = {}, {}, {'train': [], 'test': []}, {}
    for label, name in enumerate(catalog.class_names('stanford_dogs')):
        wnid, breed = name.split('-', 1)
        for k, split in enumerate(('train', 'test') if label < 3 else ('train',)):
            file = f'{wnid}-{breed.capitalize()}/{wnid}_{k}.jpg'
            files[f'Images/{file}'] = picture(2 * label + k)
            boxes[f'Annotation/{file[:-4]}'] = (
                b'<annotation><size><width>40</width><height>30</height></size></annotation>'
            )
            lists[split].append(file)
            examples[f'Images/{file}'] = (label, files[f'Images/{file}'])
    (folder / 'lists').mkdir()
    for split, names in lists.items():
        savemat(folder / 'lists' / f'{split}_list.mat', {'file_list': np.array(names, object)[:, None]})
    publish('images.tar', tar(folder / 'images.tar', files))
    publish('lists.tar', unpacked=folder / 'lists')
    publish('annotation.tar', unpacked=unpacked(folder / 'boxes', boxes))
    check('stanford_dogs', tmp_path / 'data', examples)


def test_cub200(published, tmp_path):
    folder, publish = published
    files, masks, examples = {}, {}, {}
    tables: dict[str, list[str]] = {'images': [], 'train_test_split': [], 'bounding_boxes': []}
    for k in range(12):
        name = catalog.class_names('cub200')[k % 4]
        file = f'{name}/{name[4:]}_{k:04d}_{k}.jpg'
        files[f'CUB_200_2011/images/{file}'] = picture(k)
        masks[f'segmentations/{file[:-4]}.png'] = picture(k, 'PNG', 'L')
        examples[f'CUB_200_2011/images/{file}'] = (k % 4, picture(k))
        tables['images'].append(f'{k + 1} {file}')
        tables['train_test_split'].append(f'{k + 1} {int(k % 3 > 0)}')
        tables['bounding_boxes'].append(f'{k + 1} 1.0 2.0 10.0 12.0')
    files |= {f'CUB_200_2011/{table}.txt': '\n'.join(lines).encode() for table, lines in tables.items()}
    publish('CUB_200_2011.tgz', tar(folder / 'CUB_200_2011.tgz', files), unpacked(folder / 'cub', files))
    publish('segmentations.tgz', unpacked=unpacked(folder / 'masks', masks))
    check('cub200', tmp_path / 'data', examples)


def test_food101(published, tmp_path):
    """What is called validation there is its test part. Examples have no names in this version."""
    folder, publish = published
    lists = {'train': {'apple_pie': ['apple_pie/0'], 'waffles': ['waffles/0']}, 'test': {'waffles': ['waffles/1']}}
    files = {f'food-101/images/{kind}/{k}.jpg': picture(k) for kind in ('apple_pie', 'waffles') for k in range(2)}
    files |= {f'food-101/meta/{split}.json': json.dumps(names).encode() for split, names in lists.items()}
    publish('food-101.tar.gz', unpacked=unpacked(folder / 'food', files))
    root = tmp_path / 'data'
    assert '2 training and 1 test images' in prepare('food101', data_dir=str(root), allow_counts=True)
    train, test = (catalog.load('food101', split, data_dir=str(root)) for split in ('train', 'test'))
    assert sorted(train.classes[k] for k in train.labels) == ['apple_pie', 'waffles']
    assert test.labels.tolist() == [100] and list(test.ids) == ['validation/0']
    np.testing.assert_array_equal(test.read(np.arange(1))[0], photo.read(picture(1), photo.Rule()))
    trains('food101', root)


def test_flowers102(published, tmp_path):
    """The validation part is not used."""
    folder, publish = published
    labels = [77, 1, 102, 77, 102, 6]
    files = {f'jpg/image_{k:05d}.jpg': picture(k) for k in range(1, 7)}
    savemat(folder / 'imagelabels.mat', {'labels': np.array([labels], np.uint8)})
    savemat(
        folder / 'setid.mat', {'trnid': np.array([[1, 3]]), 'valid': np.array([[2]]), 'tstid': np.array([[4, 5, 6]])}
    )
    publish('102flowers.tgz', unpacked=unpacked(folder / 'flowers', files))
    publish('imagelabels.mat', folder / 'imagelabels.mat')
    publish('setid.mat', folder / 'setid.mat')
    examples = {f'image_{k:05d}.jpg': (labels[k - 1] - 1, picture(k)) for k in (1, 3, 4, 5, 6)}
    check('flowers102', tmp_path / 'data', examples)


@pytest.mark.parametrize('name', ['cifar10', 'cifar100'])
def test_cifar(name, published, tmp_path):
    folder, publish = published
    random = np.random.default_rng(0)
    examples: Examples = {}

    def batch(prefix: str, start: int, count: int) -> bytes:
        out = b''
        for k in range(start, start + count):
            image = random.integers(0, 256, (3, 32, 32), np.uint8)
            coarse = b'\x03' if name == 'cifar100' else b''
            out += coarse + bytes([k % 10]) + image.tobytes()
            examples[f'{prefix}_{k:05d}'] = (k % 10, image.transpose(1, 2, 0))
        return out

    classes = '\n'.join(catalog.class_names(name)).encode()
    if name == 'cifar10':
        files = {f'data_batch_{k + 1}.bin': batch('train', 2 * k, 2) for k in range(5)}
        files |= {'test_batch.bin': batch('test', 0, 3), 'batches.meta.txt': classes + b'\n\n'}
        files = {f'cifar-10-batches-bin/{file}': data for file, data in files.items()}
    else:
        coarse = '\n'.join(f'group {k}' for k in range(20)).encode()
        files = {'train.bin': batch('train', 0, 4), 'test.bin': batch('test', 0, 3)}
        files |= {'fine_label_names.txt': classes, 'coarse_label_names.txt': coarse}
        files = {f'cifar-100-binary/{file}': data for file, data in files.items()}
    publish(f'cifar-{name[5:]}-binary.tar.gz', unpacked=unpacked(folder / 'cifar', files))
    check(name, tmp_path / 'data', examples)


@pytest.mark.parametrize('name', ['mnist', 'fashion_mnist'])
def test_mnist(name, published, tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    module = __import__(tfds.builder_cls('mnist').__module__, fromlist=['_TRAIN_EXAMPLES'])
    folder, publish = published
    random, parts = np.random.default_rng(0), {}
    for part, prefix, count in (('train', 'train', 6), ('test', 't10k', 4)):
        monkeypatch.setattr(module, f'_{part.upper()}_EXAMPLES', count)
        parts[part] = random.integers(0, 256, (count, 28, 28), np.uint8)
        for kind, data in (
            ('images-idx3', bytes(16) + parts[part].tobytes()),
            ('labels-idx1', bytes(8) + bytes(range(count))),
        ):
            (folder / f'{prefix}-{kind}').write_bytes(data)
            publish(f'{prefix}-{kind}-ubyte.gz', unpacked=folder / f'{prefix}-{kind}')
    prepare(name, data_dir=str(tmp_path / 'data'), allow_counts=True)
    for part, images in parts.items():
        data = catalog.load(name, part, data_dir=str(tmp_path / 'data'))
        assert sorted(data.labels.tolist()) == list(range(len(images)))
        np.testing.assert_array_equal(data.read(np.arange(len(images)))[..., 0], images[data.labels])
    trains(name, tmp_path / 'data')


def test_svhn(published, tmp_path):
    """The digit 0 is 10 in the files; the part `extra` is not used."""
    folder, publish = published
    random, examples = np.random.default_rng(0), {}
    for part, count in (('train', 4), ('test', 3), ('extra', 2)):
        images = random.integers(0, 256, (32, 32, 3, count), np.uint8)
        savemat(folder / f'{part}_32x32.mat', {'X': images, 'y': np.array([[10], [1], [2], [9]][:count], np.uint8)})
        publish(f'{part}_32x32.mat', folder / f'{part}_32x32.mat')
        if part != 'extra':
            examples |= {f'{part}_{k:06d}': ([0, 1, 2, 9][k], images[..., k]) for k in range(count)}
    check('svhn', tmp_path / 'data', examples)


def test_places365(published, tmp_path):
    """Names with slashes; the test images, whose labels nobody knows, are not used."""
    folder, publish = published
    labels, names = (0, 8, 364), catalog.class_names('places365')
    train = {f'data_256/{names[k][0]}/{names[k]}/{k:08d}.jpg': (k, picture(k, size=(256, 256))) for k in labels}
    validation = {f'val_256/Places365_val_{k:08d}.jpg': (labels[k], picture(20 + k, size=(256, 256))) for k in range(2)}
    test = {'test_256/Places365_test_00000000.jpg': (-1, picture(40, size=(256, 256)))}
    parts = {'train_256_places365standard.tar': train, 'val_256.tar': validation, 'test_256.tar': test}
    for archive, files in parts.items():
        publish(archive, tar(folder / archive, {file: data for file, (_, data) in files.items()}))
    lists = {
        'places365_train_standard.txt': ''.join(f'{file[8:]} {label}\n' for file, (label, _) in train.items()),
        'places365_val.txt': ''.join(f'{file[8:]} {label}\n' for file, (label, _) in validation.items()),
        'places365_test.txt': ''.join(f'{file[9:]}\n' for file in test),
    }
    where = unpacked(folder / 'lists', {file: text.encode() for file, text in lists.items()})
    publish('filelist_places365-standard.tar', unpacked=where)
    check('places365', tmp_path / 'data', train | validation)


def test_imagenet2012(tmp_path):
    """From the two archives that are put there by hand: archives inside an archive.

    One of its files is a PNG, and others are CMYK; TensorFlow Datasets makes RGB JPEGs of them.
    """
    by_hand = tmp_path / 'data' / 'downloads' / 'manual'
    by_hand.mkdir(parents=True)
    names, inner, examples = catalog.class_names('imagenet2012'), {}, {}
    odd = {'n02105855_2933.JPEG': picture(7, 'PNG'), 'n01739381_1309.JPEG': picture(8, mode='CMYK')}
    for label in (59, 65, 230):
        wnid = names[label].split(' ')[0]
        files = {f'{wnid}_{k}.JPEG': picture(label + k, mode='L' if k else 'RGB') for k in range(2)}
        files |= {file: data for file, data in odd.items() if file.startswith(wnid)}
        inner[f'{wnid}.tar'] = tar(tmp_path / f'{wnid}.tar', files).read_bytes()
        examples |= {file: (label, files[file] if file not in odd else close(files[file])) for file in files}
    tar(by_hand / 'ILSVRC2012_img_train.tar', inner)
    tar(by_hand / 'ILSVRC2012_img_val.tar', {f'ILSVRC2012_val_{k:08d}.JPEG': picture(60 + k) for k in range(1, 4)})
    # The labels of the validation images come with the library.
    known = (('sea snake', 65), ('alp', 970), ('Shetland sheepdog', 230))
    validation = {}
    for k, (name, label) in enumerate(known, 1):
        assert names[label].endswith(f' {name}')
        validation[f'ILSVRC2012_val_{k:08d}.JPEG'] = (label, picture(60 + k))
    check('imagenet2012', tmp_path / 'data', examples | validation)


def test_every_data_set_is_tested_from_original_files():
    ours = {name for name in catalog.names() if catalog.entry(name).ours}
    here = {name.removeprefix('test_') for name in globals() if name.startswith('test_')}
    here |= {'cifar10', 'cifar100', 'fashion_mnist'}
    assert ours | here >= {name for name in catalog.names() if catalog.entry(name).tfds}
