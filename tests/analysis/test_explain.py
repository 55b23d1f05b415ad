"""Explanations: the map lies where the network looked, and the nearest images are those of the run."""

import dataclasses
import io
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import mixjax
from mixjax import inference
from mixjax.analysis import cam, drawing, explain, neighbours
from mixjax.commands import cli
from mixjax.data.feed.augment import Geometry, centre_box
from mixjax.data.pixels import photo
from mixjax.errors import UserError
from mixjax.inference import Network, Predictor
from mixjax.models.net import from_linen
from mixjax.tasks import MULTI_LABEL, REGRESSION, Scale


@pytest.fixture(scope='module')
def letters():
    return mixjax.load('embedded://glyphnet')


@pytest.fixture(scope='module')
def model(digits_run):
    return mixjax.load(digits_run, batch=8)


@pytest.fixture(scope='module')
def labelled(digits_run, model):
    return neighbours.labelled_images(str(digits_run), model)


def stroke(height=24, width=40):
    image = np.zeros((height, width), np.uint8)
    image[4 : height - 4, width // 2 - 1 : width // 2 + 1] = 255
    return image


# --- where the map lies -----------------------------------------------------------------------------------------------


def given_rule(letters, rule, crop, pad=0):
    geometry = Geometry(crop, pad, False, (0.0,), (1.0,))
    return dataclasses.replace(letters, rule=rule, network=letters.network._replace(geometry=geometry))


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(8, 16), st.integers(0, 4), st.sampled_from(photo.FITS),
       st.booleans())  # fmt: skip
def test_the_box_is_where_the_crop_is_seen(letters, height, width, side, less, fit, across):
    """An image whose brightness is the place along one axis tells where each pixel of the crop comes from."""
    crop, long = side - less, width if across else height
    ramp = np.broadcast_to(np.arange(long) / long if across else (np.arange(long) / long)[:, None], (height, width))
    predictor = given_rule(letters, photo.Rule(side, fit, 'bilinear', True, 1), crop)
    found = explain.open_photograph(ramp, predictor)
    np.testing.assert_array_equal(found.stored, predictor.read(ramp))
    top, left, bottom, right = found.box
    offset = (side - crop) // 2
    seen = found.stored[offset : offset + crop, offset : offset + crop, 0].mean(0 if across else 1) / 255
    low, high = (left, right) if across else (top, bottom)
    wanted = low + (np.arange(crop) + 0.5) / crop * (high - low) - 0.5 / long
    inner = slice(1, -1)  # at the ends of the image the filter is cut off
    np.testing.assert_allclose(seen[inner], wanted[inner], atol=0.02)


def test_boxes_by_hand(letters):
    # 40 x 80 to a shorter side of 20: 20 x 40, of which columns 10 to 30 are kept, and rows and columns 2 to 18 seen.
    predictor = given_rule(letters, photo.Rule(20, 'short', 'bilinear', True, 1), 16)
    assert explain.open_photograph(stroke(40, 80), predictor).box == pytest.approx((0.1, 0.3, 0.9, 0.7))
    predictor = given_rule(letters, photo.Rule(20, 'squash', 'bilinear', True, 1), 16)
    assert explain.open_photograph(stroke(40, 80), predictor).box == pytest.approx((0.1, 0.1, 0.9, 0.9))
    # A crop that is larger than the stored image sees a border.
    predictor = given_rule(letters, photo.Rule(16, 'short', 'bilinear', True, 1), 20, pad=2)
    assert explain.open_photograph(stroke(32, 32), predictor).box == pytest.approx((-0.125, -0.125, 1.125, 1.125))
    assert centre_box(17, 17, Geometry(20, 2, False, (0.0,), (1.0,))) == (-2, -2, 18, 18)


def test_what_is_not_seen_is_darker_and_the_map_is_within():
    pixels = np.full((10, 20, 3), 200, np.uint8)
    shares = np.zeros((4, 4), np.float32)
    found = explain.overlay(pixels, shares, (0.0, 0.25, 1.0, 0.75))
    np.testing.assert_array_equal(found[:, 5:15], 200)
    np.testing.assert_array_equal(found[:, :5], round(200 * explain.OUTSIDE))
    np.testing.assert_array_equal(found[:, 15:], round(200 * explain.OUTSIDE))
    shares[0, 0] = 1  # the upper left of the box
    marked = explain.overlay(pixels, shares, (0.0, 0.25, 1.0, 0.75))
    changed = np.argwhere((marked != found).any(-1))
    assert changed.min(0).tolist() == [0, 5] and (changed.max(0) < [5, 12]).all()
    np.testing.assert_array_equal(explain.overlay(pixels, None, (0.0, 0.25, 1.0, 0.75)), found)


