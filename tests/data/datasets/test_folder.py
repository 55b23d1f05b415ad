"""A person's folder: what is found in it, what is left out, and what is told."""

import contextlib
import io
import json
import os
import socket
import subprocess
import threading
import time

import numpy as np
import pytest
from PIL import Image

from mixjax import config as config_lib
from mixjax.data.dataset import of_folder
from mixjax.data.datasets import folder, folder_scan, resolve
from mixjax.data.labelled import split_file
from mixjax.data.pixels import decoded_cache, photo
from mixjax.errors import UserError
from tests.support.photos import node, png, put

RULE = photo.Rule(side=8, channels=3)


def look(root, tmp_path, holdout=0.25):
    return folder.scan(str(root), holdout=holdout, cache=tmp_path / 'cache')


def ids(part):
    return [one.id for one in part]


def told(found, word):
    (line,) = [line for line in found.notes if word in line]
    return line


@pytest.mark.parametrize(
    'names', [('train', 'test', 'val'), ('Training', 'testing', 'validation'), ('TRAIN', 'Test', 'valid')]
)
def test_parts_of_your_own(names, tmp_path):
    train, test, val = names
    put(tmp_path / 'p', f'{train}/b/1.png', f'{train}/a/2.jpg', f'{train}/a/deep/er/3.PNG')
    put(tmp_path / 'p', f'{test}/a/4.png', f'{test}/b/5.png', f'{val}/b/6.png')
    found = look(tmp_path / 'p', tmp_path)
    assert found.classes == ('a', 'b') and found.root.name == 'p'
    assert ids(found.train) == [f'{train}/a/2.jpg', f'{train}/a/deep/er/3.PNG', f'{train}/b/1.png']
    assert [one.label for one in found.train] == [0, 0, 1]
    assert ids(found.test) == [f'{test}/a/4.png', f'{test}/b/5.png'] and ids(found.val) == [f'{val}/b/6.png']
    assert '6 images of 2 classes: 3 to learn from, 1 to validate on, 2 to test on' in found.notes[0]


def test_without_a_test_part_the_validation_part_is_tested_on(tmp_path):
    put(tmp_path / 'p', 'train/a/1.png', 'train/b/1.png', 'valid/a/2.png', 'valid/b/2.png')
    found = look(tmp_path / 'p', tmp_path)
    assert ids(found.test) == ['valid/a/2.png', 'valid/b/2.png'] and not found.val


def test_a_test_part_without_labels_is_not_used(tmp_path):
    put(tmp_path / 'p', *(f'train/{c}/{k}.png' for c in 'ab' for k in range(4)), 'test/x.png', 'extra/y.png')
    found = look(tmp_path / 'p', tmp_path)
    assert len(found.test) == 2 and all(one.id.startswith('train/') for one in found.test)
    assert "'test (no class folders in it)'" in told(found, 'not used') and "'extra'" in told(found, 'not used')


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in ('train', 'bus', 'car') for k in range(2)))
    assert look(tmp_path / 'p', tmp_path).classes == ('bus', 'car', 'train')


def test_held_out_share_is_of_each_class_and_does_not_depend_on_names(tmp_path):
    put(
        tmp_path / 'p',
        *(f'a/{k}.png' for k in range(20)),
        *(f'b/{k}.png' for k in range(5)),
        'one/1.png',
        'two/1.png',
        'two/2.png',
    )
    found = look(tmp_path / 'p', tmp_path)
    assert np.bincount([one.label for one in found.test], minlength=4).tolist() == [5, 1, 0, 1]
    assert not {one.path for one in found.train} & {one.path for one in found.test}
    assert len(found.train) + len(found.test) == 28
    assert "classes without an image to test on: 'one'" in told(found, 'without an image')
    assert '1 (one) to 15 (a)' in told(found, 'to learn from of each class')
    again = look(tmp_path / 'p', tmp_path / 'elsewhere')
    assert again._replace(cache=found.cache) == found
    before = {one.digest for one in found.test}
    for path in list((tmp_path / 'p').rglob('*.png')):
        path.rename(path.with_name(f'renamed-{path.name}'))
    assert {one.digest for one in look(tmp_path / 'p', tmp_path).test} == before


