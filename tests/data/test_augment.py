import jax
import jax.numpy as jnp
import numpy as np

from mixjax.data import augment
from mixjax.data.augment import Geometry

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
