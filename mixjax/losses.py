"""Losses: pure functions on arrays, one value per example wherever the formula allows it.

The caller reduces (`.mean()`), weights or masks. Shapes: B examples, c target classes, m source
classes, d features. Logarithms are natural.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def cross_entropy(logits: Array, label: Array) -> Array:
    """-log softmax(logits)[label].

    Args:
      logits: (B, c).
      label: (B,) int.

    Returns:
      (B,)
    """
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, label[:, None], axis=-1)[:, 0]


def soft_cross_entropy(logits: Array, target: Array) -> Array:
    """sum_k -t_k log softmax(logits)_k.

    Args:
      logits: (B, c).
      target: (B, c), rows that sum to 1.

    Returns:
      (B,); it includes the target's own entropy.
    """
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def one_hot(label: Array, classes: int, smoothing: float = 0.0) -> Array:
    """(1 - e) y + e / c with e = `smoothing`; (B,) int -> (B, c).

    The uniform part includes the true class, as in Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567.
    """
    return (1 - smoothing) * jax.nn.one_hot(label, classes) + smoothing / classes


def mixed_cross_entropy(logits: Array, label: Array, label_mix: Array, lam: Array) -> Array:
    """lam CE(logits, label) + (1 - lam) CE(logits, label_mix).

    Zhang et al., mixup, https://arxiv.org/abs/1710.09412.

    Args:
      logits: (B, c) of the mixed images.
      label, label_mix: (B,) int, of the image and of its partner.
      lam: () or (B,), the share of the image itself.

    Returns:
      (B,)
    """
    return lam * cross_entropy(logits, label) + (1 - lam) * cross_entropy(logits, label_mix)


def safe_norm(x: Array) -> Array:
    """||x||_2 over all of `x`, with gradient 0 (not NaN) at x = 0, as torch has it."""
    square = jnp.sum(jnp.square(x))
    zero = square == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def feature_mixup(student: Array, teacher_mix: Array) -> Array:
    """SMILE's feature term: || teacher_mix - student ||_2 / (h w).

    One unsquared norm over the whole array, divided by the map's area only: not by B or C, so it
    grows with the square root of both. Li et al., SMILE, https://arxiv.org/abs/2103.13941, as in the
    released code.

    Args:
      student: (B, h, w, C) map of the mixed images; or (B, d), then h w = 1.
      teacher_mix: same shape, the mix of the teacher's maps of the unmixed images.

    Returns:
      ()
    """
    area = student.shape[1] * student.shape[2] if student.ndim == 4 else 1
    return safe_norm(teacher_mix - student) / area


def global_label(logits: Array) -> Array:
    """LaMix's learned label p = softmax(sigmoid(z)); (B, c) -> (B, c), rows sum to 1.

    The sigmoid bounds it: p_k lies in [1 / (1 + (c - 1) e), e / (e + c - 1)].
    """
    return jax.nn.softmax(jax.nn.sigmoid(logits))
