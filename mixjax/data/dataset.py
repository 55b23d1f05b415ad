"""`Dataset`: one part of a data set, such as its training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from mixjax.data.datasets import folder
from mixjax.data.pixels import arrays, photo
from mixjax.errors import UserError, require
from mixjax.host import storage

if TYPE_CHECKING:
    from PIL.Image import Image


class Dataset(NamedTuple):
    """One part of a data set: what `mixjax.train.run` takes as `target`, `test` or `source`.

    `Dataset.from_arrays` and `Dataset.from_folder` make one of images in memory and of image files. For images that are
    anywhere else, give a `read` of your own.

    Attributes:
      name: name of the data set.
      classes: names of the classes, in label order.
      labels: (n,) int32; of images with several labels (n, labels) of 1 and 0, and with numbers (n, numbers).
      read: rows (k,) int -> their images (k, H, W, C) uint8; threads may share it.
      ids: names of the examples, for messages; empty where they have none.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray
    read: Callable[[np.ndarray], np.ndarray]
    ids: Sequence[str] = ()

    @classmethod
    def from_arrays(
        cls,
        images: npt.NDArray[np.uint8] | npt.NDArray[np.floating] | Sequence[np.ndarray] | Sequence[Image],
        labels: Sequence[int] | npt.NDArray[np.integer],
        classes: Sequence[str],
        *,
        name: str = 'images',
    ) -> Dataset:
        """Make a data set of images in memory.

        Args:
          images: (n, H, W), (n, H, W, 1) or (n, H, W, 3), uint8 or floats from 0 to 1; or a list of such images, or of
            Pillow's, which may have different sizes.
          labels: (n,) the class of each image, as its place in `classes`.
          classes: the names of the classes.
          name: what the data set is called in `config.json` and in reports.

        Returns:
          The data set. uint8 arrays are not copied.

        Example:
          >>> import numpy as np
          >>> images = np.zeros((4, 32, 32, 3), np.uint8)
          >>> data = Dataset.from_arrays(images, [0, 0, 1, 1], ['cat', 'dog'])
          >>> data.read(np.array([0, 3])).shape
          (2, 32, 32, 3)
        """
        some = [arrays.as_stored(image) for image in images]
        require(bool(some), 'a data set needs images, and none were given')
        channels = max(image.shape[2] for image in some)
        sizes = {image.shape[:2] for image in some}
        rule = photo.Rule(side=0 if len(sizes) == 1 else photo.Rule().side, channels=channels)
        made = cls(name, tuple(classes), np.asarray(labels), arrays.Arrays(some, rule))
        return checked(made, len(some))

    @classmethod
    def from_folder(cls, path: str | PathLike[str], part: str = 'train') -> Dataset:
        """Make a data set of a folder of images.

        Args:
          path: a folder with a folder of images for each class, or with such folders for each part (`train`, `test`,
            perhaps `val`).
          part: which part, where the folder has parts. Without parts all images are `train`.

        Returns:
          The data set, its images of 256 x 256 pixels; in a run they have the size that `config.image` says.

        Example:
          >>> import tempfile, pathlib
          >>> from PIL import Image
          >>> with tempfile.TemporaryDirectory() as root:
          ...     for name in ('cat/1.png', 'cat/2.png', 'dog/1.png'):
          ...         path = pathlib.Path(root, name)
          ...         path.parent.mkdir(exist_ok=True)
          ...         Image.new('RGB', (40, 30), name[:3] == 'cat' and 'red' or 'blue').save(path)
          ...     data = Dataset.from_folder(root)
          >>> data.classes, data.labels.tolist()
          (('cat', 'dog'), [0, 0, 1])
        """
        found = folder.scan(str(path), holdout=0.0, cache=storage.cache_folder())
        parts = {'train': found.train, 'val': found.val, 'test': found.test}
        some = parts.get(part, ())
        if not some:
            there = ', '.join(name for name in parts if parts[name])
            raise UserError(f'{path} has no images of a part {part!r}; it has {there}')
        made = of_folder(found, some, photo.Rule())
        assert isinstance(made.read, folder.Images)
        made.read.notes = found.notes
        return made


def of_folder(found: folder.Folder, part: Sequence[folder.Found], rule: photo.Rule) -> Dataset:
    """One part of a folder; its photographs are turned upright.

    Args:
      rule: how its photographs are made to one size.
    """
    read = folder.Images(found, part, rule._replace(upright=True))
    return Dataset(read.name, found.classes, found.labels(part), read, tuple(one.id for one in part))


def checked(data: Dataset, images: int | None = None) -> Dataset:
    """The data set with labels as int32, once it is sure that they are labels of its classes.

    Args:
      images: how many there are, where it is known.
    """
    classes, labels = data.classes, np.asarray(data.labels)
    what = f'data set {data.name!r}'
    named = isinstance(data.name, str) and data.name.isprintable() and 0 < len(data.name) < 100
    require(named, f'the name of a data set must be a short text of printable characters, not {data.name!r}')
    if len(classes) < 2 or len(set(classes)) < len(classes) or not all(isinstance(name, str) for name in classes):
        raise UserError(f'{what}: classes must be at least two different names, not {list(classes)[:5]}')
    if labels.ndim != 1 or images not in (None, len(labels)):
        count = 'images' if images is None else f'{images} images'
        raise UserError(f'{what}: give one label for each of the {count}, not labels of shape {labels.shape}')
    if not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f'{what}: labels must be whole numbers from 0 to {len(classes) - 1}, not {labels.dtype}')
    if labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(
            f'{what}: labels must be from 0 to {len(classes) - 1}, the places in its {len(classes)} classes, and these '
            f'are from {labels.min()} to {labels.max()}'
        )
    return data._replace(classes=tuple(classes), labels=labels.astype(np.int32))
