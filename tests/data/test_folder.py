"""A person's folder: what is found in it, what is left out, and what is told."""

import io
import os
import threading

import numpy as np
import pytest
from PIL import Image

from mixjax import config as config_lib
from mixjax.data import folder, listing, photo, sets
from mixjax.errors import UserError

RULE = photo.Rule(side=8, channels=3)


def png(seed, size=(12, 10)):
    out = io.BytesIO()
    pixels = np.random.RandomState(seed).randint(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(out, 'PNG')
    return out.getvalue()


def put(root, *names, data=None):
    """Image files, each with pixels of its own."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(hash_of(name)) if data is None else data)


def hash_of(name):
    return sum(ord(c) * 31**k for k, c in enumerate(name)) % 2**31


def look(root, tmp_path, holdout=0.25):
    return folder.look(str(root), holdout=holdout, cache=tmp_path / 'cache')


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
    assert again == found
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


def test_nothing_is_held_out_if_nothing_should_be(tmp_path):
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
    line = told(found, 'no images')
    assert '5 files that are no images (.txt 3, .mov 1, without an ending 1)' in line
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


def test_a_name_that_is_no_text(tmp_path):
    put(tmp_path / 'p', 'a/1.png', 'a/2.png', 'b/1.png')
    try:
        with open(os.fsencode(tmp_path / 'p' / 'b') + b'/\xff\xfe.png', 'wb') as file:
            file.write(png(3))
    except OSError:
        pytest.skip('this file system takes text only')
    for _ in range(2):  # read, then remembered
        found = look(tmp_path / 'p', tmp_path)
        assert len(found.train) + len(found.test) == 4
        assert folder.dataset(found, found.train, RULE).read(np.arange(2)).shape == (2, 8, 8, 3)


def test_composed_and_decomposed_letters_are_one_class(tmp_path):
    put(tmp_path / 'p', 'train/caf\u00e9/1.png', 'train/tea/1.png', 'test/cafe\u0301/2.png', 'test/tea/2.png')
    found = look(tmp_path / 'p', tmp_path)
    assert found.classes == ('caf\u00e9', 'tea') and found.test[0].id == 'test/caf\u00e9/2.png'
    assert folder.dataset(found, found.test, RULE).read(np.arange(2)).any()


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
        (['test/d/1.png'], "the test part has images of classes that train has not: 'd'"),
        (['val/e/1.png'], "the val part has images of classes that train has not: 'e'"),
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
    assert '1 image lie' in ' '.join(look(tmp_path / 'p', tmp_path).notes)


def test_files_are_checked_once(tmp_path, monkeypatch):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(4)))
    put(tmp_path / 'p', 'a/broken.png', data=b'x')
    read, lock = [], threading.Lock()
    checked = listing._checked

    def counted(path):
        with lock:
            read.append(path.name)
        return checked(path)

    monkeypatch.setattr(listing, '_checked', counted)
    first = look(tmp_path / 'p', tmp_path)
    assert len(read) == 9
    assert look(tmp_path / 'p', tmp_path) == first and len(read) == 9
    put(tmp_path / 'p', 'a/3.png', data=png(99))
    os.utime(tmp_path / 'p/a/3.png', ns=(1, 1))
    put(tmp_path / 'p', 'a/broken.png', data=png(5))
    assert not look(tmp_path / 'p', tmp_path).unreadable
    assert sorted(read[9:]) == ['3.png', 'broken.png']


@pytest.mark.parametrize('text', ['', '{', '[]', '{"format": 0}', '{"format": 1, "files": {"a/0.png": [1]}}'])
def test_a_damaged_memory_costs_time_and_nothing_else(text, tmp_path):
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
    data = folder.dataset(found, found.train, photo.Rule(8))
    assert data.ids[1] == 'a/turned.png' and data.labels.dtype == np.int32
    image = data.read(np.array([1, 0, 1]))
    assert image.shape == (3, 8, 8, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image[0], image[2])
    assert (image[0, :3] == (200, 30, 60)).all() and not image[0, 5:].any()
    assert data.read(np.zeros(0, int)).shape == (0, 8, 8, 3)
    grey = folder.dataset(found, found.train, photo.Rule(8, channels=1)).read(np.arange(4))
    assert grey.shape == (4, 8, 8, 1)
    many = data.read(np.resize(np.arange(4), 40))  # by several threads
    np.testing.assert_array_equal(many, np.resize(data.read(np.arange(4)), (40, 8, 8, 3)))


def test_a_file_that_breaks_after_the_check_is_named(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(2)))
    found = look(tmp_path / 'p', tmp_path, holdout=0)
    data = folder.dataset(found, found.train, RULE)
    (tmp_path / 'p/a/0.png').write_bytes(b'')
    (tmp_path / 'p/b/1.png').unlink()
    with pytest.raises(UserError, match='a/0.png has changed since it was checked: it is empty'):
        data.read(np.arange(4))
    with pytest.raises(UserError, match='b/1.png has changed since'):
        data.read(np.array([3]))


def test_a_part_is_told_from_every_other_by_its_name(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'ab' for k in range(2)))

    def name():
        found = look(tmp_path / 'p', tmp_path, holdout=0)
        return folder.dataset(found, found.train, RULE).name

    first = name()
    assert first == name() and first.startswith('folder-')
    put(tmp_path / 'p', 'a/0.png', data=png(77))
    second = name()
    (tmp_path / 'p/a/0.png').rename(tmp_path / 'p/a/00.png')
    assert len({first, second, name()}) == 3


# --- as a data set of a config ----------------------------------------------------------------------------------------


def node(**settings):
    target = config_lib.base().target
    target.update({'name': 'folder', **settings})
    return target


def test_the_facts_are_found_in_the_folder(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'abc' for k in range(5)))
    facts = sets.entry(node(dir=str(tmp_path / 'p')), tmp_path)
    assert (facts.classes, facts.train, facts.test, facts.title) == (3, 12, 3, 'p')
    parts = sets.load(node(dir=str(tmp_path / 'p')), data_dir='', rule=RULE, cache=tmp_path)
    assert parts.val is None and parts.test is not None and len(parts.test.labels) == 3 and parts.notes
    assert sets.missing(node(), '') is None


def test_made_up_images_have_the_classes_of_the_folder(tmp_path):
    put(tmp_path / 'p', *(f'{c}/{k}.png' for c in 'abc' for k in range(2)))
    parts = sets.made_up(node(dir=str(tmp_path / 'p')), tmp_path, per_class=2, side=8)
    assert parts.train.classes == ('a', 'b', 'c') and parts.train.read(np.arange(6)).shape == (6, 8, 8, 3)
    unnamed = sets.made_up(node(), tmp_path, per_class=2, side=8)
    assert len(unnamed.train.classes) == sets.entry(node(), tmp_path, made_up=True).classes == 10
    with pytest.raises(UserError, match='say where your images are'):
        sets.entry(node(), tmp_path)


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
