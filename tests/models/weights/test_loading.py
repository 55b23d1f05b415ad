import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from mixjax import method as method_lib
from mixjax import models
from mixjax.config import method_registry
from mixjax.data.dataset import Dataset
from mixjax.data.labelled import run_data
from mixjax.errors import UserError
from mixjax.models import weights
from mixjax.train import init, prepare
from mixjax.train import start as start_lib
from mixjax.train.shared import build_network

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
    start = start_lib.pretrained(stored(tmp_path, variables), net, 'glyphnet', IMAGE, ('a', 'b', 'c')).variables
    assert set(start['params']['heads']) == {'source'}
    np.testing.assert_array_equal(
        start['params']['heads']['source']['bias'], variables['params']['heads']['target']['bias']
    )


def test_the_classes_must_be_the_source_data_sets_in_its_order(net, variables, tmp_path):
    spec = stored(tmp_path, variables)
    with pytest.raises(UserError, match='3 classes that are not the 3 of the source data set'):
        start_lib.pretrained(spec, net, 'glyphnet', IMAGE, ('a', 'c', 'b'))
    with pytest.raises(UserError, match="of a 'glyphnet', and config.model.name is 'resnet50'"):
        start_lib.pretrained(spec, net, 'resnet50', IMAGE, ())


def test_every_tensor_is_accounted_for_in_one_error(net, variables, tmp_path):
    changed = {**variables, 'params': {**variables['params'], 'backbone': {**variables['params']['backbone']}}}
    changed['params']['backbone'].pop('stage3')
    changed['params']['backbone']['extra'] = {'kernel': np.zeros(2, np.float32)}
    changed['params']['backbone']['stem'] = jax.tree.map(lambda x: x[..., :-1], variables['params']['backbone']['stem'])
    with pytest.raises(UserError) as error:
        start_lib.pretrained(stored(tmp_path, changed), net, 'glyphnet', IMAGE, ())
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


def test_files_with_our_names_that_are_no_network(variables, tmp_path):
    foreign = [{'params': {'backbone': np.zeros(2)}}, {'params': {'other': {'kernel': np.zeros(2)}}}]
    foreign.append({**variables, 'params': {**variables['params'], 'heads': {'target': {'kernel': np.zeros((2, 2))}}}})
    for tree in foreign:
        with pytest.raises(UserError, match='are not a network as mixjax writes it'):
            weights.load(stored(tmp_path, tree))
    spec = stored(tmp_path, variables)
    for wrong in ('[1]', '{"classes": 3}', '{"classes": [1]}'):
        (tmp_path / 'model.json').write_text(wrong)
        with pytest.raises(UserError, match='was not written by mixjax'):
            weights.load(spec)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_nonfinite_weights_are_refused(value, variables, tmp_path):
    flat = traverse_util.flatten_dict(variables, sep='/')
    name = 'params/backbone/stage2/block0/conv1/kernel'
    flat[name] = flat[name].copy()
    flat[name][1, 1, 3, 5] = value
    with pytest.raises(UserError, match=f'the tensor {name} holds NaN or infinite numbers'):
        weights.load(stored(tmp_path, traverse_util.unflatten_dict(flat, sep='/')))


def test_large_finite_weights_are_accepted(variables, tmp_path):
    flat = traverse_util.flatten_dict(variables, sep='/')
    name = 'params/backbone/stem/conv/kernel'
    flat[name] = np.full(flat[name].shape, 3e38, np.float32)
    weights.load(stored(tmp_path, traverse_util.unflatten_dict(flat, sep='/')))


def test_what_is_missing_and_how_to_get_it(tmp_path):
    for here in ('', *(f'embedded://{name}' for name in weights.EMBEDDED)):
        assert weights.missing(here) is None
    for wrong in ('random://', 'random://abc', 'random://0', 'random://-3'):
        assert 'a number of classes' in str(weights.missing(wrong))
    assert 'the embedded weights are glyphnet, glyphnet_deep' in str(weights.missing('embedded://other'))
    assert f'looked for\n  {tmp_path}/no.pth\n' in str(weights.missing(f'{tmp_path}/no.pth'))
    places = tmp_path / 'resnet50_places365.pth.tar'
    assert f'fetch {weights.PUBLISHED[places.name][1]}, or give' in str(weights.missing(str(places)))
    assert weights.classes(str(places), 'resnet50') == 365  # known without the file
    assert f'looked for\n  {tmp_path}/model.safetensors\n' in str(weights.missing(str(tmp_path)))
    for label in ('b', 'a'):
        (tmp_path / label).mkdir()
        (tmp_path / label / 'model.safetensors').touch()
    assert f'holds several models; give one of {tmp_path}/a, {tmp_path}/b' in str(weights.missing(str(tmp_path)))


