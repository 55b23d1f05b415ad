"""Every network that ships as ONNX, with random weights: narrow ones of each kind, and by night all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx as onnx_package
import pytest

from mixjax import models
from mixjax.errors import UserError
from mixjax.export import engine, onnx
from mixjax.models.densenet import DenseNet
from mixjax.models.preact import PreActResNet
from mixjax.models.wideresnet import WideResNet
from tests.support.narrow import NARROW
from tests.support.predictors import random_predictor, sharpened, stored_images

TOKENS = {'vit', 'dinov2', 'dinov3', 'siglip'}  # with class tokens, registers or queries for each image
LARGE = {'deit3_huge_patch14_224', 'vit_giant_patch14_dinov2', 'vit_giant_patch14_reg4_dinov2', 'vit_huge_patch14_224'}


def assert_same(predictor, path):
    """The file predicts what the predictor does, of one image and of three; returns the operations of its network."""
    images = stored_images(predictor, 3)
    sharpened(predictor, images)
    wanted = predictor.probabilities(images)
    assert wanted.max() > 0.3 and np.ptp(wanted, axis=0).max() > 0.01  # they depend on the image
    onnx.write(path, predictor, {})
    found = engine.open_onnx(path)
    for count in (3, 1):
        probabilities = found.probabilities(images[:count])
        np.testing.assert_allclose(probabilities, wanted[:count], rtol=0, atol=1e-4)
        assert (probabilities.argmax(1) == wanted[:count].argmax(1)).all()
    nodes = onnx_package.load(path).graph.node
    return [node for node in nodes if not node.name.startswith('prepare')]


NAMES = ('resnet_basic', 'resnet_timm', 'efficientnet_timm', 'efficientnet_lite', 'convnext', 'convnextv2',
         'bit', 'vit', 'dinov2', 'dinov3', 'siglip', 'mobilenetv3', 'mobilenetv4')  # fmt: skip
BACKBONES: dict[str, Any] = {name: NARROW[f'narrow_{name}'][0] for name in NAMES}
BACKBONES |= {'densenet': DenseNet((1, 2, 1), growth=4), 'preactresnet': PreActResNet((1, 1, 1, 1), 4),
              'wideresnet': WideResNet(1, 1)}  # fmt: skip


@pytest.mark.parametrize('name', BACKBONES)
def test_narrow_networks_predict_the_same(name, monkeypatch, tmp_path):
    """One of each family; those with positions for 5 x 5 patches see 3 x 3, for which they are resized."""
    monkeypatch.setitem(models.BACKBONES, name, lambda dtype=None: BACKBONES[name].clone(dtype=dtype))
    nodes = assert_same(random_predictor(name, 24 if name in TOKENS else 40, seed=1), tmp_path / 'model.onnx')
    kinds = {node.op_type for node in nodes}
    assert 'Conv' in kinds and not kinds & {'Expand', 'If', 'Loop', 'Scan'} - ({'Expand'} if name in TOKENS else set())
    if name in TOKENS:
        assert {'LayerNormalization', 'Softmax'} <= kinds
    else:
        assert 'Slice' not in kinds  # a depthwise convolution is one, and no sum of shifted products


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(set(models.SHIPPED) - LARGE))
def test_all_networks_predict_the_same(name, tmp_path):
    assert_same(random_predictor(name), tmp_path / 'model.onnx')


@pytest.mark.slow
def test_a_network_above_two_gigabytes_is_refused(tmp_path):
    with pytest.raises(UserError, match=r'the weights of this network are 2\.5 GB; export a smaller network, or in'):
        onnx.write(tmp_path / 'model.onnx', random_predictor('vit_huge_patch14_224'), {})
