"""The engine: files that mixjax wrote run without JAX, and all others end in a sentence."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx as onnx_package
import pytest
from PIL import Image

import mixjax
from mixjax.errors import UserError
from mixjax.export import engine, onnx


@pytest.fixture(scope='module')
def letters():
    return mixjax.load('embedded://glyphnet', batch=4)


@pytest.fixture(scope='module')
def file(letters, tmp_path_factory):
    path = tmp_path_factory.mktemp('letters') / 'model.onnx'
    onnx.write(path, letters, {})
    return path


@pytest.fixture(scope='module')
def opened(file):
    return engine.open_onnx(file)


@pytest.fixture
def photograph(tmp_path):
    """A file of 60 x 40 pixels that a camera took on its side."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / 'one.jpg', exif=exif)
    return tmp_path / 'one.jpg'


SCRIPT = """
import sys
from mixjax.export import engine
found = engine.open_onnx(sys.argv[1])
print(*found.probabilities([sys.argv[2]])[0][:5])
print(*sorted({name.partition('.')[0] for name in sys.modules}))
"""


def test_it_runs_without_jax(file, letters, photograph):
    done = subprocess.run([sys.executable, '-c', SCRIPT, file, photograph], capture_output=True, text=True, check=True)
    probabilities, modules = done.stdout.splitlines()
    found = np.array(probabilities.split(), np.float32)
    np.testing.assert_allclose(found, letters.probabilities([photograph])[0, :5], rtol=1e-3, atol=1e-6)
    assert not {'jax', 'jaxlib', 'flax', 'onnx', 'scipy', 'orbax'} & set(modules.split())
    assert {'numpy', 'onnxruntime', 'mixjax'} <= set(modules.split())


def test_photographs_are_turned_upright(opened, photograph):
    assert opened.pixels(photograph).shape == (60, 40, 1)
    assert opened.pixels(photograph.read_bytes()).shape == (60, 40, 1)
    assert opened.pixels(Image.open(photograph)).shape == (60, 40, 1)


def test_one_image_or_many(opened, photograph):
    one = opened.probabilities(photograph)
    assert one.shape == (1, 160)
    for source in (str(photograph), photograph.read_bytes(), Image.open(photograph)):
        np.testing.assert_array_equal(opened.probabilities(source), one)
    assert opened.probabilities([]).shape == (0, 160)
    floats = np.random.default_rng(0).random((2, 16, 16, 1))
    rounded = np.rint(floats * 255).astype(np.uint8)
    np.testing.assert_array_equal(opened.probabilities(floats), opened.probabilities(rounded))


def test_images_of_many_sizes_keep_their_order(opened, monkeypatch):
    draw = np.random.default_rng(0)
    images = [draw.integers(0, 256, (size, 20, 1), np.uint8) for size in (20, 20, 30, 20, 30, 30, 30, 30, 30)]
    alone = np.concatenate([opened.probabilities([image]) for image in images])
    np.testing.assert_allclose(opened.probabilities(images), alone, rtol=0, atol=1e-6)
    monkeypatch.setattr(engine, 'TOGETHER', 2)
    assert [len(batch) for batch in engine._batches(iter(images))] == [2, 1, 1, 2, 2, 1]
    monkeypatch.setattr(engine, 'PIXELS', 700)
    assert [len(batch) for batch in engine._batches(iter(images))] == [1] * 9


@pytest.mark.parametrize(
    'source, said',
    [
        (b'', 'the image: it is empty'),
        (b'no picture', 'the image: it is'),
        (np.zeros((3, 3, 2), np.uint8), r'an image must be of shape \(H, W\), \(H, W, 1\) or \(H, W, 3\)'),
        (np.zeros((3, 3), np.int64), 'pixels must be uint8'),
    ],
)
def test_wrong_images_are_one_sentence(opened, source, said):
    with pytest.raises(UserError, match=said):
        opened.probabilities([source])


def test_a_missing_image_is_named(opened, tmp_path):
    with pytest.raises(UserError, match='nothing.png: .*No such file'):
        opened.probabilities([tmp_path / 'nothing.png'])


def changed(file, path, change):
    """The file with something of it changed by a function of its model and its facts."""
    model = onnx_package.load(file)
    facts = json.loads(model.metadata_props[0].value)
    found = change(model, facts)
    if found is not None:
        model.metadata_props[0].value = found if isinstance(found, str) else json.dumps(found)
    path.write_bytes(model.SerializeToString())
    return path


def without(facts, key):
    return {name: value for name, value in facts.items() if name != key}


DAMAGES = {
    'no facts': (lambda model, facts: model.ClearField('metadata_props'), 'an ONNX file that mixjax did not write'),
    'no JSON': (lambda model, facts: '{', 'is damaged'),
    'deep JSON': (lambda model, facts: '[' * 100_000, 'is damaged .*nested too deeply'),
    'no table': (lambda model, facts: [1], 'is damaged'),
    'no classes': (lambda model, facts: without(facts, 'classes'), "is damaged .*'classes'"),
    'few classes': (lambda model, facts: {**facts, 'classes': ['a']}, 'is damaged .*more or fewer classes'),
    'unnamed classes': (lambda model, facts: {**facts, 'classes': [1] * 160}, 'is damaged .*no names'),
    'channels': (lambda model, facts: {**facts, 'image': {'channels': 4}}, 'is damaged .*channels'),
    'threshold': (lambda model, facts: {**facts, 'threshold': 'high'}, 'is damaged .*threshold'),
    'task': (lambda model, facts: {**facts, 'task': None}, 'is damaged .*task'),
    'output': (lambda model, facts: model.graph.output.add().CopyFrom(model.graph.input[0]), 'is damaged|no ONNX file'),
}  # fmt: skip


@pytest.mark.parametrize('name', DAMAGES)
def test_damaged_files_are_one_sentence(name, file, tmp_path):
    change, said = DAMAGES[name]
    path = changed(file, tmp_path / 'other.onnx', change)
    with pytest.raises(UserError, match=f'other.onnx.*{said}') as error:
        engine.open_onnx(path)
    assert '\n' not in str(error.value)


def test_other_files_are_one_sentence(file, tmp_path):
    whole, path = file.read_bytes(), tmp_path / 'other.onnx'
    for data in (b'', b'hello', whole[: len(whole) // 2], whole[:-100], whole[100:], bytes(1000)):
        path.write_bytes(data)
        with pytest.raises(UserError, match='other.onnx') as error:
            engine.open_onnx(path)
        assert '\n' not in str(error.value) and len(str(error.value)) < 400
    with pytest.raises(UserError, match='nothing.onnx cannot be opened: No such file'):
        engine.open_onnx(tmp_path / 'nothing.onnx')
    with pytest.raises(UserError, match='cannot be opened: Is a directory'):
        engine.open_onnx(tmp_path)


def test_weights_outside_of_the_file_are_not_read(file, tmp_path):
    """A stranger's file must not name others: onnxruntime has its bytes and no folder."""
    model = onnx_package.load(file)
    folder = tmp_path / 'split'
    folder.mkdir()
    onnx_package.save(model, folder / 'model.onnx', save_as_external_data=True, location='weights', size_threshold=0)
    with pytest.raises(UserError, match='model.onnx is no ONNX file, or is cut short or damaged'):
        engine.open_onnx(folder / 'model.onnx')


def test_the_packages_are_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(UserError, match=r"pip install 'mixjax\[onnx\]'"):
        engine.open_onnx(file)
