"""AdamW, Lion and Muon, clipping, decay by layer and by dimension, against numpy; and whole runs with them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from mixjax import config as config_lib
from mixjax.errors import UserError
from mixjax.models.net import group
from mixjax.rundir import checkpoint
from mixjax.train import experiment, mesh, optim, program, seed_batch, seeds
from tests.support.common import assert_trees_equal, final_state
from tests.support.toy import losses_of, opened, tiny, walk  # noqa: F401 (for every test: tiny)
from tests.support.toy import settings as run_settings

DECOUPLED = ('adamw', 'lion', 'muon')
STEPS = 6


def settings(**changes):
    out = config_lib.base().optim
    with out.unlocked():
        out.update(changes)
    return ConfigDict(out)


def weights(seed):
    """Parameters of a network of a stem, two blocks and a head; kernels of 2 and 4 axes, and vectors."""
    rng = np.random.default_rng(seed)
    return {
        'backbone': {
            'stem': {'conv': {'kernel': rng.normal(size=(3, 3, 2, 4))}, 'bn': {'scale': rng.normal(size=4)}},
            'stage1': {
                'block0': {'conv': {'kernel': rng.normal(size=(3, 3, 4, 5))}, 'bn': {'bias': rng.normal(size=5)}},
                'block1': {
                    'fc': {'kernel': rng.normal(size=(5, 7)), 'bias': rng.normal(size=7)},
                    'depthwise': {'kernel': rng.normal(size=(3, 3, 1, 7))},
                },
            },
        },
        'heads': {'target': {'kernel': rng.normal(size=(7, 3)), 'bias': rng.normal(size=3)}},
    }


def flat(tree):
    return {
        '/'.join(key.key for key in path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


GRADS = [weights(100 + i) for i in range(STEPS)]


def train(chosen, groups=None, steps=STEPS):
    """The flat parameters after each step of the optimiser, in float64, from the gradients `GRADS`."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, weights(0))
        tx, _ = optim.make(chosen, steps, lambda params: optim.factors(groups or {}, group, params, chosen))
        state, out = tx.init(params), []
        for grads in GRADS[:steps]:
            updates, state = jax.jit(tx.update)(jax.tree.map(jnp.asarray, grads), state, params)
            params = optax.apply_updates(params, updates)
            out.append(flat(params))
    return out, state


# --- references in numpy ---


def adam_step(b1, b2, eps):
    memory = {}

    def step(name, g, t):
        m, v = memory.get(name, (0.0, 0.0))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        memory[name] = m, v
        return (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)

    return step


def lion_step(b1, b2):
    memory = {}

    def step(name, g, t):
        del t
        m = memory.get(name, 0.0)
        memory[name] = b2 * m + (1 - b2) * g
        return np.sign(b1 * m + (1 - b1) * g)

    return step


def orthogonal(matrix):
    """Newton and Schulz's iteration with Muon's coefficients, on the Gram matrix of the shorter side."""
    x = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    x = x / (np.sqrt((x**2).sum()) + 1e-8)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


MATRICES = {'backbone/stage1/block0/conv/kernel': (36, 5), 'backbone/stage1/block1/fc/kernel': (5, 7)}


def muon_step(momentum, b1, b2, eps):
    memory, adam = {}, adam_step(b1, b2, eps)

    def step(name, g, t):
        if name not in MATRICES:
            return adam(name, g, t)
        memory[name] = m = momentum * memory.get(name, 0.0) + (1 - momentum) * g
        ahead = momentum * m / (1 - momentum ** (t + 1)) + (1 - momentum) * g / (1 - momentum**t)
        rows, columns = MATRICES[name]
        found = orthogonal(ahead.reshape(rows, columns)).reshape(g.shape)
        return 0.2 * np.sqrt(max(rows, columns)) * found

    return step


REFERENCES = {
    'adamw': lambda: adam_step(0.9, 0.999, 1e-8),
    'lion': lambda: lion_step(0.9, 0.99),
    'muon': lambda: muon_step(0.95, 0.9, 0.95, 1e-8),
}


