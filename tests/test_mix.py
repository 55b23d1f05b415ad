import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixjax import losses, mix
from tests.support.common import fixture


@settings(max_examples=30, deadline=None)
@given(lam=st.floats(0, 1), shape=st.sampled_from([(3,), (3, 2), (3, 4, 4, 1)]))
def test_blend_is_linear_and_keeps_its_ends(lam, shape):
    a, b = np.random.RandomState(0).randn(2, *shape).astype(np.float32)
    np.testing.assert_allclose(mix.blend(lam, a, b), lam * a + (1 - lam) * b, atol=1e-6)
    np.testing.assert_array_equal(mix.blend(1.0, a, b), a)
    np.testing.assert_array_equal(mix.blend(0.0, a, b), b)


def test_blend_takes_one_lam_for_each_example():
    a, b = jnp.ones((2, 3, 3, 1)), jnp.zeros((2, 3, 3, 1))
    out = mix.blend(jnp.array([0.25, 0.75]), a, b)
    np.testing.assert_array_equal(out[:, 0, 0, 0], [0.25, 0.75])


def test_maps_in_bfloat16_are_blended_by_the_lam_of_the_labels():
    a, b = jnp.full((1, 2), 256, jnp.bfloat16), jnp.zeros((1, 2), jnp.bfloat16)
    out = mix.blend(jnp.float32(0.998), a, b)  # 1.0 where lam is rounded to bfloat16
    assert out.dtype == jnp.bfloat16 and out[0, 0] == jnp.bfloat16(0.998 * 256) == 255


