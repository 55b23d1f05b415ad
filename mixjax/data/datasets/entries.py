"""Facts of the data sets of the catalogue.

To add a data set, add an entry here and a file of class names in `labels/`.
"""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """Facts of a data set.

    Attributes:
      name: its name in configs.
      title: its full name.
      classes: number of classes.
      train: number of examples of the train part.
      test: number of examples of the test part. 0 if the set has none: the test set is then the examples of `train`
        that are not drawn as labelled.
      image: default shape (H, W, C) of the images. Photographs of all sizes become a square of that side.
      labels: the file of `labels/` with the class names, one a line, in label order.
      tfds: name of the prepared copy.
      version: version of the prepared copy.
      splits: names of (train, test) in the prepared copy.
      get: shell lines that obtain it; DIR stands for the folder of all prepared sets.
      reader: 'prepared', or the kind of a set that needs no files: 'embedded', 'synthetic' or 'folder'.
      ours: prepared by `builders/` from the original files and not by TensorFlow Datasets: needs no TensorFlow.
      banner: rows at the bottom of every photograph that are not part of it.
    """

    name: str
    title: str
    classes: int
    train: int
    test: int
    image: tuple[int, int, int]
    labels: str = ''
    tfds: str = ''
    version: str = ''
    splits: tuple[str, str] = ('train', 'test')
    get: tuple[str, ...] = ()
    reader: str = 'prepared'
    ours: bool = False
    banner: int = 0


PHOTO, SMALL, SKETCH = (256, 256, 3), (32, 32, 3), (16, 16, 1)
VALIDATION = ('train', 'validation')  # the published results are on the part that is called validation


def _tfds(
    facts: Entry, tfds: str, version: str, *, splits: tuple[str, str] = ('train', 'test'), first: str = ''
) -> Entry:
    """Return the entry of a set that TensorFlow Datasets prepares. first: a step that must be done by hand before."""
    get = ("pip install 'mixjax[prepare]'", *([f'# {first}'] if first else []), _command(facts))
    return facts._replace(labels=f'{facts.name}.txt', tfds=tfds, version=version, splits=splits, get=get)


def _ours(facts: Entry, first: str, *, splits: tuple[str, str] = ('train', 'test'), banner: int = 0) -> Entry:
    """Return the entry of a set that one of our builders prepares. first: instructions for getting the files."""
    get = (f'# {first}', _command(facts))
    named = facts._replace(labels=f'{facts.name}.txt', tfds=facts.name, version='1.0.0', splits=splits)
    return named._replace(get=get, ours=True, banner=banner)


def _command(facts: Entry) -> str:
    return f'mixjax prepare --dataset={facts.name} --data-dir=DIR'


ENTRIES: dict[str, Entry] = {
    facts.name: facts
    for facts in (
        Entry('glyphs', 'printed letters of three alphabets', 160, 2826, 0, SKETCH, reader='embedded'),
        Entry('digits', 'handwritten digits of scikit-learn', 10, 1797, 0, SKETCH, reader='embedded'),
        Entry('synthetic', 'made-up patterns', 10, 400, 200, SKETCH, reader='synthetic'),
        # Photographs of many sizes.
        _tfds(Entry('stanford_dogs', 'Stanford Dogs', 120, 12_000, 8_580, PHOTO), 'stanford_dogs', '0.2.0'),
        _tfds(Entry('cub200', 'Caltech-UCSD Birds 200 (2011)', 200, 5_994, 5_794, PHOTO), 'caltech_birds2011', '0.2.0'),
        _tfds(Entry('food101', 'Food-101', 101, 75_750, 25_250, PHOTO), 'food101', '2.0.0', splits=VALIDATION),
        # Its validation part, 1,020 images, is not used.
        _tfds(Entry('flowers102', 'Oxford Flowers 102', 102, 1_020, 6_149, PHOTO), 'oxford_flowers102', '2.1.1'),
        _ours(
            Entry('stanford_cars', 'Stanford Cars', 196, 8_144, 8_041, PHOTO),
            'its own site has closed; from a copy (https://github.com/pytorch/vision/issues/7545 lists some) put '
            'cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat, or what they '
            'unpack to, into DIR/downloads/manual',
        ),
        # The published train and validation halves together; the last 20 rows of a photograph name its owner.
        _ours(
            Entry('fgvc_aircraft', 'FGVC-Aircraft (variants)', 100, 6_667, 3_333, PHOTO),
            'put https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz '
            'into DIR/downloads/manual',
            banner=20,
        ),
        _ours(
            Entry('mit_indoor67', 'MIT Indoor Scenes 67', 67, 5_360, 1_340, PHOTO),
            'put http://groups.csail.mit.edu/vision/LabelMe/NewImages/indoorCVPR_09.tar, '
            'http://web.mit.edu/torralba/www/TrainImages.txt and http://web.mit.edu/torralba/www/TestImages.txt '
            'into DIR/downloads/manual',
        ),
        # Sources.
        _tfds(
            Entry('places365', 'Places365 (standard, small images)', 365, 1_803_460, 36_500, PHOTO),
            'places365_small',
            '2.1.0',
            splits=VALIDATION,  # the labels of its test part were never published
        ),
        _tfds(
            Entry('imagenet2012', 'ImageNet (ILSVRC 2012)', 1000, 1_281_167, 50_000, PHOTO),
            'imagenet2012',
            '5.1.0',
            splits=VALIDATION,
            first='register at https://image-net.org/download-images, then put '
            'ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar into DIR/downloads/manual',
        ),
        # Small images of one size.
        _tfds(Entry('mnist', 'MNIST', 10, 60_000, 10_000, (28, 28, 1)), 'mnist', '3.0.1'),
        _tfds(Entry('fashion_mnist', 'Fashion-MNIST', 10, 60_000, 10_000, (28, 28, 1)), 'fashion_mnist', '3.0.1'),
        # Without its `extra` part, which is downloaded all the same.
        _tfds(Entry('svhn', 'Street View House Numbers', 10, 73_257, 26_032, SMALL), 'svhn_cropped', '3.1.0'),
        _tfds(Entry('cifar10', 'CIFAR-10', 10, 50_000, 10_000, SMALL), 'cifar10', '3.0.2'),
        _tfds(Entry('cifar100', 'CIFAR-100', 100, 50_000, 10_000, SMALL), 'cifar100', '3.0.2'),
        _ours(
            Entry('tiny_imagenet', 'Tiny ImageNet', 200, 100_000, 10_000, (64, 64, 3)),
            'put http://cs231n.stanford.edu/tiny-imagenet-200.zip into DIR/downloads/manual',
            splits=VALIDATION,  # the labels of its test part were never published
        ),
    )
}
