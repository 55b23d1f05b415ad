"""Our builders, from published files in their original layout to images."""

from __future__ import annotations

import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mixjax.commands.prepare import prepare
from mixjax.data.datasets import catalog
from mixjax.data.datasets.builders import archive
from mixjax.data.pixels import photo
from mixjax.errors import UserError
from tests.support import miniature

OURS = [name for name in catalog.names() if catalog.entry(name).ours]


@pytest.fixture
def root(tmp_path):
    return tmp_path / 'data'


def by_hand(root: Path) -> Path:
    return root / 'downloads' / 'manual'


def done(name: str, root: Path, **options) -> str:
    return prepare(name, data_dir=str(root), allow_counts=True, **options)


def test_data_sets_with_own_builders():
    assert OURS == ['fgvc_aircraft', 'mit_indoor67', 'stanford_cars', 'tiny_imagenet']


def check(name: str, root: Path, examples: dict, rule: photo.Rule) -> None:
    """Every example is there once, with its class and the pixels of its file, as Pillow shows them."""
    facts, seen = catalog.entry(name), {}
    for split in ('train', 'test'):
        data = catalog.load(name, split, data_dir=str(root), rule=rule)
        assert data.name == name and data.labels.dtype == np.int32
        assert data.classes == catalog.class_names(name)
        images = data.read(np.arange(len(data.labels)))
        assert images.shape == (len(data.labels), rule.side, rule.side, rule.channels) and images.dtype == np.uint8
        assert len(data.ids) == len(images) == (7 if split == 'train' else 3)
        for key, label, image in zip(data.ids, data.labels, images, strict=True):
            seen[key] = (data.classes[label], image)
    assert seen.keys() == examples.keys()
    for key, (kind, image) in seen.items():
        expected_kind, data = examples[key]
        assert kind == expected_kind, key
        whole = miniature.shown(data)
        expected = photo.fit(whole[: len(whole) - facts.banner], rule)
        np.testing.assert_array_equal(image, expected, err_msg=key)


@pytest.mark.parametrize('name', OURS)
def test_from_published_archives_to_images(name, root):
    examples = miniature.publish(name, by_hand(root))
    told = done(name, root)
    assert told == f'{name}: 7 training and 3 test images of {catalog.entry(name).classes} classes in ' + str(
        catalog.folder(name, str(root))
    )
    check(name, root, examples, photo.Rule(16))
    check(name, root, examples, photo.Rule(24, 'squash', 'bicubic'))


def test_the_owner_of_a_photograph_of_an_aircraft_is_cut_off(root):
    """A black banner of 20 rows, in the records as published, not in what is read."""
    files, _ = miniature.aircraft()
    name = next(name for name in files if name.endswith('1000000.jpg'))
    image = np.full((60, 60, 3), 200, np.uint8)
    image[40:] = 0
    from PIL import Image

    with open(root.parent / 'one.png', 'wb') as file:
        Image.fromarray(image).save(file, 'PNG')
    files[name] = (root.parent / 'one.png').read_bytes()
    by_hand(root).mkdir(parents=True)
    miniature.tar(by_hand(root) / 'fgvc-aircraft-2013b.tar.gz', files)
    done('fgvc_aircraft', root)
    data = catalog.load('fgvc_aircraft', 'train', data_dir=str(root), rule=photo.Rule(40))
    row = list(data.ids).index('1000000')
    assert (data.read(np.array([row])) == 200).all()


def test_the_validation_half_of_the_aircraft_is_training_data(root):
    files, _ = miniature.aircraft()
    assert not any('images_variant_train.txt' in name for name in files)
    miniature.publish('fgvc_aircraft', by_hand(root))
    done('fgvc_aircraft', root)
    assert len(catalog.load('fgvc_aircraft', 'train', data_dir=str(root)).labels) == 7


