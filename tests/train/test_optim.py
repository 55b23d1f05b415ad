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


def rates(steps, of=None, **changes):
    rate = optim.schedule(settings(lr=1.0, **changes), steps)
    return [float(rate(jnp.asarray(i))) for i in (range(steps) if of is None else of)]


def test_linear_schedule_by_hand():
    np.testing.assert_allclose(rates(5, schedule='linear'), [1, 0.8, 0.6, 0.4, 0.2], rtol=1e-6)


def test_one_cycle_by_hand():
    """torch's OneCycleLR: 20 steps rise to step 5 from 1/25, and fall to 1/250000 at step 19."""
    low, end = 1 / 25, 1 / 250_000
    found = rates(20, (0, 5, 12, 19), schedule='one_cycle')
    np.testing.assert_allclose(found, [low, 1, (1 + end) / 2, end], rtol=1e-6, atol=1e-7)
    third = low + (1 - low) * (1 - np.cos(np.pi * 2 / 5)) / 2
    np.testing.assert_allclose(rates(20, (2,), schedule='one_cycle'), [third], rtol=1e-6)
    every = rates(20, schedule='one_cycle')
    assert every[:6] == sorted(every[:6]) and every[5:] == sorted(every[5:], reverse=True) and min(every) > 0
    for steps in (1, 2, 3, 4):  # too few to rise
        assert np.isfinite(rates(steps, schedule='one_cycle')).all()
    np.testing.assert_allclose(rates(3, schedule='one_cycle')[-1], end, atol=1e-7)


def test_one_cycle_equals_optax():
    """`optax.cosine_onecycle_schedule` rises one step longer: the rises and falls are the same cosines."""
    ours = optim.schedule(settings(lr=0.3, schedule='one_cycle'), 10_000)
    theirs = optax.cosine_onecycle_schedule(9_999, 0.3, 2_999 / 9_999, 25, 1e4)
    for i in (0, 1, 1500, 2999, 3000, 6000, 9000, 9998):
        np.testing.assert_allclose(ours(jnp.asarray(i)), theirs(i), rtol=1e-4)


@pytest.mark.parametrize('name', ['cosine', 'linear', 'constant'])
@pytest.mark.parametrize('warmup', [5.0, 0.25, 0.201])
def test_warmup_equals_optax(name, warmup):
    """A ramp from lr / (w + 1), never 0, to lr at step w; then the schedule over the remaining steps."""
    main = {
        'cosine': optax.cosine_decay_schedule(0.3, 15),
        'linear': optax.linear_schedule(0.3, 0.0, 15),
        'constant': optax.constant_schedule(0.3),
    }
    expected = optax.join_schedules([optax.linear_schedule(0.3 / 6, 0.3, 5), main[name]], [5])
    rate = optim.schedule(settings(lr=0.3, schedule=name, warmup=warmup), 20)
    for i in range(20):
        np.testing.assert_allclose(rate(jnp.asarray(i)), expected(i), rtol=1e-5)
    assert float(rate(jnp.asarray(0))) == pytest.approx(0.05)


def test_warmup_and_drops_by_hand():
    """Drops stay at their shares of all steps."""
    found = rates(8, warmup=3.0, drops=(0.5, 0.75))
    np.testing.assert_allclose(found, [0.25, 0.5, 0.75, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    assert [optim.warmup_steps(w, 9) for w in (0, 1e-9, 1 / 3, 0.5, 1, 2, 9, 50)] == [0, 1, 3, 5, 9, 2, 9, 9]


@pytest.mark.parametrize('name', ['step', 'cosine', 'linear', 'constant'])
def test_warmup_of_all_steps_and_more_is_a_ramp(name):
    """The parts of a run may be shorter than its warm-up in steps."""
    for warmup in (1.0, 4.0, 9.0):
        found = rates(4, warmup=warmup, schedule=name, drops=())
        np.testing.assert_allclose(found, [0.2, 0.4, 0.6, 0.8], rtol=1e-6)


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
