"""The PNG encoder, read back by hand."""

import base64

import numpy as np
import pytest

from mixjax.report import png
from mixjax.rundir.thumbnail import shrink
from tests.support.page import decode


@pytest.mark.parametrize('shape', [(1, 1, 1), (16, 16, 1), (5, 9, 3), (224, 224, 3)])
@pytest.mark.parametrize('kind', ['noise', 'across', 'down', 'flat'])
def test_every_pixel_comes_back(shape, kind):
    y, x, c = np.indices(shape)
    noise = np.random.default_rng(0).integers(0, 256, shape)
    pixels = {'noise': noise, 'across': 7 * x + c, 'down': 3 * y + x * x, 'flat': 0 * x + 200}[kind].astype(np.uint8)
    np.testing.assert_array_equal(decode(png.encode(pixels)), pixels)


def test_grey_without_a_channel_axis():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(decode(png.encode(pixels))[..., 0], pixels)


def test_filters_make_gradients_small():
    ramp = np.repeat(np.random.default_rng(0).integers(0, 256, (1, 200, 3)), 200, axis=0).astype(np.uint8)
    assert len(png.encode(ramp)) < 2000


def test_pillow_agrees_where_it_is_there():
    image = pytest.importorskip('PIL.Image')
    import io

    pixels = np.random.default_rng(1).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(image.open(io.BytesIO(png.encode(pixels)))), pixels)


@pytest.mark.parametrize('pixels', [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros((0, 4, 1), np.uint8)])
def test_other_arrays_are_refused(pixels):
    with pytest.raises(ValueError, match='not an 8-bit'):
        png.encode(pixels)


def test_data_uri_holds_the_file():
    pixels = np.zeros((2, 2, 1), np.uint8)
    head, _, body = png.data_uri(pixels).partition(',')
    assert head == 'data:image/png;base64'
    assert base64.b64decode(body) == png.encode(pixels)


def test_shrink_takes_means_of_squares():
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    np.testing.assert_array_equal(shrink(pixels, 2)[..., 0], [[2, 4], [10, 12]])  # 2.5, 4.5, 10.5, 12.5: to even
    np.testing.assert_array_equal(shrink(pixels, 4), pixels)


@pytest.mark.parametrize('shape', [(224, 224, 3), (225, 100, 1), (1, 300, 3), (17, 17, 1)])
@pytest.mark.parametrize('side', [1, 16, 64])
def test_shrink_never_exceeds_the_side(shape, side):
    small = shrink(np.full(shape, 77, np.uint8), side)
    assert max(small.shape[:2]) <= side and min(small.shape) > 0
    assert (small == 77).all() and small.dtype == np.uint8