def test_the_map_is_interpolated_between_the_centres_of_its_cells():
    weights = explain._weights(np.array([0.0, 0.25, 0.5, 0.75, 1.0]), 2)
    np.testing.assert_allclose(weights, [[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]])
    np.testing.assert_allclose(explain._weights(np.array([0.1, 0.9]), 1), [[1], [1]])


def test_a_photograph_is_upright_and_as_large_as_it_is_shown(letters):
    wide = Image.fromarray(np.random.RandomState(0).randint(0, 255, (600, 2000, 3), np.uint8))
    turned, file = Image.Exif(), io.BytesIO()
    turned[0x0112] = 6
    wide.save(file, 'JPEG', exif=turned)
    found = explain.open_photograph(file.getvalue(), letters)
    assert found.pixels.shape == (1024, 307, 3)
    np.testing.assert_array_equal(found.stored, letters.read(file.getvalue()))
    assert explain.open_photograph(stroke(16, 16), letters).pixels.shape == (320, 320, 3)


# --- the map ----------------------------------------------------------------------------------------------------------


def test_the_map_of_a_network_that_pools_its_last_map_is_its_logit(letters):
    image = letters.read(stroke())
    found = explain.look(letters, image)
    np.testing.assert_allclose(found.values, letters.probabilities(image[None])[0], atol=1e-6)
    np.testing.assert_allclose(found.features, letters.features(image[None])[0], atol=1e-5)
    assert found.label == letters.probabilities(image[None])[0].argmax() and found.map is not None
    assert found.map.shape == (16, 16) and found.map.min() >= 0
    assert found.map.max() == pytest.approx(1, abs=1e-6)  # XLA may multiply by the reciprocal
    variables = letters.network.variables
    out = letters.network.forward(variables, jnp.asarray(image[None] / 255.0, jnp.float32))
    head = variables['params']['heads']['target']
    small = cam.activation(out.maps['last'], head['kernel'], jnp.array([found.label]))
    np.testing.assert_allclose(small.mean() + head['bias'][found.label], letters.logits(image[None]).max(), rtol=1e-4)
    np.testing.assert_allclose(found.map, cam.positive(cam.enlarge(small, 16, 16))[0], atol=1e-5)


class Peaks(nn.Module):
    """A network whose features are the maxima of its last map."""

    @nn.compact
    def __call__(self, image, *, train, tap):
        del train
        hidden = tap('stage1', nn.Conv(6, (3, 3), name='stage1')(image))
        return hidden.max((1, 2)), {'stage1': hidden, 'last': hidden}


def test_the_map_of_another_network_is_by_gradients():
    """d max / dF is 1 at one position, so its mean over the 64 positions is W / 64."""
    net = from_linen(Peaks())
    variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), {'target': 3})
    variables['params']['heads']['target']['kernel'] = jax.random.normal(jax.random.key(1), (6, 3))
    network = Network(
        net, variables, lambda out: out.logits['target'], Geometry(8, 0, False, (0.0,), (1.0,)), ''
    )  # fmt: skip
    rule = photo.Rule(8, 'short', 'bilinear', True, 1)
    predictor = Predictor(('a', 'b', 'c'), {'model': 'peaks'}, rule, network, 4)
    image = np.random.RandomState(0).randint(0, 255, (8, 8, 1), np.uint8)
    found = explain.look(predictor, image)
    out = network.forward(variables, jnp.asarray(image[None] / 255.0, jnp.float32))
    kernel = variables['params']['heads']['target']['kernel']
    wanted = cam.activation(out.maps['last'], kernel, jnp.array([found.label])) / 64
    np.testing.assert_allclose(found.map, cam.positive(wanted)[0], atol=1e-4)
    flat = dataclasses.replace(predictor, network=network._replace(predict=lambda out: out.logits['target'] * 0))
    with pytest.raises(UserError, match='the logits of peaks depend on none of its maps'):
        explain.look(flat, image)


def test_views_are_averaged_and_the_map_is_of_the_centre(letters):
    views = dataclasses.replace(letters, network=letters.network._replace(tta='flip'))
    image = stroke()
    image[6:8, 20:24] = 255
    found, plain = explain.explain(views, image), explain.explain(letters, image)
    np.testing.assert_allclose(found.values, views.probabilities([image])[0], atol=1e-6)
    assert np.abs(found.values - plain.values).max() > 1e-3
    assert found.name == plain.name
    np.testing.assert_allclose(found.map, plain.map, atol=1e-6)


