"""Images that are equal or nearly so are found, and pictures of different things are not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from mixjax.search import alike


def scene(seed, side=64):
    """A picture of soft blobs, unlike any other."""
    random = np.random.RandomState(seed)
    small = random.randint(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def jpeg(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'JPEG', quality=quality)
    return np.asarray(Image.open(file))


def grouped(images):
    stack = np.stack(images)
    return alike.groups(alike.prints(lambda rows: stack[rows], len(stack)))


def test_cells_are_means_of_their_pixels():
    grey = np.arange(48, dtype=float).reshape(1, 6, 8)
    expected = grey.reshape(1, 2, 3, 4, 2).mean((2, 4))
    np.testing.assert_allclose(alike.reduced(grey, 2, 4), expected)
    assert alike.reduced(grey[:, :3, :3], 8, 9).shape == (1, 8, 9)  # fewer pixels than cells


def test_copies_and_near_copies_are_one_group_and_others_are_not():
    first, second = scene(0), scene(1)
    smaller = np.asarray(Image.fromarray(first).resize((40, 40)).resize((64, 64)))
    softer = np.asarray(Image.fromarray(first).filter(ImageFilter.GaussianBlur(1)))
    images = [first, second, first.copy(), jpeg(first, 40), smaller, softer, scene(2), jpeg(second, 70)]
    assert grouped(images).tolist() == [0, 1, 0, 0, 0, 0, 6, 1]


def test_many_different_pictures_stay_apart():
    assert len(set(grouped([scene(k) for k in range(400)]).tolist())) == 400


@pytest.mark.parametrize('limit', [alike.MANY, 10])
def test_near_copies_are_found_among_many(monkeypatch, limit):
    monkeypatch.setattr(alike, 'MANY', limit)
    images = [scene(k) for k in range(200)] + [jpeg(scene(k), 85) for k in range(0, 200, 10)]
    found = grouped(images)
    assert found[:200].tolist() == list(range(200))
    assert found[200:].tolist() == list(range(0, 200, 10))


def test_pictures_of_one_colour_are_alike_only_if_they_are_equal():
    white, grey = np.full((32, 32, 1), 255, np.uint8), np.full((32, 32, 1), 250, np.uint8)
    assert grouped([white, grey, white.copy()]).tolist() == [0, 1, 0]


def test_objects_on_a_white_ground_are_told_apart():
    def cut_out(row, column, size):
        image = np.full((64, 64, 3), 255, np.uint8)
        image[row : row + size, column : column + size] = (180, 60, 40)
        return image

    images = [cut_out(20, 20, 8), cut_out(20, 20, 24), cut_out(4, 40, 16), cut_out(40, 4, 16)]
    assert grouped(images).tolist() == [0, 1, 2, 3]
