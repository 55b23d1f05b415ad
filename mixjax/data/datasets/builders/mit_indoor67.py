"""MIT Indoor Scenes (Quattoni and Torralba, CVPR 2009, http://web.mit.edu/torralba/www/indoor.html).

    indoorCVPR_09.tar: Images/airport_inside/airport_inside_0001.jpg
    TrainImages.txt, TestImages.txt: lines 'airport_inside/airport_inside_0001.jpg', 80 and 20 of each class

Only those of the 15,620 images that are in the lists are used. Some are PNG or GIF despite their names, and the
spelling of names differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixjax.data.datasets.builders import archive
from mixjax.data.datasets.builders.original import Image, Original, Part
from mixjax.errors import UserError

LISTS = {'train': 'TrainImages.txt', 'test': 'TestImages.txt'}


class MitIndoor67(Original):
    """MIT Indoor 67 from indoorCVPR_09.tar and the two lists."""

    def parts(self) -> dict[str, Part]:
        path = archive.find(self.archives, 'indoorCVPR_09', 'Images', get=self.get)
        lists = {
            name: archive.read_list(self.archives / name) for name in LISTS.values() if (self.archives / name).is_file()
        }
        stored = []
        for name, read in archive.members(path):
            stored.append('/'.join(name.parts[-2:]))
            if name.name in LISTS.values():
                lists.setdefault(name.name, read())
        exact = set(stored)
        # Upper and lower case differ between lists and files; a file with the exact name is preferred.
        folded = {name.casefold(): name for name in stored}

        def labels(file: str) -> dict[str, int]:
            if file not in lists:
                raise UserError(f'{self.archives} has no {file}; {self.get}')
            names = [line.strip() for line in archive.text(lists[file]).splitlines() if line.strip()]
            found = [name if name in exact else folded.get(name.casefold(), name) for name in names]
            return {name: self.label(name.partition('/')[0]) for name in found}

        return {split: Part(labels(file), lambda: _images(path)) for split, file in LISTS.items()}


def _images(path: Path) -> Iterator[Image]:
    for name, read in archive.members(path):
        yield '/'.join(name.parts[-2:]), read
