"""Losses: pure functions on arrays, one value per example wherever the formula allows it.

The caller reduces (`.mean()`), weights or masks. Shapes: B examples, c target classes, m source
classes, d features. Logarithms are natural. Shapes are checked by chex, which costs nothing inside `jit`.
"""

from __future__ import annotations

from typing import Any

import chex
import jax
import jax.numpy as jnp

Array = jax.Array
HIGHEST = jax.lax.Precision.HIGHEST
Tree = Any
LABEL = 'label must be (B,) class indices or (B, c) soft targets'  # in messages


def cross_entropy(logits: Array, label: Array) -> Array:
    """-log softmax(logits)[label]; of soft targets, `soft_cross_entropy`.

    Args:
      logits: (B, c).
      label: (B,) int, or (B, c) soft targets, such as mixed labels.

    Returns:
      (B,)
    """
    _check_logits(logits)
    chex.assert_shape(label, (len(logits), ...), custom_message=LABEL)
    if is_soft(label):
        chex.assert_equal_shape([logits, label], custom_message=LABEL)
        return soft_cross_entropy(logits, label)
    chex.assert_rank(label, 1, custom_message=LABEL)
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, label[:, None], axis=-1)[:, 0]


def is_soft(label: Array) -> bool:
    """Whether labels are soft targets (B, c), and not class numbers (B,)."""
    return label.ndim == 2


def soft_cross_entropy(logits: Array, target: Array) -> Array:
    """sum_k -t_k log softmax(logits)_k.

    Args:
      logits: (B, c).
      target: (B, c), rows that sum to 1.

    Returns:
      (B,); it includes the target's own entropy.
    """
    _check_logits(logits)
    chex.assert_equal_shape([logits, target], custom_message='target must be (B, c) label rows, as logits')
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def one_hot(label: Array, classes: int, smoothing: float = 0.0) -> Array:
    """(1 - e) y + e / c with e = `smoothing`; (B,) int or (B, c) soft targets -> (B, c).

    The uniform part includes the true class, as in Szegedy et al. 2016,
    https://arxiv.org/abs/1512.00567.
    """
    chex.assert_rank(label, {1, 2}, custom_message=LABEL)
    if is_soft(label):
        chex.assert_shape(label, (None, classes), custom_message=LABEL)
    y = label if is_soft(label) else jax.nn.one_hot(label, classes)
    return (1 - smoothing) * y + smoothing / classes


def label_rows(table: Array, label: Array) -> Array:
    """The row of `table` for each label; for soft targets, the mean of the rows weighted by the target.

    Args:
      table: (c, m), a row for each class.
      label: (B,) int, or (B, c) soft targets.

    Returns:
      (B, m)
    """
    chex.assert_rank(table, 2, custom_message='table must be (c, m)')
    chex.assert_rank(label, {1, 2}, custom_message=LABEL)
    return jnp.matmul(label, table, precision=HIGHEST) if is_soft(label) else table[label]


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
    _check_lam(lam, logits)
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
    chex.assert_rank(student, {2, 4}, custom_message='feature maps must be (B, h, w, C) or (B, d)')
    chex.assert_equal_shape([student, teacher_mix], custom_message="the teacher's features must be as the student's")
    area = student.shape[1] * student.shape[2] if student.ndim == 4 else 1
    return safe_norm(teacher_mix - student) / area


def global_label(logits: Array) -> Array:
    """LaMix's learned label p = softmax(sigmoid(z)); (B, c) -> (B, c), rows sum to 1.

    The sigmoid bounds it: p_k lies in [1 / (1 + (c - 1) e), e / (e + c - 1)].
    """
    _check_logits(logits)
    return jax.nn.softmax(jax.nn.sigmoid(logits))


def binary_cross_entropy(logits: Array, target: Array) -> Array:
    """mean_k -[t_k log p_k + (1 - t_k) log(1 - p_k)] with p = softmax(z), each logarithm at least -100.

    The objective of manifold mixup (https://arxiv.org/abs/1806.05236) and PuzzleMix in their released
    code: torch's `BCELoss` after a softmax, clamped as there. It is about c times smaller than `soft_cross_entropy`.

    Args:
      logits: (B, c).
      target: (B, c), in [0, 1].

    Returns:
      (B,)
    """
    _check_logits(logits)
    chex.assert_equal_shape([logits, target], custom_message='target must be (B, c) label rows, as logits')
    log_p = jax.nn.log_softmax(logits)
    # Only the largest p can be near 1, where 1 - p cancels: there log(1 - p) is that of the other classes' sum.
    top = jnp.arange(logits.shape[-1]) == jnp.argmax(logits, axis=-1, keepdims=True)
    others = jnp.where(top, jnp.finfo(logits.dtype).min, log_p)
    log_rest = jax.nn.logsumexp(others, axis=-1, keepdims=True)
    # The inner `where` keeps the gradient of the branch that is not taken finite.
    log_q = jnp.where(top, log_rest, jnp.log1p(-jnp.where(top, 0.0, jnp.exp(log_p))))
    return -jnp.mean(target * jnp.maximum(log_p, -100.0) + (1 - target) * jnp.maximum(log_q, -100.0), axis=-1)


