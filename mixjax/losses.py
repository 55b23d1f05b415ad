"""Loss functions: pure functions on arrays that return one value per example where the formula allows it.

The caller reduces (`.mean()`), weights or masks. Shapes: `B` examples, `c` target classes, `m` source classes, `d`
features; maps are `(B, h, w, C)`. Logarithms are natural. Shapes are checked by chex, which costs nothing inside `jit`.
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
    """Compute the softmax cross-entropy, -log softmax(logits)[label].

    Soft targets, such as the labels of mixed images, are passed on to `soft_cross_entropy`.

    Args:
      logits: Unnormalised scores, of shape (B, c).
      label: Class indices of shape (B,), or soft targets of shape (B, c).

    Returns:
      The loss of each example, of shape (B,).

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> logits = jnp.array([[0.0, 0.0], [2.0, 0.0]])
      >>> print(losses.cross_entropy(logits, jnp.array([1, 0])).round(4))
      [0.6931 0.1269]
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
    """Tell whether labels are soft targets of shape (B, c), rather than class indices of shape (B,).

    Args:
      label: Class indices of shape (B,), or soft targets of shape (B, c).

    Returns:
      True for soft targets.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> losses.is_soft(jnp.array([2, 0])), losses.is_soft(jnp.array([[0.5, 0.5]]))
      (False, True)
    """
    return label.ndim == 2


def soft_cross_entropy(logits: Array, target: Array) -> Array:
    """Compute the cross-entropy with soft targets, sum_k -t_k log softmax(logits)_k.

    Args:
      logits: Unnormalised scores, of shape (B, c).
      target: Soft targets of shape (B, c), rows that sum to 1.

    Returns:
      The loss of each example, of shape (B,). It includes the entropy of the target.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> logits = jnp.array([[2.0, 0.0]])
      >>> print(losses.soft_cross_entropy(logits, jnp.array([[0.5, 0.5]])).round(4))
      [1.1269]
    """
    _check_logits(logits)
    chex.assert_equal_shape([logits, target], custom_message='target must be (B, c) label rows, as logits')
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def sigmoid_cross_entropy(logits: Array, target: Array) -> Array:
    """Compute the loss of several labels an image: the binary cross-entropy of each label, mean over the labels.

    The mean over the labels is that of `torch.nn.BCEWithLogitsLoss`.

    Args:
      logits: Unnormalised scores, of shape (B, c).
      target: Of each label 1 or 0, or a number between for mixed images, of shape (B, c).

    Returns:
      The loss of each example, of shape (B,).

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> print(losses.sigmoid_cross_entropy(jnp.array([[0.0, 2.0]]), jnp.array([[1.0, 0.0]])).round(4))
      [1.41]
    """
    _check_logits(logits)
    chex.assert_equal_shape([logits, target], custom_message='target must be (B, c) label rows, as logits')
    return -jnp.mean(target * jax.nn.log_sigmoid(logits) + (1 - target) * jax.nn.log_sigmoid(-logits), axis=-1)


def squared_error(output: Array, target: Array) -> Array:
    """Compute the loss of regression: the squared error, mean over the numbers of an example.

    Args:
      output: What the network says, of shape (B, k).
      target: What it should say, of shape (B, k).

    Returns:
      The loss of each example, of shape (B,).

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> print(losses.squared_error(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]])))
      [2.]
    """
    chex.assert_rank(output, 2, custom_message='output must be (B, k)')
    chex.assert_equal_shape([output, target], custom_message='target must be (B, k), as output')
    return jnp.mean(jnp.square(output - target), axis=-1)


def one_hot(label: Array, classes: int, smoothing: float = 0.0) -> Array:
    """Encode labels as rows of class probabilities, smoothed if asked: (1 - e) y + e / c with e = `smoothing`.

    The uniform part includes the true class, as in Szegedy et al. 2016, https://arxiv.org/abs/1512.00567.

    Args:
      label: Class indices of shape (B,), or soft targets of shape (B, c).
      classes: The number of classes, c.
      smoothing: The share e that is spread evenly over all classes.

    Returns:
      Label rows of shape (B, c) that sum to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> print(losses.one_hot(jnp.array([0, 3]), 4, smoothing=0.5))
      [[0.625 0.125 0.125 0.125]
       [0.125 0.125 0.125 0.625]]
    """
    chex.assert_rank(label, {1, 2}, custom_message=LABEL)
    if is_soft(label):
        chex.assert_shape(label, (None, classes), custom_message=LABEL)
    y = label if is_soft(label) else jax.nn.one_hot(label, classes)
    return (1 - smoothing) * y + smoothing / classes