def test_more_images_leave_most_of_the_test_part_as_it_was(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(40)))
    before = {one.digest for one in look(tmp_path / 'p', tmp_path).test}
    put(tmp_path / 'p', 'a/new.png')
    assert len(before - {one.digest for one in look(tmp_path / 'p', tmp_path).test}) <= 1


def test_equal_files_stay_on_one_side_of_the_held_out_share(tmp_path):
    for k in range(12):
        put(tmp_path / 'p', f'a/{k}.png', data=png(k // 4))
        put(tmp_path / 'p', f'b/{k}.png')
    found = look(tmp_path / 'p', tmp_path)
    sides = [{one.digest for one in part if one.label == 0} for part in (found.train, found.test)]
    assert not sides[0] & sides[1] and sides[1]
    assert not any('warning' in line for line in found.notes)


def test_zero_holdout_holds_nothing_out(tmp_path):
    put(tmp_path / 'p', 'a/1.png', 'b/1.png')
    assert not look(tmp_path / 'p', tmp_path, holdout=0).test
    with pytest.raises(UserError, match='no class with two different images'):
        look(tmp_path / 'p', tmp_path)


def test_what_is_no_image_is_counted_and_left_out(tmp_path):
    root = tmp_path / 'p'
    put(root, *(f'{c}/{k}.png' for c in 'ab' for k in range(4)))
    put(root, 'a/empty.jpg', data=b'')
    put(root, 'b/sub/broken.png', data=png(1)[:60])
    put(root, 'b/text.jpeg', data=b'I am not a picture')
    put(root, 'a/notes.txt', 'a/film.mov', 'b/more.txt', 'a/README', data=b'x')
    put(root, 'a/.hidden.png', '.git/x.png', 'a/@eaDir/thumb.jpg', '__MACOSX/a/._1.png', 'b/._2.png')
    put(root, 'outside.png', 'Thumbs.db')
    (root / 'nothing').mkdir()
    put(root, 'only_text/x.txt', data=b'x')
    (root / 'a' / 'gone.png').symlink_to(root / 'nowhere.png')
    found = look(root, tmp_path)
    assert found.classes == ('a', 'b') and len(found.train) + len(found.test) == 8
    assert found.unreadable.keys() == {'a/empty.jpg', 'a/gone.png', 'b/sub/broken.png', 'b/text.jpeg'}
    assert '4 images that cannot be read: a/empty.jpg: it is empty' in told(found, 'cannot be read')
    line = told(found, 'not images')
    assert '5 files that are not images (.txt 3, .mov 1, without an ending 1)' in line
    assert '2 files outside of the class folders' in line and "empty folders: 'nothing', 'only_text'" in line
    assert '4 hidden files' in line


def test_hostile_and_foreign_names(tmp_path):
    names = [
        '<script>alert(1)<',
        '..a',
        'b..',
        'Ünï\u4f60',
        'it\'s "q"',
        'line\nbreak',
        '\x1b[31mred',
        '&amp;',
        '$(rm)',
    ]
    put(tmp_path / 'p', *(f'{name}/{k}.png' for name in names for k in range(2)))
    found = look(tmp_path / 'p', tmp_path)
    assert found.classes == tuple(sorted(set(names) - {'..a'}))  # hidden, as any name that begins with a point
    assert all(line.isprintable() for line in found.notes)


def test_undecodable_file_name(tmp_path):
    put(tmp_path / 'p', 'a/1.png', 'a/2.png', 'b/1.png')
    try:
        with open(os.fsencode(tmp_path / 'p' / 'b') + b'/\xff\xfe.png', 'wb') as file:
            file.write(png(3))
    except OSError:
        pytest.skip('this file system takes text only')
    for _ in range(2):  # read, then remembered
        found = look(tmp_path / 'p', tmp_path)
        assert len(found.train) + len(found.test) == 4
        assert of_folder(found, found.train, RULE).read(np.arange(2)).shape == (2, 8, 8, 3)


def test_composed_and_decomposed_letters_are_one_class(tmp_path):
    put(tmp_path / 'p', 'train/caf\u00e9/1.png', 'train/tea/1.png', 'test/cafe\u0301/2.png', 'test/tea/2.png')
    found = look(tmp_path / 'p', tmp_path)
    assert found.classes == ('caf\u00e9', 'tea') and found.test[0].id == 'test/caf\u00e9/2.png'
    assert of_folder(found, found.test, RULE).read(np.arange(2)).any()


def test_links_are_followed_but_not_in_circles(tmp_path):
    put(tmp_path / 'elsewhere', 'x.png', 'y.png')
    put(tmp_path / 'p', 'a/1.png', 'a/2.png')
    (tmp_path / 'p' / 'b').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'p' / 'a' / 'loop').symlink_to(tmp_path / 'p' / 'a')
    found = look(tmp_path / 'p', tmp_path)
    assert found.classes == ('a', 'b') and len(found.train) + len(found.test) == 4


def test_one_class_or_none_is_refused(tmp_path):
    put(tmp_path / 'p', 'a/1.png', '2.png')
    with pytest.raises(UserError, match='images of 1 class, and at least 2'):
        look(tmp_path / 'p', tmp_path)
    with pytest.raises(UserError, match="no folder '.*missing'"):
        look(tmp_path / 'missing', tmp_path)
    with pytest.raises(UserError, match='no folder'):
        look('x' * 300, tmp_path)
    with pytest.raises(UserError, match='say where your images are'):
        look('', tmp_path)


@pytest.mark.parametrize(
    ('extra', 'sentence'),
    [
        (['train/c/1.png'], "the test part has no image that can be read of 'c', and train has"),
        (['test/d/1.png'], "the test part has images of classes that train does not have: 'd'"),
        (['val/e/1.png'], "the val part has images of classes that train does not have: 'e'"),
    ],
)
def test_parts_must_have_the_same_classes(extra, sentence, tmp_path):
    put(tmp_path / 'p', *(f'{part}/{c}/{part}.png' for part in ('train', 'test') for c in 'ab'), *extra)
    with pytest.raises(UserError) as error:
        look(tmp_path / 'p', tmp_path)
    assert sentence in str(error.value)


def test_many_classes(tmp_path):
    data = [png(k) for k in range(2)]
    for c in range(1000):
        for k in range(2):
            put(tmp_path / 'p', f'{c:04d}/{k}.png', data=data[k])
    found = look(tmp_path / 'p', tmp_path, holdout=0.5)
    assert len(found.classes) == len(found.train) == len(found.test) == 1000
    assert sum(line.startswith('warning') for line in found.notes) == 1  # the two files are in all classes


def test_the_same_file_in_train_and_test_is_told(tmp_path):
    put(tmp_path / 'p', *(f'{part}/{c}/{part}.png' for part in ('train', 'test') for c in 'ab'))
    assert not any('warning' in line for line in look(tmp_path / 'p', tmp_path).notes)
    put(tmp_path / 'p', 'test/a/copy.png', data=(tmp_path / 'p/train/a/train.png').read_bytes())
    found = look(tmp_path / 'p', tmp_path)
    assert '1 image of the test part is in the train part too' in told(found, 'warning')
    assert 'test/a/copy.png is train/a/train.png' in told(found, 'warning')
    put(tmp_path / 'p', 'train/b/copy.png', data=(tmp_path / 'p/train/a/train.png').read_bytes())
    assert '1 image is in the folders of two classes' in ' '.join(look(tmp_path / 'p', tmp_path).notes)


def test_files_are_checked_once(tmp_path, monkeypatch):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(4)))
    put(tmp_path / 'p', 'a/broken.png', data=b'x')
    read, lock = [], threading.Lock()
    checked = folder_scan._checked

    def counted(path):
        with lock:
            read.append(path.name)
        return checked(path)

    monkeypatch.setattr(folder_scan, '_checked', counted)
    monkeypatch.setattr(folder_scan, 'FRESH', 0)  # the files were written just now
    first = look(tmp_path / 'p', tmp_path)
    assert len(read) == 9
    assert look(tmp_path / 'p', tmp_path) == first and len(read) == 9
    put(tmp_path / 'p', 'a/3.png', data=png(99))
    os.utime(tmp_path / 'p/a/3.png', ns=(1, 1))
    put(tmp_path / 'p', 'a/broken.png', data=png(5))
    assert not look(tmp_path / 'p', tmp_path).unreadable
    assert sorted(read[9:]) == ['3.png', 'broken.png']


