"""Manifold mixup on the authors' network, with their weights' stand-ins, in float64: layer, loss and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import method as method_lib
from mixjax import mix, models
from mixjax.config import method_registry
from tests.support import torch_names
from tests.support.common import fixture

pytestmark = pytest.mark.parity
LAYERS = ('input', 'stage1', 'stage2')  # their mix_layer 0, 1, 2


@pytest.fixture(scope='module')
def case():
    numbers = fixture('model_preactresnet18')  # the same network: names and shapes of its entries
    want = fixture('manifold_mixup')
    state = torch_names.fill({**numbers, 'fill_prefix': want['fill_prefix']})
    return want, torch_names.variables('preactresnet18_raw', numbers, state), torch_names.image(want)


@pytest.mark.parametrize('k', range(3))
def test_manifold_mixup_equals_the_authors_code(k, case, monkeypatch):
    want, variables, image = case
    assert want['mix_layer'][k] == k
    # The reference rounds lam to float32, so that is what both sides use.
    monkeypatch.setattr(mix, 'beta', lambda *_, **__: jnp.asarray(np.float32(want['lam']), jnp.float64))
    method = method_registry.load('manifold_mixup')(int(want['num_classes']), layers=(LAYERS[k],))
    net = models.build('preactresnet18_raw')
    seen = {}

    def apply(variables, image, *, train, tap):
        out, state = net.apply(variables, image, train=train, tap=tap)
        seen['logits'] = out.logits['target']
        return out, state

    with jax.enable_x64(True):
        params, stats = jax.tree.map(jnp.asarray, (variables['params'], {'batch_stats': variables['batch_stats']}))
        params = {**params, 'heads': {'target': params['heads']['source']}}
        batch = {
            'image': jnp.asarray(image),
            'label': jnp.asarray(want['labels']),
            'partner': jnp.asarray(want['perm'])[None],
        }
        ctx = method_lib.Ctx(stats, (), (), batch, jax.random.key(0), jnp.asarray(0), ())

        def loss(params):
            value, aux = method.loss(net._replace(apply=apply), params, ctx)
            return value, (aux, seen['logits'])

        (value, (_, logits)), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(value, want['train_bce_loss'][k], rtol=1e-9)
    np.testing.assert_allclose(logits, want['train_logits'][k], atol=1e-9)
    kernel = grad['backbone']['stem']['conv']['kernel'][..., 0]
    np.testing.assert_allclose(kernel, want['train_grad_conv1_out0_hwi'][k], atol=1e-9)
