"""A wrong shape ends in a message that says what it should be, outside of `jit` and inside, and costs nothing there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import losses, mix
from mixjax.maths import class_pairing, puzzle


def zeros(*shape):
    return jnp.zeros(shape)


IMAGES, MAPS, LOGITS, LABEL = zeros(2, 8, 8, 3), zeros(2, 4, 4, 5), zeros(2, 3), jnp.zeros(2, int)
OTHER = zeros(3, 8, 8, 3)
PUZZLE = {'mean': (0.0,) * 3, 'std': (1.0,) * 3}

WRONG = {
    'logits must be (B, c)': [
        (losses.cross_entropy, LOGITS[0], LABEL),
        (losses.soft_cross_entropy, LOGITS[0], LOGITS[0]),
        (losses.mixed_cross_entropy, LOGITS[None], LABEL, LABEL, 0.5),
        (losses.binary_cross_entropy, LOGITS[0], LOGITS[0]),
        (losses.global_label, LOGITS[0]),
    ],
    'label must be (B,)': [
        (losses.cross_entropy, LOGITS, LABEL[:, None]),
        (losses.cross_entropy, LOGITS, LABEL[:1]),
        (losses.mixed_cross_entropy, LOGITS, LABEL, LABEL[:1], 0.5),
        (losses.one_hot, LABEL[:, None], 3),
    ],
    'target must be (B, c)': [
        (losses.soft_cross_entropy, LOGITS, LABEL),
        (losses.soft_cross_entropy, LOGITS, LOGITS[:1]),
        (losses.binary_cross_entropy, LOGITS, LABEL),
    ],
    'lam must be () or (B,)': [
        (losses.mixed_cross_entropy, LOGITS, LABEL, LABEL, zeros(2, 1)),
        (losses.mixed_cross_entropy, LOGITS, LABEL, LABEL, zeros(3)),
        (mix.blend, zeros(2, 1), LOGITS, LOGITS),
        (mix.blend, zeros(3), LOGITS, LOGITS),
    ],
    'feature maps must be': [
        (losses.feature_mixup, MAPS[0], MAPS[0]),
        (losses.map_distance, MAPS[0], MAPS[0]),
        (losses.attention_distance, LOGITS, LOGITS, zeros(3)),
    ],
    "the teacher's features must be": [(losses.feature_mixup, MAPS, MAPS[:1])],
    'both feature maps must have the same shape': [
        (losses.map_distance, MAPS, MAPS[:1]),
        (losses.attention_distance, MAPS, MAPS[:, :1], zeros(5)),
    ],
    'weight must be (C,)': [(losses.attention_distance, MAPS, MAPS, zeros(2, 5))],
    'features must be (B, d)': [(losses.batch_spectral_shrinkage, MAPS)],
    'shape': [(losses.l2sp, {'a': zeros(2)}, {'a': zeros(1)})],
    'what is blended must have the same shape': [(mix.blend, 0.5, IMAGES, OTHER), (mix.blend, 0.5, IMAGES, LABEL)],
    'index must be (B,) or (groups, B / groups)': [(mix.partner, IMAGES, jnp.zeros((1, 1, 2), int))],
    'one position for each example': [(mix.partner, IMAGES, jnp.zeros((2, 2), int)), (mix.partner, IMAGES, LABEL[:1])],
    'centre must be (.., 2)': [(mix.cut_box, 0.5, jnp.zeros(3, int), 8, 8)],
    'box must be (.., 4)': [(mix.box_mask, jnp.zeros(3, int), 8, 8), (mix.box_lam, jnp.zeros(3, int), 8, 8)],
    'mask must be (H, W)': [(mix.paste, zeros(8) > 0, IMAGES, IMAGES)],
    "the images' height and width": [(mix.paste, zeros(4, 8) > 0, IMAGES, IMAGES)],
    'images must be (B, H, W, C)': [(mix.paste, zeros(8, 8) > 0, IMAGES[0], IMAGES[0])],
    'both images must have the same shape': [(mix.paste, zeros(8, 8) > 0, IMAGES, OTHER)],
    'image must be (B, H, W, C)': [
        (puzzle.saliency, lambda x: LOGITS, IMAGES[0], LABEL),
        (lambda x: puzzle.mix(jax.random.key(0), x, zeros(2, 8, 8), LABEL, 0.5, **PUZZLE), IMAGES[0]),
    ],
    'u must be (B, H, W)': [
        (lambda u: puzzle.mix(jax.random.key(0), IMAGES, u, LABEL, 0.5, **PUZZLE), IMAGES),
    ],
    'saliency must be (B, H, H)': [
        (lambda u: puzzle.masks(IMAGES, IMAGES, u, u, jnp.asarray(0.5), blocks=4), IMAGES),
    ],
    'lam must be one number': [
        (lambda lam: puzzle.masks(IMAGES, IMAGES, IMAGES[..., 0], IMAGES[..., 0], lam, blocks=4), zeros(2)),
    ],
    'mask must be (B, n, n)': [
        (lambda m: puzzle.combined(IMAGES, IMAGES, IMAGES[..., 0], IMAGES[..., 0], m, puzzle.RELEASED), zeros(4, 4)),
    ],
}  # fmt: skip
CASES = [(words, *call) for words, calls in WRONG.items() for call in calls]


@pytest.mark.parametrize('words, function, arguments', [(words, f, a) for words, f, *a in CASES])
def test_wrong_shapes_are_refused(words, function, arguments):
    with pytest.raises(AssertionError) as told:
        function(*arguments)
    assert words in str(told.value)


@pytest.mark.parametrize(
    ('words', 'function', 'arguments'),
    [
        ('features must be (n, d)', class_pairing.centroids, (np.zeros(3), np.zeros(3, int), 2)),
        ('one for each row of features', class_pairing.centroids, (np.zeros((3, 2)), np.zeros(2, int), 2)),
        ('features must be (classes, d)', class_pairing.cosine, (np.zeros(3), np.zeros((3, 2)))),
        ('the same width d', class_pairing.cosine, (np.zeros((3, 3)), np.zeros((3, 2)))),
        ('score must be (target classes, source classes)', class_pairing.greedy, (np.zeros(3),)),
        ('score must be (target classes, source classes)', class_pairing.assignment, (np.zeros(3),)),
        ('score must be (target classes, source classes)', class_pairing.pair, (np.zeros(3), np.ones(3))),
        ('sizes must be (m,)', class_pairing.pair, (np.zeros((2, 3)), np.ones(2))),
    ],
)
def test_wrong_shapes_are_refused_on_the_host(words, function, arguments):
    with pytest.raises(AssertionError) as told:
        function(*arguments)
    assert words in str(told.value)


def test_wrong_shapes_are_refused_inside_jit_and_checks_add_no_ops():
    with pytest.raises(AssertionError, match='label must be'):
        jax.jit(losses.cross_entropy)(LOGITS, LABEL[:, None])
    program = str(jax.make_jaxpr(losses.map_distance)(MAPS, MAPS))
    assert 'callback' not in program and 'check' not in program
