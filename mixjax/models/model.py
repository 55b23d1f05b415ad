"""A network with its variables and what is known of them: `mixjax.models.read` gives a `Model`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from mixjax.models.net import Net

Array = jax.Array
Tree = Any
LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, by which stored images become grey too
RESIZE = {'bilinear': 'linear', 'bicubic': 'cubic'}


class Colours(Protocol):
    """Anything that says how images were normalised, such as `ctx.run`."""

    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...


class About(NamedTuple):
    """The facts that come with a network's weights.

    spec: where they were read from.
    name: the network's name, one of `models.names()`.
    classes: names of its classes in the order of the logits; () where the weights do not say.
    width: the number of its classes; 0 without a classifier.
    image: its image settings: `crop`, `resize`, `interpolation`, `mean`, `std`.
    channels: colours of its input, 1 or 3.
    digest: digest of the tensors; '' for random ones.
    dtype: the type that it computes in.
    """

    spec: str
    name: str
    classes: tuple[str, ...]
    width: int
    image: Mapping[str, Any]
    channels: int
    digest: str
    dtype: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of one image, (1, H, W, C)."""
        return (1, self.image['crop'], self.image['crop'], self.channels)


class Model(NamedTuple):
    """A network that was read: `net`, its `variables` with the classifier as head `target`, and what is known of it."""

    net: Net
    variables: Tree
    about: About

    def prepared(self, image: Array, run: Colours) -> Array:
        """Return another network's inputs as this one expects them; see `prepared`."""
        return prepared(image, run, self.about)


def prepared(image: Array, run: Colours, about: About) -> Array:
    """Turn the inputs of one network into those of another: for a teacher in a student's loss. Pure, for use in jit.

    The colours are undone and normalised with the other network's mean and standard deviation, grey is repeated or
    colours become grey, and an image of another size is resized to its crop, by its interpolation. So the other network
    sees what the first one sees, crop and augmentation included.

    Args:
      image: (B, H, W, C) float, normalised.
      run: with the `mean` and `std` that it was normalised with, such as `ctx.run`.
      about: of the other network.

    Returns:
      (B, crop, crop, channels).
    """
    size, channels = about.image['crop'], about.channels
    mean, std = tuple(about.image['mean']), tuple(about.image['std'])
    if image.shape[1:] == (size, size, channels) and (mean, std) == (tuple(run.mean), tuple(run.std)):
        return image
    x = image * jnp.asarray(run.std, image.dtype) + jnp.asarray(run.mean, image.dtype)
    if channels == 1 and x.shape[-1] == 3:
        x = (x * jnp.asarray(LUMA, x.dtype)).sum(-1, keepdims=True)
    elif channels == 3 and x.shape[-1] == 1:
        x = jnp.repeat(x, 3, axis=-1)
    if x.shape[1:3] != (size, size):
        x = jax.image.resize(x, (len(x), size, size, channels), RESIZE[about.image['interpolation']])
    return (x - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)
