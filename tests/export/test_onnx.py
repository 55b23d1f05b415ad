"""ONNX files against the predictor that they were written from."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys

import jax
import numpy as np
import onnx as onnx_package
import pytest
from PIL import Image

import mixjax
from mixjax import tasks
from mixjax.data.datasets import embedded
from mixjax.errors import UserError
from mixjax.export import cost, engine, onnx, onnx_graph
from mixjax.maths import probe as probes
from mixjax.methods import probe
from mixjax.models import weights
from mixjax.tasks import Scale
from tests.support.predictors import CLASSES, random_predictor, stored_images


@pytest.fixture(scope='module')
def letters():
    return mixjax.load('embedded://glyphnet', batch=8)


@pytest.fixture(scope='module')
def glyphs():
    """Letters that the network knows: 160 stored images, one of each class."""
    images, labels, classes = embedded.glyphs()
    rows = [np.flatnonzero(labels == label)[0] for label in range(len(classes))]
    return images[rows], labels[rows]


def exported(path, predictor, about=None, **options):
    """(what `write` gives, the engine of the file)."""
    written = onnx.write(path / 'model.onnx', predictor, about or {}, **options)
    return written, engine.open_onnx(path / 'model.onnx')


def proto(path):
    model = onnx_package.load(path / 'model.onnx')
    onnx_package.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope='module')
def letters_file(letters, tmp_path_factory):
    folder = tmp_path_factory.mktemp('letters')
    return folder, *exported(folder, letters, {'seen': 'here'})


def test_photographs_of_all_sizes_give_the_predictors_probabilities(letters, letters_file, tmp_path):
    draw = np.random.default_rng(0)
    sizes = ((16, 16), (16, 16, 1), (40, 31), (9, 200, 3), (16, 16))
    images = [draw.integers(0, 256, size, np.uint8) for size in sizes]
    paths = [tmp_path / f'{k}.png' for k in range(2)]
    for path, image in zip(paths, (images[2], images[3]), strict=True):
        Image.fromarray(image).save(path)
    images += [paths[0], str(paths[1]), paths[0].read_bytes(), Image.open(paths[1])]
    found, wanted = letters_file[2].probabilities(images), letters.probabilities(images)
    assert found.shape == (9, 160) and found.dtype == np.float32 and wanted.max() > 0.5
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_any_length_of_a_batch(letters, letters_file, glyphs):
    wanted = letters.probabilities(glyphs[0])
    for count in (0, 1, 2, 9):
        found = letters_file[2].probabilities(glyphs[0][:count])
        np.testing.assert_allclose(found, wanted[:count], rtol=0, atol=1e-6)
    assert (wanted.argmax(1) == glyphs[1]).mean() > 0.9


def test_the_file_is_valid_and_says_what_it_is(letters, letters_file):
    folder, written, found = letters_file
    model = proto(folder)
    assert [(one.name, one.type.tensor_type.elem_type) for one in model.graph.input] == [('images', 2)]
    assert [one.dim_param or one.dim_value for one in model.graph.input[0].type.tensor_type.shape.dim] == [
        'n', 'height', 'width', 1,
    ]  # fmt: skip
    assert [one.dim_param or one.dim_value for one in model.graph.output[0].type.tensor_type.shape.dim] == ['n', 160]
    facts = json.loads(next(one.value for one in model.metadata_props if one.key == 'mixjax'))
    assert facts == written.facts == found.about and facts['seen'] == 'here'
    assert found.classes == letters.classes and found.task == 'classification' and found.threshold == 0
    assert facts['image']['side'] == 16 and facts['network'] == 'glyphnet' and facts['precision'] == 'float32'
    assert written.bytes == (folder / 'model.onnx').stat().st_size and written.nodes == len(model.graph.node)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and any('stage2/block0/conv1' in name for name in names)


def test_the_weights_are_in_the_file_once(letters, letters_file):
    """Not more than the safetensors file, whose BatchNorms are parts of the convolutions here."""
    model = proto(letters_file[0])
    sizes = [int(np.prod(one.dims)) for one in model.graph.initializer]
    params = letters.network.variables['params']
    kernels = sum(np.size(leaf) for leaf in _leaves(params) if np.ndim(leaf) > 1)
    assert kernels <= sum(sizes) <= 1.02 * kernels
    assert letters_file[1].bytes < len(weights.to_bytes(letters.network.variables)) + 60_000  # nodes and class names


def _leaves(tree):
    return [leaf for one in tree.values() for leaf in (_leaves(one) if isinstance(one, dict) else [one])]


@pytest.fixture(scope='module')
def small():
    """Of lenet, for images of 32 x 32 x 3 with a crop of 28."""
    return random_predictor('lenet', 32, crop=28)


@pytest.mark.parametrize('tta', ['flip', 'flip,crops'])
def test_views_are_averaged_without_more_weights(small, tta, tmp_path):
    predictor = dataclasses.replace(small, network=small.network._replace(tta=tta))
    written, found = exported(tmp_path, predictor)
    images = stored_images(small, 3)
    np.testing.assert_allclose(found.probabilities(images), predictor.probabilities(images), rtol=0, atol=1e-6)
    assert np.abs(predictor.probabilities(images) - small.probabilities(images)).max() > 1e-4
    model = proto(tmp_path)
    assert len([node for node in model.graph.node if node.op_type == 'Conv']) == 2 * (10 if 'crops' in tta else 2)
    assert len([one for one in model.graph.initializer if len(one.dims) == 4]) == 2


def test_temperature_and_threshold(small, tmp_path):
    predictor = dataclasses.replace(small, temperature=20.0, threshold=0.9)
    found, images = exported(tmp_path, predictor)[1], stored_images(small, 3)
    np.testing.assert_allclose(found.probabilities(images), predictor.probabilities(images), rtol=0, atol=1e-6)
    assert np.abs(predictor.probabilities(images) - small.probabilities(images)).max() > 0.1
    assert found.threshold == 0.9 and found.about['temperature'] == 20.0


def test_several_labels_and_numbers(small, tmp_path):
    images = stored_images(small, 3)
    labels = dataclasses.replace(small, task=tasks.MULTI_LABEL)
    found = exported(tmp_path, labels)[1]
    assert found.task == 'multi_label' and not np.allclose(found.probabilities(images).sum(1), 1)
    np.testing.assert_allclose(found.probabilities(images), labels.probabilities(images), rtol=0, atol=1e-6)
    scale = Scale(np.arange(CLASSES) * 10.0, np.arange(1, CLASSES + 1) * 2.0)
    numbers = dataclasses.replace(small, task=tasks.REGRESSION, scale=scale)
    found = exported(tmp_path, numbers)[1]
    assert found.task == 'regression' and found.about['scale']['mean'] == scale.mean.tolist()
    np.testing.assert_allclose(found.probabilities(images), numbers.numbers(images), rtol=1e-6, atol=1e-4)


def test_a_border_where_the_crop_is_larger(tmp_path):
    """Stored images of 24 pixels, a crop of 32: four black ones on every side, as in training."""
    predictor = random_predictor('lenet', 24, crop=32)
    found, images = exported(tmp_path, predictor)[1], stored_images(predictor, 2)
    np.testing.assert_allclose(found.probabilities(images), predictor.probabilities(images), rtol=0, atol=1e-6)


def test_neighbours_vote_in_the_file(small, tmp_path):
    """The prediction of a run's method is a part of the network, here that of k nearest neighbours."""
    features = np.abs(np.random.default_rng(0).standard_normal((20, 84)))
    examples = probes.examples(features, np.arange(20) % CLASSES, CLASSES)
    params = {**small.network.variables['params'], 'heads': {'neighbours': probe.neighbours(examples, CLASSES)}}
    network = small.network._replace(
        variables={**small.network.variables, 'params': params},
        predict=lambda out: probe.votes(out, CLASSES, 3, 0.1),
    )
    predictor = dataclasses.replace(small, network=network)
    found, images = exported(tmp_path, predictor)[1], stored_images(small, 4)
    np.testing.assert_allclose(found.probabilities(images), predictor.probabilities(images), rtol=0, atol=1e-5)