@pytest.mark.parametrize('groups', [1, 2, 4])
def test_partner_permutes_images_and_labels_alike_within_groups(groups):
    batch = 8
    index = jnp.stack([jax.random.permutation(k, batch // groups) for k in jax.random.split(jax.random.key(1), groups)])
    label = jnp.arange(batch)
    image = jnp.broadcast_to(label[:, None, None, None], (batch, 2, 2, 1))
    swapped = mix.partner(label, index)
    np.testing.assert_array_equal(mix.partner(image, index)[:, 0, 0, 0], swapped)
    np.testing.assert_array_equal(jnp.sort(swapped), label)
    np.testing.assert_array_equal(swapped // (batch // groups), label // (batch // groups))


def test_a_permutation_of_the_whole_batch_is_one_group():
    order, label = jnp.array([2, 0, 1]), jnp.array([5, 6, 7])
    image = jnp.arange(3 * 4.0).reshape(3, 2, 2, 1)
    np.testing.assert_array_equal(mix.partner(label, order), [7, 5, 6])
    np.testing.assert_array_equal(mix.partner(image, order), image[order])
    np.testing.assert_array_equal(mix.partner(image, order), mix.partner(image, order[None]))
    np.testing.assert_array_equal(jax.jit(mix.partner)(image, order), image[order])
    with pytest.raises(AssertionError, match='one position for each example'):
        mix.partner(label, jnp.array([1, 0]))


@pytest.mark.parametrize(('a', 'b'), [(1.0, 1.0), (0.2, 0.2), (4.0, 1.0), (0.5, 1.0), (2.0, 2.0)])
def test_beta_has_the_moments_of_the_beta_distribution(a, b):
    lam = mix.beta(jax.random.key(0), a, b, (20_000,))
    mean, variance = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
    np.testing.assert_allclose(lam.mean(), mean, atol=4 * (variance / 20_000) ** 0.5)
    np.testing.assert_allclose(lam.var(), variance, rtol=0.05)


def test_fold():
    np.testing.assert_allclose(mix.fold(jnp.array([0.2, 0.5, 0.9])), [0.8, 0.5, 0.9])


# --- CutMix -----------------------------------------------------------------------------------------------------------


class CutBoxes(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_cut_boxes_equal_the_authors_code(self):
        f = fixture('cutmix')
        with jax.enable_x64(True):
            for height, width in np.unique(f['box'][:, :2], axis=0):
                rows = (f['box'][:, :2] == (height, width)).all(axis=1)
                h, w = int(height), int(width)

                @self.variant
                def both(lam, centre, h=h, w=w):
                    box = mix.cut_box(lam, centre, h, w)
                    return box, mix.box_lam(box, h, w)

                box, lam = both(jnp.asarray(f['lam'][rows]), jnp.asarray(f['box'][rows, 2:4]))
                np.testing.assert_array_equal(box, f['box'][rows, 4:])
                np.testing.assert_allclose(lam, f['adjusted_lam'][rows], rtol=0, atol=1e-15)


def test_cut_boxes_in_float32_differ_by_one_pixel_at_most():
    # H sqrt(1 - lam) is a whole number in some of these rows, up to rounding: there float32 may fall on the other side.
    f = fixture('cutmix')
    for (height, width, *centre), lam, expected in zip(f['box'][:, :4], f['lam'], f['box'][:, 4:], strict=True):
        box = np.asarray(mix.cut_box(np.float32(lam), np.array(centre), int(height), int(width)))
        assert np.abs(box - expected).max() <= 1
        found = mix.box_lam(box, int(height), int(width))
        if (box == expected).all():
            area = (expected[1] - expected[0]) * (expected[3] - expected[2])
            np.testing.assert_allclose(found, 1 - area / (height * width), rtol=0, atol=1e-6)


@pytest.mark.parametrize('x64', [True, False], ids=['float64', 'float32'])
def test_cutmix_equals_the_authors_code(x64):
    f = fixture('cutmix')
    with jax.enable_x64(x64):
        for case in range(3):
            image, logits, label = (jnp.asarray(f[f'ex_{name}']) for name in ('images', 'logits', 'labels'))
            perm = jnp.asarray(f['ex_perm'][case])[None]
            box = mix.cut_box(f['ex_lam'][case], f['ex_center'][case], 7, 7)
            lam = mix.box_lam(box, 7, 7)
            np.testing.assert_allclose(lam, f['ex_adjusted_lam'][case], rtol=0, atol=1e-15 if x64 else 1e-6)
            mixed = mix.paste(mix.box_mask(box, 7, 7), image, mix.partner(image, perm))
            np.testing.assert_array_equal(mixed, jnp.asarray(f['ex_mixed'][case]))

            def loss(z, label=label, perm=perm, lam=lam):
                return losses.mixed_cross_entropy(z, label, mix.partner(label, perm), lam).mean()

            value, grad = jax.value_and_grad(loss)(logits)
            np.testing.assert_allclose(value, f['ex_loss'][case], rtol=1e-12 if x64 else 1e-6)
            np.testing.assert_allclose(grad, f['ex_grad_logits'][case], rtol=0, atol=1e-15 if x64 else 1e-6)


@settings(max_examples=50, deadline=None)
@given(
    lam=st.floats(0, 1), row=st.integers(0, 8), column=st.integers(0, 12),
)  # fmt: skip
def test_the_mask_covers_what_the_label_loses(lam, row, column):
    box = mix.cut_box(lam, np.array([row, column]), 9, 13)
    mask = mix.box_mask(box, 9, 13)
    np.testing.assert_allclose(1 - mask.mean(), mix.box_lam(box, 9, 13), atol=1e-6)
    if mask.any():  # a rectangle with the centre in it
        assert mask[row, column] and mask.sum() == mask.any(axis=1).sum() * mask.any(axis=0).sum()


def test_a_lam_of_one_cuts_nothing_and_of_zero_a_box_as_large_as_the_image():
    a, b = jnp.zeros((2, 6, 6, 1)), jnp.ones((2, 6, 6, 1))
    nothing = mix.cut_box(1.0, np.array([3, 3]), 6, 6)
    np.testing.assert_array_equal(mix.paste(mix.box_mask(nothing, 6, 6), a, b), a)
    assert mix.box_lam(nothing, 6, 6) == 1
    np.testing.assert_array_equal(mix.cut_box(0.0, np.array([3, 3]), 6, 6), [0, 6, 0, 6])
    # The corner's box is cut off at two borders: a quarter of the image.
    np.testing.assert_array_equal(mix.cut_box(0.0, np.array([0, 0]), 6, 6), [0, 3, 0, 3])
    assert mix.box_lam(mix.cut_box(0.0, np.array([0, 0]), 6, 6), 6, 6) == 0.75


def test_one_box_for_each_example():
    lam, centre = jnp.array([0.3, 0.8, 1.0]), jnp.array([[1, 5], [4, 2], [3, 3]])
    box = mix.cut_box(lam, centre, 6, 8)
    mask = mix.box_mask(box, 6, 8)
    assert box.shape == (3, 4) and mask.shape == (3, 6, 8)
    for i in range(3):
        np.testing.assert_array_equal(box[i], mix.cut_box(lam[i], centre[i], 6, 8))
        np.testing.assert_array_equal(mask[i], mix.box_mask(box[i], 6, 8))
    a, b = jnp.zeros((3, 6, 8, 2)), jnp.ones((3, 6, 8, 2))
    np.testing.assert_array_equal(mix.paste(mask, a, b)[..., 1], mask)
