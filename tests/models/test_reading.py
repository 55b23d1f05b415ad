"""A second network by `models.read`: what is known of it, and the images of another one prepared for it."""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import mixjax
from mixjax import models
from mixjax.data.feed import augment
from mixjax.errors import UserError
from mixjax.models import weights
from tests.support.common import assert_trees_equal

CLASSES = ['a', 'b', 'c']


class Run(NamedTuple):
    mean: tuple[float, ...]
    std: tuple[float, ...]


def stored(folder, channels=1, mean=(0.4,), std=(0.2,), heads=None, **about):
    """A folder with a network of random weights, as a run exports it, and its variables."""
    net = models.build('glyphnet')
    colours = max(channels, len(mean))
    image = jnp.zeros((1, 16, 16, colours))
    made = jax.jit(lambda key: net.init(key, image, heads or {'target': 3}))(jax.random.key(1))
    variables = jax.tree.map(np.asarray, made)
    folder.mkdir(exist_ok=True)
    (folder / 'model.safetensors').write_bytes(weights.to_bytes(variables))
    image = {'crop': 16, 'resize': 16, 'interpolation': 'bilinear', 'mean': mean, 'std': std}
    said = {'model': 'glyphnet', 'classes': CLASSES, 'channels': channels, 'image': image, **about}
    (folder / 'model.json').write_text(json.dumps(said))
    return variables


def logits(model, image):
    return np.asarray(jax.jit(lambda x: model.net.apply(model.variables, x, train=False)[0].logits['target'])(image))


def images(channels, count=6):
    return np.random.default_rng(0).integers(0, 256, (count, 16, 16, channels), np.uint8)


def seen(image, run, crop=16):
    """The student's batch, as the trainer makes it."""
    return augment.centre(jnp.asarray(image), augment.Geometry(crop, 0, False, run.mean, run.std))


def test_what_is_known_of_a_network(tmp_path):
    variables = stored(tmp_path / 'run', channels=3, mean=(0.1, 0.2, 0.3), std=(1, 1, 1), dtype='bfloat16')
    model = models.read(tmp_path / 'run', classes=CLASSES)
    assert_trees_equal(jax.tree.map(np.asarray, model.variables), variables)
    about = model.about
    assert (about.name, about.classes, about.width, about.channels) == ('glyphnet', ('a', 'b', 'c'), 3, 3)
    assert (about.dtype, about.shape, about.image['crop']) == ('bfloat16', (1, 16, 16, 3), 16)
    assert about.image['mean'] == [0.1, 0.2, 0.3] and len(about.digest) == 64
    assert models.read(tmp_path / 'run' / 'model.safetensors').about.digest == about.digest
    assert models.read(tmp_path / 'run', dtype='float32').about.dtype == 'float32'


def test_the_classifier_of_every_kind_of_weights_is_the_head_target(tmp_path):
    assert set(models.read('embedded://glyphnet').variables['params']['heads']) == {'target'}
    trial = models.read('random://7', 'glyphnet')
    assert trial.variables['params']['heads']['target']['bias'].shape == (7,) and trial.about.classes == ()
    both = stored(tmp_path / 'both', heads={'target': 3, 'source': 5})  # the heads that only a method can combine
    heads = models.read(tmp_path / 'both').variables['params']['heads']
    np.testing.assert_array_equal(heads['target']['kernel'], both['params']['heads']['target']['kernel'])
    assert heads['source']['bias'].shape == (5,)


@pytest.mark.parametrize(
    ('run', 'mean', 'std'),
    [
        (Run((0.0,), (1.0,)), (0.4,), (0.2,)),
        (Run((0.5,), (0.25,)), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
        (Run((0.5, 0.4, 0.3), (0.25, 0.3, 0.2)), (0.4,), (0.2,)),
    ],
)
def test_logits_are_those_of_the_predictor(run, mean, std, tmp_path):
    stored(tmp_path / 'run', mean=mean, std=std)
    teacher, image = models.read(tmp_path / 'run'), images(1)
    found = logits(teacher, jax.jit(lambda x: teacher.prepared(x, run))(seen(image, run)))
    expected = mixjax.load(tmp_path / 'run').logits(image)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_logits_of_colour_images_are_those_of_the_predictor(tmp_path):
    run = Run((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    stored(tmp_path / 'run', channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    teacher, image = models.read(tmp_path / 'run'), images(3)
    expected = mixjax.load(tmp_path / 'run').logits(image)
    found = logits(teacher, teacher.prepared(seen(image, run), run))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_colours_become_grey_by_their_luma(tmp_path):
    stored(tmp_path / 'run', mean=(0.25,), std=(0.5,))
    teacher, run = models.read(tmp_path / 'run'), Run((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    red = np.zeros((1, 16, 16, 3), np.uint8)
    red[..., 0] = 255
    found = teacher.prepared(seen(red, run), run)
    np.testing.assert_allclose(found, np.full((1, 16, 16, 1), (0.299 - 0.25) / 0.5), rtol=1e-5)


@pytest.mark.parametrize(('way', 'pillow'), [('bilinear', Image.BILINEAR), ('bicubic', Image.BICUBIC)])
@pytest.mark.parametrize('side', [12, 24, 32])
def test_another_size_is_resized_as_pillow_does(side, way, pillow):
    about = models.about('glyphnet')._replace(image={'crop': 16, 'interpolation': way, 'mean': (0.3,), 'std': (0.5,)})
    run = Run((0.1,), (0.7,))
    image = np.random.default_rng(0).uniform(size=(2, side, side, 1)).astype(np.float32)
    found = models.prepared(jnp.asarray((image - 0.1) / 0.7), run, about)
    expected = [np.asarray(Image.fromarray(one[..., 0]).resize((16, 16), pillow)) for one in image]
    np.testing.assert_allclose(found[..., 0] * 0.5 + 0.3, np.stack(expected), atol=1e-5)


def test_inputs_that_are_right_already_stay_bit_for_bit():
    about, run = models.about('glyphnet'), Run((0.0,), (1.0,))
    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 1)), jnp.float32)
    np.testing.assert_array_equal(models.prepared(image, run, about), image)


@pytest.mark.parametrize(
    ('words', 'more', 'sentence'),
    [
        (('',), {}, 'name the weights to read'),
        (('nowhere',), {}, 'the weights nowhere are missing'),
        (('embedded://glyphnot',), {}, 'the embedded weights are glyphnet'),
        (('random://7',), {}, 'do not say which network they are of; give its name'),
        (('random://many', 'glyphnet'), {}, 'and a number of classes'),
        (('embedded://glyphnet', 'lenet'), {}, "are of a 'glyphnet', not of a 'lenet'; leave the name out"),
        (('random://7', 'glyphnot'), {}, "did you mean 'glyphnet'"),
        (('random://7', 'glyphnet'), {'classes': CLASSES}, 'know 7 classes, which are not the 3 that are needed'),
        (('run',), {'classes': ['a', 'c', 'b']}, 'know 3 classes, which are not the 3 that are needed in their order'),
        (('run',), {'dtype': 'float8'}, 'unknown dtype'),
    ],
)
def test_wrong_input_ends_in_one_sentence(words, more, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stored(tmp_path / 'run')
    with pytest.raises(UserError, match=sentence):
        models.read(*words, **more)


def test_a_network_that_nobody_registered_is_named(tmp_path):
    stored(tmp_path / 'run', model='mine')
    with pytest.raises(UserError, match=r"run: unknown network 'mine'.*--import=MODULE"):
        models.read(tmp_path / 'run')
