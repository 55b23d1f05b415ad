"""Interpolation loss, the distance of a network from linearity between two images (SMILE, Eq. 1 and Table 4).

    IL(f) = E_lam || f(lam x1 + (1 - lam) x2) - (lam f(x1) + (1 - lam) f(x2)) ||_2^2

In the label-IL f is the classifier's output, in the feature-IL the last hidden layer. The paper leaves open the
distribution of lam, whether outputs are probabilities or logits, and their scale; so all of these are measured:

    outputs  probabilities (at most 2), logits
    scales   raw: as in the formula; mean: divided by the number of outputs; unit: f(x) is divided by its norm first,
             so that networks whose outputs differ in size can be compared
    lam      the midpoints of equal parts of [0, 1]: their mean is the expectation under U(0, 1), and the curve over
             lam is kept, for any other distribution
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from mixjax import mix

Array = jax.Array
OUTPUTS, SCALES = ('probabilities', 'logits'), ('raw', 'mean', 'unit')


def unit(f: Array) -> Array:
    """Scale the last axis to length 1; vectors of zeros stay zero."""
    norm = jnp.linalg.norm(f, axis=-1, keepdims=True)
    return f / jnp.where(norm == 0, 1.0, norm)


def gap(mixed: Array, first: Array, second: Array, lam: Array, scale: str = 'raw') -> Array:
    """Return || mixed - (lam first + (1 - lam) second) ||^2 of each pair.

    Args:
      mixed: (B, d), f of the mixed images.
      first: (B, d), f of the first images.
      second: (B, d), f of the second images.
      lam: () or (B,), the weight of the first.
      scale: one of SCALES.

    Returns:
      (B,)
    """
    if scale == 'unit':
        mixed, first, second = unit(mixed), unit(first), unit(second)
    square = jnp.sum(jnp.square(mixed - mix.blend(lam, first, second)), axis=-1)
    return square / mixed.shape[-1] if scale == 'mean' else square


def midpoints(count: int) -> np.ndarray:
    """Return the midpoints of `count` equal parts of [0, 1]."""
    return (np.arange(count) + 0.5) / count


def partners(count: int, seed: int = 0) -> np.ndarray:
    """Draw a random partner for each of `count` > 1 examples, never itself: one cycle through all of them."""
    order = np.random.RandomState(seed).permutation(count)
    out = np.empty(count, np.int64)
    out[order] = np.roll(order, -1)
    return out


def outputs(found: Mapping[str, Array]) -> dict[str, Array]:
    """Return every f that is measured, from a network's `logits` and `features`."""
    logits, features = found['logits'], found['features']
    return {'probabilities': jax.nn.softmax(logits), 'logits': logits, 'features': features}


def curve(
    forward: Callable[[Array], Mapping[str, Array]], images: Array, partner: np.ndarray, lams: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the interpolation loss of every output and scale at each lam.

    Args:
      forward: (n, ..) images -> {'logits': (n, c), 'features': (n, d)}.
      images: (n, ..), the inputs of the network.
      partner: (n,), the row of the second image of each pair.
      lams: (L,), the weights of the first image.

    Returns:
      {'logits raw': (L,), ..}, means over the pairs.
    """
    clean = outputs(forward(images))
    found: dict[str, list[float]] = {}
    for lam in lams:
        mixed = outputs(forward(mix.blend(jnp.asarray(lam), images, images[partner])))
        for name, f in clean.items():
            for scale in SCALES:
                mean = gap(mixed[name], f, f[partner], jnp.asarray(lam), scale).mean()
                found.setdefault(f'{name} {scale}', []).append(float(mean))
    return {name: np.asarray(values) for name, values in found.items()}
