"""Exports for timm, torchvision and transformers are opened by these libraries themselves (make test-parity)."""

import numpy as np
import pytest

from mixjax.export import network, torch_form, verify, write
from tests.support.with_torch import libraries
from tests.support.written import write_network

pytestmark = pytest.mark.parity

TIMM = {
    'convnext_atto': 64, 'convnextv2_atto': 64, 'deit3_small_patch16_224': 64, 'densenet121': 64,
    'efficientnet_b0': 64, 'efficientnet_b0_symmetric': 64, 'efficientnet_lite0': 64, 'mobilenetv3_large_100': 64,
    'mobilenetv4_conv_small': 64, 'resnet18': 64, 'resnet50d': 64, 'resnetv2_50x1_bit': 64, 'seresnet50': 64,
    'test_vit': 96, 'vit_small_patch14_dinov2': 70, 'vit_small_patch14_reg4_dinov2': 70,
    'vit_small_patch16_dinov3': 64, 'vit_tiny_patch16_224': 80, 'vit_base_patch32_clip_quickgelu_224': 64,
    'vit_base_patch16_siglip_224': 64,
}  # fmt: skip
TORCHVISION = {'convnext_tiny': 64, 'densenet121': 64, 'efficientnet_b0_symmetric': 64, 'resnet18': 64, 'resnet50': 64}
CASES = [
    *((torch_form.TIMM, *one) for one in TIMM.items()),
    *((torch_form.TORCHVISION, *one) for one in TORCHVISION.items()),
]


@pytest.fixture(scope='module', autouse=True)
def installed():
    """Skip without torch, torchvision and timm; CONTRIBUTING.md says how they are installed."""
    try:
        libraries()
    except ImportError as error:
        pytest.skip(f'{error.name} is not installed')


@pytest.mark.parametrize(('library', 'name', 'side'), CASES, ids=[f'{a.name}-{b}' for a, b, _ in CASES])
def test_the_library_gives_the_same_probabilities(library, name, side, tmp_path):
    exported = network.read(str(write_network(tmp_path / 'run', name, side, temperature=1.5)), images=3)
    made = write.export(exported, library.name, tmp_path / 'out')
    assert made.verified.by == library.name and made.verified.difference <= verify.CLOSE
    print(f'{library.name} {name} {side}: {made.verified.difference:.1e}')


def test_transformers_opens_a_folder_of_timm(tmp_path):
    transformers = pytest.importorskip('transformers')
    import torch

    exported = network.read(str(write_network(tmp_path / 'run', 'resnet18', 64, temperature=1.5)), images=3)
    write.export(exported, 'timm', tmp_path / 'out')
    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / 'out').eval()
    x = np.ascontiguousarray(network.inputs(exported).transpose(0, 3, 1, 2))
    with torch.no_grad():
        logits = model(torch.from_numpy(x)).logits
    np.testing.assert_allclose(logits.softmax(-1).numpy(), exported.probabilities, atol=verify.CLOSE)
    assert model.config.id2label[2] == 'class 2'