def test_grey_images_for_a_network_of_colours(tmp_path):
    """A run on grey images with a network for colours has three means: normalising makes three channels."""
    made = random_predictor('lenet', 32)
    predictor = dataclasses.replace(made, rule=made.rule._replace(channels=1))
    found, images = exported(tmp_path, predictor)[1], stored_images(predictor, 2)
    assert images.shape[-1] == found.about['image']['channels'] == 1
    np.testing.assert_allclose(found.probabilities(images), predictor.probabilities(images), rtol=0, atol=1e-6)
    colours = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    np.testing.assert_allclose(found.probabilities([colours]), predictor.probabilities([colours]), rtol=0, atol=1e-6)


# --- precisions -------------------------------------------------------------------------------------------------------


def test_bfloat16_networks_are_written_in_float32(tmp_path):
    """The file computes as the same weights do in float32, and says that the run did not."""
    half, full = (random_predictor('glyphnet', dtype=dtype) for dtype in ('bfloat16', 'float32'))
    written, found = exported(tmp_path, half)
    images = stored_images(full, 4)
    np.testing.assert_allclose(found.probabilities(images), full.probabilities(images), rtol=0, atol=1e-6)
    assert np.abs(half.logits(images) - full.logits(images)).max() > 1e-3
    assert written.facts['trained_in'] == 'bfloat16' and 'bfloat16' in written.notes[0]
    kinds = {one.data_type for one in proto(tmp_path).graph.initializer}
    assert kinds <= {1, 2, 7, 11}  # float32, uint8, int64, float64


