"""Test-time augmentation: the mean probability over fixed views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax.data.feed import augment, specification, tta
from mixjax.data.feed.augment import Geometry
from mixjax.errors import UserError

GEOMETRY = Geometry(4, 0, True, (0.25,), (0.5,))
X = np.random.RandomState(0).randint(0, 256, (3, 7, 6, 1), np.uint8)
KERNEL = jnp.asarray(np.random.RandomState(1).randn(16, 5) * 3, jnp.float32)


def classify(inputs):
    return inputs.reshape(len(inputs), -1) @ KERNEL


def by_hand(windows):
    """The logarithm of the mean probability over windows of the images."""
    each = [np.asarray(classify((w / np.float32(255) - 0.25) / 0.5), np.float64) for w in windows]
    each = [np.exp(one) / np.exp(one).sum(-1, keepdims=True) for one in each]
    return np.log(np.mean(each, axis=0))


CROPS = [X[:, 1:5, 1:5], X[:, :4, :4], X[:, :4, 2:], X[:, 3:, :4], X[:, 3:, 2:]]


@pytest.mark.parametrize(
    ('text', 'windows'),
    [
        ('flip', [CROPS[0], CROPS[0][:, :, ::-1]]),
        ('crops', CROPS),
        ('flip,crops', CROPS + [one[:, :, ::-1] for one in CROPS]),
        ('crops, flip', CROPS + [one[:, :, ::-1] for one in CROPS]),
    ],
)
def test_views_by_hand(text, windows):
    seen = []

    def apply(inputs):
        jax.debug.callback(lambda x: seen.append(np.asarray(x)), inputs, ordered=True)
        return classify(inputs)

    found = jax.jit(lambda x: tta.logits(apply, x, GEOMETRY, text))(X)
    jax.effects_barrier()
    np.testing.assert_allclose(found, by_hand(windows), rtol=1e-5, atol=1e-5)
    assert len(seen) == len(windows)
    for view, window in zip(seen, windows, strict=True):
        np.testing.assert_allclose(view, (window / 255 - 0.25) / 0.5, atol=1e-6)


def test_without_it_the_program_is_that_of_the_centre_crop():
    plain = jax.jit(lambda x: classify(augment.centre(x, GEOMETRY))).lower(X).as_text()
    assert jax.jit(lambda x: tta.logits(classify, x, GEOMETRY)).lower(X).as_text() == plain


def test_probabilities_are_averaged_and_not_logits():
    """Two views, of which one is sure of class 0 and the other is undecided between 1 and 2."""
    image = np.array([0, 255, 0, 255], np.uint8).reshape(1, 2, 2, 1)
    table = jnp.log(jnp.array([[1.0, 1e-6, 1e-6], [1e-6, 0.5, 0.5]]))
    geometry = Geometry(2, 0, False, (0.0,), (1.0,))
    found = tta.logits(lambda x: table[(x[:, 0, 0, 0] > 0.5).astype(jnp.int32)], image, geometry, 'flip')
    np.testing.assert_allclose(jnp.exp(found), [[0.5, 0.25, 0.25]], atol=1e-5)


def test_images_smaller_than_the_crop_have_the_border_of_the_centre_crop():
    geometry = GEOMETRY._replace(crop=8, mean=(0.0,), std=(1.0,))
    found = tta.logits(lambda x: x.reshape(3, -1), X, geometry, 'flip')
    centred = augment.centre(X, geometry)
    each = [jax.nn.softmax(x.reshape(3, -1), -1) for x in (centred, centred[:, :, ::-1])]
    np.testing.assert_allclose(jnp.exp(found), sum(each) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('flips', "'flips' is not one of flip, crops; did you mean 'flip'"),
        ('flip,flip', "'flip,flip' names an operation twice"),
        ('crops(5)', r"'crops\(5\)' has 1 numbers; write crops"),
    ],
)
def test_wrong_settings_are_one_sentence(text, sentence):
    with pytest.raises(UserError, match=sentence):
        specification.views(text)
