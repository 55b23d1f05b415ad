"""Tiny ImageNet (Stanford CS231n): 200 classes of ImageNet at 64 x 64.

    tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG     500 of each class
    tiny-imagenet-200/val/images/val_0.JPEG
    tiny-imagenet-200/val/val_annotations.txt                     file, class and box, separated by tabs

The test images have no labels; results are reported on the validation part. Labels are in the order of the
WordNet ids. Some images are grey.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixjax.data.datasets import catalog
from mixjax.data.datasets.builders import archive
from mixjax.data.datasets.builders.original import Image, Original, Part
from mixjax.errors import UserError


class TinyImagenet(Original):
    """Tiny ImageNet from tiny-imagenet-200.zip."""

    def parts(self) -> dict[str, Part]:
        path = archive.find(self.archives, 'tiny-imagenet-200', get=self.get)
        label = {name.split(' ')[0]: k for k, name in enumerate(catalog.class_names(self.name))}
        train, validation = {}, {}
        for name, read in archive.members(path):
            if name.parts[-2:] == ('val', 'val_annotations.txt'):
                lines = (line.split('\t') for line in archive.text(read()).splitlines() if '\t' in line)
                validation = {fields[0]: fields[1] for fields in lines}
            elif name.parts[-4:-3] == ('train',) and name.parts[-2] == 'images':
                train[name.name] = name.parts[-3]
        if not validation:
            raise UserError(f'{path} has no val/val_annotations.txt; {self.get}')
        unknown = {*train.values(), *validation.values()} - set(label)
        if unknown:
            raise UserError(f'{path} has a class {min(unknown)!r}, which is not one of the {len(label)} known')
        return {
            'train': Part({name: label[one] for name, one in train.items()}, lambda: _images(path)),
            'validation': Part({name: label[one] for name, one in validation.items()}, lambda: _images(path)),
        }


def _images(path: Path) -> Iterator[Image]:
    for name, read in archive.members(path):
        if name.parent.name == 'images':
            yield name.name, read