@pytest.mark.parametrize('name', DECOUPLED)
def test_new_optimisers_equal_numpy(name):
    """With factors of parts, a frozen part, and decoupled decay that leaves vectors alone."""
    groups = {'stem': (0.0, 0.0), 'stage1': (0.1, 1.0), 'heads': (2.0, 0.5)}
    factor = {'stem': (0, 0), 'stage1': (0.1, 1), 'target': (2.0, 0.5)}
    lr, decay = 0.05, 0.3
    found, state = train(settings(name=name, lr=lr, weight_decay=decay, schedule='constant'), groups)
    expected, step = flat(weights(0)), REFERENCES[name]()
    for t, grads in enumerate(GRADS, 1):
        for key, g in flat(grads).items():
            rate, decayed = factor[key.split('/')[1]]
            if not rate:
                continue
            p = expected[key]
            u = step(key, g, t) + (decay * decayed * p if p.ndim > 1 else 0)
            expected[key] = p - lr * rate * u
        assert found[t - 1].keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[t - 1][key], value, rtol=1e-10, atol=1e-12, err_msg=f'{key} {t}')
    begun = flat(weights(0))
    for key in begun:
        assert np.array_equal(begun[key], found[-1][key]) == key.startswith('backbone/stem'), key
    assert int(state['step']) == STEPS


def test_muon_is_that_of_optax_where_all_is_a_matrix():
    """`optax.contrib.muon` on the same matrices, with its decay and the size of AdamW's updates."""
    with jax.enable_x64(True):
        tree = {'backbone': {'stage1': {'fc': {'kernel': jnp.asarray(weights(0)['heads']['target']['kernel'])}}}}
        chosen = settings(name='muon', lr=0.1, weight_decay=0.2, schedule='constant')
        ours, _ = optim.make(chosen, 9, lambda p: optim.factors({}, group, p, chosen))
        theirs = optax.contrib.muon(0.1, beta=0.95, weight_decay=0.2, consistent_rms=0.2)
        a = b = tree
        one, two = ours.init(a), theirs.init(b)
        for i in range(4):
            grads = jax.tree.map(lambda x, i=i: jnp.sin(x + i), tree)
            updates, one = ours.update(grads, one, a)
            a = optax.apply_updates(a, updates)
            updates, two = theirs.update(grads, two, b)
            b = optax.apply_updates(b, updates)
        chex.assert_trees_all_close(a, b, rtol=1e-12)
        assert np.abs(np.asarray(jax.tree.leaves(a)[0] - jax.tree.leaves(tree)[0])).max() > 0.01


def test_adamw_decay_is_decoupled_and_adam_decay_is_not():
    """With gradients of 0 AdamW shrinks a kernel by 1 - lr * decay; Adam normalises the decay to steps of lr."""
    with jax.enable_x64(True):
        p = {'backbone': {'stage1': {'fc': {'kernel': jnp.full((2, 2), 3.0), 'bias': jnp.full(2, 3.0)}}}}
        for name, kernel, bias in (('adamw', 3 * (1 - 0.1 * 0.5), 3.0), ('adam', 3 - 0.1, 3 - 0.1)):
            chosen = settings(name=name, lr=0.1, weight_decay=0.5, schedule='constant')
            tx, _ = optim.make(chosen, 9, lambda p, c=chosen: optim.factors({}, group, p, c))
            updates, _ = tx.update(jax.tree.map(jnp.zeros_like, p), tx.init(p), p)
            layer = optax.apply_updates(p, updates)['backbone']['stage1']['fc']
            np.testing.assert_allclose(layer['kernel'], kernel, rtol=1e-8)
            np.testing.assert_allclose(layer['bias'], bias, rtol=1e-8)


def test_muon_lists_what_is_a_matrix():
    key = jax.tree_util.DictKey
    leaves = jax.tree_util.tree_leaves_with_path(weights(0))
    found = {'/'.join(k.key for k in path) for path, x in leaves if optim.axes(path, x.shape) is not None}
    assert found == set(MATRICES)
    inside = tuple(map(key, ('backbone', 'stage1', 'attention', 'kernel')))
    assert optim.axes(inside, (8, 2, 4)) is None  # three axes: nothing says which of them are the inputs
    assert optim.axes(inside, (3, 3, 8, 4)) == ((0, 1, 2), 3) and optim.axes(inside, (8, 4)) == ((0,), 1)
    assert optim.axes((*inside[:-1], key('position')), (8, 4)) is None