def squared_norm(tree: Tree) -> Array:
    """sum ||w||^2 over all arrays of a pytree; ()."""
    return jnp.asarray(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def l2sp(params: Tree, start: Tree) -> Array:
    """0.5 sum ||w - w0||^2, the distance from the starting point; Li et al., https://arxiv.org/abs/1802.01483.

    Args:
      params, start: pytrees of the same structure; the caller leaves the head out.

    Returns:
      ()
    """
    chex.assert_trees_all_equal_shapes(
        params, start, custom_message='params and start must have the same structure and shapes'
    )
    return 0.5 * squared_norm(jax.tree.map(jnp.subtract, params, start))


def attention(score: Array) -> Array:
    """DELTA's channel weights: softmax(z / 5) of the standardised scores z; (.., C) -> (.., C), rows sum to 1.

    z = (score - mean) / population standard deviation. Equal scores give equal weights, without NaN.
    """
    centred = score - jnp.mean(score, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return jax.nn.softmax(centred / jnp.sqrt(jnp.where(variance == 0, 1.0, variance)) / 5)


def map_distance(student: Array, start: Array) -> Array:
    """0.5 ||F - F0||^2 of each example's map: DELTA without attention, not divided by the map's area.

    Li et al., https://arxiv.org/abs/1901.09229. The released code adds up the batch; it takes no mean.

    Args:
      student, start: (B, h, w, C).

    Returns:
      (B,)
    """
    _check_maps(student, start)
    return 0.5 * jnp.sum(_squared_difference(student, start), axis=(1, 2, 3))


def attention_distance(student: Array, start: Array, weight: Array) -> Array:
    """sum_ch a_ch ||F_ch - F0_ch||^2 / (h w) of each example's map.

    Times 0.5 C it is DELTA's distance in its authors' code; as it stands, that of the SMILE
    repository. Both add up the batch.

    Args:
      student, start: (B, h, w, C).
      weight: (C,), see `attention`.

    Returns:
      (B,)
    """
    _check_maps(student, start)
    chex.assert_shape(weight, (student.shape[-1],), custom_message='weight must be (C,), one number for each channel')
    return jnp.sum(weight * jnp.mean(_squared_difference(student, start), axis=(1, 2)), axis=-1)


def _squared_difference(a: Array, b: Array) -> Array:
    """(a - b)^2, in float32 at least: bfloat16 maps are close to each other."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.square(a.astype(wide) - b.astype(wide))


def batch_spectral_shrinkage(features: Array, k: int = 1) -> Array:
    """BSS: the sum of the k smallest squared singular values of a batch of features.

    Neither divided by B nor by d. Chen et al. 2019,
    https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html.

    The gradient is 2 sum_i sigma_i u_i v_i^T. Differentiating the decomposition itself would divide by
    differences of singular values, which are 0 for repeated ones. Here u are constants, and sigma_i v_i = F^T u_i
    is linear in F: the same gradient, and finite everywhere.

    Args:
      features: (B, d).
      k: how many of the min(B, d) singular values.

    Returns:
      ()
    """
    chex.assert_rank(features, 2, custom_message='features must be (B, d)')
    wide = features if features.shape[0] <= features.shape[1] else features.T
    u = least_left(jax.lax.stop_gradient(wide), min(k, wide.shape[0]))
    return jnp.sum(jnp.square(jnp.matmul(u.T, wide, precision=HIGHEST)))


def least_left(a: Array, k: int) -> Array:
    """The left singular vectors of the k smallest singular values of `a` (n, m), n <= m: (n, k).

    Eigenvectors of a a^T (n, n), many times cheaper than singular vectors of `a`. But its eigenvalues are squares:
    below about 1e-3 of the largest singular value float32 holds nothing but rounding errors. So, as long as that is
    where the k smallest are, the large ones are left out and the rest is decomposed again, in the basis found so far.
    What remains are a few roundings of the largest singular value. Features of networks take one to three rounds.
    """
    n = a.shape[0]

    def round_of(u: Array, out: Array) -> tuple[Array, Array, Array]:
        rest = jnp.where(out[:, None], 0, jnp.matmul(u.T, a, precision=HIGHEST))
        gram = jnp.matmul(rest, rest.T, precision=HIGHEST)
        above = 2 * jnp.trace(gram)  # what was left out comes behind the rest, in its order
        behind = jnp.where(out, above * (1 + jnp.arange(n) / n), 0).astype(a.dtype)
        values, w = jnp.linalg.eigh(gram + jnp.diag(behind))
        large = values > 0.01 * jnp.max(jnp.where(values < 0.75 * above, values, 0))
        return jnp.matmul(u, w, precision=HIGHEST), large, ~large[k - 1]

    first = (*round_of(jnp.eye(n, dtype=a.dtype), jnp.zeros(n, bool)), 1)
    u, *_ = jax.lax.while_loop(
        lambda state: state[2] & (state[3] < 6),
        lambda state: (*round_of(state[0], state[1]), state[3] + 1),
        first,
    )
    return u[:, :k]


# --- shapes -----------------------------------------------------------------------------------------------------------


def _check_logits(logits: Array) -> None:
    chex.assert_rank(logits, 2, custom_message='logits must be (B, c)')


def _check_maps(student: Array, start: Array) -> None:
    chex.assert_rank(student, 4, custom_message='feature maps must be (B, h, w, C)')
    chex.assert_equal_shape([student, start], custom_message='both feature maps must have the same shape')


def _check_lam(lam: Array, x: Array) -> None:
    chex.assert_rank(lam, {0, 1}, custom_message='lam must be () or (B,)')
    if jnp.ndim(lam):
        chex.assert_shape(lam, (len(x),), custom_message='lam must be () or (B,)')
