"""The optimiser of configs/folder.py: the network's family decides what the user leaves open."""

from __future__ import annotations

import pytest

from mixjax import config as config_lib
from mixjax import models
from mixjax.config import recipes
from mixjax.errors import UserError
from mixjax.models.published import Published


def settled(family, monkeypatch, *overrides):
    """The settled config `folder` with a network of a family."""
    row = Published(models.BACKBONES['resnet18'], models.image_settings('resnet18'), family)
    monkeypatch.setitem(models.NETWORKS, 'resnet18', row)
    words = [('model.name', 'resnet18'), ('model.weights', ''), ('target.name', 'synthetic'), *overrides]
    return config_lib.settle(config_lib.load('folder', words))


def optim(*given):
    return settled(*given).optim


def test_a_resnet_has_smiles_protocol(monkeypatch):
    found, base = optim('resnet', monkeypatch), config_lib.base().optim
    assert {key: found[key] for key in recipes.OPEN} == {key: base[key] for key in recipes.OPEN}


@pytest.mark.parametrize(('family', 'decay'), [('vit', 0.75), ('convnext', 0.8)])
def test_transformers_and_convnexts_have_adamw(family, decay, monkeypatch):
    found = optim(family, monkeypatch)
    assert (found.name, found.lr, found.schedule, found.warmup) == ('adamw', 5e-5, 'cosine', 0.05)
    assert found.layer_decay == decay


def test_settings_of_the_user_stay(monkeypatch):
    found = optim('vit', monkeypatch, ('optim.lr', '0.01'), ('optim.layer_decay', '1.0'), ('optim.warmup', '0'))
    assert (found.name, found.lr, found.layer_decay, found.warmup, found.clip) == ('adamw', 0.01, 1.0, 0.0, 1.0)


def test_a_named_optimiser_brings_its_own_recipe(monkeypatch):
    found = optim('vit', monkeypatch, ('optim.name', 'sgd'))
    assert (found.name, found.lr, found.layer_decay, found.clip) == ('sgd', 0.01, 1.0, 0.0)
    found = optim('resnet', monkeypatch, ('optim.name', 'lion'))
    assert (found.name, found.lr, found.schedule) == ('lion', 5e-5, 'cosine')


@pytest.mark.parametrize('key', recipes.OPEN)
def test_an_open_value_is_refused_where_it_is_not_filled_in(key, monkeypatch):
    assert optim('a family without a recipe', monkeypatch)[key] != recipes.OPEN[key]
    config = config_lib.settle(config_lib.complete(config_lib.base().unlock()))
    with config.unlocked():
        config.optim[key] = recipes.OPEN[key]
    with pytest.raises(UserError, match=rf'config\.optim\.{key}'):
        config_lib.check(config)


@pytest.mark.parametrize(
    ('family', 'method'), [('resnet', 'smile'), ('', 'smile'), ('vit', 'lpft'), ('convnext', 'lpft')]
)
def test_the_method_goes_by_the_family_too(family, method, monkeypatch):
    assert settled(family, monkeypatch).method.name == method
    assert settled(family, monkeypatch, ('method.name', 'bss')).method.name == 'bss'


def test_a_config_that_is_changed_in_python_is_filled_in_when_it_runs():
    config = config_lib.read('folder')
    config.model.name, config.target.name, config.model.weights = 'vit_small_patch14_dinov2', 'synthetic', ''
    found = config_lib.settle(config_lib.complete(config))
    assert (found.method.name, found.optim.name, found.image.crop) == ('lpft', 'adamw', 518)
    again = config_lib.settle(config_lib.complete(config_lib.from_data(found.to_dict()).unlock()))
    assert again.to_dict() == found.to_dict()


def test_other_configs_are_as_they_were():
    for name in ('quickstart', 'smile_cub'):
        config = config_lib.load(name)
        before = config.optim.to_dict()
        assert config_lib.settle(config).optim.to_dict() == before