DAMAGED = (
    '', '{', '[]', '{"format": 0}', '{"format": 2, "files": {"a/0.png": [1]}}', '{"format": 2, "files": [1]}',
    '{"format": 2, "files": {"a/0.png": [[1, 2, 3, 4], "", ""]}}',
    '{"format": 2, "files": {"a/0.png": [[1, 2, 3], "0123456789abcdef0123456789abcdef", ""]}}',
)  # fmt: skip


@pytest.mark.parametrize('text', DAMAGED)
def test_damaged_scan_cache_is_rebuilt(text, tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(2)))
    first = look(tmp_path / 'p', tmp_path)
    (memory,) = (tmp_path / 'cache' / 'folders').iterdir()
    memory.write_text(text)
    assert look(tmp_path / 'p', tmp_path) == first


def test_a_cache_that_cannot_be_written(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(2)))
    (tmp_path / 'cache').write_text('a file')
    assert len(look(tmp_path / 'p', tmp_path).train) == 2


def test_images_are_upright_and_of_one_size(tmp_path):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8] = (200, 30, 60)  # the upper half
    turned = Image.fromarray(pixels).rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    (tmp_path / 'p/a').mkdir(parents=True)
    turned.save(tmp_path / 'p/a/turned.png', exif=exif)
    put(tmp_path / 'p', 'b/1.png', 'a/2.png', 'b/3.png')
    found = look(tmp_path / 'p', tmp_path, holdout=0)
    data = of_folder(found, found.train, photo.Rule(8))
    assert data.ids[1] == 'a/turned.png' and data.labels.dtype == np.int32
    image = data.read(np.array([1, 0, 1]))
    assert image.shape == (3, 8, 8, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image[0], image[2])
    assert (image[0, :3] == (200, 30, 60)).all() and not image[0, 5:].any()
    assert data.read(np.zeros(0, int)).shape == (0, 8, 8, 3)
    grey = of_folder(found, found.train, photo.Rule(8, channels=1)).read(np.arange(4))
    assert grey.shape == (4, 8, 8, 1)
    many = data.read(np.resize(np.arange(4), 40))  # by several threads
    np.testing.assert_array_equal(many, np.resize(data.read(np.arange(4)), (40, 8, 8, 3)))


