import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import models
from mixjax.errors import UserError
from mixjax.models import weights
from mixjax.train import prepare

IMAGE = jnp.zeros((1, 16, 16, 1))


@pytest.fixture(scope='module')
def net():
    return models.build('glyphnet')


@pytest.fixture(scope='module')
def variables(net):
    return jax.tree.map(np.asarray, jax.jit(lambda key: net.init(key, IMAGE, {'target': 3}))(jax.random.key(0)))


def stored(folder, variables, **about):
    (folder / 'model.safetensors').write_bytes(weights.to_bytes(variables))
    (folder / 'model.json').write_text(json.dumps({'model': 'glyphnet', 'classes': ['a', 'b', 'c'], **about}))
    return str(folder)


def test_a_file_gives_back_the_same_arrays_and_bytes(variables, tmp_path):
    spec = stored(tmp_path, variables)
    loaded = weights.load(spec)
    assert jax.tree.structure(loaded.variables) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    assert weights.to_bytes(loaded.variables) == weights.to_bytes(variables)
    assert weights.load(str(tmp_path / 'model.safetensors')).about['classes'] == ['a', 'b', 'c']


def test_the_classifier_of_a_run_becomes_the_source_head(net, variables, tmp_path):
    start = prepare.pretrained(stored(tmp_path, variables), net, 'glyphnet', IMAGE, ('a', 'b', 'c'))
    assert set(start['params']['heads']) == {'source'}
    np.testing.assert_array_equal(
        start['params']['heads']['source']['bias'], variables['params']['heads']['target']['bias']
    )


def test_the_classes_must_be_the_source_data_sets_in_its_order(net, variables, tmp_path):
    spec = stored(tmp_path, variables)
    with pytest.raises(UserError, match='3 classes that are not the 3 of the source data set'):
        prepare.pretrained(spec, net, 'glyphnet', IMAGE, ('a', 'c', 'b'))
    with pytest.raises(UserError, match="of a 'glyphnet', and config.model.name is 'resnet50'"):
        prepare.pretrained(spec, net, 'resnet50', IMAGE, ())


def test_every_tensor_is_accounted_for_in_one_error(net, variables, tmp_path):
    changed = {**variables, 'params': {**variables['params'], 'backbone': {**variables['params']['backbone']}}}
    changed['params']['backbone'].pop('stage3')
    changed['params']['backbone']['extra'] = {'kernel': np.zeros(2, np.float32)}
    changed['params']['backbone']['stem'] = jax.tree.map(lambda x: x[..., :-1], variables['params']['backbone']['stem'])
    with pytest.raises(UserError) as error:
        prepare.pretrained(stored(tmp_path, changed), net, 'glyphnet', IMAGE, ())
    text = str(error.value)
    assert 'params/backbone/stage3' in text and 'is not in the file' in text
    assert 'params/backbone/extra/kernel has no place in the network' in text
    assert 'params/backbone/stem/conv/kernel has shape (3, 3, 1, 15), the network (3, 3, 1, 16)' in text


@pytest.mark.parametrize(
    ('damage', 'sentence'),
    [
        (lambda folder: (folder / 'model.safetensors').write_bytes(b'short'), 'cannot be read'),
        (lambda folder: (folder / 'model.safetensors').write_bytes(b'\xff' * 64), 'cannot be read'),
        (lambda folder: (folder / 'model.json').write_text('{'), 'cannot be read'),
        (lambda folder: (folder / 'model.json').unlink(), 'model.json is not beside'),
        (lambda folder: (folder / 'model.safetensors').unlink(), 'are missing'),
    ],
)
def test_damaged_files(damage, sentence, variables, tmp_path):
    spec = stored(tmp_path, variables)
    damage(tmp_path)
    with pytest.raises(UserError, match=sentence):
        weights.load(spec)


def test_files_that_mixjax_did_not_write(variables, tmp_path):
    foreign = [{'layer': {'weight': np.zeros(2)}}, {'params': {'backbone': np.zeros(2)}}]
    foreign.append({**variables, 'params': {**variables['params'], 'heads': {'target': {'kernel': np.zeros((2, 2))}}}})
    for tree in foreign:
        with pytest.raises(UserError, match='were not written by mixjax'):
            weights.load(stored(tmp_path, tree))
    spec = stored(tmp_path, variables)
    (tmp_path / 'model.json').write_text('[1]')
    with pytest.raises(UserError, match='were not written by mixjax'):
        weights.load(spec)


def test_what_is_missing_and_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    assert weights.missing('') is None and weights.missing('embedded://glyphnet') is None
    assert 'hf download timm/resnet50.tv_in1k model.safetensors' in str(weights.missing('hf://timm/resnet50.tv_in1k'))
    for wrong in ('random://', 'random://abc', 'random://0', 'random://-3'):
        assert 'a number of classes' in str(weights.missing(wrong))
    assert 'the embedded weights are glyphnet' in str(weights.missing('embedded://other'))
    cached = tmp_path / 'hub' / 'models--timm--resnet50.tv_in1k' / 'snapshots' / 'abc'
    cached.mkdir(parents=True)
    (cached / 'model.safetensors').write_bytes(b'')
    assert 'reads only files that it wrote itself' in str(weights.missing('hf://timm/resnet50.tv_in1k'))
    assert weights.classes('hf://timm/resnet50.tv_in1k') == 1000


def test_the_embedded_network_knows_the_printed_letters():
    from mixjax import config as config_lib
    from mixjax.data import augment, catalog
    from mixjax.train import program

    config = config_lib.load('glyphs_pretrain')
    letters = catalog.load('glyphs', 'train')
    net = models.build('glyphnet')
    start = prepare.pretrained('embedded://glyphnet', net, 'glyphnet', IMAGE, letters.classes)
    trained = program.labelled(config, program.load_sets(config), config.seed)
    rows = np.setdiff1d(np.arange(len(letters.labels)), trained)
    geometry = augment.Geometry(16, config.image.pad, False, config.image.mean, config.image.std)
    image = augment.centre(jnp.asarray(letters.read(rows)), geometry)
    logits = jax.jit(lambda v, x: net.apply(v, x, train=False)[0].logits['source'])(start, image)
    accuracy = float((logits.argmax(1) == letters.labels[rows]).mean())
    assert accuracy > 0.95, accuracy  # letters it has not been trained on
    about = weights.load('embedded://glyphnet').about
    assert about['image'] == json.loads(config.image.to_json()) and about['steps'] == config.steps