# --- what becomes of the classifier -----------------------------------------------------------------------------------


def start(net, spec, head, classes=('a', 'b', 'c')):
    return start_lib.pretrained(spec, net, 'glyphnet', IMAGE, head=head, classes_t=classes)


def test_classifier_mode_is_chosen_and_logged(net, variables, tmp_path):
    spec = stored(tmp_path, variables)
    fates = {'source': {'source'}, 'keep': {'source', 'target'}, 'reset': set()}
    told = {'source': "becomes the head 'source'", 'keep': "is where the target's begins", 'reset': 'is left out'}
    for head, left in fates.items():
        began = start(net, spec, head)
        assert set(began.variables['params']['heads']) == left
        assert began.note.startswith(f'weights {spec}: 47 tensors; its classifier of 3 classes {told[head]}')


def test_keep_begins_the_target_where_the_classifier_ended(net, variables, tmp_path):
    began = start(net, stored(tmp_path, variables), 'keep')
    rows = begin_head(net, 'finetune', began)
    jax.tree.map(np.testing.assert_array_equal, rows, variables['params']['heads']['target'])
    fresh = begin_head(net, 'finetune', start(net, stored(tmp_path, variables), 'source'))
    assert np.abs(fresh['kernel'] - rows['kernel']).min() > 0


THREE = Dataset('three', ('a', 'b', 'c'), np.arange(3), lambda rows: np.zeros(0))


def begin_head(net, name, began):
    method = method_registry.load(name)(3)
    part = prepare.part(THREE, lambda x: x, None, batch=1, key=None)
    wanted = init.wanted_heads(net, method, method_lib.Prepared(), method_lib.Data(part), began.variables)
    made = init.initialiser(net, wanted, IMAGE, True)
    params, _ = init.initial_params(made, wanted, jax.random.key(1), began.variables, jnp.float32)
    return params['heads']['target']


def test_keep_is_refused_where_it_makes_no_sense(net, variables, tmp_path):
    spec = stored(tmp_path, variables)
    with pytest.raises(UserError, match="keep: the 3 classes of weights .* are not the target data set's 3"):
        start(net, spec, 'keep', ('a', 'c', 'b'))
    with pytest.raises(UserError, match='keep: weights random://5 know 5 classes and the target data set has 3'):
        start(net, 'random://5', 'keep')
    joint = method_registry.load('finetune')(3)._replace(heads=lambda *_: {'joint': method_lib.Head(5)})
    part = prepare.part(THREE, lambda x: x, None, batch=1, key=None)
    with pytest.raises(UserError, match="needs a method with a head 'target'; this one has 'joint'"):
        init.wanted_heads(net, joint, method_lib.Prepared(), method_lib.Data(part), start(net, spec, 'keep').variables)


@pytest.mark.parametrize('name', weights.EMBEDDED)
def test_the_embedded_networks_know_the_printed_letters(name):
    from mixjax import config as config_lib
    from mixjax.data.feed import augment

    config = config_lib.load(f'glyphs_pretrain:{name}')
    letters = run_data.load(config, config.target).train
    net, geometry, shape = build_network(config, run_data.load_sets(config))
    start = start_lib.pretrained(f'embedded://{name}', net, name, shape, letters.classes).variables
    trained = run_data.draw_seed(config, run_data.load_sets(config), config.seed).train
    rows = np.setdiff1d(np.arange(len(letters.labels)), trained)
    image = augment.centre(jnp.asarray(letters.read(rows)), geometry)
    logits = jax.jit(lambda v, x: net.apply(v, x, train=False)[0].logits['source'])(start, image)
    accuracy = float((logits.argmax(1) == letters.labels[rows]).mean())
    assert accuracy > 0.95, accuracy  # letters it has not been trained on
    about = weights.load(f'embedded://{name}').about
    added = {'augment': '', 'tta': ''}  # since these networks were trained
    assert added | about['image'] == json.loads(config.image.to_json()) and about['steps'] == config.steps
    assert about['method'] == json.loads(config.method.to_json())
