"""Each pixel operation against an independent reference: Pillow, scipy or the standard library."""

import colorsys
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from mixjax.data.feed import pixel_ops, random_ops
from mixjax.data.feed.random_ops import KINDS, WIDE, narrow

operate = jax.jit(random_ops.operate, static_argnums=4)
ENHANCE = {
    'brightness': ImageEnhance.Brightness, 'color': ImageEnhance.Color, 'contrast': ImageEnhance.Contrast,
    'sharpness': ImageEnhance.Sharpness,
}  # fmt: skip


def pictures(channels, side=37):
    """A smooth picture, noise, a smooth one with noise, and one of a single colour."""
    random, ramp = np.random.RandomState(0), np.linspace(0, 1, side)
    smooth = np.stack([np.outer(ramp, ramp**2), np.outer(1 - ramp, ramp), np.outer(ramp, 1 - ramp)], -1) * 200 + 20
    smooth = smooth[..., :channels]
    noisy = np.clip(smooth + 10 * random.randn(*smooth.shape), 0, 255)
    flat = np.full(smooth.shape, 77)
    return [x.astype(np.uint8) for x in (smooth, random.randint(0, 256, smooth.shape), noisy, flat)]


def to_pillow(image):
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def from_pillow(picture):
    image = np.asarray(picture)
    return image[..., None] if image.ndim == 2 else image


def reference(image, kind, level, sign, space):
    """One of the fourteen operations by Pillow, with the arguments that torchvision gives to it."""
    picture, share = to_pillow(image), level / 30
    shear, shift = sign * share * space.shear, int(sign * share * space.translate)
    matrix = {
        'shear_x': (1, shear, 0, 0, 1, 0), 'shear_y': (1, 0, 0, shear, 1, 0),
        'translate_x': (1, 0, -shift, 0, 1, 0), 'translate_y': (1, 0, 0, 0, 1, -shift),
    }  # fmt: skip
    if kind in matrix:
        picture = picture.transform(picture.size, Image.Transform.AFFINE, matrix[kind])
    elif kind in ENHANCE:
        picture = ENHANCE[kind](picture).enhance(1 + sign * share * space.factor)
    elif kind != 'identity':
        picture = {
            'rotate': lambda: picture.rotate(sign * share * space.rotate),
            'posterize': lambda: ImageOps.posterize(picture, 8 - round(share * space.bits)),
            'solarize': lambda: ImageOps.solarize(picture, 255 - 8.5 * level),
            'autocontrast': lambda: ImageOps.autocontrast(picture),
            'equalize': lambda: ImageOps.equalize(picture),
        }[kind]()
    return from_pillow(picture)


# The largest difference of a value, and the largest share of values that differ. Blending is in 65536ths here and in
# single precision there; a place exactly between two pixels may be rounded to either; and Pillow cuts off products
# that are whole numbers but for the rounding of doubles.
TOLERANCE = dict.fromkeys(ENHANCE, (1, 0.002)) | {'rotate': (255, 0.02), 'autocontrast': (1, 0.02)}


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('kind', KINDS)
def test_the_fourteen_operations_are_those_of_pillow(kind, channels):
    most, share = TOLERANCE.get(kind, (0, 0))
    changed = False
    for image in pictures(channels):
        for space in (WIDE, narrow(37)):
            for level, sign in ((0, 1), (1, 1), (9, -1), (14, 1), (30, 1), (30, -1)):
                given = jnp.asarray(image), jnp.int32(KINDS.index(kind)), jnp.float32(level), jnp.float32(sign)
                found = np.asarray(operate(*given, space))
                want = reference(image, kind, level, sign, space)
                assert found.dtype == np.uint8 and found.shape == image.shape
                apart = np.abs(found.astype(int) - want)
                assert apart.max() <= most and (apart > 0).mean() <= share, (level, sign, space)
                changed |= bool((found != image).any())
    # Of a grey image the colour cannot change.
    assert changed == (kind != 'identity' and (kind, channels) != ('color', 1))


@pytest.mark.parametrize('kind', [k for k in KINDS if k not in ('autocontrast', 'equalize', 'solarize')])
def test_magnitude_0_is_the_identity(kind):
    for channels in (1, 3):
        for image in pictures(channels):
            given = jnp.asarray(image), jnp.int32(KINDS.index(kind)), jnp.float32(0), jnp.float32(-1)
            np.testing.assert_array_equal(operate(*given, WIDE), image)


