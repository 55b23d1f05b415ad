"""Copies of data sets as TensorFlow Datasets prepares them, of a few images, written without it."""

from __future__ import annotations

from pathlib import Path

from mixjax.data.datasets import catalog, tfds_copy
from tests.support import miniature
from tests.support.miniature import picture, record

# The features that TensorFlow Datasets stores with an image, beside image and label.
FEATURES = {
    'stanford_dogs': lambda k, name: {'image/filename': name, 'objects/bbox': [0.1, 0.2, 0.3, 0.4]},
    'cub200': lambda k, name: {
        'image/filename': name,
        'label_name': b'bird',
        'bbox': [0.1, 0.2, 0.3, 0.4],
        'segmentation_mask': picture(k, 'PNG', 'L'),
    },
    'food101': lambda k, name: {},
    'flowers102': lambda k, name: {'file_name': name},
    'imagenet2012': lambda k, name: {'file_name': name},
    'places365': lambda k, name: {'filename': name},
    'mnist': lambda k, name: {},
    'fashion_mnist': lambda k, name: {},
    'svhn': lambda k, name: {'id': name},
    'cifar10': lambda k, name: {'id': name},
    'cifar100': lambda k, name: {'id': name, 'coarse_label': k},
}


def stored(name: str, k: int) -> bytes:
    """The k-th image of a miniature."""
    height, width, channels = catalog.entry(name).image
    if height == 256:
        return picture(k, size=(40 + k, 50))
    return picture(k, 'PNG', 'L' if channels == 1 else 'RGB', size=(height, width))


def make(name: str, root: Path, *, files: int = 2, count: int = 5) -> Path:
    """A copy with `count` examples in each part; the labels are 0, last, 2, 3, .."""
    facts = catalog.entry(name)
    parts = {}
    for p, part in enumerate(facts.splits):
        examples = []
        for k in range(count):
            label = facts.classes - 1 if k == 1 else k % facts.classes
            extra = FEATURES.get(name, lambda k, name: {'id': name})(k, f'{part} {k}.jpg'.encode())
            examples.append(record({**extra, 'image': stored(name, 10 * p + k), 'label': label}))
        parts[part] = [examples[start::files] for start in range(files)]
    if name == 'places365':
        parts['test'] = [[record({'image': stored(name, 1), 'label': -1})]]
    if name == 'svhn':
        parts['extra'] = [[record({'image': stored(name, 1), 'label': 1})]]
    return miniature.copy(name, root, parts)


def index(name: str, folder: Path, **options):
    return tfds_copy.index(folder, dict.fromkeys(catalog.entry(name).splits, 0), catalog.entry(name).classes, **options)