def label_rows(table: Array, label: Array) -> Array:
    """Look up the row of a table for each label; for soft targets, the mean of the rows weighted by the target.

    Args:
      table: One row per class, of shape (c, m).
      label: Class indices of shape (B,), or soft targets of shape (B, c).

    Returns:
      Rows of shape (B, m).

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> table = jnp.array([[0.0, 1.0], [4.0, 3.0]])
      >>> print(losses.label_rows(table, jnp.array([1, 0])))
      [[4. 3.]
       [0. 1.]]
      >>> print(losses.label_rows(table, jnp.array([[0.5, 0.5]])))
      [[2. 2.]]
    """
    chex.assert_rank(table, 2, custom_message='table must be (c, m)')
    chex.assert_rank(label, {1, 2}, custom_message=LABEL)
    return jnp.matmul(label, table, precision=HIGHEST) if is_soft(label) else table[label]


def mixed_cross_entropy(logits: Array, label: Array, label_mix: Array, lam: Array) -> Array:
    """Compute the loss of Mixup: lam CE(logits, label) + (1 - lam) CE(logits, label_mix).

    Zhang et al. 2018, mixup, https://arxiv.org/abs/1710.09412.

    Args:
      logits: Scores of the mixed images, of shape (B, c).
      label: Class indices of the images, of shape (B,).
      label_mix: Class indices of their partners, of shape (B,).
      lam: The share of the image itself: one number, or one per example of shape (B,).

    Returns:
      The loss of each example, of shape (B,).

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> logits = jnp.array([[2.0, 0.0]])
      >>> label, label_mix = jnp.array([0]), jnp.array([1])
      >>> print(losses.mixed_cross_entropy(logits, label, label_mix, jnp.array(0.5)).round(4))
      [1.1269]
    """
    _check_lam(lam, logits)
    return lam * cross_entropy(logits, label) + (1 - lam) * cross_entropy(logits, label_mix)


def safe_norm(x: Array) -> Array:
    """Compute the Euclidean norm of a whole array, with gradient 0 (not NaN) at 0, as torch has it.

    Args:
      x: An array of any shape.

    Returns:
      A scalar.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> print(losses.safe_norm(jnp.array([[3.0, 4.0]])))
      5.0
      >>> print(jax.grad(losses.safe_norm)(jnp.zeros(2)))
      [0. 0.]
    """
    square = jnp.sum(jnp.square(x))
    zero = square == 0
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def feature_mixup(student: Array, teacher_mix: Array) -> Array:
    """Compute SMILE's feature term, || teacher_mix - student ||_2 / (h w).

    One unsquared norm over the whole array, divided by the map's area only: not by B or C, so it grows with the
    square root of both. Li et al. 2021, SMILE, https://arxiv.org/abs/2103.13941, as in the released code.

    Args:
      student: The student's map of the mixed images, (B, h, w, C); or features (B, d), for which h w = 1.
      teacher_mix: The mix of the teacher's maps of the unmixed images, of the same shape.

    Returns:
      A scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> student, teacher = jnp.zeros((2, 2, 2, 1)), jnp.ones((2, 2, 2, 1))
      >>> print(losses.feature_mixup(student, teacher).round(4))  # sqrt(8) / 4
      0.7071
    """
    chex.assert_rank(student, {2, 4}, custom_message='feature maps must be (B, h, w, C) or (B, d)')
    chex.assert_equal_shape([student, teacher_mix], custom_message="the teacher's features must be as the student's")
    area = student.shape[1] * student.shape[2] if student.ndim == 4 else 1
    return safe_norm(teacher_mix - student) / area


def global_label(logits: Array) -> Array:
    """Compute LaMix's learned label, softmax(sigmoid(logits)).

    The sigmoid bounds it: every entry is in [1 / (1 + (c - 1) e), e / (e + c - 1)].

    Args:
      logits: Scores of the head that learns the label, of shape (B, c).

    Returns:
      Label rows of shape (B, c) that sum to 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> print(losses.global_label(jnp.zeros((1, 4))))
      [[0.25 0.25 0.25 0.25]]
    """
    _check_logits(logits)
    return jax.nn.softmax(jax.nn.sigmoid(logits))