def test_equalize_and_autocontrast_by_hand():
    # 510 pixels: the step is (510 - 255) // 255 = 1, so a value's entry is the number of pixels below it, at most 255.
    counts = jnp.zeros(256, jnp.int32).at[jnp.array([10, 20, 30])].set(jnp.array([100, 155, 255]))
    table = pixel_ops.equalize_table(counts)
    assert table[jnp.array([0, 10, 11, 20, 21, 30, 255])].tolist() == [0, 0, 100, 100, 255, 255, 255]
    table = pixel_ops.autocontrast_table(counts)
    assert table[jnp.array([5, 10, 20, 30, 99])].tolist() == [0, 0, 127, 255, 255]
    lonely = jnp.zeros(256, jnp.int32).at[7].set(9)
    for make in (pixel_ops.equalize_table, pixel_ops.autocontrast_table):
        assert make(lonely).tolist() == list(range(256))


def test_the_histogram_is_that_of_numpy():
    for image in pictures(3):
        want = [np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)]
        np.testing.assert_array_equal(pixel_ops.histogram(jnp.asarray(image)), want)


def test_the_mean_of_large_images_does_not_overflow():
    image = jnp.full((4096, 1100, 1), 255, jnp.uint8)
    assert int(pixel_ops.mean(image)) == 255
    assert int(pixel_ops.mean(jnp.array([[[0], [1]]], jnp.uint8))) == 1  # a half goes up


def test_grey_is_that_of_pillow():
    for image in pictures(3):
        want = np.asarray(to_pillow(image).convert('L'))
        np.testing.assert_array_equal(pixel_ops.grey(jnp.asarray(image)), np.stack([want] * 3, -1))


@pytest.mark.parametrize('box', [(3, 5, 20, 30), (0, 0, 37, 37), (1, 2, 9, 8), (36, 0, 1, 37)])
def test_resampled_rectangles_are_those_of_pillow(box):
    row, column, height, width = box
    for image in [*pictures(3), *pictures(1)]:
        cut = to_pillow(image[row : row + height, column : column + width])
        want = from_pillow(cut.resize((24, 24), Image.Resampling.BILINEAR))
        start, size = jnp.array([row, column]), jnp.array([height, width])
        found = pixel_ops.resample(jnp.asarray(image), start, size, 24)
        assert np.abs(np.asarray(found).astype(int) - want).max() <= 1  # Pillow rounds in between


@pytest.mark.parametrize('turn', [-0.5, -0.13, 0.0, 0.3])
def test_hue_is_that_of_colorsys(turn):
    for image in pictures(3, 16):

        def turned(pixel):
            hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
            return np.round(255 * np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)))

        want = np.apply_along_axis(turned, -1, image)
        found = np.asarray(pixel_ops.shift_hue(jnp.asarray(image), jnp.float32(turn)))
        assert np.abs(found - want).max() <= (1 if turn else 0)


def test_colours_of_a_grey_image_stay():
    image = jnp.asarray(pictures(1)[2])
    np.testing.assert_array_equal(pixel_ops.shift_hue(image, jnp.float32(0.3)), image)
    np.testing.assert_array_equal(pixel_ops.grey(image), image)


@pytest.mark.parametrize('sigma', [0.1, 0.7, 2.0])
def test_blur_is_that_of_scipy(sigma):
    for image in pictures(3):
        want = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode='nearest', radius=(6, 6, 0))
        found = np.asarray(pixel_ops.blur(jnp.asarray(image), jnp.float32(sigma)))
        assert np.abs(found - want).max() <= 0.5 + 1e-3


def test_erase_by_hand():
    image, noise = jnp.zeros((4, 5, 1), jnp.uint8), jnp.full((4, 5, 1), 9, jnp.uint8)
    found = pixel_ops.erase(image, jnp.array([1, 2]), jnp.array([2, 3]), noise)[..., 0]
    assert found.tolist() == [[0] * 5, [0, 0, 9, 9, 9], [0, 0, 9, 9, 9], [0] * 5]
    np.testing.assert_array_equal(pixel_ops.erase(image, jnp.array([1, 2]), jnp.array([0, 0]), noise), image)


def test_the_strengths_are_those_of_torchvision():
    assert narrow(331) == (0.3, 150, 30, 0.9, 4) and WIDE == (0.99, 32, 135, 0.99, 6)
    every = jnp.arange(256, dtype=jnp.uint8).reshape(16, 16, 1)
    for space in (narrow(32), WIDE):
        for level in range(31):
            given = every, jnp.int32(KINDS.index('posterize')), jnp.float32(level), jnp.float32(1)
            kept = math.log2(len(np.unique(operate(*given, space))))
            assert 8 - kept == math.floor(level * space.bits / 30 + 0.5)
