import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from mixjax import config as config_lib
from mixjax.errors import UserError
from mixjax.models.net import group
from mixjax.train import optim
from tests.support.common import fixture


def settings(**changes):
    out = config_lib.base().optim
    with out.unlocked():
        out.update(changes)
    return ConfigDict(out)


def ones(params):
    return jax.tree.map(lambda _: (1.0, 1.0), params)


def test_two_steps_of_nesterov_by_hand():
    # torch: p = 1, gradients 1 and 1, lr 0.1, momentum 0.9, weight decay 1e-4
    tx, _ = optim.make(settings(lr=0.1, schedule='constant'), 10, ones)
    with jax.enable_x64(True):
        p = jnp.asarray(1.0, jnp.float64)
        state = tx.init(p)
        for expected in (0.8099810, 0.5389576):
            updates, state = tx.update(jnp.ones_like(p), state, p)
            p = optax.apply_updates(p, updates)
            np.testing.assert_allclose(p, expected, atol=5e-8)


@pytest.mark.parametrize('name', ['sgd', 'sgd_nesterov'])
def test_sgd_equals_torch(name):
    f = fixture('optimizers')
    with jax.enable_x64(True):
        a, b, x = (jnp.asarray(f[key]) for key in ('A', 'b', 'x0'))
        chosen = settings(
            lr=float(f['lr']), momentum=float(f['momentum']), weight_decay=float(f['weight_decay']),
            nesterov=name == 'sgd_nesterov',
        )  # fmt: skip
        tx, rate = optim.make(chosen, 20, ones)
        state = tx.init(x)
        for i in range(20):
            np.testing.assert_allclose(0.5 * x @ a @ x - b @ x, f[f'{name}_loss_before_step'][i], rtol=1e-12)
            np.testing.assert_allclose(rate(jnp.asarray(i)), f[f'{name}_lr'][i], rtol=1e-12)
            updates, state = tx.update(a @ x - b, state, x)
            x = optax.apply_updates(x, updates)
            np.testing.assert_allclose(x, f[f'{name}_x'][i], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(state['core'].trace, f[f'{name}_momentum_buffer_final'], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('name', ['adam', 'amsgrad'])
def test_adam_equals_torch(name):
    f = fixture('optimizers')
    with jax.enable_x64(True):
        a, b, x = (jnp.asarray(f[key]) for key in ('A', 'b', 'x0'))
        chosen = settings(
            name=name, lr=float(f['adam_lr']), betas=tuple(map(float, f['adam_betas'])), eps=float(f['adam_eps']),
            weight_decay=0.0, schedule='constant',
        )  # fmt: skip
        tx, _ = optim.make(chosen, 20, ones)
        state = tx.init(x)
        for i in range(20):
            updates, state = tx.update((a @ x - b) * f['adam_grad_scale'][i], state, x)
            x = optax.apply_updates(x, updates)
            expected = f['adam_x' if name == 'adam' else 'adam_amsgrad_x'][i]
            np.testing.assert_allclose(x, expected, rtol=1e-12, atol=1e-14)


def test_the_learning_rate_drops_where_the_released_code_drops_it():
    f = fixture('schedules')
    for steps, first in zip(f['smile_step_max_iters'], f['smile_step_first_low_lr_iteration'], strict=True):
        rate = optim.schedule(settings(), int(steps))
        np.testing.assert_allclose(rate(jnp.asarray(first - 1)), 0.01, rtol=1e-6)
        np.testing.assert_allclose(rate(jnp.asarray(first)), 0.001, rtol=1e-6)


def test_two_drops_and_cosine():
    rate = optim.schedule(settings(lr=1.0, drops=(0.5, 0.75)), 100)
    np.testing.assert_allclose([rate(jnp.asarray(i)) for i in (0, 49, 50, 74, 75, 99)], [1, 1, 0.1, 0.1, 0.01, 0.01])
    cosine = optim.schedule(settings(lr=1.0, schedule='cosine'), 100)
    np.testing.assert_allclose([cosine(jnp.asarray(i)) for i in (0, 50, 100)], [1, 0.5, 0], atol=1e-7)


PARAMS = {
    'backbone': {'stem': {'w': jnp.ones(2)}, 'stage1': {'w': jnp.ones(2)}},
    'heads': {'target': {'bias': jnp.ones(2)}, 'source': {'bias': jnp.ones(2)}},
}


def test_the_exact_name_goes_before_the_kind():
    groups = {'trunk': (0.1, 1.0), 'stem': (0.0, 0.0), 'head:source': (0.5, 0.0)}
    found = optim.factors(groups, group, PARAMS)
    assert found == {
        'backbone': {'stem': {'w': (0.0, 0.0)}, 'stage1': {'w': (0.1, 1.0)}},
        'heads': {'target': {'bias': (1.0, 1.0)}, 'source': {'bias': (0.5, 0.0)}},
    }
    with pytest.raises(UserError, match="'stage7'; did you mean 'stage1'"):
        optim.factors({'stage7': (0, 0)}, group, PARAMS)


def test_factors_scale_and_freeze():
    groups = {'trunk': (0.1, 1.0), 'stem': (0.0, 0.0), 'head:source': (1.0, 0.0)}
    tx, _ = optim.make(
        settings(lr=1.0, weight_decay=0.5, momentum=0.0, nesterov=False, schedule='constant'),
        10,
        lambda params: optim.factors(groups, group, params),
    )
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates['backbone']['stem']['w'], 0)
    np.testing.assert_allclose(updates['backbone']['stage1']['w'], -0.15, rtol=1e-6)
    np.testing.assert_allclose(updates['heads']['target']['bias'], -1.5)
    np.testing.assert_allclose(updates['heads']['source']['bias'], -1.0)
    frozen = optim.freeze(grads, optim.factors(groups, group, PARAMS))
    assert float(optax.tree.norm(frozen)) == pytest.approx(6**0.5)  # the stem's gradient counts no more
