"""Every method on a narrow transformer and a narrow ConvNeXt.

They have no BatchNorm; but tokens in front of the patches, LayerScale, stochastic depth, and a norm behind the pooling.
"""

from __future__ import annotations

from functools import partial

import pytest

from mixjax import models
from mixjax.models.convnext import ConvNeXt
from mixjax.models.transformer import Form
from mixjax.models.vit import VisionTransformer
from tests.support.contract import assert_contract, assert_layouts_agree
from tests.support.toy import settings
from tests.support.variants import VARIANTS

NETWORKS = {
    'vit': partial(
        VisionTransformer, Form(24, 2, 48, scale=0.5), 4, 4, 4, registers=2, placed=False, drop_path=0.1
    ),
    'convnext': partial(ConvNeXt, (1, 1), (8, 16), scale=0.5, drop_path=0.1),
}
# Those that between them use every part of the contract; all others run with `make test-parity`.
ALWAYS = {
    'vit': ('smile', 'xmixup', 'manifold_mixup', 'lora'),
    'convnext': ('delta',),
}
CASES = [
    pytest.param(network, variant, marks=() if variant in ALWAYS[network] else pytest.mark.parity)
    for network in NETWORKS for variant in VARIANTS
]  # fmt: skip


@pytest.fixture(autouse=True)
def networks(monkeypatch):
    for name, build in NETWORKS.items():
        monkeypatch.setitem(models.BACKBONES, f'narrow_{name}', build)


def on(network, variant, **changes):
    """The toy task on a narrow network, by the optimiser of its recipe."""
    config = settings({'name': variant} | VARIANTS[variant], **changes)
    with config.unlocked():
        config.model.name = f'narrow_{network}'
        config.optim.name, config.optim.lr, config.optim.warmup = 'adamw', 0.003, 0.1
    return config


@pytest.mark.parametrize(('network', 'variant'), CASES)
def test_contract(network, variant, tmp_path):
    assert_contract(on(network, variant), tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize(('network', 'variant'), [(n, v) for n in NETWORKS for v in VARIANTS])
def test_every_layout_is_the_same_experiment(network, variant, tmp_path):
    assert_layouts_agree(partial(on, network, variant), tmp_path)