def test_of_several_labels_it_is_the_likeliest_and_of_numbers_there_is_no_map(letters):
    several = dataclasses.replace(letters, task=MULTI_LABEL)
    found = explain.explain(several, stroke())
    assert found.name == letters.classes[int(found.values.argmax())] and found.probability == found.values.max()
    count = len(letters.classes)
    numbers = dataclasses.replace(letters, task=REGRESSION, scale=Scale(np.zeros(count), np.ones(count)))
    found = explain.explain(numbers, stroke())
    assert found.map is None and not found.prediction
    np.testing.assert_allclose(found.values, numbers.numbers([stroke()])[0], rtol=1e-4, atol=1e-4)
    assert drawing.headline(found).startswith(f'{letters.classes[0]} ')


def test_what_is_not_an_image_is_one_sentence(letters, tmp_path):
    with pytest.raises(UserError, match='^the image: it is not a picture'):
        explain.explain(letters, b'not an image')
    (tmp_path / 'a.png').write_bytes(b'')
    with pytest.raises(UserError, match='a.png: it is empty$'):
        explain.explain(letters, tmp_path / 'a.png')


# --- the nearest images -----------------------------------------------------------------------------------------------


def test_nearest_images_are_those_of_the_largest_cosine(digits_run, model, labelled):
    learned = inference.training_set(str(digits_run))
    names = [learned.data.ids[row] for row in learned.rows]
    said = json.loads((digits_run / 'splits.json').read_text())
    assert sorted(learned.rows.tolist()) == sorted(said['labelled rows']['0']) and len(names) == 20
    photos = digits_run.parent / 'photos'
    features = model.features([str(photos / name) for name in names]).astype(np.float64)
    for k in (0, 7, 19):
        found = explain.explain(model, photos / names[k], labelled, nearest=4)
        cosine = features @ features[k] / np.linalg.norm(features, axis=1) / np.linalg.norm(features[k])
        order = np.argsort(-cosine)[:4]
        np.testing.assert_allclose([one.similarity for one in found.nearest], cosine[order], atol=1e-5)
        first = found.nearest[0]
        assert first.name == str(photos / names[k]) and first.label == Path(names[k]).parts[0]
        np.testing.assert_array_equal(first.image, model.read(photos / names[k]))


def test_features_are_computed_once(digits_run, model, labelled, monkeypatch):
    def refuse(*_):
        raise AssertionError('they were computed again')

    assert len(list((digits_run / neighbours.CACHE).iterdir())) == 1
    monkeypatch.setattr(Predictor, 'features', refuse)
    again = neighbours.labelled_images(str(digits_run), model)
    np.testing.assert_array_equal(again.features, labelled.features)
    with pytest.raises(AssertionError, match='computed again'):  # by another network they are others
        variables = jax.tree.map(lambda x: x + 1, model.network.variables)
        other = dataclasses.replace(model, network=model.network._replace(variables=variables))
        neighbours.labelled_images(str(digits_run), other)


def copied(digits_run, folder):
    """A copy of the run and of its photographs."""
    shutil.copytree(digits_run.parent / 'photos', folder / 'photos')
    shutil.copytree(digits_run, folder / 'run')
    path = folder / 'run' / 'config.json'
    path.write_text(path.read_text().replace(str(digits_run.parent), str(folder)))
    return folder / 'run'


def test_damaged_features_are_refused(digits_run, model, labelled, tmp_path):
    run = copied(digits_run, tmp_path)
    (kept,) = (run / neighbours.CACHE).iterdir()
    np.savez(kept, array=labelled.features[:, :-1])
    with pytest.raises(UserError, match='remove it'):
        neighbours.labelled_images(str(run), model)