def test_muon_without_optax_muon_is_refused(monkeypatch):
    monkeypatch.delattr(optax.contrib, 'scale_by_muon')
    with pytest.raises(UserError, match='^config.optim.name=muon needs an optax with .*; update optax$'):
        optim.make(settings(name='muon'), 10, lambda params: params)


# --- clipping ---


@pytest.mark.parametrize('most', [1.0, 5.0, 1e6])
def test_clip_bounds_the_norm_over_what_is_trained(most):
    """SGD without momentum moves by the clipped gradient; the frozen stem does not count."""
    chosen = settings(
        lr=1.0, momentum=0.0, nesterov=False, weight_decay=0.0, schedule='constant', clip=most, freeze=('stem',)
    )  # fmt: skip
    (found,), _ = train(chosen, steps=1)
    grads = {key: g for key, g in flat(GRADS[0]).items() if not key.startswith('backbone/stem')}
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    assert 5 < norm < 1e6
    begun = flat(weights(0))
    for key, p in begun.items():
        expected = p - grads[key] * min(1, most / norm) if key in grads else p
        np.testing.assert_allclose(found[key], expected, rtol=1e-10, atol=1e-12)


def test_clip_comes_before_the_decay_and_the_optimiser():
    """Decay of SGD is not clipped, and Lion, which takes signs, steps as without it at first."""
    chosen = {'lr': 1.0, 'schedule': 'constant', 'clip': 1e-3}
    sgd = settings(**chosen, momentum=0.0, nesterov=False, weight_decay=0.5)
    (found,), _ = train(sgd, steps=1)
    begun = flat(weights(0))
    moved = np.sqrt(sum(((found[key] - p / 2) ** 2).sum() for key, p in begun.items()))
    np.testing.assert_allclose(moved, 1e-3, rtol=1e-6)
    lion = [train(settings(name='lion', **{**chosen, 'clip': clip}), steps=1)[0][0] for clip in (0.0, 1e-3)]
    for key in lion[0]:
        np.testing.assert_array_equal(lion[0][key], lion[1][key])


# --- factors ---


def factors_of(groups=None, **changes):
    tree = optim.factors(groups or {}, group, weights(0), settings(**changes))
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, tuple))
    return {'/'.join(key.key for key in path): pair for path, pair in leaves}


def test_layer_decay_by_hand():
    """Stem, block0, block1, heads: depths 0 to 3, so factors 1/8, 1/4, 1/2 and 1."""
    found = factors_of(layer_decay=0.5)
    rates = {'stem': 0.125, 'block0': 0.25, 'block1': 0.5, 'target': 1.0}
    for key, (rate, decay) in found.items():
        assert rate == next(value for name, value in rates.items() if name in key) and decay == 1
    off = factors_of()
    assert set(off.values()) == {(1.0, 1.0)}


def test_layer_decay_is_multiplied_with_other_factors():
    found = factors_of({'trunk': (0.1, 0.5)}, layer_decay=0.5, factors=('stem=3',), freeze=('heads',))
    np.testing.assert_allclose(found['backbone/stem/conv/kernel'], (0.1 * 3 * 0.125, 0.5))
    np.testing.assert_allclose(found['backbone/stage1/block1/fc/kernel'], (0.1 * 0.5, 0.5))
    assert found['heads/target/kernel'] == (0, 0)


def test_layer_decay_that_is_zero_in_float32_is_refused():
    with pytest.raises(UserError, match=r'^config.optim.layer_decay=1e-20 gives st\w+ a learning rate that is 0 in fl'):
        factors_of(layer_decay=1e-20)
    with pytest.raises(UserError, match=r'^config.optim.layer_decay=4.94066e-324 gives'):
        factors_of(layer_decay=5e-324)
    assert factors_of(layer_decay=1e-20, freeze=('trunk',))['heads/target/bias'] == (1, 1)
    params = {'backbone': {'neck': {'kernel': jnp.ones((2, 2))}}, 'heads': {}}
    with pytest.raises(UserError, match=r"^config.optim.layer_decay=0.5: nothing in the name .* 'neck' says how deep"):
        optim.factors({}, group, params, settings(layer_decay=0.5))
    assert optim.factors({}, group, params, settings())['backbone']['neck']['kernel'] == (1, 1)


