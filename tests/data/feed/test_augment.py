import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageOps

from mixjax.data.feed import augment
from mixjax.data.feed.augment import Geometry

PLAIN = Geometry(crop=4, pad=0, flip=False, mean=(0.0,), std=(1.0,))


def images(n=6, side=6, channels=1):
    return np.random.RandomState(0).randint(0, 256, (n, side, side, channels), np.uint8)


def test_normalise_and_back():
    geometry = Geometry(6, 0, False, (0.1, 0.2, 0.3), (0.5, 0.25, 1.0))
    x = images(channels=3)
    out = augment.normalise(jnp.asarray(x), geometry)
    np.testing.assert_allclose(out[..., 1], (x[..., 1] / 255 - 0.2) / 0.25, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(augment.denormalise(out, geometry), x)


def test_centre_crop_and_border():
    x = images()
    np.testing.assert_allclose(augment.centre(jnp.asarray(x), PLAIN), x[:, 1:5, 1:5] / 255, rtol=1e-6)
    wide = augment.centre(jnp.asarray(x), PLAIN._replace(crop=8))
    np.testing.assert_allclose(wide[:, 1:7, 1:7], x / 255, rtol=1e-6)
    assert float(jnp.abs(wide[:, 0]).max()) == 0


def crops(x, out):
    """For each output the (row, column, flipped) windows of the input that it could be."""
    found = []
    for one, crop in zip(x, out, strict=True):
        windows = [
            (r, c, f)
            for r in range(one.shape[0] - 3)
            for c in range(one.shape[1] - 3)
            for f in (False, True)
            if np.array_equal(one[r : r + 4, c : c + 4][:, :: -1 if f else 1], crop)
        ]
        found.append(windows)
    return found


def test_training_images_are_windows_of_the_padded_image_and_all_windows_come():
    x = images(1)
    geometry = PLAIN._replace(pad=1, flip=True)
    many = np.repeat(x, 600, axis=0)
    out = augment.denormalise(augment.train(jax.random.key(0), jnp.asarray(many), geometry), geometry)
    padded = np.pad(many, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [w for found in crops(padded, np.asarray(out)) for w in found]
    assert len(windows) == 600
    assert len(set(windows)) == 5 * 5 * 2  # every place, both ways round


def test_augmentation_depends_on_the_key_only():
    x = jnp.asarray(images())
    a, b, c = (augment.train(jax.random.key(k), x, PLAIN) for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_the_crops_are_the_same_with_64_bit_types():
    x = images(channels=3)
    geometry = PLAIN._replace(pad=1, flip=True)
    narrow = augment.train(jax.random.key(5), jnp.asarray(x), geometry)
    with jax.enable_x64(True):
        wide = augment.train(jax.random.key(5), jnp.asarray(x), geometry)
    assert wide.dtype == narrow.dtype == jnp.float32
    np.testing.assert_array_equal(narrow, wide)


# --- against Pillow, which is what torchvision's transforms are made of -----------------------------------------------


def by_pillow(image, geometry, row, column, flip):
    """RandomCrop(crop, padding=pad), RandomHorizontalFlip, ToTensor and Normalize, at the given place."""
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = ImageOps.expand(picture, border=geometry.pad, fill=0)
    picture = picture.crop((column, row, column + geometry.crop, row + geometry.crop))
    picture = ImageOps.mirror(picture) if flip else picture
    scaled = np.asarray(picture, np.float32).reshape(geometry.crop, geometry.crop, -1) / 255
    return (scaled - np.float32(geometry.mean)) / np.float32(geometry.std)


@pytest.mark.parametrize(
    ('side', 'geometry'),
    [
        (40, Geometry(33, 0, True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),  # as 224 out of 256
        (32, Geometry(32, 4, True, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))),  # CIFAR
        (20, Geometry(16, 0, False, (0.5,), (0.5,))),
    ],
)
def test_training_crops_are_those_of_pillow(side, geometry):
    x = images(16, side, len(geometry.mean))
    key = jax.random.key(9)
    out = np.asarray(jax.jit(lambda x: augment.train(key, x, geometry))(jnp.asarray(x)))
    at_row, at_column, mirror = jax.random.split(key, 3)
    last = side + 2 * geometry.pad - geometry.crop + 1
    rows, columns = (np.asarray(jax.random.randint(k, (16,), 0, last, jnp.int32)) for k in (at_row, at_column))
    flips = np.asarray(jax.random.bernoulli(mirror, shape=(16,))) & geometry.flip
    assert geometry.flip == flips.any() and not flips.all() and len(set(rows)) > 3
    pixel = 1 / 255 / min(geometry.std)
    for i in range(16):
        want = by_pillow(x[i], geometry, int(rows[i]), int(columns[i]), bool(flips[i]))
        np.testing.assert_allclose(out[i], want, atol=1e-3 * pixel)
    if geometry.pad:  # black before normalisation: not 0 but -mean / std
        black = (0 - np.float32(geometry.mean)) / np.float32(geometry.std)
        corner = next(i for i in range(16) if rows[i] == 0 or columns[i] == 0 or flips[i] and rows[i] < 4)
        assert np.isclose(out[corner].reshape(-1, 3), black, atol=1e-5).all(1).any()


@pytest.mark.parametrize('side', [40, 41])
def test_test_crops_are_those_of_torchvision(side):
    geometry = Geometry(32, 0, True, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    x = images(3, side, 3)
    first = int(round((side - 32) / 2.0))  # CenterCrop
    out = np.asarray(augment.centre(jnp.asarray(x), geometry))
    for one, crop in zip(x, out, strict=True):
        np.testing.assert_allclose(crop, by_pillow(one, geometry, first, first, False), atol=1e-5)