def test_a_file_that_breaks_after_the_check_is_named(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(2)))
    found = look(tmp_path / 'p', tmp_path, holdout=0)
    data = of_folder(found, found.train, RULE)
    (tmp_path / 'p/a/0.png').write_bytes(b'')
    (tmp_path / 'p/b/1.png').unlink()
    with pytest.raises(UserError, match='a/0.png has changed since it was checked: it is empty'):
        data.read(np.arange(4))
    assert not list((tmp_path / 'cache' / 'folders').iterdir())  # the next start checks all of them
    with pytest.raises(UserError, match='b/1.png has changed since'):
        data.read(np.array([3]))


def test_part_names_are_unique(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(2)))

    def name():
        found = look(tmp_path / 'p', tmp_path, holdout=0)
        return of_folder(found, found.train, RULE).name

    first = name()
    assert first == name() and first.startswith('folder-')
    put(tmp_path / 'p', 'a/0.png', data=png(77))
    second = name()
    (tmp_path / 'p/a/0.png').rename(tmp_path / 'p/a/00.png')
    assert len({first, second, name()}) == 3


# --- files that change ------------------------------------------------------------------------------------------------


def bmp(seed):
    """Images whose files have one size."""
    out = io.BytesIO()
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (8, 8, 3), np.uint8)).save(out, 'BMP')
    return out.getvalue()


