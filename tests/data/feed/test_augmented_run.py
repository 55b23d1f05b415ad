"""A short run with augmentation and test-time augmentation, from the config to the exported model."""

import json

import numpy as np
import pytest

import mixjax
from mixjax import config as config_lib
from mixjax import inference
from mixjax.errors import UserError
from tests.support import tiny_config

STRONG = 'resized_crop(0.5),randaugment(2,20),erase(0.5)'


def config(**image):
    made = tiny_config.get_config()
    made.steps = made.eval_every = made.checkpoint_every = 4
    made.image.resize, made.image.crop, made.image.pad = 16, 12, 0
    made.image.update(image)
    return made


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('augmented') / 'run'
    mixjax.train.run(config(augment=STRONG, tta='flip,crops'), folder, progress=False)
    return folder


def test_the_exported_model_predicts_as_the_run_evaluated(folder):
    model = mixjax.load(folder)
    with np.load(folder / 'predictions.npz') as kept:
        told = {name: kept[name] for name in kept.files}
    test = inference.test_set(folder)
    image = np.asarray(test.image)
    probabilities = model.probabilities(image)
    results = json.loads((folder / 'results.json').read_text())
    assert (probabilities.argmax(1) == test.label).mean() == results['accuracy']['mean']
    np.testing.assert_array_equal(told['predicted'][0], probabilities.argmax(1))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    # By hand: ten crops through a model that knows nothing of them.
    about = json.loads((folder / 'model.json').read_text())
    assert about['image']['tta'] == 'flip,crops' and about['image']['augment'] == STRONG
    (folder / 'model.json').write_text(json.dumps({**about, 'image': {**about['image'], 'tta': ''}}))
    plain = mixjax.load(folder)
    (folder / 'model.json').write_text(json.dumps(about))
    each = []
    for row, column in ((2, 2), (0, 0), (0, 4), (4, 0), (4, 4)):
        centred = np.zeros_like(image)
        centred[:, 2:14, 2:14] = image[:, row : row + 12, column : column + 12]
        each += [plain.probabilities(centred), plain.probabilities(centred[:, :, ::-1])]
    np.testing.assert_allclose(probabilities, np.mean(each, axis=0), rtol=1e-4, atol=1e-6)
    assert np.abs(plain.probabilities(image) - probabilities).max() > 1e-4


def test_the_pictures_are_augmented(folder):
    with np.load(folder / 'samples.npz') as kept:
        image = kept['image']
    assert image.dtype == np.uint8 and image.shape == (8, 12, 12, 1)
    # Shear, translation and rotation leave black behind, which crops do not: they have no border here.
    assert (image == 0).mean() > 0.02 > 0.005 > (np.asarray(inference.test_set(folder).image) == 0).mean()


def test_a_config_from_before_has_neither(folder):
    data = json.loads((folder / 'config.json').read_text())
    del data['image']['augment'], data['image']['tta']
    read = config_lib.from_data(data)
    assert (read.image.augment, read.image.tta) == ('', '')


@pytest.mark.parametrize(
    ('image', 'sentence'),
    [
        ({'augment': 'randagument(2,9)'}, "config.image.augment: 'randagument' is not .*did you mean 'randaugment'"),
        ({'augment': 'erase(2)'}, 'config.image.augment: p of erase must be a number from 0 to 1'),
        ({'tta': 'flop'}, "config.image.tta: 'flop' is not one of flip, crops; did you mean 'flip'"),
    ],
)
def test_wrong_settings_end_before_anything_is_loaded(image, sentence):
    with pytest.raises(UserError, match=sentence):
        config_lib.check(config_lib.settle(config_lib.complete(config(**image))))


def test_crops_need_room():
    made = config(tta='crops', crop=16)
    config_lib.check(config_lib.settle(config_lib.complete(made)))  # made-up images are a trial
    made = config(tta='crops', crop=16)
    made.synthetic.per_class = made.synthetic.side = 0
    made.target.name = 'digits'
    with pytest.raises(UserError, match='config.image.tta=crops: the crops of 16 are all the same in stored images'):
        config_lib.check(config_lib.settle(config_lib.complete(made)))


@pytest.mark.parametrize('tta', [3, 'flop', None, ['flip']])
def test_a_damaged_model_is_one_sentence(folder, tta):
    about = json.loads((folder / 'model.json').read_text())
    (folder / 'model.json').write_text(json.dumps({**about, 'image': {**about['image'], 'tta': tta}}))
    try:
        with pytest.raises(UserError, match='model.json is damaged .its image.tta'):
            mixjax.load(folder)
    finally:
        (folder / 'model.json').write_text(json.dumps(about))