def binary_cross_entropy(logits: Array, target: Array) -> Array:
    """Compute the binary cross-entropy of a softmax, averaged over classes.

    mean_k -[t_k log p_k + (1 - t_k) log(1 - p_k)] with p = softmax(logits), each logarithm at least -100. This is the
    objective of manifold mixup (https://arxiv.org/abs/1806.05236) and PuzzleMix in their released code: torch's
    `BCELoss` after a softmax, clamped as there. It is about c times smaller than `soft_cross_entropy`.

    Args:
      logits: Unnormalised scores, of shape (B, c).
      target: Soft targets of shape (B, c), in [0, 1].

    Returns:
      The loss of each example, of shape (B,).

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> logits, target = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]])
      >>> print(losses.binary_cross_entropy(logits, target).round(4))
      [0.6931]
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


def divergence(target: Array, logits: Array) -> Array:
    """Compute the Kullback-Leibler divergence of two predictions, sum_k p_k (log p_k - log q_k), from their logits.

    p = softmax(target) and q = softmax(logits). Gradients flow into both; stop that of `target` where it is a teacher.

    Args:
      target: Logits of p, of shape (B, c).
      logits: Logits of q, of shape (B, c).

    Returns:
      The divergence of each example, of shape (B,), at least 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> target, logits = jnp.zeros((1, 2)), jnp.log(jnp.array([[0.9, 0.1]]))
      >>> print(losses.divergence(target, logits).round(4))  # log(0.5 / 0.9) / 2 + log(0.5 / 0.1) / 2
      [0.5108]
    """
    _check_logits(logits)
    chex.assert_equal_shape([target, logits], custom_message='both predictions must be logits of shape (B, c)')
    log_p, log_q = jax.nn.log_softmax(target), jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)


def supervised_contrastive(features: Array, label: Array, temperature: float = 0.07) -> Array:
    """Compute the supervised contrastive loss, in which the examples of a class attract each other.

    With f the features at length 1, P(i) the other examples of i's class and A(i) all other examples:

        l_i = - mean_{p in P(i)} log( exp(f_i f_p / T) / sum_{a in A(i)} exp(f_i f_a / T) )

    It is 0 for an example that is alone in its class. Khosla et al. 2020, Supervised Contrastive Learning,
    https://arxiv.org/abs/2004.11362, L_out; their code multiplies it by T / 0.07.

    Args:
      features: Features of all views of a batch, of shape (N, d), of any length.
      label: Class indices of shape (N,).
      temperature: T, above 0.

    Returns:
      The loss of each example, of shape (N,).

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> features, label = jnp.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]]), jnp.array([0, 0, 1])
      >>> found = losses.supervised_contrastive(features, label, 1.0)  # log(1 + 1 / e), twice
      >>> [round(abs(float(one)), 4) for one in found]
      [0.3133, 0.3133, 0.0]
    """
    chex.assert_rank(features, 2, custom_message='features must be (N, d)')
    chex.assert_shape(label, (len(features),), custom_message='label must be (N,) class indices, one for each row')
    square = jnp.sum(jnp.square(features), axis=-1, keepdims=True)
    unit = features * jax.lax.rsqrt(jnp.maximum(square, 1e-12))
    logits = jnp.matmul(unit, unit.T, precision=HIGHEST) / temperature
    itself = jnp.eye(len(features), dtype=bool)
    # A finite number and not -inf, so that a batch of one example has no NaN.
    log_p = jax.nn.log_softmax(jnp.where(itself, jnp.finfo(logits.dtype).min, logits))
    positive = (label[:, None] == label) & ~itself
    return -jnp.sum(jnp.where(positive, log_p, 0), axis=-1) / jnp.maximum(positive.sum(axis=-1), 1)


def squared_norm(tree: Tree) -> Array:
    """Sum the squares of all arrays of a pytree.

    Args:
      tree: A pytree of arrays.

    Returns:
      A scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> print(losses.squared_norm({'kernel': jnp.array([1.0, 2.0]), 'bias': jnp.array([2.0])}))
      9.0
    """
    return jnp.asarray(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))


def l2sp(params: Tree, start: Tree) -> Array:
    """Compute half the squared distance from the starting point, 0.5 sum ||w - w0||^2.

    Li et al. 2018, L2-SP, https://arxiv.org/abs/1802.01483.

    Args:
      params: A pytree of the current parameters; leave the head out.
      start: A pytree of the pretrained parameters, with the same structure and shapes.

    Returns:
      A scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> print(losses.l2sp({'w': jnp.array([3.0, 1.0])}, {'w': jnp.array([1.0, 1.0])}))
      2.0
    """
    chex.assert_trees_all_equal_shapes(
        params, start, custom_message='params and start must have the same structure and shapes'
    )
    return 0.5 * squared_norm(jax.tree.map(jnp.subtract, params, start))


def attention(score: Array) -> Array:
    """Compute DELTA's channel weights, softmax(z / 5) of the standardised scores z.

    z = (score - mean) / standard deviation, over the channels. Equal scores give equal weights, without NaN.

    Args:
      score: How much each channel matters, of shape (..., C).

    Returns:
      Weights of shape (..., C) that sum to 1 over the channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> print(losses.attention(jnp.array([0.0, 0.0, 3.0])).round(4))
      [0.2834 0.2834 0.4332]
    """
    centred = score - jnp.mean(score, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return jax.nn.softmax(centred / jnp.sqrt(jnp.where(variance == 0, 1.0, variance)) / 5)


def map_distance(student: Array, start: Array) -> Array:
    """Compute the distance of feature maps without attention, 0.5 ||F - F0||^2.

    The form of DELTA that weighs all channels alike; it is not divided by the map's area. Li et al. 2019,
    https://arxiv.org/abs/1901.09229. The released code sums over the batch instead of averaging.

    Args:
      student: Feature maps of shape (B, h, w, C).
      start: Feature maps of the pretrained network, of the same shape.

    Returns:
      The distance of each example, of shape (B,).

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> print(losses.map_distance(jnp.ones((1, 2, 2, 3)), jnp.zeros((1, 2, 2, 3))))
      [6.]
    """
    _check_maps(student, start)
    return 0.5 * jnp.sum(_squared_difference(student, start), axis=(1, 2, 3))


def attention_distance(student: Array, start: Array, weight: Array) -> Array:
    """Compute DELTA's distance of feature maps, sum_ch a_ch ||F_ch - F0_ch||^2 / (h w).

    Times 0.5 C it is the distance in the code of DELTA's authors; as it stands, that of the SMILE repository. Both
    sum over the batch.

    Args:
      student: Feature maps of shape (B, h, w, C).
      start: Feature maps of the pretrained network, of the same shape.
      weight: The weight of each channel, of shape (C,); see `attention`.

    Returns:
      The distance of each example, of shape (B,).

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> weight = jnp.array([0.75, 0.25])
      >>> print(losses.attention_distance(2 * jnp.ones((1, 3, 3, 2)), jnp.zeros((1, 3, 3, 2)), weight))
      [4.]
    """
    _check_maps(student, start)
    chex.assert_shape(weight, (student.shape[-1],), custom_message='weight must be (C,), one number for each channel')
    return jnp.sum(weight * jnp.mean(_squared_difference(student, start), axis=(1, 2)), axis=-1)


def _squared_difference(a: Array, b: Array) -> Array:
    """Square a - b in float32 at least: bfloat16 maps are close to each other."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.square(a.astype(wide) - b.astype(wide))