def overwrite(path, data):
    """Write to a file in place, and set its time back."""
    facts = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (facts.st_size, facts.st_mtime_ns)


@pytest.fixture
def same(tmp_path, monkeypatch):
    """A folder whose files have one size and one time, and are old enough to be remembered."""
    monkeypatch.setattr(folder_scan, 'FRESH', 0)
    for k, name in enumerate(('train/a/0', 'train/b/0', 'test/a/0', 'test/b/0', 'val/a/0', 'val/b/0')):
        put(tmp_path / 'p', f'{name}.bmp', data=bmp(k))
        os.utime(tmp_path / 'p' / f'{name}.bmp', ns=(10**18, 10**18))
    look(tmp_path / 'p', tmp_path)
    time.sleep(0.02)  # a tick of the file system's clock
    return tmp_path / 'p'


def stamps(root, tmp_path):
    found = look(root, tmp_path)
    return {part: split_file.stamp(of_folder(found, getattr(found, part), RULE)) for part in ('train', 'val', 'test')}


@pytest.mark.parametrize('part', ['train', 'val', 'test'])
def test_a_stamp_covers_the_bytes_of_every_file(part, same, tmp_path):
    before = stamps(same, tmp_path)
    overwrite(same / part / 'b' / '0.bmp', bmp(50))
    after = stamps(same, tmp_path)
    assert {name for name in before if before[name] != after[name]} == {part}


def test_moved_files_change_labels(same, tmp_path):
    a, b = same / 'train/a/0.bmp', same / 'train/b/0.bmp'
    before = [one.digest for one in look(same, tmp_path).train]
    a.rename(same / 'x')
    b.rename(a)
    (same / 'x').rename(b)
    assert [one.digest for one in look(same, tmp_path).train] == before[::-1]


def test_a_file_with_a_new_inode_is_read_again(same, tmp_path):
    copy = same / 'train/a/new'
    copy.write_bytes(bmp(51))
    os.utime(copy, ns=(10**18, 10**18))
    before = look(same, tmp_path).train[0].digest
    os.replace(copy, same / 'train/a/0.bmp')
    assert look(same, tmp_path).train[0].digest not in (before, '')


def test_recently_written_files_are_not_cached(tmp_path):
    put(tmp_path / 'p', 'a/1.png', 'b/1.png')
    look(tmp_path / 'p', tmp_path, holdout=0)
    (memory,) = (tmp_path / 'cache' / 'folders').iterdir()
    assert json.loads(memory.read_text())['files'] == {}


def test_pixels_are_stored_under_the_bytes_they_were_decoded_from(same, tmp_path):
    path = same / 'train/a/0.bmp'
    good = path.read_bytes()

    def opened():
        found = look(same, tmp_path)
        return decoded_cache.stored(of_folder(found, found.train, RULE), 'train', tmp_path / 'images').read

    read = opened()
    overwrite(path, bmp(60))
    for _ in range(2):
        with pytest.raises(UserError, match='a/0.bmp has changed since it was checked: its bytes are others'):
            read([0])
    overwrite(path, good)
    np.testing.assert_array_equal(opened()([0])[0], photo.read(good, RULE))
    np.testing.assert_array_equal(read([0])[0], photo.read(good, RULE))  # it is the file that was listed


def test_a_stored_image_is_not_used_for_a_file_that_has_changed(same, tmp_path):
    path = same / 'train/a/0.bmp'
    good = path.read_bytes()
    found = look(same, tmp_path)
    read = decoded_cache.stored(of_folder(found, found.train, RULE), 'train', tmp_path / 'images').read
    expected = read([0, 1])
    os.utime(path)  # other times, the same bytes
    np.testing.assert_array_equal(read([0, 1]), expected)
    overwrite(path, bmp(61))
    np.testing.assert_array_equal(read([1]), expected[1:])
    with pytest.raises(UserError, match='its bytes are others'):
        read([1, 0])
    path.unlink()
    with pytest.raises(UserError, match='No such file'):
        read([0])
    path.write_bytes(good)
    np.testing.assert_array_equal(read([0, 1]), expected)


