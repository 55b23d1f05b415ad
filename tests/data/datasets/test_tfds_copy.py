"""Prepared copies: records, the index beside them, and images; without TensorFlow and without its data library."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from mixjax.data.datasets import catalog, tfds_copy
from mixjax.data.datasets.array_record import Records, example
from mixjax.data.pixels import photo
from mixjax.errors import UserError
from mixjax.host import progress
from tests.support import miniature
from tests.support.miniature import record
from tests.support.prepared import index, make, stored

PREPARED = [name for name in catalog.names() if catalog.entry(name).tfds]


@pytest.mark.parametrize('name', PREPARED)
def test_every_set_is_read_from_a_prepared_copy(name, tmp_path):
    facts = catalog.entry(name)
    index(name, make(name, tmp_path))
    side = facts.image[0]
    for p, split in enumerate(('train', 'test')):
        data = catalog.load(name, split, data_dir=str(tmp_path))
        order = [0, 2, 4, 1, 3]  # two files
        assert data.labels.tolist() == [facts.classes - 1 if k == 1 else k for k in order]
        assert data.classes == catalog.class_names(name)
        named = name not in ('food101', 'mnist', 'fashion_mnist')
        part = facts.splits[p]
        assert list(data.ids) == [f'{part} {k}.jpg' if named else f'{part}/{n}' for n, k in enumerate(order)]
        images = data.read(np.arange(5))
        assert images.shape == (5, *facts.image) and images.dtype == np.uint8
        for image, k in zip(images, order, strict=True):
            whole = photo.decode(stored(name, 10 * p + k), channels=facts.image[2])
            expected = photo.fit(whole[: len(whole) - facts.banner], photo.Rule(side, channels=facts.image[2]))
            np.testing.assert_array_equal(image, expected)


def test_a_rule_decides_size_and_colours(tmp_path):
    index('mnist', make('mnist', tmp_path))
    rule = photo.Rule(32, 'squash', 'bicubic', channels=3)
    data = catalog.load('mnist', 'test', data_dir=str(tmp_path), rule=rule)
    images = data.read(np.array([4, 0]))
    assert images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(images[1], photo.read(stored('mnist', 10), rule))
    with pytest.raises(UserError, match='fit must be one of'):
        catalog.load('mnist', 'test', data_dir=str(tmp_path), rule=rule._replace(fit='crop'))


def test_images_in_memory_follow_a_rule_too():
    plain = catalog.load('digits', 'train')
    rows = np.array([3, 1, 700])
    same = catalog.load('digits', 'train', rule=photo.Rule(16, channels=1))
    np.testing.assert_array_equal(same.read(rows), plain.read(rows))
    colour = catalog.load('digits', 'train', rule=photo.Rule(0, channels=3))
    np.testing.assert_array_equal(colour.read(rows), np.repeat(plain.read(rows), 3, axis=3))
    large = catalog.load('synthetic', 'test', rule=photo.Rule(24))
    assert large.read(rows[:2]).shape == (2, 24, 24, 3) and large.read(rows[:0]).shape == (0, 24, 24, 3)


def test_rows_in_any_order_and_number(tmp_path):
    index('cifar10', make('cifar10', tmp_path, files=3))
    read = catalog.load('cifar10', 'train', data_dir=str(tmp_path)).read
    together = read(np.arange(5))
    for rows in ([4, 0, 4, 2], [], [1], list(range(5)) * 40, [-1]):
        np.testing.assert_array_equal(read(np.array(rows, np.int64)), together[rows])
    with pytest.raises(IndexError):
        read(np.array([5]))


def test_stored_size_is_kept_where_asked_for_and_equal(tmp_path):
    index('cifar10', make('cifar10', tmp_path))
    read = catalog.load('cifar10', 'train', data_dir=str(tmp_path), rule=photo.Rule(0)).read
    assert read(np.arange(2)).shape == (2, 32, 32, 3)
    index('cub200', make('cub200', tmp_path))
    read = catalog.load('cub200', 'train', data_dir=str(tmp_path), rule=photo.Rule(0)).read
    with pytest.raises(UserError, match=r'train 0.jpg .* is of size 50 x 40 and not 256 x 256 .*config.image.resize'):
        read(np.arange(2))


def test_readers_are_shared_by_threads_and_sent_to_processes(tmp_path):
    index('cifar10', make('cifar10', tmp_path))
    read = catalog.load('cifar10', 'train', data_dir=str(tmp_path)).read
    expected = read(np.arange(5))
    sent = pickle.loads(pickle.dumps(read))
    np.testing.assert_array_equal(sent(np.arange(5)), expected)
    with ThreadPoolExecutor(8) as pool:
        for images in pool.map(lambda _: read(np.arange(5)), range(50)):
            np.testing.assert_array_equal(images, expected)


def test_training_needs_neither_tensorflow_nor_its_data_library(tmp_path):
    index('cub200', make('cub200', tmp_path))
    script = (
        'import sys, numpy\nfrom mixjax.data.datasets import catalog\n'
        'assert not {"cv2", "PIL", "array_record", "jax", "scipy", "sklearn"} & set(sys.modules)\n'
        'data = catalog.load("cub200", "train", data_dir=sys.argv[1])\nassert data.read(numpy.arange(5)).any()\n'
        'print(sorted({name.split(".")[0] for name in sys.modules} & {"tensorflow", "tensorflow_datasets", "absl"}))'
    )
    command = [sys.executable, '-c', script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[]'


# One record.


@pytest.mark.parametrize('packed', [True, False])
def test_the_values_of_a_record(packed):
    given = {'a': b'bytes \x00\xff', 'b': [1.0, 2.0], 'label': -1, 'empty': b'', 'large': 1 << 40, 'é': 300}
    found = example(record(given, packed=packed), ('a', 'b', 'label', 'empty', 'large', 'é', 'none'))
    assert found == {key: value for key, value in given.items() if key != 'b'}
    assert example(record(given), ('a',)) == {'a': given['a']}
    assert example(record({}), ('a',)) == {}


def test_first_of_repeated_values_is_read():
    several = miniature.field(1, miniature.field(1, b'x') + miniature.field(1, b'y'))
    numbers = miniature.field(3, miniature.field(1, b'\x07\x08'))
    entries = [miniature.field(1, b'a') + miniature.field(2, several), miniature.field(2, numbers)]
    entries[1] = miniature.field(1, b'n') + entries[1]
    whole = miniature.field(1, b''.join(miniature.field(1, entry) for entry in entries))
    assert example(whole, ('a', 'n')) == {'a': b'x', 'n': 7}


def test_unknown_fields_are_passed_over():
    """Numbers of 32 and 64 bits, varints and bytes that a later version may add."""
    later = miniature.field(9, b'?') + b'\x7d' + bytes(4) + b'\x79' + bytes(8) + b'\x78\x80\x01'
    whole = later + record({'label': 5}) + later
    assert example(whole, ('label',)) == {'label': 5}


@pytest.mark.parametrize('cut', [1, 7, 20, 40])
def test_truncated_record_is_refused(cut):
    with pytest.raises((ValueError, IndexError)):
        example(record({'image': bytes(30), 'label': 5})[:-cut], ('image', 'label'))


# The index.


def count_reads(monkeypatch) -> list[int]:
    seen = []
    read = Records.read
    monkeypatch.setattr(Records, 'read', lambda self, numbers: seen.append(len(numbers)) or read(self, numbers))
    return seen


def test_labels_are_collected_once(tmp_path, monkeypatch):
    folder = make('cifar10', tmp_path)
    seen = count_reads(monkeypatch)
    first = index('cifar10', folder)
    assert sum(seen) == 10 and tfds_copy._elsewhere(folder).is_file()
    seen.clear()
    second = index('cifar10', folder)
    assert not seen
    for part in first:
        for a, b in zip(first[part], second[part], strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
    assert not [path for path in tfds_copy._elsewhere(folder).parent.iterdir() if '.part' in path.name]
    # Only who prepares a set has chosen its folder: that of a training may be named by a stranger's config.json.
    assert not (folder / tfds_copy.INDEX).exists()
    index('cifar10', folder, check=True)
    assert (folder / tfds_copy.INDEX).is_file()


def test_an_index_that_was_not_checked_is_not_taken_for_one_that_was(tmp_path, monkeypatch):
    folder = make('cifar10', tmp_path)
    index('cifar10', folder)
    seen = count_reads(monkeypatch)
    index('cifar10', folder, check=True)
    assert sum(seen) == 10
    seen.clear()
    index('cifar10', folder)
    index('cifar10', folder, check=True)
    assert not seen


def test_an_index_of_other_records_is_made_again(tmp_path):
    """Also where the files have the same names and sizes."""
    folder = make('cifar10', tmp_path)
    index('cifar10', folder, check=True)
    kept = (folder / tfds_copy.INDEX).read_bytes()
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    shutil.rmtree(folder)
    miniature.copy(
        'cifar10',
        tmp_path,
        {part: [[record({'image': stored('cifar10', k), 'label': 9, 'id': b'?'}) for k in range(n)] for n in (3, 2)]
         for part in ('train', 'test')},
    )  # fmt: skip
    (folder / tfds_copy.INDEX).write_bytes(kept)
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == sizes
    assert index('cifar10', folder)['train'].label.tolist() == [9] * 5


@pytest.mark.parametrize('damage', [lambda data: b'', lambda data: data[:100], lambda data: data[:-200] + bytes(200)])
def test_a_damaged_index_is_made_again(tmp_path, damage):
    folder = make('cifar10', tmp_path)
    expected = index('cifar10', folder, check=True)['test'].label
    path = folder / tfds_copy.INDEX
    path.write_bytes(damage(path.read_bytes()))
    np.testing.assert_array_equal(index('cifar10', folder)['test'].label, expected)


def test_a_folder_that_cannot_be_written_to_has_its_index_elsewhere(tmp_path, monkeypatch):
    folder = make('cifar10', tmp_path)
    monkeypatch.setenv('MIXJAX_CACHE', str(tmp_path / 'cache'))
    write = tfds_copy._write
    monkeypatch.setattr(tfds_copy, '_write', lambda path, how: path.parent != folder and write(path, how))
    index('cifar10', folder, check=True)
    assert not (folder / tfds_copy.INDEX).exists() and len(list((tmp_path / 'cache').iterdir())) == 1
    seen = count_reads(monkeypatch)
    index('cifar10', folder)
    assert not seen


def test_the_number_of_examples_is_the_published_one(tmp_path):
    make('cifar10', tmp_path)
    with pytest.raises(UserError, match='the train part in .* has 5 examples, and the published one has 50,000'):
        catalog.load('cifar10', 'train', data_dir=str(tmp_path))


@pytest.mark.parametrize('label', [-1, 10])
def test_label_out_of_range_is_refused(label, tmp_path):
    bad = record({'image': stored('cifar10', 0), 'label': label})
    folder = miniature.copy('cifar10', tmp_path, {'train': [[bad]], 'test': [[bad]]})
    with pytest.raises(UserError, match=f'record 0 has the label {label}, and there are 10 classes'):
        index('cifar10', folder)


@pytest.mark.parametrize('bad', [b'', b'no message', record({'image': b'x'})])
def test_record_that_is_not_an_example_is_refused(bad, tmp_path):
    folder = miniature.copy('cifar10', tmp_path, {'train': [[bad]], 'test': [[bad]]})
    with pytest.raises(UserError, match='record 0 is not an example with an image and a label'):
        index('cifar10', folder)


# Images that cannot be read.


def with_corrupt(root: Path) -> Path:
    good = [record({'image': stored('cifar10', k), 'label': k, 'id': b'good %d' % k}) for k in range(4)]
    bad = [
        record({'image': stored('cifar10', 0)[:90], 'label': 1, 'id': b'cut'}),
        record({'image': b'<html>', 'label': 1, 'id': b'page'}),
        record({'label': 1, 'id': b'none'}),
    ]
    train = [[good[0], bad[0], good[1]], [bad[1], good[2]]]
    return miniature.copy('cifar10', root, {'train': train, 'test': [[good[3], bad[2]]]})


def test_unreadable_images_stop_the_preparation_with_their_number(tmp_path):
    folder = with_corrupt(tmp_path)
    with pytest.raises(UserError) as error:
        index('cifar10', folder, check=True)
    message = str(error.value)
    assert message.startswith(f'3 of the 7 images in {folder} cannot be read; with --skip-corrupt they are left out:')
    assert 'cut: it is cut short or damaged' in message and 'page: it is not a picture' in message
    assert 'none: it is empty' in message and 'cifar10-train.array_record-00001-of-00002, record 0)' in message
    assert not (folder / tfds_copy.INDEX).exists()


def test_unreadable_images_are_left_out_where_asked_for(tmp_path):
    folder = with_corrupt(tmp_path)
    index('cifar10', folder, check=True, skip=True)
    listed = json.loads((folder / tfds_copy.SKIPPED).read_text())
    assert {part: [one['name'] for one in bad] for part, bad in listed.items()} == {
        'train': ['cut', 'page'],
        'test': ['none'],
    }
    data = catalog.load('cifar10', 'train', data_dir=str(tmp_path))
    assert data.labels.tolist() == [0, 1, 2] and list(data.ids) == ['good 0', 'good 1', 'good 2']
    for row, image in enumerate(data.read(np.arange(3))):
        np.testing.assert_array_equal(image, photo.decode(stored('cifar10', row)))


def test_an_unreadable_image_is_named_and_never_black(tmp_path):
    """A copy that only TensorFlow Datasets has prepared: nobody has looked at its images."""
    folder = with_corrupt(tmp_path)
    index('cifar10', folder)
    read = catalog.load('cifar10', 'train', data_dir=str(tmp_path)).read
    assert read(np.array([0, 2, 4])).shape[0] == 3
    with pytest.raises(
        UserError, match=r'^cut \(.*train.array_record-00000-of-00002, record 1\): it is cut.*skip-corrupt'
    ):
        read(np.array([0, 1]))


# Files that are not whole.


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob('*train.array_record*'))


def test_a_file_that_is_missing(tmp_path):
    folder = make('cifar10', tmp_path)
    files_of(folder)[1].unlink()
    with pytest.raises(UserError, match='00001-of-00002 cannot be read .No such file.* prepare the set again'):
        index('cifar10', folder)


def test_truncated_file_is_refused(tmp_path):
    folder = make('cifar10', tmp_path)
    os.truncate(files_of(folder)[0], 900)
    with pytest.raises(UserError, match='00000-of-00002 has 0 records, and dataset_info.json says 3: it is not whole'):
        index('cifar10', folder)


def test_a_file_whose_bytes_have_changed(tmp_path):
    """The format keeps a hash of every record."""
    folder = make('cifar10', tmp_path)
    index('cifar10', folder)
    path = files_of(folder)[0]
    data = bytearray(path.read_bytes())
    data[data.index(b'IDAT') + 20] ^= 255
    path.write_bytes(data)
    with pytest.raises(UserError, match='00000-of-00002 is damaged .*hash mismatch'):
        index('cifar10', folder)
    with pytest.raises(UserError, match='00000-of-00002 is damaged'):
        tfds_copy.Records(folder, 'train').read([0])


def test_progress_of_a_pass(tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
    index('cifar10', make('cifar10', tmp_path, count=130))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(', ')[1] for line in lines][-1] == '260 of 260'
    assert all('reading the labels' in line and 's left' in line for line in lines) and len(lines) == 6