@pytest.mark.parametrize('form', ['folder', 'tar', 'tgz', 'zip'])
def test_every_form_of_an_archive(form, root):
    """Also unpacked, in another place, and with what a Mac adds."""
    files, examples = miniature.aircraft()
    files |= {
        'fgvc-aircraft-2013b/data/images/._1000000.jpg': b'Mac OS X',
        '__MACOSX/data/images/1000001.jpg': b'Mac OS X',
    }
    other = root.parent / 'elsewhere'
    other.mkdir()
    if form == 'folder':
        miniature.unpacked(other, files)
    elif form == 'zip':
        miniature.zipped(other / 'fgvc-aircraft-2013b.zip', files)
    else:
        miniature.tar(other / f'fgvc-aircraft-2013b.{form}', files)
    done('fgvc_aircraft', root, archives=str(other))
    check('fgvc_aircraft', root, examples, photo.Rule(16))


def test_cars_as_a_folder_with_other_numbers(root):
    """A copy in circulation: unpacked twice over, six digits, test labels in the devkit."""
    archives, examples = miniature.cars()
    for split in ('train', 'test'):
        files = {f'cars_{split}/0{Path(name).name}': data for name, data in archives[f'cars_{split}.tgz'].items()}
        miniature.unpacked(by_hand(root) / f'cars_{split}', files)
    kit = archives['car_devkit.tgz'] | {
        'devkit/cars_test_annos_withlabels.mat': archives['cars_test_annos_withlabels.mat']['']
    }
    miniature.unpacked(by_hand(root), kit)
    done('stanford_cars', root)
    check('stanford_cars', root, examples, photo.Rule(16))


def test_a_slash_in_the_name_of_a_class(root):
    miniature.publish('stanford_cars', by_hand(root))
    done('stanford_cars', root)
    data = catalog.load('stanford_cars', 'train', data_dir=str(root))
    assert 'Ram C/V Cargo Van Minivan 2012' in {data.classes[label] for label in data.labels}


def test_file_names_that_are_no_text(root):
    """A name in an old encoding: it still finds its file."""
    name = b'bowling/caf\xe9.jpg'
    by_hand(root).mkdir(parents=True)
    images = by_hand(root) / 'Images' / 'bowling'
    images.mkdir(parents=True)
    for k, file in enumerate([b'caf\xe9.jpg', b'b.jpg']):
        with open(os.path.join(os.fsencode(images), file), 'wb') as out:
            out.write(miniature.picture(k))
    (by_hand(root) / 'TrainImages.txt').write_bytes(name + b'\n')
    (by_hand(root) / 'TestImages.txt').write_bytes(b'bowling/b.jpg\n')
    done('mit_indoor67', root)
    data = catalog.load('mit_indoor67', 'train', data_dir=str(root), rule=photo.Rule(16))
    assert list(data.ids) == ['bowling/caf\\xe9.jpg']
    np.testing.assert_array_equal(data.read(np.arange(1))[0], photo.read(miniature.picture(0), photo.Rule(16)))


# What is wrong with files.


def refused(name: str, root: Path, *, counts: bool = False) -> str:
    with pytest.raises(UserError) as error:
        prepare(name, data_dir=str(root), allow_counts=not counts)
    assert not catalog.folder(name, str(root)).exists()
    assert catalog.missing(name, str(root)) is not None
    return str(error.value)


@pytest.mark.parametrize('name', OURS)
def test_the_number_of_images_is_compared_before_anything_is_written(name, root):
    miniature.publish(name, by_hand(root))
    message = refused(name, root, counts=True)
    assert 'list 7 images for the train part' in message and f'{catalog.entry(name).train:,}' in message
    assert '--allow-counts' in message


@pytest.mark.parametrize('name', OURS)
def test_without_files_one_sentence_says_which_and_where(name, root):
    message = refused(name, root)
    assert str(by_hand(root)) in message and 'put ' in message and 'DIR' not in message
    assert '\n' not in message


def test_unknown_class_is_refused(root):
    files, _ = miniature.aircraft()
    files['fgvc-aircraft-2013b/data/images_variant_test.txt'] += b'1000009 Zeppelin NT\n'
    by_hand(root).mkdir(parents=True)
    miniature.tar(by_hand(root) / 'fgvc-aircraft-2013b.tar.gz', files)
    assert "a class 'Zeppelin NT'" in refused('fgvc_aircraft', root)


def test_an_image_that_is_listed_and_not_there(root):
    files, _ = miniature.aircraft()
    del files['fgvc-aircraft-2013b/data/images/1000003.jpg']
    by_hand(root).mkdir(parents=True)
    miniature.tar(by_hand(root) / 'fgvc-aircraft-2013b.tar.gz', files)
    message = refused('fgvc_aircraft', root)
    assert "1 images of the train part are listed and not there, for example '1000003'" in message