def batch_spectral_shrinkage(features: Array, k: int = 1) -> Array:
    """Sum the k smallest squared singular values of a batch of features (BSS).

    Not divided by B or d. Chen et al. 2019,
    https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html.

    The gradient is 2 sum_i sigma_i u_i v_i^T. Differentiating the decomposition itself would divide by differences of
    singular values, which are 0 for repeated ones. Here u are constants, and sigma_i v_i = F^T u_i is linear in F: the
    same gradient, and finite everywhere.

    Args:
      features: Pooled features of shape (B, d).
      k: How many of the min(B, d) singular values are summed.

    Returns:
      A scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> features = jnp.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
      >>> print(losses.batch_spectral_shrinkage(features, k=1).round(4))
      4.0
    """
    chex.assert_rank(features, 2, custom_message='features must be (B, d)')
    wide = features if features.shape[0] <= features.shape[1] else features.T
    u = least_left(jax.lax.stop_gradient(wide), min(k, wide.shape[0]))
    return jnp.sum(jnp.square(jnp.matmul(u.T, wide, precision=HIGHEST)))


def least_left(a: Array, k: int) -> Array:
    """Find the left singular vectors of the k smallest singular values of a wide matrix.

    They are eigenvectors of a a^T (n, n), many times cheaper than singular vectors of `a`. But its eigenvalues are
    squares: below about 1e-3 of the largest singular value float32 holds nothing but rounding errors. So, as long as
    that is where the k smallest are, the large ones are left out and the rest is decomposed again, in the basis found
    so far. What remains are a few roundings of the largest singular value. Features of networks take one to three
    rounds.

    Args:
      a: A matrix of shape (n, m), with n <= m.
      k: How many vectors, at most n.

    Returns:
      The vectors as columns, of shape (n, k), in the order of rising singular values.

    Example:
      >>> import jax.numpy as jnp
      >>> from mixjax import losses
      >>> print(jnp.abs(losses.least_left(jnp.array([[3.0, 0.0], [0.0, 2.0]]), 1)))
      [[0.]
       [1.]]
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
