"""Exports give the same probabilities, or are removed; their cards say what is known, and no paths."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import mixjax
from mixjax.errors import UserError
from mixjax.export import card, network, paths, predictor, stablehlo, torch_form, verify, write
from mixjax.models.weights import hub
from tests.support.common import call
from tests.support.written import write_network

GLYPHS = 'embedded://glyphnet'


@pytest.fixture(scope='module')
def resnet(tmp_path_factory):
    """A calibrated ResNet-18 for images of 32 pixels."""
    folder = tmp_path_factory.mktemp('resnet') / 'run'
    return write_network(folder, 'resnet18', 32, temperature=2.5, licence='MIT')


@pytest.fixture(scope='module')
def opened(resnet):
    return network.read(str(resnet), images=4)


@pytest.fixture(scope='module')
def glyphs():
    return network.read(GLYPHS, images=5)


@pytest.mark.parametrize('form', ['timm', 'torchvision'])
def test_the_temperature_is_in_the_classifier(opened, resnet, tmp_path, form):
    made = write.export(opened, form, tmp_path / form)
    tensors = load_file(tmp_path / form / 'model.safetensors')
    own = mixjax.load(resnet).network.variables['params']['heads']['target']
    np.testing.assert_allclose(tensors['fc.weight'], own['kernel'].T / 2.5, rtol=1e-6)
    np.testing.assert_allclose(tensors['fc.bias'], own['bias'] / 2.5, rtol=1e-6)
    assert made.verified.difference <= verify.CLOSE and made.verified.origin == 'generated images'
    assert json.loads((tmp_path / form / write.RECORD).read_text())['verified']['images'] == 4


def test_timms_config_says_how_images_are_prepared(opened, tmp_path):
    write.export(opened, 'timm', tmp_path / 'out')
    said = json.loads((tmp_path / 'out' / 'config.json').read_text())
    prepared = said['pretrained_cfg']
    assert said['architecture'] == 'resnet18' and said['label_names'] == [f'class {k}' for k in range(5)]
    assert said['num_classes'] == 5 and said['num_features'] == 512
    assert prepared['input_size'] == [3, 32, 32] and prepared['license'] == 'MIT'
    assert int(32 / prepared['crop_pct']) == 36 and prepared['crop_mode'] == 'center'
    assert (prepared['first_conv'], prepared['classifier']) == ('conv1', 'fc')


def test_timm_puts_positions_on_the_published_grid(tmp_path):
    """And resizes them once, to the grid of the images: it would else resize them to that of its default before."""
    exported = network.read(str(write_network(tmp_path / 'run', 'test_vit', 96)), images=2)
    said = json.loads(torch_form.timm_config(exported)['config.json'])
    assert said['model_args'] == {'img_size': 160, 'dynamic_img_size': True}
    assert said['pretrained_cfg']['input_size'] == [3, 96, 96]


def test_torchvisions_settings_are_those_of_its_transforms(opened, tmp_path):
    write.export(opened, 'torchvision', tmp_path / 'out')
    said = json.loads((tmp_path / 'out' / 'preprocessing.json').read_text())
    assert (said['model'], said['resize_size'], said['crop_size']) == ('resnet18', 36, 32)
    assert said['mean'] == [0.485, 0.456, 0.406] and len(said['classes']) == 5


@pytest.mark.parametrize('crop', [224, 380, 96, 7])
@pytest.mark.parametrize('fraction', [0.875, 0.922, 0.9, 1.0])
def test_timm_computes_the_same_size_before_the_crop(crop, fraction):
    import math

    from mixjax.data.pixels.photo import Rule

    side = math.floor(crop / fraction)
    assert math.floor(crop / torch_form.crop_share(crop, Rule(side))) == side


def test_what_differs_is_removed_and_the_first_layer_is_named(opened, tmp_path, monkeypatch):
    """A convolution of the second stage is damaged on the way."""
    real = write.FORMS['timm']

    def damaged(exported, precision):
        files = real.contents(exported, precision)
        (tmp_path / 'w').write_bytes(files['model.safetensors'])
        tensors = load_file(tmp_path / 'w')
        tensors['layer2.0.conv1.weight'] = tensors['layer2.0.conv1.weight'] * 3
        return {**files, 'model.safetensors': torch_form.save_tensors(tensors)}

    monkeypatch.setitem(write.FORMS, 'timm', real._replace(contents=damaged))
    with pytest.raises(UserError, match=r'first layer that differs is stage2(\.conv)?; it was removed'):
        write.export(opened, 'timm', tmp_path / 'out')
    assert list((tmp_path / 'out').iterdir()) == []


def test_a_damaged_classifier_is_named_and_nan_is_no_agreement(opened):
    wanted = opened.probabilities
    result = verify.compare(opened, np.full_like(wanted, np.nan), 'a test')
    assert result.difference == np.inf
    with pytest.raises(UserError, match='the classifier'):
        verify.require_equal(opened, result, lambda: verify.own_maps(opened))


def test_another_folder_is_not_written_over(glyphs, tmp_path):
    (tmp_path / 'mine.txt').write_text('mine')
    with pytest.raises(UserError, match=r'holds other files \(mine.txt\)'):
        write.export(glyphs, 'safetensors', tmp_path)
    made = write.export(glyphs, 'safetensors', tmp_path / 'new')
    assert write.export(glyphs, 'safetensors', tmp_path / 'new').files == made.files  # an export may be


def test_the_own_form_predicts_like_the_run(glyphs, tmp_path):
    write.export(glyphs, 'safetensors', tmp_path / 'out')
    again = mixjax.load(tmp_path / 'out')
    np.testing.assert_array_equal(again.probabilities(glyphs.samples.image), glyphs.probabilities)
    assert again.classes == glyphs.predictor.classes


def test_files_predict_like_the_network(glyphs, tmp_path):
    for name in predictor.ENGINES:
        write.export(glyphs, name, tmp_path / name)
        found = predictor.load(str(tmp_path / name), name, batch=2)
        assert found.classes == glyphs.predictor.classes
        np.testing.assert_allclose(found.values(glyphs.samples.image), glyphs.probabilities, atol=verify.CLOSE)
        with pytest.raises(UserError, match='no features'):
            found.features(glyphs.samples.image)


def test_stablehlo_takes_any_batch_and_is_for_all_platforms(glyphs, tmp_path):
    write.export(glyphs, 'stablehlo', tmp_path / 'out')
    file = tmp_path / 'out' / stablehlo.FILE
    inside = jax.export.deserialize(bytearray(file.read_bytes()))
    assert set(inside.platforms) == {'cpu', 'cuda', 'tpu'} and str(inside.in_avals[0].shape[0]) == 'batch'
    function = stablehlo.open_file(file)
    for some in (glyphs.samples.image, glyphs.samples.image[:1]):
        np.testing.assert_allclose(function(some), glyphs.predictor.probabilities(some), atol=verify.CLOSE)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match='no StableHLO file'):
        stablehlo.open_file(file)


@pytest.mark.parametrize(
    ('name', 'library', 'words'),
    [
        ('glyphnet', torch_form.TIMM, 'timm has no network that computes what glyphnet does; use --to=onnx'),
        ('efficientnet_b0_fixed224', torch_form.TIMM, 'timm has no network'),
        ('convnext_atto', torch_form.TORCHVISION, 'torchvision has no network'),
    ],
)
def test_networks_that_a_library_does_not_have_are_refused(name, library, words):
    about = {'model': name, 'method': {}}
    predictor = type('Predictor', (), {'about': about})
    with pytest.raises(UserError, match=words):
        torch_form.dialect_of(network.Exported(predictor, '', None, None, {}), library)  # pyright: ignore


def test_neighbours_and_views_have_no_place_in_one_classifier(opened):
    predictor = opened.predictor
    heads = {'neighbours': predictor.network.variables['params']['heads']['target']}
    variables = {'params': {'heads': heads}}

    def changed(**parts):
        fake = type('Predictor', (), {'about': predictor.about, 'network': predictor.network._replace(**parts)})
        return opened._replace(predictor=fake)

    with pytest.raises(UserError, match='more than one linear classifier'):
        network.one_head(changed(variables=variables), 'timm')
    with pytest.raises(UserError, match='averages over views'):
        network.one_head(changed(tta='flip'), 'timm')


def test_timms_names_of_our_networks_are_the_inverse_of_our_names_of_theirs():
    for name in mixjax.models.names():
        if torch_form.in_timm(name):
            assert hub.network_of(hub.architecture_of(name)) == name


# --- the card ---------------------------------------------------------------------------------------------------------


def test_the_card_says_what_is_known_and_no_path(opened, tmp_path):
    facts = {
        'config': {'model': {'weights': '/home_of/someone/secret/start.pth'}},
        'results': {'seeds': [{'seed': 0, 'accuracy': 0.9}], 'test_examples': 100},
        'env': {'command': 'mixjax train --config=folder --config.target.dir=/home_of/someone/birds', 'mixjax': '0.1'},
        'labels per class': [3, 4, 5, 4, 4],
    }
    made = write.export(opened._replace(facts=facts), 'timm', tmp_path / 'out')
    text = (made.folder / write.CARD).read_text()
    assert 'someone' not in text and 'secret' not in text and 'start.pth' in text
    assert '--config.target.dir=birds' in text
    assert 'Accuracy: 90.0 % of 100 test images (90 % interval 84.0 to 93.9 %).' in text
    assert '20 labelled images, 3 to 5 of each class' in text and 'class 4' in text
    assert 'license: "mit"' in text and 'a temperature of 2.5 is in them' in text
    for file in made.folder.iterdir():
        assert b'someone' not in file.read_bytes(), file


def test_a_search_says_the_accuracy_to_expect():
    best = {'expected': {'accuracy': 0.8, 'interval': [0.7, 0.9]}}
    assert card.accuracy({'best': best}) == ['Accuracy: 80.0 % in cross-validation (90 % interval 70.0 to 90.0 %).']
    best['test'] = {'accuracy': 0.75, 'interval': [0.7, 0.8], 'images': 40}
    assert card.accuracy({'best': best}) == ['Accuracy: 75.0 % of 40 test images (90 % interval 70.0 to 80.0 %).']
    assert card.accuracy({}) == ['Accuracy: not measured.']


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        ('mixjax best ~/photos --minutes=3', 'mixjax best photos --minutes=3'),
        ("mixjax train '--config.target.dir=C:\\me\\my birds'", "mixjax train '--config.target.dir=my birds'"),
        ('hf://timm/resnet50.a1_in1k', 'hf://timm/resnet50.a1_in1k'),
        ('--config.model.weights=hf://timm/resnet50.a1_in1k x', '--config.model.weights=hf://timm/resnet50.a1_in1k x'),
        ('runs/a/model.safetensors', 'model.safetensors'),
        ('--config.optim.lr=0.1 y', '--config.optim.lr=0.1 y'),
    ],
)
def test_paths_become_their_last_names(given, said):
    assert paths.without_paths(given) == said


def test_paths_of_the_method_do_not_leave(tmp_path):
    """Distillation has the folder of its teacher among its settings."""
    method = {'name': 'distill', 'teacher': '/home_of/someone/runs/teacher', 'weight': 0.5}
    folder = write_network(tmp_path / 'run', 'lenet', 32, method=method)
    about = network.read(str(folder), images=2).about
    assert about['method'] == {'name': 'distill', 'teacher': 'teacher', 'weight': 0.5}


def test_class_names_do_not_format_the_card():
    assert card.markdown('a*b_c\n# d') == 'a\\*b\\_c \\# d'


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path):
    done = call(tmp_path, 'export', GLYPHS, '--to=stablehlo,safetensors', '--out=out', '--images=3', module='mixjax')
    assert done.returncode == 0, done.stderr
    assert 'stablehlo: read by jax.export: 3 generated images' in done.stdout
    for form, file in (('stablehlo', stablehlo.FILE), ('safetensors', 'model.safetensors')):
        assert (tmp_path / 'out' / form / file).exists() and (tmp_path / 'out' / form / 'README.md').exists()
    for engine, form in (('stablehlo', 'stablehlo'), ('onnx', 'safetensors')):
        Image.fromarray(np.full((20, 30), 90, np.uint8)).save(tmp_path / 'photo.png')
        said = call(tmp_path, 'predict', f'--workdir=out/{form}', f'--engine={engine}', 'photo.png', module='mixjax')
        if engine == form:
            assert said.returncode == 0 and said.stdout.count('%') == 5, said.stderr
            own = call(tmp_path, 'predict', f'--workdir={GLYPHS}', 'photo.png', module='mixjax')
            assert said.stdout == own.stdout
        else:
            assert said.returncode == 2 and 'has no model.onnx' in said.stderr
    shutil.rmtree(tmp_path / 'out')
    wrong = call(tmp_path, 'export', GLYPHS, '--to=stablehl', module='mixjax')
    assert wrong.returncode == 2 and "no form 'stablehl'; did you mean 'stablehlo'?" in wrong.stderr
    wrong = call(tmp_path, 'export', GLYPHS, '--to=timm', module='mixjax')
    assert wrong.returncode == 2 and 'timm has no network' in wrong.stderr
    assert not (tmp_path / 'export' / 'timm').exists()
