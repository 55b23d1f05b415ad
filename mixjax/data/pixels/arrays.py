"""Images in memory: arrays of uint8 or of floats from 0 to 1, and images of Pillow, as stored images."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from mixjax.data.pixels import photo
from mixjax.data.pixels.photo import Rule
from mixjax.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


class Arrays:
    """rows -> (k, H, W, C) uint8 of images that are in memory; threads may share it.

    images: (H, W, C) uint8 arrays, of one size where the rule keeps the size. stamp: tells their pixels from others.
    """

    def __init__(self, images: Sequence[np.ndarray] | np.ndarray, rule: Rule, stamp: str = '') -> None:
        self._images, self._rule, self.stamp = images, photo.check(rule), stamp

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        rows = np.arange(len(self._images))[np.asarray(rows, np.int64)]
        return np.stack([photo.fit(colours(self._images[row], self._rule.channels), self._rule) for row in rows])

    def chosen(self, rows: np.ndarray, rule: Rule, stamp: str = '') -> Arrays:
        """Some of the images, made to one size by another rule."""
        return Arrays([self._images[row] for row in rows], rule, stamp)

    def digests(self) -> list[str]:
        """Digests that distinguish each image from others."""
        return [digest(image) for image in self._images]


def digest(image: np.ndarray) -> str:
    """Digest an image of any size."""
    return blake2b(f'{image.shape} '.encode() + np.ascontiguousarray(image).tobytes(), digest_size=16).hexdigest()


def as_stored(image: Any) -> np.ndarray:
    """(H, W, C) uint8 of an array or an image of Pillow, with the colours that it has."""
    if is_picture(image):
        return of_picture(image, 1 if image.mode in ('1', 'L') else 3)
    image = np.asarray(image)
    return colours(image, 3 if image.ndim == 3 and image.shape[-1] == 3 else 1)


def is_picture(image: object) -> TypeGuard[Image]:
    """Return whether something is an image of Pillow."""
    from PIL import Image

    return isinstance(image, Image.Image)


def of_picture(picture: Image, channels: int) -> np.ndarray:
    """(H, W, channels) uint8 of an image of Pillow, upright as its file says, with the pixels that the file has."""
    try:
        return photo.of_picture(picture, channels=channels, upright=True)
    except photo.Unreadable as error:
        raise UserError(f'the image of Pillow cannot be used: {error}') from None


def as_uint8(image: np.ndarray) -> np.ndarray:
    """Pixels as uint8: of uint8, or of floats from 0 to 1. Anything else could mean several things and is refused."""
    if image.dtype == np.uint8:
        return image
    if not np.issubdtype(image.dtype, np.floating):
        raise UserError(f'pixels must be uint8 (0 to 255) or floats from 0 to 1, not {image.dtype}')
    # Written so that NaN is refused too.
    if image.size and not (image.min() >= 0 and image.max() <= 1):
        raise UserError(
            f'pixels that are floats must be from 0 to 1, and these are from {image.min():.4g} to {image.max():.4g}; '
            'scale them, or give uint8 (0 to 255)'
        )
    return np.rint(image * 255.0).astype(np.uint8)


def colours(image: np.ndarray, channels: int) -> np.ndarray:
    """An array as uint8 (H, W, channels): grey is repeated, and colours become grey by ITU-R 601."""
    shape = image.shape
    image = image[..., None] if image.ndim == 2 else image
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or not image.size:
        raise UserError(f'an image must be of shape (H, W), (H, W, 1) or (H, W, 3), not {shape}')
    image = as_uint8(image)
    if image.shape[-1] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=-1)
    return photo.grey(image)
