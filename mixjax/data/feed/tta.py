"""Test-time augmentation: the mean prediction over fixed views of an image, `config.image.tta`.

`flip` adds the mirrored image; `crops` takes the four corners of the stored image besides its centre. Together they are
the ten crops of Krizhevsky et al. (2012). The probabilities are averaged, as there, and not the logits.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mixjax.data.feed import augment, specification
from mixjax.data.feed.augment import Geometry

Array = jax.Array


def logits(apply: Callable[[Array], Array], image: Array, geometry: Geometry, tta: str = '') -> Array:
    """Return the logits of images: those of the centre crop, or the logarithm of the mean probability over views.

    The views go through the network one after the other, in the memory of one.

    Args:
      apply: the network with its classifier, inputs (B, crop, crop, C) -> logits (B, c).
      image: (B, H, W, C) uint8, the stored images.
      geometry: the crop and normalisation.
      tta: `config.image.tta`; '' is the centre crop alone.
    """
    chosen = specification.views(tta)
    if not chosen:
        return apply(augment.centre(image, geometry))
    image = augment.bordered(image, geometry)

    def one(place: tuple[Array, Array, Array]) -> Array:
        row, column, mirrored = place
        seen = jax.lax.dynamic_slice_in_dim(image, row, geometry.crop, axis=1)
        seen = jax.lax.dynamic_slice_in_dim(seen, column, geometry.crop, axis=2)
        seen = jnp.where(mirrored, seen[:, :, ::-1], seen)
        return jax.nn.log_softmax(apply(augment.normalise(seen, geometry)), axis=-1)

    found = places(image.shape[1], image.shape[2], geometry.crop, chosen)
    rows, columns, mirrors = zip(*found, strict=True)
    each = jax.lax.map(one, (jnp.asarray(rows, jnp.int32), jnp.asarray(columns, jnp.int32), jnp.asarray(mirrors)))
    return jax.nn.logsumexp(each, axis=0) - jnp.log(jnp.asarray(len(found), each.dtype))


def places(height: int, width: int, crop: int, chosen: frozenset[str]) -> list[tuple[int, int, bool]]:
    """Return the row, the column and the mirroring of each view; the centre crop is the first."""
    down, across = height - crop, width - crop
    found = [(down // 2, across // 2)]
    if 'crops' in chosen:
        found += [(0, 0), (0, across), (down, 0), (down, across)]
    return [(row, column, mirrored) for mirrored in (False, True)[: 1 + ('flip' in chosen)] for row, column in found]