@pytest.mark.parametrize('name', ['sgd', 'adam', 'amsgrad', *DECOUPLED])
@pytest.mark.parametrize('decayed', ['', 'all', 'matrices'])
def test_vectors_decay_by_optimiser_or_as_asked(name, decayed):
    found = factors_of(name=name, decayed=decayed)
    exempt = decayed == 'matrices' or decayed == '' and name in DECOUPLED
    vectors = {key for key, x in flat(weights(0)).items() if x.ndim == 1}
    assert {key for key, (_, decay) in found.items() if not decay} == (vectors if exempt else set())
    assert {rate for rate, _ in found.values()} == {1.0}


# --- runs ---


def modern(name, **changes):
    config = run_settings('finetune', **changes)
    with config.unlocked():
        config.optim.name, config.optim.lr, config.optim.weight_decay = name, 0.003, 0.05
        config.optim.schedule, config.optim.warmup = 'cosine', 0.25
        config.optim.clip, config.optim.layer_decay = 1.0, 0.75
    return config


@pytest.mark.parametrize('name', DECOUPLED)
def test_resumed_run_is_the_same_bit_for_bit(name, tmp_path):
    """In the middle of the warm-up of ten steps, through a checkpoint."""
    built, data, ts = opened(modern(name), tmp_path)
    middle, metrics = walk(built, data, ts, 6)
    np.testing.assert_allclose([m['lr'] for m in metrics], [0.003 * (i + 1) / 11 for i in range(6)], rtol=1e-6)
    with checkpoint.open_folder(tmp_path / 'checkpoints') as manager:
        checkpoint.save(manager, 6, mesh.take_trial(middle, 0))
        manager.wait_until_finished()
        fresh = seeds.open_seed(built, 0, tmp_path)
        resumed = seed_batch.stack_states(built, [checkpoint.restore(manager, 6, fresh.state)])
    assert jax.tree.structure(resumed.opt_state) == jax.tree.structure(middle.opt_state)
    straight, rest = walk(built, data, middle, 10)
    again, rest_again = walk(built, data, resumed, 10)
    assert_trees_equal(straight, again)
    assert rest == rest_again and np.isfinite([list(m.values()) for m in rest]).all()


def test_extended_run_of_muon_is_a_longer_run(tmp_path):
    """From its folder, with all that reads checkpoints; the step with the best validation accuracy is kept."""

    def config(steps):
        out = modern('muon', steps=steps, log_every=1, eval_every=2, checkpoint_every=2, keep='best')
        with out.unlocked():
            out.optim.schedule, out.optim.warmup, out.target.val = 'constant', 3.0, 0.5
        return out

    experiment.run(config(4), tmp_path / 'two', progress=False)
    extended = experiment.run(config(6), tmp_path / 'two', progress=False)
    straight = experiment.run(config(6), tmp_path / 'one', progress=False)
    assert extended['seeds'] == straight['seeds']
    one, two = (final_state(tmp_path / run, 0, 6) for run in ('one', 'two'))
    assert one.keys() == two.keys() and any('opt_state' in key and 'muon' in key for key in one)
    for key in one:
        np.testing.assert_array_equal(one[key], two[key], err_msg=key)


LATER = [pytest.param(name, marks=pytest.mark.parity) for name in ('lion', 'muon')]


@pytest.mark.parametrize('name', ['adamw', *LATER])
def test_one_device_eight_and_sharded_parameters_agree(name, tmp_path, monkeypatch):
    """Muon's iteration needs whole matrices, also where they are cut over the devices."""
    monkeypatch.setattr(mesh, 'SMALL', 8)  # the network is tiny
    with jax.enable_x64(True):
        found = {}
        for devices, cut in ((1, False), (8, False), (8, True)):
            config = modern(name, devices=devices, shard_params=cut)
            config.model.dtype = 'float64'
            built = program.build(config)
            found[devices, cut] = losses_of(built, tmp_path / f'{devices}{cut}', steps=12)[0]
        built, data, ts = opened(config, tmp_path / '8True')
        ts, _ = walk(built, data, ts, 1)
        sizes = [(x.addressable_shards[0].data.size, x.size) for x in jax.tree.leaves(ts.opt_state)]
        assert 3 * sum(mine for mine, _ in sizes) < sum(whole for _, whole in sizes)
    alone = found.pop((1, False))
    assert alone[0] != alone[-1]
    for each in found.values():
        np.testing.assert_allclose(each, alone, rtol=1e-9)
