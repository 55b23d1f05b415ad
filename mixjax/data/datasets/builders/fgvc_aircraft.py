"""FGVC-Aircraft, by variant (Maji et al., https://arxiv.org/abs/1306.5151).

    fgvc-aircraft-2013b/data/images/1514522.jpg
    fgvc-aircraft-2013b/data/images_variant_trainval.txt     lines '1514522 F/A-18': names have blanks and slashes

The train part is the published train and validation parts together. The last 20 rows of an image name its owner; the
catalogue's reader cuts them off, the records have the whole images.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mixjax.data.datasets.builders import archive
from mixjax.data.datasets.builders.original import Image, Original, Part
from mixjax.errors import UserError

LISTS = {'train': 'images_variant_trainval.txt', 'test': 'images_variant_test.txt'}


class FgvcAircraft(Original):
    """FGVC-Aircraft from fgvc-aircraft-2013b.tar.gz."""

    def parts(self) -> dict[str, Part]:
        path = archive.find(self.archives, 'fgvc-aircraft-2013b', get=self.get)
        lists = {name.name: archive.text(read()) for name, read in archive.members(path) if name.name in LISTS.values()}

        def images() -> Iterator[Image]:
            for name, read in archive.members(path):
                if name.parent.name == 'images':
                    yield name.stem, read

        return {split: Part(self._labels(path, lists, file), images) for split, file in LISTS.items()}

    def _labels(self, path: Path, lists: dict[str, str], file: str) -> dict[str, int]:
        if file not in lists:
            raise UserError(f'{path} has no {file}; {self.get}')
        lines = (line.strip().partition(' ') for line in lists[file].splitlines() if line.strip())
        return {name: self.label(variant) for name, _, variant in lines}