def test_files_being_written_are_not_cached(tmp_path, monkeypatch):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(3)))
    monkeypatch.setattr(folder_scan, 'FRESH', 0)
    real, grown = os.fstat, tmp_path / 'p/a/1.png'

    def growing(number):
        facts = real(number)
        if os.path.samestat(facts, os.stat(grown)):
            with grown.open('ab') as file:
                file.write(b'more')
        return facts

    with monkeypatch.context() as patched:
        patched.setattr(folder_scan.os, 'fstat', growing)
        found = look(tmp_path / 'p', tmp_path)
    assert found.unreadable == {'a/1.png': 'it cannot be opened (it is being written to)'}
    assert not look(tmp_path / 'p', tmp_path).unreadable


def test_out_of_memory_does_not_mark_a_file_damaged(tmp_path, monkeypatch):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(3)))
    monkeypatch.setattr(folder_scan, 'FRESH', 0)
    large, real, decoded = (tmp_path / 'p/b/1.png').read_bytes(), photo.decode, []

    def decode(data, **how):
        decoded.append(data)
        if data == large and len(decoded) <= 6:
            raise MemoryError
        return real(data, **how)

    monkeypatch.setattr(photo, 'decode', decode)
    with pytest.raises(UserError, match='too little memory to decode .*b/1.png'):
        look(tmp_path / 'p', tmp_path)
    (memory,) = (tmp_path / 'cache' / 'folders').iterdir()
    assert 'a/0.png' in memory.read_text() and 'b/1.png' not in memory.read_text()
    decoded += [b''] * 6
    found = look(tmp_path / 'p', tmp_path)
    assert not found.unreadable and len(found.train) + len(found.test) == 6
    assert len(decoded) < 6 + 6 + 6  # what was checked before that is remembered


# --- what is no regular file, and folders that lead to folders --------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path):
    root = tmp_path / 'p'
    put(root, *(f'{c}/{k}.png' for c in 'ab' for k in range(4)))
    os.mkfifo(root / 'a/pipe.jpg')
    (root / 'a/zero.jpg').symlink_to('/dev/zero')
    (root / 'b/random.png').symlink_to('/dev/random')
    (root / 'b/link.png').symlink_to(root / 'a/pipe.jpg')
    os.mkfifo(root / 'outside.png')
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(root / 'b/socket.png'))
    found = look(root, tmp_path)
    assert '6 files that are not regular files' in told(found, 'left out') and not found.unreadable
    assert len(found.train) + len(found.test) == 8
    for name in ('a/pipe.jpg', 'a/zero.jpg', 'b/link.png'):  # put there after the folder was listed
        with pytest.raises(OSError, match='not a regular file'):
            folder_scan.read_file(root / name)
    data = of_folder(found, found.train, RULE)
    name = root / found.train[0].path
    name.unlink()
    os.mkfifo(name)
    with pytest.raises(UserError, match='has changed since it was checked: it is a FIFO and not a regular file'):
        data.read(np.array([0]))


def test_a_file_that_is_too_large_for_an_image_is_not_read(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(2)))
    with (tmp_path / 'p/a/huge.jpg').open('wb') as file:
        file.truncate(1 << 40)
    found = look(tmp_path / 'p', tmp_path)
    assert '1,099,511,627,776 bytes, and at most' in found.unreadable['a/huge.jpg']


@pytest.mark.parametrize('count', [7, 30])
def test_each_real_folder_is_entered_once(count, tmp_path):
    """Folders that link to one another: each image is there once, in the class of the folder it lies in."""
    root = tmp_path / 'p'
    for k in range(count):
        put(root, f'c{k:02d}/1.png', f'c{k:02d}/deep/2.png')
        for other in range(count):
            (root / f'c{k:02d}' / f'to{other:02d}').symlink_to(root / f'c{other:02d}')
    (root / 'c00' / 'up').symlink_to(root)
    (root / 'up').symlink_to(tmp_path)
    found = look(root, tmp_path, holdout=0.5)
    every = (*found.train, *found.test)
    assert len(every) == 2 * count and all(one.id.startswith(found.classes[one.label]) for one in every)
    assert 'reached by another path' in told(found, 'left out')


