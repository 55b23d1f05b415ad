"""The facts of the data sets, the messages about missing files, and the made-up images."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from mixjax.data.datasets import catalog
from mixjax.data.datasets.synthetic import synthetic
from mixjax.errors import UserError
from tests.support.common import ROOT

STORED = [name for name in catalog.names() if catalog.entry(name).tfds]
WITHOUT_FILES = [name for name in catalog.names() if not catalog.entry(name).tfds]


@pytest.fixture(autouse=True)
def no_data(monkeypatch, tmp_path):
    """A home folder of its own, and no word about where data are."""
    monkeypatch.delenv('TFDS_DATA_DIR', raising=False)
    (tmp_path / 'home').mkdir()
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))


def prepare(root: Path, name: str, **changes) -> Path:
    """What a prepared copy looks like to the catalogue, in the form that TensorFlow Datasets writes."""
    facts = catalog.entry(name)
    info = {
        'fileFormat': 'array_record',
        'name': facts.tfds,
        'splits': [{'name': split, 'numBytes': '318', 'shardLengths': ['3']} for split in facts.splits],
        'version': facts.version,
    } | changes
    folder = root / facts.tfds / facts.version
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text(json.dumps({k: v for k, v in info.items() if v is not None}))
    return folder


# Facts.


def test_which_sets_there_are():
    assert catalog.names() == sorted(catalog.names())
    assert set(catalog.names()) == {
        *('glyphs', 'digits', 'synthetic', 'stanford_dogs', 'cub200', 'food101', 'flowers102', 'stanford_cars'),
        *('fgvc_aircraft', 'mit_indoor67', 'mnist', 'fashion_mnist', 'svhn', 'cifar10', 'cifar100', 'tiny_imagenet'),
        *('imagenet2012', 'places365'),
    }
    assert all(catalog.entry(name).name == name for name in catalog.names())


@pytest.mark.parametrize(
    ('name', 'classes', 'train', 'test'),
    [
        ('stanford_dogs', 120, 12_000, 8_580),
        ('cub200', 200, 5_994, 5_794),
        ('cifar100', 100, 50_000, 10_000),
        ('imagenet2012', 1000, 1_281_167, 50_000),
        ('digits', 10, 1_797, 0),
        ('food101', 101, 75_750, 25_250),
        ('flowers102', 102, 1_020, 6_149),
        ('stanford_cars', 196, 8_144, 8_041),
        ('fgvc_aircraft', 100, 6_667, 3_333),
        ('mit_indoor67', 67, 80 * 67, 20 * 67),
        ('mnist', 10, 60_000, 10_000),
        ('fashion_mnist', 10, 60_000, 10_000),
        ('svhn', 10, 73_257, 26_032),
        ('cifar10', 10, 50_000, 10_000),
        ('tiny_imagenet', 200, 500 * 200, 50 * 200),
        ('places365', 365, 1_803_460, 36_500),
    ],
)
def test_sizes(name, classes, train, test):
    facts = catalog.entry(name)
    assert (facts.classes, facts.train, facts.test) == (classes, train, test)


@pytest.mark.parametrize('name', catalog.names())
def test_class_names(name):
    names = catalog.class_names(name)
    assert isinstance(names, tuple)
    assert len(names) == len(set(names)) == catalog.entry(name).classes
    assert all(n and n == n.strip() and n.isprintable() for n in names)


def test_every_list_of_names_belongs_to_a_set():
    folder = Path(catalog.__file__).parent / 'labels'
    assert sorted(path.name for path in folder.iterdir()) == sorted(catalog.entry(name).labels for name in STORED)


def test_imagenet_in_the_order_of_the_wordnet_ids():
    names = catalog.class_names('imagenet2012')
    ids = [name.split(' ')[0] for name in names]
    assert all(re.fullmatch(r'n\d{8} \S.*', name) for name in names)
    assert ids == sorted(set(ids))
    known = {0: 'tench', 1: 'goldfish', 207: 'golden retriever', 281: 'tabby', 388: 'giant panda', 999: 'toilet tissue'}
    assert {k: names[k].split(' ', 1)[1] for k in known} == known
    # Two human names are used twice; the ids tell them apart.
    assert [k for k, name in enumerate(names) if name.endswith(' crane')] == [134, 517]
    assert [k for k, name in enumerate(names) if name.endswith(' maillot')] == [638, 639]


def test_every_stanford_dog_is_an_imagenet_class():
    """All 120 of them; the names are the same too, so a pair table over the two can be checked by eye."""
    dogs = catalog.class_names('stanford_dogs')
    assert all(re.fullmatch(r'n\d{8}-[a-z_-]+', dog) for dog in dogs)
    assert list(dogs) == sorted(dogs)
    imagenet = dict(name.split(' ', 1) for name in catalog.class_names('imagenet2012'))
    assert [dog.split('-', 1)[0] for dog in dogs if dog.split('-', 1)[0] not in imagenet] == []
    for dog in dogs:
        wnid, breed = dog.split('-', 1)
        assert breed.replace('_', ' ') == imagenet[wnid].lower()


def test_places_in_the_order_of_the_published_categories():
    """That is the order of the logits of the published networks; `/` sorts before `_`, which flat folder names lose."""
    names = catalog.class_names('places365')
    assert list(names) == sorted(names)
    known = {0: 'airfield', 8: 'apartment_building/outdoor', 116: 'desert/sand', 118: 'desert_road', 364: 'zen_garden'}
    assert {k: names[k] for k in known} == known
    flat = [name.replace('/', '_') for name in names]
    assert flat != sorted(flat)


def test_cub_in_the_order_of_the_numbers():
    names = catalog.class_names('cub200')
    assert [int(name.split('.')[0]) for name in names] == list(range(1, 201))
    assert all(re.fullmatch(r'\d{3}\.[A-Za-z]+(_[A-Za-z]+)*', name) for name in names)
    assert names[0] == '001.Black_footed_Albatross' and names[-1] == '200.Common_Yellowthroat'


def test_cifar100_in_alphabetical_order():
    names = catalog.class_names('cifar100')
    assert list(names) == sorted(names)
    assert [names[k] for k in (0, 1, 26, 47, 98, 99)] == [
        'apple',
        'aquarium_fish',
        'crab',
        'maple_tree',
        'woman',
        'worm',
    ]


def test_aircraft_in_the_order_of_the_published_list():
    names = catalog.class_names('fgvc_aircraft')
    assert list(names) == sorted(names)
    assert [names[k] for k in (0, 21, 72, 73, 99)] == ['707-320', 'A300B4', 'F-16A/B', 'F/A-18', 'Yak-42']


def test_tiny_imagenet_is_a_part_of_imagenet():
    names = catalog.class_names('tiny_imagenet')
    assert list(names) == sorted(names) and set(names) < set(catalog.class_names('imagenet2012'))
    assert names[0] == 'n01443537 goldfish' and names[-1] == 'n12267677 acorn'


def test_scenes_in_alphabetical_order():
    names = catalog.class_names('mit_indoor67')
    assert list(names) == sorted(names)
    assert names[0] == 'airport_inside' and names[-1] == 'winecellar' and 'laboratorywet' in names


def test_digits_are_called_by_their_value():
    """In the files of SVHN the digit 0 has the label 10; the prepared copies have 0."""
    assert catalog.class_names('mnist') == catalog.class_names('svhn') == tuple('0123456789')


FOREIGN = [name for name in STORED if not catalog.entry(name).ours]


@pytest.mark.parametrize('name', FOREIGN)
def test_what_tensorflow_datasets_says(name, tmp_path):
    """Versions, classes, names and the order of names, where the library knows them before it has the data."""
    import tensorflow_datasets as tfds

    facts = catalog.entry(name)
    builder = tfds.builder(facts.tfds, data_dir=str(tmp_path))
    assert str(builder.VERSION) == facts.version
    label = builder.info.features['label']
    assert label.num_classes == facts.classes
    assert builder.info.features['image'].shape in ((None, None, 3), facts.image)
    ours = [one.split(' ')[0] if name == 'imagenet2012' else one for one in catalog.class_names(name)]
    if name in ('food101', 'flowers102', 'imagenet2012', 'places365', 'fashion_mnist'):
        assert list(label.names) == ours


def test_cars_have_the_names_of_the_devkit():
    import tensorflow_datasets as tfds

    theirs = importlib.import_module(tfds.builder_cls('cars196').__module__)._NAMES
    assert catalog.class_names('stanford_cars') == tuple(theirs)
    assert theirs[173] == 'Ram C/V Cargo Van Minivan 2012'


@pytest.mark.parametrize('ask', [catalog.entry, catalog.class_names, catalog.searched_folders, catalog.missing])
def test_unknown_name(ask):
    with pytest.raises(UserError, match="unknown data set 'stanford_dog'; did you mean 'stanford_dogs'.*cub200"):
        ask('stanford_dog')


def test_importing_the_catalogue_is_cheap():
    """The commands list the data sets before jax is wanted."""
    code = (
        'import sys; from mixjax.data.datasets import array_record, catalog, tfds_copy; '
        'from mixjax.data.pixels import photo; '
        'third = {name.split(".")[0] for name in sys.modules} - set(sys.stdlib_module_names); '
        'print(*sorted(name for name in third if not name.startswith("_")))'
    )
    known = subprocess.run([sys.executable, '-S', '-c', code], capture_output=True, text=True, env=bare(), check=True)
    assert known.stdout.split() == ['mixjax', 'numpy']


def bare() -> dict[str, str]:
    """An environment in which nothing is imported at the start of Python."""
    return {**os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), *sys.path])}


# Where files are.


def test_where_copies_are_looked_for(monkeypatch):
    assert catalog.searched_folders('cub200') == ['~/tensorflow_datasets/caltech_birds2011/0.2.0']
    monkeypatch.setenv('TFDS_DATA_DIR', '/data/tfds')
    assert catalog.searched_folders('cub200') == ['/data/tfds/caltech_birds2011/0.2.0']
    assert catalog.searched_folders('cub200', '~/mine') == ['~/mine/caltech_birds2011/0.2.0']


@pytest.mark.parametrize('name', WITHOUT_FILES)
def test_nothing_is_missing_where_no_files_are_needed(name):
    assert catalog.searched_folders(name) == []
    assert catalog.missing(name) is None


@pytest.mark.parametrize('name', STORED)
def test_what_is_missing(name):
    facts = catalog.entry(name)
    message = catalog.missing(name)
    assert message is not None
    assert f'the images of {name} ({facts.title}) are missing' in message
    assert f'~/tensorflow_datasets/{facts.tfds}/{facts.version}: no such copy' in message
    assert ("pip install 'mixjax[prepare]'" in message) == (not facts.ours)
    assert message.endswith(f'  mixjax prepare --dataset={name} --data-dir=~/tensorflow_datasets')
    assert len(message.splitlines()) <= 6
    # The folder has been put in everywhere.
    assert not re.search(r'\bDIR\b', message)


def test_imagenet_is_fetched_by_hand():
    message = catalog.missing('imagenet2012', '/data')
    assert message is not None
    for word in ('image-net.org', 'ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar', '/data/downloads/manual'):
        assert word in message
    assert catalog.entry('imagenet2012').splits == ('train', 'validation')


@pytest.mark.parametrize('name', STORED)
def test_the_lines_that_get_a_set_are_lines_of_a_shell(name, tmp_path):
    """A folder with a blank and a quote in it, to be put into the right words."""
    root = tmp_path / "it's data"
    message = catalog.missing(name, str(root))
    assert message is not None
    lines = message.split('to get them:\n')[1].splitlines()
    subprocess.run(['bash', '-n', '-c', '\n'.join(lines)], check=True)
    assert shlex.split(lines[-1]) == [
        *('mixjax', 'prepare', f'--dataset={name}'),
        f'--data-dir={root}',
    ]


@pytest.mark.parametrize(('folder', 'line'), [('~/my sets', "~/'my sets'"), ('~', '~'), ('/a/b', '/a/b')])
def test_a_home_folder_is_left_to_the_shell(folder, line):
    assert str(catalog.missing('cub200', folder)).endswith(f' --data-dir={line}')


def test_a_prepared_copy_is_found(tmp_path, monkeypatch):
    for name in STORED:
        prepare(tmp_path, name)
        assert catalog.missing(name) is not None
        assert catalog.missing(name, str(tmp_path)) is None
    monkeypatch.setenv('TFDS_DATA_DIR', str(tmp_path))
    assert catalog.missing('cub200') is None


def test_a_prepared_copy_is_found_in_the_home_folder(tmp_path):
    prepare(tmp_path / 'home' / 'tensorflow_datasets', 'cifar100')
    assert catalog.missing('cifar100') is None


@pytest.mark.parametrize(
    ('changes', 'fault'),
    [
        ({'fileFormat': 'tfrecord'}, 'its files are tfrecord, not array_record'),
        ({'fileFormat': None}, 'its files are tfrecord, not array_record'),
        ({'splits': [{'name': 'train'}]}, 'it has no validation part'),
        ({'splits': None}, 'it has no train and no validation part'),
        ({'splits': ['train']}, 'cannot be read'),
    ],
)
def test_unusable_copy_is_reported(tmp_path, changes, fault):
    folder = prepare(tmp_path, 'imagenet2012', **changes)
    message = str(catalog.missing('imagenet2012', str(tmp_path)))
    assert f'{folder}: ' in message and fault in message and 'move that folder away' in message


def test_a_damaged_copy(tmp_path):
    (prepare(tmp_path, 'cub200') / 'dataset_info.json').write_text('{"fileFormat": "arr')
    assert 'its dataset_info.json cannot be read (JSONDecodeError)' in str(catalog.missing('cub200', str(tmp_path)))


# From a name to images.


@pytest.mark.parametrize('name', WITHOUT_FILES)
@pytest.mark.parametrize('split', ['train', 'test'])
def test_load_without_files(name, split):
    facts = catalog.entry(name)
    if not getattr(facts, split):
        with pytest.raises(UserError, match=f'{name} has no test part'):
            catalog.load(name, split)
        return
    data = catalog.load(name, split)
    assert data.name == name and data.classes == catalog.class_names(name)
    assert data.labels.shape == (getattr(facts, split),) and data.labels.dtype == np.int32
    assert set(data.labels.tolist()) == set(range(facts.classes))
    rows = np.array([5, 0, len(data.labels) - 1, 5])
    images = data.read(rows)
    assert images.shape == (4, *facts.image) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[3])
    np.testing.assert_array_equal(images[1], data.read(np.array([0]))[0])
    assert data.read(np.array([], np.int64)).shape == (0, *facts.image)
    with pytest.raises(IndexError):
        data.read(np.array([len(data.labels)]))


def test_load_says_what_is_missing():
    with pytest.raises(UserError) as error:
        catalog.load('cub200', 'train')
    assert str(error.value) == catalog.missing('cub200')


def test_unknown_part():
    with pytest.raises(UserError, match="unknown part 'tests' of digits; did you mean 'test'"):
        catalog.load('digits', 'tests')
    with pytest.raises(UserError, match="unknown part 'tests' of digits; did you mean 'test'"):
        catalog.synthetic_like('digits', 'tests', per_class=2, side=8)


# Made-up images.


def test_one_row_at_a_time_and_together():
    read, labels = synthetic(7, 3, (12, 10, 3), seed=4)
    together = read(np.arange(len(labels)))
    assert together.shape == (21, 12, 10, 3)
    for row in range(len(labels)):
        np.testing.assert_array_equal(read(np.array([row]))[0], together[row])
    np.testing.assert_array_equal(read(np.array([9, 2, 9])), together[[9, 2, 9]])
    assert len({image.tobytes() for image in together}) == len(labels)


def test_made_up_images_are_the_same_everywhere():
    """Integers all the way: these pixels do not depend on the machine."""
    read, labels = synthetic(3, 2, (8, 8, 3), seed=1)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2] and labels.dtype == np.int32
    assert zlib.crc32(read(np.arange(6)).tobytes()) == 3629768886


def test_what_the_pixels_depend_on():
    def image(seed=1, part=0, row=0):
        read, _ = synthetic(3, 2, (8, 8, 1), seed, part=part)
        return read(np.array([row])).tobytes()

    assert image() == image()
    assert len({image(), image(seed=2), image(part=1), image(row=1), image(row=3)}) == 5


def test_the_range_of_the_pixels_is_never_left():
    """Nothing wraps around at 0 or 255: neighbours differ by no more than noise and the slope of a pattern."""
    read, labels = synthetic(50, 2, (64, 64, 3), seed=0)
    images = read(np.arange(len(labels))).astype(int)
    assert images.min() >= 16 and images.max() <= 240
    assert images.max() - images.min() > 150


@pytest.mark.parametrize(('name', 'side', 'per_class'), [('synthetic', 16, 20), ('cub200', 32, 2)])
def test_made_up_classes_can_be_learnt(name, side, per_class):
    """The nearest class mean of the train part knows the test part."""
    train = catalog.synthetic_like(name, 'train', per_class=per_class, side=side)
    test = catalog.synthetic_like(name, 'test', per_class=per_class, side=side)
    pixels = [d.read(np.arange(len(d.labels))).reshape(len(d.labels), -1).astype(float) for d in (train, test)]
    assert not np.array_equal(pixels[0], pixels[1])
    means = np.stack([pixels[0][train.labels == k].mean(0) for k in range(len(train.classes))])
    distance = (pixels[1] ** 2).sum(1)[:, None] - 2 * pixels[1] @ means.T + (means**2).sum(1)
    assert (distance.argmin(1) == test.labels).mean() > 0.95


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('name', catalog.names())
def test_made_up_images_in_place_of_a_set(name, split):
    """Both parts of every set, also where it has no test part of its own; the true classes and channels."""
    data = catalog.synthetic_like(name, split, per_class=2, side=24)
    facts = catalog.entry(name)
    assert data.name == f'synthetic:{name}' and data.classes == catalog.class_names(name)
    assert np.bincount(data.labels).tolist() == [2] * facts.classes
    assert data.read(np.array([0, facts.classes * 2 - 1])).shape == (2, 24, 24, facts.image[2])


def test_parts_of_made_up_images_are_disjoint():
    dogs = catalog.synthetic_like('stanford_dogs', 'train', per_class=1, side=8)
    birds = catalog.synthetic_like('cub200', 'train', per_class=1, side=8)
    assert not np.array_equal(dogs.read(np.array([0])), birds.read(np.array([0])))


@pytest.mark.parametrize(('per_class', 'side'), [(0, 8), (2, 0), (-1, 8)])
def test_no_made_up_images(per_class, side):
    with pytest.raises(UserError, match='at least 1'):
        catalog.synthetic_like('cub200', 'train', per_class=per_class, side=side)
