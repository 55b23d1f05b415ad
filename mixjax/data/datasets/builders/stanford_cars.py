"""Stanford Cars (Krause et al., 3dRR-13).

    cars_train/00001.jpg, cars_test/00001.jpg                 in cars_train.tgz and cars_test.tgz
    devkit/cars_train_annos.mat                               in car_devkit.tgz
    cars_test_annos_withlabels.mat                            beside them

The site that published them has closed, and copies differ in the number of leading zeros in the names of the images:
images are identified by their number. Classes count from 1 in the files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixjax.data.datasets.builders import archive
from mixjax.data.datasets.builders.original import Image, Original, Part
from mixjax.errors import UserError

ANNOTATIONS = {'train': 'cars_train_annos.mat', 'test': 'cars_test_annos_withlabels.mat'}


class StanfordCars(Original):
    """Stanford Cars from the published archives, or from the folders that they unpack to."""

    def parts(self) -> dict[str, Part]:
        kit = archive.find(self.archives, 'car_devkit', 'devkit', get=self.get)
        found = {name.name: read() for name, read in archive.members(kit) if name.name in ANNOTATIONS.values()}
        for file in ANNOTATIONS.values():
            if (self.archives / file).is_file():
                found[file] = archive.read_list(self.archives / file)
        paths = {split: archive.find(self.archives, f'cars_{split}', get=self.get) for split in ANNOTATIONS}
        return {
            split: Part(self._labels(split, found), lambda path=paths[split], split=split: _images(path, split))
            for split in ANNOTATIONS
        }

    def _labels(self, split: str, found: dict[str, bytes]) -> dict[str, int]:
        file = ANNOTATIONS[split]
        if file not in found:
            raise UserError(f'{self.archives} has no {file}; {self.get}')
        rows = _annotations(file, found[file])
        wrong = [row for row in rows.values() if not 1 <= row <= self.facts.classes]
        if wrong:
            raise UserError(f'{file} has a class {wrong[0]}, and there are {self.facts.classes}')
        return {_name(split, Path(name)): label - 1 for name, label in rows.items()}


def _annotations(file: str, data: bytes) -> dict[str, int]:
    """Read {file name: class} from a table of the devkit."""
    from scipy.io import loadmat

    try:
        table: Any = loadmat(io.BytesIO(data), squeeze_me=True)['annotations'].reshape(-1)
        return {str(row['fname']): int(row['class']) for row in table}
    except MemoryError:
        raise
    except Exception as error:  # loadmat raises many types on malformed data
        raise UserError(
            f'{file} is not a table with fname and class ({type(error).__name__}); fetch it again'
        ) from None


def _name(split: str, path: Path) -> str:
    return f'{split}/{int(path.stem):05d}.jpg'


def _images(path: Path, split: str) -> Iterator[Image]:
    for name, read in archive.members(path):
        if name.suffix.lower() in ('.jpg', '.jpeg') and name.stem.isdecimal():
            yield _name(split, Path(name.name)), read
