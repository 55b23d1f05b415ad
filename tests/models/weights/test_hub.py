"""References to the hub: what is refused, where the cache is looked into, and what is known of the weights."""

import json

import pytest
from huggingface_hub import constants

from mixjax import config as config_lib
from mixjax import models
from mixjax.errors import UserError
from mixjax.models import preprocessing, weights
from mixjax.models.weights import hub
from tests.support import with_torch

SPEC = 'hf://timm/resnet50.tv_in1k'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    monkeypatch.delenv('HF_HUB_CACHE', raising=False)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    return tmp_path / 'hub'


def put(cache, repository, revision='main', commit='abc', **files):
    """A repository in the layout of the hub's cache."""
    home = cache / f'models--{repository.replace("/", "--")}'
    (home / 'snapshots' / commit).mkdir(parents=True)
    if revision:
        (home / 'refs').mkdir()
        (home / 'refs' / revision).write_text(commit)
    for name, text in {'model.safetensors': '', **files}.items():
        (home / 'snapshots' / commit / name).write_text(text)
    return home / 'snapshots' / commit / 'model.safetensors'


def test_a_reference_names_its_recipe():
    assert hub.parse(SPEC) == ('timm/resnet50.tv_in1k', 'main')
    assert hub.parse(f'{SPEC}@v1.0') == ('timm/resnet50.tv_in1k', 'v1.0')
    with pytest.raises(UserError, match='leave open which recipe.*hf://timm/resnet50.tv_in1k, hf://timm/resnet50.a1_'):
        hub.parse('hf://timm/resnet50')
    for wrong in (
        'hf://',
        'hf://resnet50',
        'hf://a/b/c',
        'hf://../..',
        'hf://a/..',
        'hf://a b/c',
        'hf://a/b@',
        'hf://a/b@x/y',
    ):
        with pytest.raises(UserError, match='write hf://OWNER/NAME'):
            hub.parse(wrong)


def test_cached_files_are_used(cache):
    assert hub.cached_file(hub.parse(SPEC)) is None
    here = put(cache, 'timm/resnet50.tv_in1k')
    assert hub.cached_file(hub.parse(SPEC)) == here and weights.missing(SPEC) is None
    assert hub.cached_file(hub.parse(f'{SPEC}@abc')) == here
    assert hub.cached_file(hub.parse(f'{SPEC}@other')) is None
    by_hand = put(cache, 'org/net', revision='')
    assert hub.cached_file(hub.parse('hf://org/net')) == by_hand


def test_what_is_missing_and_how_to_get_it(cache, monkeypatch):
    text = str(weights.missing(SPEC))
    assert f'looked in\n  {cache}/models--timm--resnet50.tv_in1k: no such copy, and HF_HUB_OFFLINE forbids' in text
    assert '\n  hf download timm/resnet50.tv_in1k model.safetensors config.json\n' in text
    assert '--config.model.weights=PATH/model.safetensors' in text and 'pip install' not in text
    assert 'config.json --revision v2\n' in str(weights.missing('hf://org/net@v2'))
    monkeypatch.delenv('HF_HUB_OFFLINE')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)  # it is read once
    monkeypatch.setenv('HF_ENDPOINT', 'http://127.0.0.1:9')  # where nobody listens
    assert 'no such copy, and the hub cannot be reached (ConnectError)\n' in str(weights.missing(SPEC))


def test_the_images_that_belong_to_the_weights(cache):
    assert weights.image(SPEC, 'resnet50') == preprocessing.settings(224, 0.875, 'bilinear')
    assert weights.image('hf://timm/resnet50.tv2_in1k', 'resnet50')['resize'] == 232
    b4 = weights.image('hf://timm/tf_efficientnet_b4.ap_in1k', 'efficientnet_b4')
    assert (b4['resize'], b4['crop'], b4['interpolation'], b4['mean']) == (412, 380, 'bicubic', (0.5, 0.5, 0.5))
    facts = {
        'input_size': [3, 288, 288],
        'crop_pct': 1.0,
        'interpolation': 'bicubic',
        'mean': [0.5] * 3,
        'std': [0.5] * 3,
    }
    put(cache, 'org/timm-like', **{'config.json': json.dumps({'architecture': 'resnet50', 'pretrained_cfg': facts})})
    assert weights.image('hf://org/unknown', 'resnet50') == models.image_settings('resnet50')
    said = weights.image('hf://org/timm-like', 'resnet50')
    assert said == preprocessing.settings(288, 1.0, 'bicubic', preprocessing.HALF)
    facts = {
        'size': {'shortest_edge': 224},
        'crop_pct': 0.875,
        'resample': 3,
        'image_mean': [0.1] * 3,
        'image_std': [0.2] * 3,
    }
    put(cache, 'org/transformers-like', **{'config.json': '{}', 'preprocessor_config.json': json.dumps(facts)})
    said = weights.image('hf://org/transformers-like', 'resnet50')
    assert said == preprocessing.settings(224, 0.875, 'bicubic', ((0.1,) * 3, (0.2,) * 3))
    put(cache, 'org/broken', **{'config.json': '{"pretrained_cfg": {"input_size": [3, "x"]}}'})
    assert weights.image('hf://org/broken', 'resnet50') == models.image_settings('resnet50')


