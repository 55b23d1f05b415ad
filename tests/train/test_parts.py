"""Parts of the network that are frozen, or have a learning rate of their own; and batches that go through in parts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import config as config_lib
from mixjax.errors import UserError
from mixjax.method import Aux, Ctx, Run
from mixjax.models.net import group
from mixjax.train import accumulate, experiment, optim, seeds
from tests.support.common import final_state

PARAMS = {
    'backbone': {'stem': {'w': jnp.ones(2)}, 'stage1': {'w': jnp.ones(2)}, 'stage2': {'w': jnp.ones(2)}},
    'heads': {'target': {'bias': jnp.ones(2)}, 'source': {'bias': jnp.ones(2)}},
}


def settings(**changes):
    out = config_lib.base().optim
    out.update(changes)
    return out


def found(groups=None, **changes):
    tree = optim.factors(groups or {}, group, PARAMS, settings(**changes))
    return {name: part['w'] for name, part in tree['backbone'].items()} | {
        f'head:{name}': part['bias'] for name, part in tree['heads'].items()
    }


def test_frozen_parts():
    one = found(freeze=('stem', 'heads'))
    assert {name for name, factor in one.items() if factor == (0, 0)} == {'stem', 'head:target', 'head:source'}
    assert {one[name] for name in ('stage1', 'stage2')} == {(1, 1)}


def test_factors_of_parts_and_kinds():
    one = found(factors=('trunk=0.1', 'stage1=0.5', 'head:target=2e1'))
    assert one == {
        'stem': (0.1, 1), 'stage1': (0.5, 1), 'stage2': (0.1, 1), 'head:target': (20, 1), 'head:source': (1, 1)
    }  # fmt: skip


def test_factors_are_multiplied_with_those_of_the_method():
    groups = {'trunk': (0.1, 1.0), 'head:source': (0.0, 0.0), 'head:target': (1.0, 0.5)}
    one = found(groups, factors=('trunk=0.5', 'heads=10'), freeze=('stage2',))
    assert one['stem'] == one['stage1'] == (0.05, 1)
    assert one['stage2'] == one['head:source'] == (0, 0)  # what either freezes stays frozen
    assert one['head:target'] == (10, 0.5)


@pytest.mark.parametrize(
    ('changes', 'sentence'),
    [
        ({'freeze': ('stage7',)}, "config.optim.freeze sets a factor for 'stage7'; did you mean 'stage"),
        ({'factors': ('head=2',)}, "config.optim.factors sets a factor for 'head'; did you mean 'heads'"),
    ],
)
def test_unknown_part_is_refused(changes, sentence):
    with pytest.raises(UserError) as error:
        found(**changes)
    assert sentence in str(error.value) and 'this network has head:source, head:target, stage1' in str(error.value)


def config(**changes):
    base = {'method.name': 'finetune', 'num_seeds': '1', 'devices': '1', 'steps': '3', 'log_every': '1'}
    base |= {'eval_every': '3', 'checkpoint_every': '1'}
    return config_lib.load('quickstart', list({**base, **changes}.items()))


def test_unknown_part_is_refused_before_files_are_written(tmp_path):
    with pytest.raises(UserError, match="did you mean 'stem'"):
        experiment.run(config(**{'optim.freeze': 'stemm'}), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_frozen_parts_of_a_run_stay_as_they_are(tmp_path):
    experiment.run(config(**{'optim.freeze': 'stem, stage1'}), tmp_path)
    first, last = final_state(tmp_path, 0, 2), final_state(tmp_path, 0, 3)
    params = [name for name in first if "['params']" in name or '.params' in name]
    moved = {name for name in params if not np.array_equal(first[name], last[name])}
    frozen = {name for name in params if "'stem'" in name or "'stage1'" in name}
    assert frozen and moved and not moved & frozen
    assert {name for name in params if "'stage2'" in name or 'heads' in name} <= moved | {
        name for name in params if 'source' in name
    }


# --- batches in parts -------------------------------------------------------------------------------------------------


def context(batch, groups):
    random = np.random.RandomState(0)
    partner = np.stack([random.permutation(batch // groups) for _ in range(groups)])
    examples = {
        'image': jnp.asarray(random.randn(batch, 3)), 'label': jnp.asarray(random.randn(batch)),
        'index': jnp.arange(batch), 'partner': jnp.asarray(partner),
    }  # fmt: skip
    state = {'seen': jnp.zeros((), jnp.int32)}
    return Ctx(state, (), (), examples, jax.random.key(0), jnp.zeros((), jnp.int32), Run(1, 1.0, (), ()))


def loss(params, ctx, dropout):
    """A mean over the examples of a mixed batch."""
    del dropout
    partner = ctx.batch['partner']
    order = (partner + jnp.arange(len(partner))[:, None] * partner.shape[1]).ravel()
    mixed = 0.7 * ctx.batch['image'] + 0.3 * ctx.batch['image'][order]
    error = mixed @ params - ctx.batch['label']
    noted = {'error': jnp.abs(error).mean(), 'draw': jax.random.uniform(ctx.rng)}
    return (error**2).mean(), Aux({'seen': ctx.model_state['seen'] + len(error)}, noted)


@pytest.mark.parametrize('loop', [True, False])
@pytest.mark.parametrize('micro', [2, 3, 6])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(micro, loop):
    with jax.enable_x64(True):
        gradient = jax.value_and_grad(loss, has_aux=True)
        params, ctx = jnp.asarray([0.3, -1.0, 2.0]), context(24, 6)
        (value, aux), grads = gradient(params, ctx, jax.random.key(1))
        cut = jax.jit(partial(accumulate.accumulated, gradient, micro=micro, shard=lambda x: x, loop=loop))
        (value_p, aux_p), grads_p = cut(params, ctx, jax.random.key(1))
        np.testing.assert_allclose(grads_p, grads, rtol=1e-13)
        np.testing.assert_allclose(value_p, value, rtol=1e-13)
        np.testing.assert_allclose(aux_p.metrics['error'], aux.metrics['error'], rtol=1e-13)
        assert int(aux_p.model_state['seen']) == 24  # one part after the other
        draws = [jax.random.uniform(jax.random.fold_in(ctx.rng, i)) for i in range(micro)]
        assert len(set(map(float, draws))) == micro
        np.testing.assert_allclose(aux_p.metrics['draw'], np.mean(draws), rtol=1e-6)


def test_partners_of_a_part_are_in_it():
    ctx = context(24, 6)
    cut = accumulate.parts(ctx.batch, 3)
    for i in range(3):
        part = jax.tree.map(lambda x, i=i: x[i], cut)
        np.testing.assert_array_equal(part['index'], np.arange(8) + 8 * i)
        assert part['partner'].shape == (2, 4) and sorted(np.ravel(part['partner'])) == sorted([0, 1, 2, 3] * 2)


def test_a_batch_in_parts_takes_the_memory_of_a_part():
    def heavy(params, ctx, dropout):
        del dropout
        hidden = jnp.tile(ctx.batch['image'][:, :1], 256)
        for weight in params:
            hidden = jnp.tanh(hidden @ weight)
        return hidden.mean(), Aux(ctx.model_state)

    gradient = jax.value_and_grad(heavy, has_aux=True)
    ctx = context(4096, 8)

    def size(function):
        compiled = jax.jit(function).lower(jnp.ones((6, 256, 256)), ctx, jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    whole = size(gradient)
    cut = size(partial(accumulate.accumulated, gradient, micro=8, shard=lambda x: x, loop=True))
    assert cut < whole / 4


@pytest.mark.parametrize(
    'knobs', [{'name': 'regsl', 'self_label': 'true'}, {'name': 'smile'}, {'name': 'bss'}, {'name': 'delta'}]
)
def test_a_method_that_needs_the_whole_batch_is_refused(knobs, tmp_path):
    words = {f'method.{key}': value for key, value in knobs.items()}
    with pytest.raises(UserError, match=f'config.accumulate=2: the loss of {knobs["name"]} is not a mean'):
        seeds.build_and_try(config(**words, accumulate='2', **{'mix.groups': '2'}), tmp_path)


def test_stateful_forward_pass_is_not_split_into_parts():
    def remembers(params, ctx, dropout):
        del dropout
        return params.sum(), Aux(ctx.model_state, {}, {'label': ctx.batch['label']})

    gradient = jax.value_and_grad(remembers, has_aux=True)
    with pytest.raises(UserError, match='config.accumulate=2: with these settings the method remembers'):
        accumulate.accumulated(gradient, jnp.ones(3), context(4, 2), jax.random.key(0), 2, lambda x: x, loop=True)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mixup', 'xmixup'])
def test_a_run_in_parts_is_a_run_on_one_device_and_on_several(name, tmp_path):
    words = {'method.name': name, 'accumulate': '3', 'mix.groups': '3', 'batch_size': '24'}
    one = experiment.run(config(**words), tmp_path / 'one')
    two = experiment.run(config(**words, devices='2'), tmp_path / 'two')
    assert abs(one['seeds'][0]['loss'] - two['seeds'][0]['loss']) < 1e-3
    left, right = (final_state(tmp_path / run, 0, 3) for run in ('one', 'two'))
    for key in left:
        if left[key].dtype == np.float32:
            np.testing.assert_allclose(left[key], right[key], atol=2e-3, err_msg=key)