def test_lists_that_are_missing(root):
    miniature.publish('mit_indoor67', by_hand(root))
    (by_hand(root) / 'TestImages.txt').unlink()
    assert 'has no TestImages.txt; put ' in refused('mit_indoor67', root)


def test_cars_whose_test_labels_are_kept_secret(root):
    miniature.publish('stanford_cars', by_hand(root))
    (by_hand(root) / 'cars_test_annos_withlabels.mat').write_bytes(miniature.annotations(['00001.jpg'], None))
    assert 'cars_test_annos_withlabels.mat is not a table with fname and class' in refused('stanford_cars', root)
    (by_hand(root) / 'cars_test_annos_withlabels.mat').write_bytes(miniature.annotations(['00001.jpg'], [197]))
    assert 'has a class 197, and there are 196' in refused('stanford_cars', root)


@pytest.mark.parametrize(('name', 'file'), [
    ('fgvc_aircraft', 'fgvc-aircraft-2013b.tar.gz'),
    ('mit_indoor67', 'indoorCVPR_09.tar'),
    ('tiny_imagenet', 'tiny-imagenet-200.zip'),
    ('stanford_cars', 'cars_train.tgz'),
])  # fmt: skip
@pytest.mark.parametrize('share', [0, 0.2, 0.5])
def test_truncated_archive_is_refused(name, file, share, root):
    miniature.publish(name, by_hand(root))
    path = by_hand(root) / file
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    message = refused(name, root)
    assert f'{path} is damaged or not whole' in message or 'listed and not there' in message
    assert '\n' not in message


def test_a_zip_file_with_a_damaged_member(root):
    miniature.publish('tiny_imagenet', by_hand(root))
    path = by_hand(root) / 'tiny-imagenet-200.zip'
    data = bytearray(path.read_bytes())
    data[200] ^= 255
    path.write_bytes(data)
    assert 'is damaged or not whole' in refused('tiny_imagenet', root)


@pytest.mark.parametrize('bad', ['../outside.jpg', '/absolute.jpg', 'a/../../b.jpg', 'C:/x.jpg', '..\\outside.jpg'])
@pytest.mark.parametrize('form', ['tar', 'zip'])
def test_members_that_would_leave_their_folder_are_refused(bad, form, tmp_path):
    path = tmp_path / f'x.{form}'
    (miniature.tar if form == 'tar' else miniature.zipped)(path, {'ok.jpg': b'1', bad: b'2'})
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(UserError, match='would be written outside'):
        list(archive.members(path))
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    path = tmp_path / 'x.tar'
    with tarfile.open(path, 'w') as out:
        member = tarfile.TarInfo('images/link.jpg')
        member.type, member.linkname = kind, '/etc/passwd'
        out.addfile(member)
    with pytest.raises(UserError, match="'images/link.jpg' is a link or a device"):
        list(archive.members(path))


def test_links_in_zip_files_are_refused(tmp_path):
    path = tmp_path / 'x.zip'
    with zipfile.ZipFile(path, 'w') as out:
        member = zipfile.ZipInfo('images/link.jpg')
        member.external_attr = 0o120777 << 16
        out.writestr(member, '/etc/passwd')
    with pytest.raises(UserError, match="'images/link.jpg' is a link"):
        list(archive.members(path))


def test_records_are_what_tensorflow_datasets_reads(root):
    """Anyone with that library reads a copy too."""
    import tensorflow_datasets as tfds

    examples = miniature.publish('mit_indoor67', by_hand(root))
    done('mit_indoor67', root)
    folder = catalog.folder('mit_indoor67', str(root))
    builder = tfds.builder_from_directory(folder)
    assert builder.info.splits['train'].num_examples == 7
    assert tuple(builder.info.features['label'].names) == catalog.class_names('mit_indoor67')
    for example in builder.as_data_source('test'):
        key = example['id'].decode()
        assert builder.info.features['label'].int2str(int(example['label'])) == examples[key][0]
        assert example['image'].shape == miniature.shown(examples[key][1]).shape
    assert json.loads((folder / 'dataset_info.json').read_text())['fileFormat'] == 'array_record'
