"""`Original`, the base class of our builders: from published files to records of TensorFlow Datasets.

It needs no TensorFlow. The bytes of the images are stored unchanged. Counts and class names are compared with the
catalogue before anything is written.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from mixjax.data.datasets import catalog
from mixjax.errors import UserError

Image = tuple[str, Callable[[], bytes]]


class Part(NamedTuple):
    """One part of a data set.

    Attributes:
      labels: {name of an example: its label} of all examples of the part.
      images: () -> (name, function that reads it) for each, in any order; images of other parts are ignored.
    """

    labels: Mapping[str, int]
    images: Callable[[], Iterator[Image]]


class Original(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder of a data set from its published files. A subclass has the name of its entry in the catalogue.

    Args:
      archives: the folder with the published files.
      any_counts: do not compare the numbers of examples with the catalogue.
    """

    VERSION = tfds.core.Version('1.0.0')

    def __init__(self, *, archives: Path, any_counts: bool = False, **options: Any) -> None:
        self.archives, self.any_counts = archives, any_counts
        self.facts = catalog.entry(self.name)
        super().__init__(**options)

    @abstractmethod
    def parts(self) -> dict[str, Part]:
        """Return {name of the part in the catalogue: its examples}."""

    @property
    def get(self) -> str:
        """Instructions for getting missing files."""
        line = next(line for line in self.facts.get if line.startswith('# '))
        return line.removeprefix('# ').replace('DIR/downloads/manual', str(self.archives))

    def label(self, name: str) -> int:
        """Return the label of a class, given its name in the published files."""
        names = catalog.class_names(self.name)
        if name not in names:
            raise UserError(f'{self.name}: the files have a class {name!r}, which is not one of the {len(names)} known')
        return names.index(name)

    def _info(self) -> Any:
        features = {
            'image': tfds.features.Image(shape=(None, None, 3), encoding_format='jpeg'),
            'label': tfds.features.ClassLabel(names=list(catalog.class_names(self.name))),
            'id': tfds.features.Text(),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        parts = self.parts()
        for split, expected in zip(self.facts.splits, (self.facts.train, self.facts.test), strict=True):
            found = len(parts[split].labels)
            if found != expected and not self.any_counts:
                raise UserError(
                    f'{self.name}: the published files list {found:,} images for the {split} part, and the '
                    f'catalogue {expected:,}; --allow-counts accepts them anyway'
                )
        return {split: self._generate_examples(split, part) for split, part in parts.items()}

    def _generate_examples(self, split: str, part: Part) -> Iterator[tuple[str, dict[str, Any]]]:
        left = set(part.labels)
        for name, read in part.images():
            if name in left:
                left.remove(name)
                # A name may contain bytes that are not UTF-8 (see `archive.text`).
                shown = name.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
                yield shown, {'image': read(), 'label': part.labels[name], 'id': shown}
        if left:
            raise UserError(
                f'{self.name}: {len(left):,} images of the {split} part are listed and not there, '
                f'for example {min(left)!r}; are the files in {self.archives} whole?'
            )
