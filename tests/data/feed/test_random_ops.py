"""Random augmentation: what holds of every operation, and what each draws."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mixjax.data.feed import augment, pixel_ops, random_ops, specification
from mixjax.data.feed.augment import Geometry
from mixjax.data.feed.random_ops import KINDS
from mixjax.errors import UserError

EVERY = [
    'randaugment(2,9)', 'trivialaugment', 'jitter(0.4,0.4,0.4,0.1)', 'grey(0.5)', 'blur(0.5)', 'erase(0.5)',
    'resized_crop(0.08)', 'resized_crop(0.3,0.9),jitter(0.4,0.4,0.4),randaugment(1,30),erase(0.25)',
]  # fmt: skip
PIXELS = Geometry(12, 1, True, (0.0,) * 3, (1 / 255,) * 3)  # the network's inputs are the bytes
KEY = jax.random.key(3)


def images(n=16, side=14, channels=3):
    """Smooth pictures with some noise."""
    random = np.random.RandomState(0)
    ramp = np.linspace(0, 1, side)
    ends = random.rand(n, 4, 1, 1, channels)
    x = ends[:, 0] * ramp[:, None, None] + ends[:, 1] * (1 - ramp)[:, None, None] + ends[:, 2] * ramp[:, None]
    x = 80 * x + 10 * random.rand(n, side, side, channels)
    return jnp.asarray(x.astype(np.uint8))


@functools.cache
def program(geometry):
    return jax.jit(lambda key, x: augment.train(key, x, geometry))


def augmented(text, x, key=KEY, geometry=PIXELS):
    return np.asarray(program(geometry._replace(augment=text))(key, x))


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('text', EVERY)
def test_results_are_bytes_and_depend_on_key_and_image_alone(text, channels):
    x = images(channels=channels)
    geometry = PIXELS._replace(mean=(0.0,) * channels, std=(1 / 255,) * channels)
    out = augmented(text, x, geometry=geometry)
    assert out.shape == (16, 12, 12, channels) and out.dtype == np.float32
    np.testing.assert_allclose(out, np.round(out), atol=1e-4)
    assert out.min() >= -1e-4 and out.max() <= 255 + 1e-4
    np.testing.assert_array_equal(augmented(text, x, geometry=geometry), out)
    if (text, channels) != ('grey(0.5)', 1):
        assert (out != augmented('', x, geometry=geometry)).any()
        assert (out != augmented(text, x, jax.random.key(4), geometry)).any()
    # An image's result knows neither the other images nor how many there are.
    other = x.at[1:].set(255 - x[1:])
    np.testing.assert_array_equal(augmented(text, other, geometry=geometry)[0], out[0])
    np.testing.assert_array_equal(augmented(text, x[:5], geometry=geometry), out[:5])


@pytest.mark.parametrize('text', EVERY)
def test_equal_images_are_changed_in_different_ways(text):
    out = augmented(text, jnp.repeat(images(1), 32, axis=0), geometry=PIXELS._replace(crop=14, pad=0, flip=False))
    assert len(np.unique(out.reshape(32, -1), axis=0)) > (1 if text == 'grey(0.5)' else 8)


@pytest.mark.parametrize('text', EVERY)
def test_draws_are_the_same_with_64_bit_types(text):
    x = images()
    narrow = augmented(text, x)
    with jax.enable_x64(True):
        wide = augmented(text, x)
    assert wide.dtype == np.float32
    np.testing.assert_array_equal(narrow, wide)


@pytest.mark.parametrize('text', EVERY)
def test_eight_devices_give_the_bits_of_one_without_sending_any(text):
    geometry = PIXELS._replace(augment=text)
    mesh = Mesh(np.array(jax.devices()[:8]), ('data',))
    spread = jax.device_put(images(), NamedSharding(mesh, PartitionSpec('data')))
    key = jax.device_put(KEY, NamedSharding(mesh, PartitionSpec()))

    @jax.jit
    def of_batch(key, x):
        out = augment.train(key, jax.lax.with_sharding_constraint(x, spread.sharding), geometry)
        return jax.lax.with_sharding_constraint(out, spread.sharding)

    compiled = of_batch.lower(key, spread).compile()
    assert not re.findall(r'all-gather|all-reduce|all-to-all|collective-permute', compiled.as_text())
    found = compiled(key, spread)
    assert len(found.sharding.device_set) == 8
    np.testing.assert_array_equal(found, augmented(text, images()))


@pytest.mark.parametrize(
    'text', ['jitter(0,0,0)', 'jitter(0,0,0,0)', 'grey(0)', 'blur(0)', 'erase(0)', 'grey(0),erase(0),blur(0)', ' ']
)
def test_strength_0_changes_nothing_but_keeps_crop_and_flip(text):
    np.testing.assert_array_equal(augmented(text, images()), augmented('', images()))


def test_the_whole_image_is_a_resized_crop():
    """A ratio of 1 is not drawn, so no rectangle of the whole area fits into a square image, and all of it is taken."""
    geometry = PIXELS._replace(crop=14, flip=False)
    np.testing.assert_allclose(augmented('resized_crop(1)', images(), geometry=geometry), images(), atol=1e-4)


def test_crops_and_flips_are_those_without_augmentation():
    x = images(64)
    plain, greyed = augmented('', x), augmented('grey(1)', x)
    np.testing.assert_allclose(greyed, jax.vmap(pixel_ops.grey)(plain.round().astype(np.uint8)), atol=1e-4)
    one, two = augmented('erase(0.5)', x), augmented('grey(0),erase(0.5)', x)
    kept = np.isclose(one, plain, atol=1e-4).all((1, 2, 3))
    assert 10 < kept.sum() < 54 and (one != two).any()  # each place in the text has draws of its own


# --- each of them -----------------------------------------------------------------------------------------------------


def test_shares_are_those_asked_for():
    x = images(2000, 8)
    geometry = Geometry(8, 0, False, (0.0,) * 3, (1 / 255,) * 3)
    for name in ('grey', 'erase'):
        changed = (np.abs(augmented(f'{name}(0.3)', x, geometry=geometry) - np.asarray(x)) > 0.5).any((1, 2, 3)).mean()
        assert abs(changed - 0.3) < 4 * (0.3 * 0.7 / 2000) ** 0.5


def test_erased_rectangles():
    side = 40
    x = jnp.zeros((400, side, side, 3), jnp.uint8)
    out = augmented('erase(1)', x, geometry=Geometry(side, 0, False, (0.0,) * 3, (1 / 255,) * 3)).round()
    sizes, values = [], []
    for one in out:
        rows, columns, _ = np.nonzero(one)
        box = one[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert (box > 0).any(-1).mean() > 0.9  # noise is 0 once in 256^3 times
        sizes.append(box.shape[:2])
        values.append(box.ravel())
    height, width = np.array(sizes).T
    area, ratio = height * width / side**2, height / width
    assert 0.015 < area.min() < 0.04 and 0.3 < area.max() < 0.36
    assert 0.25 < ratio.min() < 0.45 and 2.2 < ratio.max() < 4
    assert abs(area.mean() - (0.02 + 0.33) / 2) < 0.02 and abs(np.log(ratio).mean()) < 0.12
    counts = np.bincount(np.concatenate(values).astype(int), minlength=256)
    expected = counts.sum() / 256
    assert (np.square(counts - expected) / expected).sum() < 255 + 5 * (2 * 255) ** 0.5  # chi-squared


def test_resized_crops():
    """Images whose pixels say where they are: the corners of the result tell the rectangle."""
    side, crop = 64, 32
    place = np.stack([*np.indices((side, side)), np.zeros((side, side), int)], -1)
    x = jnp.asarray(np.repeat(place[None].astype(np.uint8) * 2, 500, axis=0))
    out = augmented('resized_crop(0.2,0.6)', x, geometry=Geometry(crop, 0, False, (0.0,) * 3, (1 / 255,) * 3)) / 2
    # The difference over the middle half of the result, away from the edges, is half the size.
    height = 2 * (out[:, 24, 8, 0] - out[:, 8, 8, 0])
    width = 2 * (out[:, 8, 24, 1] - out[:, 8, 8, 1])
    area, ratio = height * width / side**2, height / width
    assert 0.17 < area.min() < 0.23 and 0.56 < area.max() < 0.65 and abs(area.mean() - 0.4) < 0.02
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.45 and abs(np.log(ratio).mean()) < 0.04
    top = out[:, 8, 8, 0] - height / 4
    assert top.min() < 1.5 and (top + height).max() > side - 2.5


def test_every_operation_of_randaugment_is_drawn_equally_often():
    drawn = jax.vmap(lambda key: random_ops._uniform(key, 3))(jax.random.split(KEY, 14_000))
    kinds = np.bincount(random_ops._which(drawn[:, 0], len(KINDS)), minlength=len(KINDS))
    assert len(kinds) == 14 and abs(kinds - 1000).max() < 4 * 1000**0.5
    assert set(np.unique(random_ops._which(drawn[:, 1], 31))) == set(range(31))
    assert abs(np.mean(random_ops._sign(drawn[:, 2]))) < 4 / 14_000**0.5


def test_the_largest_draw_does_not_round_up():
    largest = np.float32(1 - 2**-23)
    many = np.arange(1, 4200)
    np.testing.assert_array_equal(random_ops._which(largest, many), many - 1)


def test_randaugment_is_n_operations_one_after_the_other():
    x = images(12)
    operate = jax.jit(random_ops.operate, static_argnums=4)
    found = random_ops.apply(KEY, x, specification.augmentations('randaugment(3,12)'))
    for i in range(12):
        key = jax.random.fold_in(jax.random.fold_in(KEY, i), 0)
        one = x[i]
        for kind, sign in jax.random.uniform(key, (3, 2), jnp.float32):
            which = int(np.floor(14 * np.float64(kind)))
            one = operate(
                one, jnp.int32(which), jnp.float32(12), jnp.float32(1 if sign < 0.5 else -1), random_ops.narrow(14)
            )
        np.testing.assert_array_equal(found[i], one)


def test_jitter_draws_factors_around_1():
    x = jnp.full((500, 2, 2, 3), 100, jnp.uint8)
    geometry = Geometry(2, 0, False, (0.0,) * 3, (1 / 255,) * 3)
    out = augmented('jitter(0.4,0,0)', x, geometry=geometry)
    assert 59 < out.min() < 63 and 137 < out.max() < 141 and abs(out.mean() - 100) < 4
    np.testing.assert_allclose(augmented('jitter(0,0.9,0.9)', x, geometry=geometry), x, atol=1e-4)  # it is its own mean


# --- what the setting may say -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'sentence'),
    [
        ('randagument(2,9)', "'randagument' is not one of randaugment, .*; did you mean 'randaugment'"),
        ('randaugment', r"'randaugment' has 0 numbers; write randaugment\(n,magnitude\)"),
        ('erase(0.1,2)', r"'erase\(0.1,2\)' has 2 numbers; write erase\(p\)"),
        ('trivialaugment(9)', "has 1 numbers; write trivialaugment"),
        ('randaugment(2,31)', "magnitude of randaugment must be a number from 0 to 30, not '31'"),
        ('randaugment(1.5,9)', "n of randaugment must be a whole number from 1 to 10, not '1.5'"),
        ('erase(nan)', "p of erase must be a number from 0 to 1, not 'nan'"),
        ('erase(much)', "p of erase must be a number from 0 to 1, not 'much'"),
        ('jitter(0.4,0.4,0.4,0.6)', "hue of jitter must be a number from 0 to 0.5, not '0.6'"),
        ('grey(0.1),resized_crop(0.5)', 'resized_crop must come first'),
        ('resized_crop(0.5,0.2)', 'min_scale=0.5 of resized_crop must be at most max_scale=0.2'),
        ('erase(0.1', r"'erase\(0.1' cannot be read; give randaugment\(n,magnitude\), "),
        ('erase(0.1),', "'' cannot be read"),
        ('erase(0.1)grey(0.2)', 'cannot be read'),
        ('erase((0.1))', 'cannot be read'),
    ],
)  # fmt: skip
def test_wrong_specifications_are_one_sentence(text, sentence):
    with pytest.raises(UserError, match=sentence):
        specification.augmentations(text)


def test_specifications_are_read():
    assert specification.augmentations('') == specification.augmentations(' ') == ()
    found = specification.augmentations(' resized_crop( .08 ) , randaugment(2, 9),trivialaugment(),jitter(1,2,3)')
    assert found == (
        ('resized_crop', (0.08, 1)), ('randaugment', (2, 9)), ('trivialaugment', ()), ('jitter', (1, 2, 3, 0)),
    )  # fmt: skip
    assert set(specification.AUGMENT) == {*random_ops.OPERATIONS, 'resized_crop'}