def test_links_add_only_images_not_reached_otherwise(tmp_path):
    put(tmp_path / 'more', 'x.png', 'deep/y.png')
    put(tmp_path / 'p', 'a/1.png', 'a/inner/2.png', 'b/3.png', 'c/4.png')
    (tmp_path / 'p/a/more').symlink_to(tmp_path / 'more')  # entered here, by name the first
    (tmp_path / 'p/b/more').symlink_to(tmp_path / 'more')
    (tmp_path / 'p/b/other').symlink_to(tmp_path / 'p/c')
    (tmp_path / 'p/d').symlink_to(tmp_path / 'p/a/inner')  # a class of its own
    (tmp_path / 'p/e').symlink_to(tmp_path / 'p/b')  # the same class again
    found = look(tmp_path / 'p', tmp_path, holdout=0)
    assert ids(found.train) == ['a/1.png', 'a/more/deep/y.png', 'a/more/x.png', 'b/3.png', 'c/4.png', 'd/2.png']
    assert found.classes == ('a', 'b', 'c', 'd')
    assert "another path: 'a/inner', 'b/more', 'b/other', 'e'" in told(found, 'left out')


def test_parts_may_link_to_one_another(tmp_path):
    put(tmp_path / 'p', *(f'train/{c}/{k}.png' for c in 'ab' for k in range(2)), 'test/a/5.png', 'test/b/6.png')
    (tmp_path / 'p/val').symlink_to('test')
    found = look(tmp_path / 'p', tmp_path)
    assert [one.digest for one in found.val] == [one.digest for one in found.test] and len(found.val) == 2


def test_links_to_themselves(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(4)))
    for name in ('loop', 'a/loop', 'a/loop.png'):
        (tmp_path / 'p' / name).symlink_to(tmp_path / 'p' / name)
    found = look(tmp_path / 'p', tmp_path)
    assert found.unreadable.keys() == {'a/loop.png'} and 'Too many levels' in found.unreadable['a/loop.png']
    assert '1 file that is not an image (without an ending 1)' in told(found, 'not an image')
    assert '1 file outside of the class folders' in told(found, 'not an image')


@contextlib.contextmanager
def nested(folder, name, depth):
    """So many folders one in the other, made and taken away one level at a time: their path may be too long."""
    above = [os.open(folder, os.O_RDONLY)]
    try:
        for _ in range(depth):
            os.mkdir(name, dir_fd=above[-1])
            above.append(os.open(name, os.O_RDONLY, dir_fd=above[-1]))
            if len(above) > 2:
                os.close(above[-3] if len(above) > 3 else above[0])
        with open('1.png', 'wb', opener=lambda path, flags: os.open(path, flags, dir_fd=above[-1])) as file:
            file.write(png(1))
        yield
    finally:
        subprocess.run(['rm', '-rf', str(folder / name)], check=True)
        for number in above[-2:]:
            os.close(number)


def test_deep_folders(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(4)))
    with nested(tmp_path / 'p/a', 'd', 1200):
        found = look(tmp_path / 'p', tmp_path)
        assert len(found.train) + len(found.test) == 9
    with nested(tmp_path / 'p/a', 'deeper', 1200), pytest.raises(UserError, match='cannot be read: File name too long'):
        look(tmp_path / 'p', tmp_path)


# --- names of parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'names',
    [
        ('training_set', 'test_set', 'validation_set'),
        ('Train Images', 'Test-Images', 'val.images'),
        ('trainset', 'testset', 'valset'),
        ('data_train', 'data_test', 'data_val'),
        ('TRAINING DATA', 'testing data', 'valid_photos'),
    ],
)
def test_part_names_may_have_suffixes(names, tmp_path):
    for part in names:
        put(tmp_path / 'p', f'{part}/a/1{part}.png', f'{part}/b/2{part}.png')
    found = look(tmp_path / 'p', tmp_path)
    assert found.classes == ('a', 'b')
    for part, name in zip((found.train, found.test, found.val), names, strict=True):
        assert {one.id.split('/')[0] for one in part} == {name}


