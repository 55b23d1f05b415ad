"""The preparation inside of an ONNX file against `photo.fit`, byte by byte."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixjax.data.pixels import photo
from mixjax.errors import UserError
from mixjax.export import engine, onnx_resize
from mixjax.export.onnx_graph import Graph, Port

RULES = {
    'bilinear': photo.Rule(32, 'short', 'bilinear'),
    'bicubic': photo.Rule(50, 'short', 'bicubic'),
    'squash': photo.Rule(33, 'squash', 'bilinear'),
    'bicubic squash': photo.Rule(32, 'squash', 'bicubic'),
    'grey': photo.Rule(16, 'short', 'bilinear', channels=1),
}
# Rows and columns: as they are stored, smaller and larger, nearly that, very oblong, odd, and a single pixel.
SIZES = [(32, 32), (16, 16), (31, 33), (50, 50), (64, 96), (97, 65), (200, 150), (3, 400), (300, 2), (1, 1)]


@functools.cache
def session(rule):
    graph = Graph()
    name = onnx_resize.add(graph, 'images', rule)
    inputs = [Port('images', np.uint8, ('n', 'height', 'width', rule.channels))]
    return engine.session(graph.model(inputs, [Port(name, np.uint8, (None,) * 4)], {}).SerializeToString(), threads=1)


def resized(images, rule):
    return session(rule).run(None, {'images': images})[0]


def noisy(height, width, channels, seed=0):
    """An image with edges and noise, in which neighbouring pixels differ."""
    draw = np.random.default_rng(seed)
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[None, :, None]
    wave = 127 + 90 * np.sin(rows / 7 + np.arange(channels)) * np.cos(columns / 11)
    return np.clip(wave + draw.normal(0, 20, (height, width, channels)), 0, 255).astype(np.uint8)


def apart(image, rule):
    """The differences from `fit`, (side, side, C)."""
    found, wanted = resized(image[None], rule)[0], photo.fit(image, rule)
    assert found.shape == wanted.shape and found.dtype == np.uint8
    return np.abs(found.astype(int) - wanted)


@pytest.mark.parametrize('name', ['bilinear', 'squash', 'grey'])
def test_bytes_of_small_photographs_are_those_of_fit(name):
    for height, width in SIZES:
        assert not apart(noisy(height, width, RULES[name].channels), RULES[name]).any(), (height, width)


@pytest.mark.parametrize('name', RULES)
def test_nearly_all_bytes_of_others_are_those_of_fit(name):
    for height, width in ((700, 900), (901, 640), (400, 3000)):
        found = apart(noisy(height, width, RULES[name].channels), RULES[name])
        assert found.max() <= 1 and (found > 0).mean() <= 0.002, (height, width)


def test_whole_large_images_are_pillows_to_the_byte():
    """`fit` gives Pillow the whole image here, and no edges of a crop; bicubic is always Pillow's."""
    for name, size in (('squash', (1200, 1100)), ('bicubic squash', (301, 77)), ('bicubic squash', (20, 1000))):
        assert not apart(noisy(*size, 3), RULES[name]).any()


@pytest.mark.parametrize('name', RULES)
def test_stored_images_stay_as_they_are(name):
    rule = RULES[name]
    images = np.stack([noisy(rule.side, rule.side, rule.channels, seed) for seed in range(3)])
    np.testing.assert_array_equal(resized(images, rule), images)


def test_wide_images_of_the_stored_height_are_cropped():
    """Of 10 columns more than are kept, 5 go on each side; of 9 the first 4, and of 3 the first 2, the even ones."""
    rule, image = RULES['bilinear'], noisy(32, 42, 3)
    np.testing.assert_array_equal(resized(image[None], rule)[0], image[:, 5:37])
    np.testing.assert_array_equal(resized(image[None, :, :41], rule)[0], image[:, 4:36])
    np.testing.assert_array_equal(resized(image[None, :, :35], rule)[0], image[:, 2:34])  # 1.5 becomes 2


def test_halving_is_the_mean_under_the_triangle():
    """Weights 1/8, 3/8, 3/8, 1/8 of four neighbours; at the edge 3, 3 and 1 of 7. Halves are rounded up."""
    rule = photo.Rule(4, 'squash', 'bilinear', channels=1)
    row = np.array([0, 8, 80, 100, 20, 4, 0, 255], np.uint8)
    image = np.repeat(row[None], 8, axis=0)[..., None]
    wanted = [(24 + 80) / 7, (8 + 240 + 300 + 20) / 8, (100 + 60 + 12 + 0) / 8, (4 + 0 + 3 * 255) / 7]
    assert resized(image[None], rule)[0, 0, :, 0].tolist() == [int(np.floor(value + 0.5)) for value in wanted]


@given(st.integers(1, 120), st.integers(1, 120), st.integers(0, 255), st.sampled_from(sorted(RULES)))
@settings(max_examples=40, deadline=None)
def test_uniform_images_stay_uniform(height, width, value, name):
    rule = RULES[name]
    images = np.full((2, height, width, rule.channels), value, np.uint8)
    assert (resized(images, rule) == value).all()


@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(sorted(RULES)), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_bytes_of_any_size_are_those_of_fit(height, width, name, seed):
    rule = RULES[name]
    image = np.random.default_rng(seed).integers(0, 256, (height, width, rule.channels), np.uint8)
    found = apart(image, rule)
    if rule.interpolation == 'bilinear':
        assert not found.any()
    else:
        assert found.max() <= 1 and (found > 0).mean() <= 0.02


def test_images_of_a_batch_do_not_mix():
    rule = RULES['bicubic']
    images = np.stack([noisy(70, 90, 3, seed) for seed in range(3)])
    together = resized(images, rule)
    for one, image in zip(together, images, strict=True):
        np.testing.assert_array_equal(one, resized(image[None], rule)[0])


def test_other_interpolations_are_refused():
    with pytest.raises(UserError, match='nearest are not resized in ONNX.*bilinear or bicubic'):
        onnx_resize.add(Graph(), 'images', photo.Rule(8, 'short', 'nearest'))
