"""The comparison of a written file with the network that it was written from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mixjax.errors import UserError
from mixjax.export.network import Exported, inputs

CLOSE = 1e-4  # largest difference of a probability in float32
CLOSE_MAP = 1e-3  # of a layer, as a share of its largest value: where it is more, the layer is another one
Maps = Mapping[str, np.ndarray]


class Verified(NamedTuple):
    """The result of a comparison.

    Attributes:
      by: the program that read the file: 'timm', 'onnxruntime', ..
      images: number of images.
      origin: of the images, such as 'test images'.
      difference: largest difference of a probability; of numbers, in standard deviations of the labels.
      same: share of the images with the same likeliest class.
    """

    by: str
    images: int
    origin: str
    difference: float
    same: float

    def words(self) -> str:
        """Return it as a sentence."""
        return (
            f'read by {self.by}: {self.images} {self.origin}, largest difference of a probability '
            f'{self.difference:.1e}, the same class on {100 * self.same:.4g} %'
        )


def compare(exported: Exported, found: np.ndarray, by: str) -> Verified:
    """Compare what a file says of the samples with what the network says."""
    wanted = exported.probabilities
    if found.shape != wanted.shape:
        raise UserError(f'the file gives an array {found.shape} for {len(wanted)} images, and not {wanted.shape}')
    scale = exported.predictor.scale
    gap = np.abs(found.astype(np.float64) - wanted) / (1 if scale is None else scale.std)
    # Not a number is no agreement.
    difference = float(np.where(np.isnan(gap), np.inf, gap).max(initial=0))
    same = float((found.argmax(1) == wanted.argmax(1)).mean()) if len(wanted) else 1.0
    return Verified(by, len(wanted), exported.samples.origin, difference, same)


def require_equal(exported: Exported, result: Verified, maps: Callable[[], Maps] | None) -> None:
    """Raise an error that names the first layer that differs, unless a file gives the same probabilities.

    The likeliest class is then the same, too, but for two that are equally likely.

    Args:
      exported: the network.
      result: of the comparison.
      maps: returns the maps of the file's network for the first two samples, in their order; None if it has none.
    """
    if result.difference <= CLOSE:
        return
    layer = first_difference(own_maps(exported), maps()) if maps is not None else ''
    where = f'; the first layer that differs is {layer}' if layer else ''
    raise UserError(
        f'what was written gives other probabilities than the network ({result.words()}){where}; it was removed'
    )


def own_maps(exported: Exported) -> dict[str, np.ndarray]:
    """Return the network's maps for the first two samples, in their order, and its features."""
    network = exported.predictor.network
    out = network.forward(network.variables, jnp.asarray(inputs(exported)[:2]))
    return {**{name: np.asarray(value) for name, value in out.maps.items()}, 'features': np.asarray(out.features)}


def first_difference(ours: Maps, theirs: Maps) -> str:
    """Return the name of the first map that differs; '' if none does, so that it is the classifier or what follows."""
    for name, own in ours.items():
        other = theirs.get(name)
        if other is None:
            continue
        scale = max(float(np.abs(own).max()), 1e-12)
        if other.shape != own.shape or not np.abs(other - own).max() <= CLOSE_MAP * scale:
            return name
    return 'the classifier'