@pytest.mark.parametrize(
    ('files', 'said'),
    [
        (['train/a', 'training/a', 'test/a'], "has 2 folders for its train part ('train', 'training'); keep one"),
        (['train/a', 'Train_Set/a', 'test/a'], "has 2 folders for its train part ('Train_Set', 'train')"),
        (['test/a', 'val/a'], "'test', 'val' may be classes or parts"),
        (['test_set/a'], "'test_set' may be classes or parts"),
        (['my_train/a', 'my_test/a'], "'my_test', 'my_train' may be classes or parts"),
        (['train2017/a', 'val2017/a'], "'train2017', 'val2017' may be classes or parts"),
        (['train/a', 'train/b', 'my_test/a', 'my_test/b', 'notes/c'], "'my_test', 'train' may be classes or parts"),
        (['a', 'b', 'test/a', 'test/b'], "'test' may be classes or parts"),
        (['a', 'b', 'val', 'test'], "'test', 'val' may be classes or parts"),
    ],
)
def test_folders_that_may_be_parts_are_not_taken_for_classes(files, said, tmp_path):
    put(tmp_path / 'p', *(f'{name}/{k}.png' for name in files for k in range(2)))
    with pytest.raises(UserError) as error:
        look(tmp_path / 'p', tmp_path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    'classes',
    [
        ('bus', 'car', 'train'),
        ('invalid', 'valid'),
        ('control', 'test'),
        ('bullet_train', 'test_tube', 'tram'),
        ('train', 'training', 'tram'),
    ],
)
def test_classes_may_have_part_names(classes, tmp_path):
    put(tmp_path / 'p', *(f'{name}/{deep}{k}.png' for name in classes for deep in ('', 'deep/') for k in range(2)))
    assert look(tmp_path / 'p', tmp_path).classes == classes
    for name in classes:
        (tmp_path / 'p' / 'train2').mkdir(exist_ok=True)
        (tmp_path / 'p' / name).rename(tmp_path / 'p/train2' / name)
    (tmp_path / 'p/train2').rename(tmp_path / 'p/train')
    assert look(tmp_path / 'p', tmp_path).classes == classes  # the way out that is named


# --- as a data set of a config ----------------------------------------------------------------------------------------


def test_the_facts_are_found_in_the_folder(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'abc' for k in range(5)))
    facts = resolve.entry(node(dir=str(tmp_path / 'p')), tmp_path)
    assert (facts.classes, facts.train, facts.test, facts.title) == (3, 12, 3, 'p')
    parts = resolve.load(node(dir=str(tmp_path / 'p')), data_dir='', rule=RULE, cache=tmp_path)
    assert parts.val is None and parts.test is not None and len(parts.test.labels) == 3 and parts.notes
    assert resolve.missing(node(), '') is None


def test_made_up_images_have_the_classes_of_the_folder(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'abc' for k in range(2)))
    parts = resolve.made_up(node(dir=str(tmp_path / 'p')), tmp_path, per_class=2, side=8)
    assert parts.train.classes == ('a', 'b', 'c') and parts.train.read(np.arange(6)).shape == (6, 8, 8, 3)
    unnamed = resolve.made_up(node(), tmp_path, per_class=2, side=8)
    assert len(unnamed.train.classes) == resolve.entry(node(), tmp_path, made_up=True).classes == 10
    with pytest.raises(UserError, match='say where your images are'):
        resolve.entry(node(), tmp_path)


@pytest.mark.parametrize(
    ('settings', 'sentence'),
    [
        ({'target.name': 'foldr'}, "unknown data set 'foldr'; did you mean 'folder'"),
        ({'target.dir': 'x'}, 'digits is found by its name'),
        ({'target.name': 'folder'}, 'say where your images are'),
        ({'target.name': 'folder', 'target.dir': 'nowhere'}, "there is no folder 'nowhere'"),
        ({'target.holdout': '1'}, 'config.target.holdout must be'),
    ],
)
def test_wrong_settings_are_refused(settings, sentence):
    with pytest.raises(UserError) as error:
        config_lib.load('quickstart', list(settings.items()))
    assert sentence in str(error.value)