def test_images_that_are_gone_or_changed_are_not_shown(digits_run, model, tmp_path, capsys):
    run = copied(digits_run, tmp_path)
    found = neighbours.labelled_images(str(run), model)
    path = Path(found.nearest(found.features[0], 1)[0].name)
    path.write_bytes(b'another')
    assert found.nearest(found.features[0], 1)[0].image is None  # while the command runs
    with pytest.raises(UserError, match='was begun with other images'):
        neighbours.labelled_images(str(run), model)
    shutil.rmtree(tmp_path / 'photos')
    image = next((digits_run.parent / 'photos').rglob('*.png'))
    out = tmp_path / 'out'
    assert cli.run('predict', [f'--workdir={run}', '--why', f'--out={out}', str(image)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1].startswith('no labelled images are shown: ') and str(tmp_path / 'photos') in said[-1]
    assert [path.name for path in out.iterdir()] == [f'why-{image.stem}.png']


def test_the_images_of_a_search_are_those_of_its_run(digits_run, model, labelled, tmp_path):
    (tmp_path / 'best').mkdir()
    shutil.copytree(digits_run, tmp_path / 'best' / 'probe')
    about = json.loads((digits_run / 'model.json').read_text())
    shutil.copy(digits_run / 'model.safetensors', tmp_path / 'best')
    for inner, same in (('probe', True), ('../probe', False), (None, False)):
        (tmp_path / 'best' / 'model.json').write_text(json.dumps({**about, 'run': inner, 'temperature': 2.0}))
        if same:
            found = neighbours.labelled_images(f'{tmp_path}/best/model.safetensors', model)
            np.testing.assert_allclose(found.features, labelled.features, atol=1e-6)
        else:
            with pytest.raises(UserError, match='has no config.json'):
                neighbours.labelled_images(str(tmp_path / 'best'), model)


def test_labels_in_words():
    assert neighbours.label_text(mixjax.inference.CLASSIFICATION, ('a', 'b'), np.int32(1)) == 'b'
    assert neighbours.label_text(MULTI_LABEL, ('a', 'b', 'c'), np.array([1, 0, 1])) == 'a, c'
    assert neighbours.label_text(MULTI_LABEL, ('a', 'b'), np.array([0, 0])) == 'no label'
    assert neighbours.label_text(REGRESSION, ('age', 'size'), np.array([31.5, 2])) == 'age 31.5, size 2'


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_draws_and_says_why(digits_run, tmp_path, monkeypatch, capsys):
    photos = digits_run.parent / 'photos'
    monkeypatch.chdir(tmp_path)
    words = [f'--workdir={digits_run}', '--why', '--json', str(photos / '0' / '0.png'), str(photos / '1' / '0.png')]
    assert cli.run('predict', words) == 0
    rows = json.loads(capsys.readouterr().out)['predictions']
    assert [row['why']['picture'] for row in rows] == ['why-0.png', 'why-0-2.png']
    for row in rows:
        assert row['why']['class'] == row['top'][0]['class'] and len(row['why']['nearest']) == 5
        assert set(row['why']['nearest'][0]) == {'file', 'label', 'similarity'}
        with Image.open(row['why']['picture']) as picture:
            assert picture.format == 'PNG' and picture.width > 2 * drawing.SIDE and picture.height > drawing.SIDE
    assert cli.run('predict', [words[0], '--why', '--out=deep/er', words[3]]) == 0
    said = capsys.readouterr().out
    assert 'deep/er/why-0.png shows where the network finds 0' in said
    assert said.count('photos/') >= 6 and 'nearest labelled images:  ' in said
    assert (tmp_path / 'deep/er/why-0.png').read_bytes() == (tmp_path / 'why-0.png').read_bytes()


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['--why', '--test'], '--why explains images that are given; leave --test out'),
        (['--out=x', 'a.png'], '--out is the folder of the pictures that --why draws; add --why'),
        (['--why=x', 'a.png'], '--why takes no value'),
    ],
)
def test_flags_that_do_not_go_together(words, sentence, capsys):
    assert cli.run('predict', ['--workdir=x', *words]) == 2
    assert capsys.readouterr().err == f'mixjax: {sentence}\n'


def test_pictures_that_cannot_be_written_are_one_sentence(digits_run, tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    image = next((digits_run.parent / 'photos').rglob('*.png'))
    assert cli.run('predict', [f'--workdir={digits_run}', '--why', f'--out={tmp_path}/file', str(image)]) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'cannot be written' in said and 'choose another --out' in said


def test_names_in_pictures_have_characters_that_the_font_has(letters):
    found = explain.explain(letters, stroke())
    strange = found._replace(name='\u72ac\x1b[2J \u202e' + 'long ' * 99)
    black = np.zeros((9, 9, 1), np.uint8)
    near = [neighbours.Near('', '\u72ac' * 99, 0.5, None), neighbours.Near('x', 'a', 0.25, black)]
    with Image.open(io.BytesIO(drawing.draw(strange._replace(nearest=near)))) as picture:
        assert picture.size == (2 * drawing.SIDE + drawing.GAP + 2 * drawing.MARGIN, picture.height)
        assert picture.height < 900