def test_float16_halves_the_file(letters, letters_file, glyphs, tmp_path):
    written, found = exported(tmp_path, letters, precision='float16')
    assert written.bytes < 0.65 * letters_file[1].bytes and not written.notes
    before, after = letters.probabilities(glyphs[0]), found.probabilities(glyphs[0])
    result = cost.cost(glyphs[1], before, after)
    assert result.changed == 0 and 0 < result.largest < 0.02
    kinds = {one.data_type for one in proto(tmp_path).graph.initializer if len(one.dims) == 4}
    assert kinds == {10}  # float16


def test_int8_keeps_nearly_all_predictions(letters, letters_file, glyphs, tmp_path):
    _, found = exported(tmp_path, letters, {'seen': 'here'}, precision='int8', calibration=glyphs[0][::2])
    assert found.about == {**letters_file[2].about, 'precision': 'int8'}
    before, after = letters.probabilities(glyphs[0]), found.probabilities(glyphs[0])
    result = cost.cost(glyphs[1], before, after)
    assert result.after > result.before - 0.03 and result.changed <= 8
    model = proto(tmp_path)
    kinds = [one.data_type for one in model.graph.initializer if len(one.dims) == 4]
    assert kinds == [3] * 9  # int8, of all nine convolutions
    scales = {one.name: one.dims for one in model.graph.initializer if one.name.endswith('kernel_scale')}
    assert [16] in [list(dims) for dims in scales.values()]  # one for each channel
    done = [node for node in model.graph.node if node.op_type == 'QuantizeLinear']
    assert 10 < len(done) < 40 and 'images' not in {name for node in done for name in node.input}


def test_int8_needs_images(letters, tmp_path):
    with pytest.raises(UserError, match='int8 takes the ranges of its numbers from training images'):
        onnx.write(tmp_path / 'model.onnx', letters, {}, precision='int8')
    assert not (tmp_path / 'model.onnx').exists()


# --- layers -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def letters_maps(letters, glyphs):
    """The maps of three letters."""
    return jax.jit(functools.partial(onnx.maps, letters.network))(letters.network.variables, glyphs[0][:3])


def test_layers_are_the_maps_of_the_network(letters, letters_maps, glyphs):
    images, wanted = glyphs[0][:3], letters_maps
    found = onnx.layers(letters, images)
    assert list(found) == [
        'input', 'stage1.conv', 'stage1', 'stage2.conv', 'stage2', 'stage3.conv', 'stage3', 'last', 'features', 'logits'
    ]  # fmt: skip
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-4, err_msg=name)


def test_layers_tell_the_first_that_differs(letters, letters_maps, glyphs):
    images, params = glyphs[0][:3], letters.network.variables['params']
    stage = params['backbone']['stage2']
    block = {**stage['block0'], 'conv2': {'kernel': stage['block0']['conv2']['kernel'] * 1.01}}
    backbone = {**params['backbone'], 'stage2': {**stage, 'block0': block}}
    changed = {**letters.network.variables, 'params': {**params, 'backbone': backbone}}
    found = onnx.layers(dataclasses.replace(letters, network=letters.network._replace(variables=changed)), images)
    differing = [name for name in found if np.abs(found[name] - letters_maps[name]).max() > 1e-3]
    assert differing[0] == 'stage2.conv' and differing[-1] == 'logits'


# --- what cannot be written -------------------------------------------------------------------------------------------


def test_wrong_input_is_one_sentence(letters, monkeypatch, tmp_path):
    with pytest.raises(UserError, match="unknown precision 'float61'; did you mean 'float16'"):
        onnx.write(tmp_path / 'model.onnx', letters, {}, precision='float61')
    monkeypatch.setattr(onnx_graph, 'MOST_BYTES', 100_000)
    with pytest.raises(UserError, match=r'holds at most 2 GB, and the weights of this network are 0\.0 GB'):
        onnx.write(tmp_path / 'model.onnx', letters, {})
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(UserError, match=r"pip install 'mixjax\[onnx\]'"):
        onnx.write(tmp_path / 'model.onnx', letters, {})
    assert not list(tmp_path.iterdir())