def test_a_config_takes_them_where_it_leaves_them_open():
    config = config_lib.load('smile_cub')
    assert (config.image.resize, config.image.crop, config.image.interpolation) == (256, 224, 'bilinear')
    assert (config.image.mean, config.image.std) == preprocessing.IMAGENET
    other = [('model.weights', 'hf://timm/tf_efficientnet_b4.ap_in1k'), ('model.name', 'efficientnet_b4')]
    assert config_lib.load('smile_cub', other).image.resize == 412
    cut = config_lib.load('smile_cub', [*other, ('image.crop', '224')])
    assert (cut.image.resize, cut.image.crop, cut.image.mean) == (243, 224, (0.5,) * 3)  # 412 / 380 x 224
    assert config_lib.load('quickstart').image.resize == 16
    assert config_lib.load('lamix_cifar100').image.resize == 32


def test_the_network_and_the_licence_that_belong_to_the_weights(cache):
    assert hub.about(hub.parse(SPEC), None)['licence'] == 'bsd-3-clause'
    assert weights.classes('hf://timm/vit_small_patch14_dinov2.lvd142m', 'vit_small_patch14_dinov2') == 0
    assert weights.image('hf://timm/vit_small_patch14_dinov2.lvd142m', 'vit_small_patch14_dinov2') == (
        preprocessing.settings(518, 1.0, 'bicubic')
    )
    assert weights.classes('hf://timm/convnext_tiny.fb_in22k', 'convnext_tiny') == 21841
    with pytest.raises(UserError, match='hf://timm/convnextv2_tiny.fcmae_ft_in22k_in1k'):
        hub.parse('hf://timm/convnextv2_tiny')
    names = {'tf_efficientnet_b0': 'efficientnet_b0', 'efficientnet_b0': 'efficientnet_b0_symmetric', 'x_y': 'x_y'}
    for theirs, ours in names.items():  # timm calls Google's padding `tf_`
        here = put(cache, f'org/{theirs}', **{'config.json': json.dumps({'architecture': theirs})})
        assert hub.settings_beside(here) == {'model': ours}
    for wrong in (3, 'a b', ['resnet50'], 'x' * 100):
        here.with_name('config.json').write_text(json.dumps({'architecture': wrong}))
        assert hub.settings_beside(here) == {}


@pytest.mark.parametrize(
    ('card', 'licence'),
    [
        ('---\nlicense: apache-2.0\ntags:\n- timm\n---\n# Card', 'apache-2.0'),
        ('---\ntags:\n- timm\nlicense:\n- mit\n- gpl-3.0\n---', 'mit, gpl-3.0'),
        ("---\nlicense: 'mit'  # comment\n---", 'mit'),
        ('---\nlicense: [mit, bsd]\n---', 'mit, bsd'),
        ('---\r\nlicense: other\r\nlicense_name: dinov3-license\r\n---\r\n', 'dinov3-license'),
        ('---\nlicense: other\n---', 'other'),
        ('---\nlicense: \x1b[31mred\n---', ''),
        ('---\nlicense: ' + 'x' * 1000 + '\n---', ''),
        ('---\nlicense: mit\n', ''),
        ('# Card\nlicense: mit\n---\n', ''),
        ('---\ntags: []\n---\nlicense: mit', ''),
        ('', ''),
    ],
)
def test_the_licence_of_a_card(cache, card, licence):
    here = put(cache, 'org/net', **{'README.md': card})
    assert hub.settings_beside(here).get('licence', '') == licence


@pytest.mark.parity
def test_what_is_known_is_what_timm_says():
    pytest.importorskip('torch', reason='torch is not installed')
    _, _, timm = with_torch.libraries()
    for name, row in hub.KNOWN.items():
        said = timm.models.get_pretrained_cfg(name.removeprefix('timm/'))
        assert said.hf_hub_id == name and said.license == row['licence'], name
        assert row['classes'] == (0 if name.endswith('.openai') else said.num_classes), name
        whole = preprocessing.settings(said.input_size[-1], said.crop_pct, said.interpolation, (said.mean, said.std))
        if 'tv2_in1k' in name:  # trained at 176, published for 224
            whole = preprocessing.settings(said.test_input_size[-1], said.test_crop_pct, said.interpolation)
        assert row['image'] == whole, name
