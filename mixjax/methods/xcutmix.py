"""CutMix across domains: XMixup's pairs (https://arxiv.org/abs/2007.10252) with CutMix's boxes
(https://arxiv.org/abs/1905.04899).

Each target class is paired with the source class whose mean pretrained feature is most similar. A rectangle of every
target image is replaced by the same rectangle of a random source image of its paired class, and the labels are mixed:

    x = x_s inside the box, x_t outside;   y = lam' y_t + (1 - lam') y_s,   lam' = 1 - area / (H W)

The box has sides of about H sqrt(1 - lam) and W sqrt(1 - lam), a uniform centre, and is cut off at the borders. As in
XMixup every image has its own lam ~ Beta(alpha, 1), with alpha = 4, so that at least 4/5 of an image is its own on
average; CutMix has one Beta(1, 1) for a batch. The combination is in neither paper. Pairs, label space, heads and
ablations are those of `xmixup`: `labels='joint'` is one softmax over target and chosen source classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mixjax import mix
from mixjax.errors import require
from mixjax.method import Array, Method
from mixjax.methods import _paired_mixing


def make(
    classes_t: int,
    *,
    alpha: float = 4.0,
    labels: str = 'joint',
    source_rows: str = 'fresh',
    auxiliary: str = 'paired',
    rounds: int = 1,
    min_images: int = 0,
    max_images: int = 0,
    per_class: int = 50,
    exact: bool = False,
    union: bool = False,
) -> Method:
    """Make CutMix across domains.

    Args:
      classes_t: number of target classes.
      alpha: lam ~ Beta(alpha, 1).
      labels, source_rows, auxiliary: as in `xmixup`.
      rounds, min_images, max_images, per_class, exact, union: the selection, see `_source_selection.paired`.
    """
    require(alpha > 0, f'alpha must be above 0, not {alpha}')

    def mixed(rng: Array, image: Array, other: Array) -> tuple[Array, Array]:
        count, height, width = image.shape[:3]
        for_lam, for_centre = jax.random.split(rng)
        lam = mix.beta(for_lam, alpha, 1.0, (count,))
        centre = jax.random.randint(for_centre, (count, 2), 0, jnp.array([height, width]))
        box = mix.cut_box(lam, centre, height, width)
        return mix.paste(mix.box_mask(box, height, width), image, other), mix.box_lam(box, height, width)

    selection = {
        'rounds': rounds, 'min_images': min_images, 'max_images': max_images, 'per_class': per_class,
        'exact': exact, 'union': union,
    }  # fmt: skip
    return _paired_mixing.method(
        classes_t, mixed, labels=labels, source_rows=source_rows, auxiliary=auxiliary, selection=selection
    )
