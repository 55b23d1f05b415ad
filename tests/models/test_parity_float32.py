"""Networks against torch in float32; the tolerances are a few times what torch differs from itself in float64."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from mixjax import models
from mixjax.models.weights import tensor_names
from tests.support import torch_names
from tests.support.common import fixture
from tests.support.parity import FILES, train

# In float32: (tolerance of the logits in train mode, of the gradients' norms). Normalised by the statistics of few
# values, ResNet-50s amplify rounding: torch itself is off by 1.2e-4 in the logits and by 1.1e-2 in the norms.
DEEP = (1e-3, 3e-2)
SINGLE = {name: DEEP if 'resnet50' in name else (1e-4, 5e-3) for name in FILES}
MINUTES = ('model_fb_densenet121', 'model_tv_densenet121_96', 'model_efficientnet_b4_224', 'model_tv_resnet50_224')


@pytest.mark.parametrize(
    'file', [pytest.param(name, marks=pytest.mark.slow if name in MINUTES else pytest.mark.parity) for name in FILES]
)
def test_float32(file):
    name, dialect = FILES[file]
    want, (logits_by, norms_by) = fixture(file), SINGLE[file]
    net = models.build(name)
    variables = jax.tree.map(np.float32, torch_names.variables(name, want, torch_names.fill(want)))
    params, stats = variables['params'], {key: tree for key, tree in variables.items() if key != 'params'}
    image = np.float32(torch_names.image(want))
    out, _ = jax.jit(lambda v, x: net.apply(v, x, train=False))(variables, image)
    (_, (logits, _, _)), grad = jax.jit(lambda p, s, x, y: train(net, p, s, x, y))(
        params, stats, image, want['train_labels']
    )
    np.testing.assert_allclose(out.logits['source'], want['eval_logits'], rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits, want['train_logits'], rtol=0, atol=logits_by)
    grads = tensor_names.to_torch(name, {'params': grad}, dialect)
    norms = np.stack([np.linalg.norm(grads[key]) for key in want['train_grad_names']])
    np.testing.assert_allclose(norms, want['train_grad_norms'], rtol=norms_by, atol=1e-5)
