"""Wrappers that change which parameters learn, and how: BitFit, LN-Tune, LoRA, SAM; and wrappers by name as methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from mixjax import config as config_lib
from mixjax import models
from mixjax.config import method_registry
from mixjax.config.method_registry import WRAPPER
from mixjax.errors import UserError
from mixjax.method import Aux, Ctx, Method, Run
from mixjax.train import experiment, init, mesh, program, seeds, step
from mixjax.wrappers import is_norm, lora, only, sam
from tests.support.common import SHIPPED, assert_trees_equal
from tests.support.method_setting import CLASSES, assert_close, of, setting
from tests.support.networks import ALIKE, NETWORKS, is_vit
from tests.support.toy import opened, settings, tiny, walk  # noqa: F401 (for every test: tiny)


def names(tree):
    """{'stage1/conv/kernel': array} of a tree."""
    return {'/'.join(key.key for key in path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def changed(before, after):
    """The names of the arrays that differ."""
    before, after = names(before), names(after)
    assert before.keys() == after.keys()
    return {name for name in before if not np.array_equal(before[name], after[name])}


def moved(knobs, folder, steps=3, **changes):
    """The names of the parameters that some steps move, and whether the statistics move."""
    built, data, ts = opened(settings(knobs, **changes), folder)
    before = jax.tree.map(np.array, (ts.params, ts.model_state))
    ts, _ = walk(built, data, ts, steps)
    return changed(before[0], ts.params), bool(changed(before[1], ts.model_state))


HEAD = {'heads/target/kernel', 'heads/target/bias'}
BIASES = {'backbone/stem/bn/bias', 'backbone/stage1/bn/bias'}
SCALES = {'backbone/stem/bn/scale', 'backbone/stage1/bn/scale'}


# --- bitfit and lntune ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('knobs', 'wanted', 'statistics'),
    [
        ({'name': 'bitfit'}, HEAD | BIASES, True),
        ({'name': 'bitfit', 'bn': 'frozen'}, HEAD | BIASES, False),
        ({'name': 'lntune'}, HEAD | BIASES | SCALES, True),
        ({'name': 'lntune', 'bn': 'frozen'}, HEAD | BIASES | SCALES, False),
        # What the method freezes stays frozen.
        ({'name': 'feature_extraction', 'wrappers': ('bitfit',)}, HEAD, False),
    ],
)
def test_only_some_parameters_learn(knobs, wanted, statistics, tmp_path):
    assert moved(knobs, tmp_path) == (wanted, statistics)


def test_kernels_with_a_scale_are_no_norms_and_biases_of_layers_learn():
    leaf = jnp.zeros(2)
    params = {
        'backbone': {
            'stem': {'kernel': leaf, 'bias': leaf, 'scale': leaf},
            'stage1': {'fc': {'kernel': leaf, 'bias': leaf}, 'norm': {'scale': leaf, 'bias': leaf}, 'token': leaf},
        },
        'heads': {'target': {'kernel': leaf, 'bias': leaf}},
        'extra': {'kernel': leaf},
    }
    method = Method(None, groups={'stage1': (0.5, 2.0), 'extra': (3.0, 1.0), 'head:target': (1.0, 0.0)})

    def learning(one):
        pairs = jax.tree_util.tree_map_with_path(lambda p, x: one.groups(tuple(k.key for k in p), params), params)
        found = jax.tree_util.tree_leaves_with_path(pairs, is_leaf=lambda x: isinstance(x, tuple))
        return {'/'.join(key.key for key in path): pair for path, pair in found if pair != (0, 0)}

    others = {'heads/target/kernel': (1, 0), 'heads/target/bias': (1, 0), 'extra/kernel': (3, 1)}
    bitfit = method_registry.load('bitfit', kind=WRAPPER)(method, CLASSES)
    norm = {'backbone/stage1/norm/bias': (0.5, 2)}
    assert learning(bitfit) == others | norm | {'backbone/stem/bias': (1, 1), 'backbone/stage1/fc/bias': (0.5, 2)}
    lntune = method_registry.load('lntune', kind=WRAPPER)(method, CLASSES)
    assert learning(lntune) == others | norm | {'backbone/stage1/norm/scale': (0.5, 2)}
    # One inside of the other: what both let learn.
    assert learning(only(lntune, lambda path, params: path[-1] == 'bias', 'train')) == others | norm
    named = Method(None, groups=lambda path, params: (0.25, 1.0))
    assert set(learning(only(named, is_norm, 'train')).values()) == {(0.25, 1)}


def test_frozen_statistics_normalise_the_batch():
    """The loss is that of a network in eval mode, and the statistics stay."""
    one, plain = setting('bitfit', bn='frozen'), setting('bitfit')
    out, _ = one.net.apply(one.ctx.variables(one.params), one.ctx.batch['image'], train=False)
    log = np.asarray(jax.nn.log_softmax(out.logits['target']))
    value, aux, _ = of(one)
    np.testing.assert_allclose(value, -log[np.arange(len(log)), np.asarray(one.ctx.batch['label'])].mean(), rtol=1e-5)
    assert_trees_equal(aux.model_state, one.ctx.model_state)
    assert abs(float(of(plain)[0]) - float(value)) > 1e-3


# --- lora -------------------------------------------------------------------------------------------------------------


def low_rank(method=None, key=3, **knobs):
    """(wrapped method, parameters with A and B drawn, the drawn A and B) of `setting`'s network."""
    one = setting('finetune')
    wrapped = lora.wrap(method or one.method, CLASSES, **knobs)
    params = wrapped.parameters(one.net, one.params, jax.random.key(key))
    leaves, structure = jax.tree.flatten(params['lora'])
    keys = jax.random.split(jax.random.key(key + 1), len(leaves))
    drawn = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return one, wrapped, {**params, 'lora': jax.tree.unflatten(structure, drawn)}


def test_low_rank_starts_as_the_network_and_is_drawn_as_documented():
    one, wrapped, _ = low_rank(rank=2)
    params = wrapped.parameters(one.net, one.params, jax.random.key(0))
    assert_trees_equal({name: params[name] for name in one.params}, one.params)
    shapes = {name: x.shape for name, x in names(params['lora']).items()}
    assert shapes == {
        'stem/conv/kernel/a': (27, 2), 'stem/conv/kernel/b': (2, 4),
        'stage1/conv/kernel/a': (36, 2), 'stage1/conv/kernel/b': (2, 4),
    }  # fmt: skip
    a, b = params['lora']['stage1']['conv']['kernel']['a'], params['lora']['stem']['conv']['kernel']['b']
    assert 0.9 / 6 < float(abs(a).max()) <= 1 / 6 and not b.any()
    mine = setting('finetune')
    mine.method, mine.params = wrapped, params
    value, aux, grads = of(mine)
    expected, expected_aux, expected_grads = of(one)
    assert float(value) == float(expected)
    assert_trees_equal(aux.model_state, expected_aux.model_state)
    # dL/dB = scale A^T dL/dW, dL/dA = scale dL/dW B^T = 0.
    into = np.asarray(expected_grads['backbone']['stage1']['conv']['kernel']).reshape(36, 4)
    assert_close(grads['lora']['stage1']['conv']['kernel']['b'], 4.0 * np.asarray(a).T @ into, 1e-5)
    assert not grads['lora']['stage1']['conv']['kernel']['a'].any()


def test_merged_kernel_is_the_path_through_the_adapter():
    one, wrapped, params = low_rank(rank=3, alpha=1.5)
    merged = wrapped.evaluated(one.net, {'params': params, **one.ctx.model_state}, ())
    assert names(merged).keys() == names({'params': one.params, **one.ctx.model_state}).keys()
    assert_trees_equal(merged['params']['heads'], params['heads'])
    kernel, pair = params['backbone']['stage1']['conv']['kernel'], params['lora']['stage1']['conv']['kernel']
    x = jax.random.normal(jax.random.key(9), (2, 7, 7, kernel.shape[2]))

    def conv(x, kernel):
        layout = ('NHWC', 'HWIO', 'NHWC')
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=layout, precision='highest')

    down = pair['a'].reshape(*kernel.shape[:3], 3)
    beside = conv(x, kernel) + 0.5 * jnp.einsum('bhwr,rm->bhwm', conv(x, down), pair['b'], precision='highest')
    found = conv(x, merged['params']['backbone']['stage1']['conv']['kernel'])
    np.testing.assert_allclose(found, beside, atol=1e-6 * float(abs(beside).max()))


def test_loss_is_the_methods_of_merged_weights():
    """L2-SP measures the distance of W' by hand; its own factors reach A, B and the head."""
    one, wrapped, params = low_rank(setting('l2sp', alpha=0.3, beta=0.2).method, rank=2)
    merged = wrapped.evaluated(one.net, {'params': params, **one.ctx.model_state}, ())['params']
    value, aux = wrapped.loss(one.net, params, one.ctx)
    pairs = zip(jax.tree.leaves(merged['backbone']), jax.tree.leaves(one.start['params']['backbone']), strict=True)
    distance = 0.5 * sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    head = 0.5 * sum(float((w**2).sum()) for w in jax.tree.leaves(merged['heads']))
    np.testing.assert_allclose(value, float(aux.metrics['ce']) + 0.3 * distance + 0.2 * head, rtol=1e-5)
    assert wrapped.groups(('lora', 'stem', 'conv', 'kernel', 'a'), params) == (1.0, 0.0)
    slow, _, _ = low_rank(setting('bss', trunk_factor=0.1).method, rank=2)[1], 0, 0
    assert slow.groups(('lora', 'stem', 'conv', 'kernel', 'b'), params) == (0.1, 1.0)
    assert slow.groups(('backbone', 'stem', 'conv', 'kernel'), params) == (0.0, 0.0)


LOW = {f'lora/stage1/conv/kernel/{x}' for x in 'ab'}  # the stem's image has one channel


def test_only_the_low_rank_changes_and_heads_learn(tmp_path):
    assert moved({'name': 'lora', 'rank': 2}, tmp_path) == (HEAD | LOW, True)
    assert moved({'name': 'lora', 'rank': 2, 'norms': True}, tmp_path) == (HEAD | LOW | BIASES | SCALES, True)
    assert moved({'name': 'lora', 'rank': 2}, tmp_path, optim={'freeze': ('lora',)})[0] == HEAD


def test_export_is_a_plain_network(tmp_path):
    every = {}
    for name in ('finetune', 'lora'):
        knobs = {'name': name, 'rank': 2} if name == 'lora' else {'name': name}
        config = settings(knobs, steps=4, eval_every=4, checkpoint_every=4)
        results = experiment.run(config, tmp_path / name)
        every[name] = load_file(tmp_path / name / 'model.safetensors')
        assert results['steps'] == 4
    assert {k: x.shape for k, x in every['lora'].items()} == {k: x.shape for k, x in every['finetune'].items()}
    built, data, ts = opened(config, tmp_path / 'lora')
    ts, _ = walk(built, data, ts, 4)
    found = names(mesh.take_trial(built.evaluated(ts), 0))
    for name, value in every['lora'].items():
        np.testing.assert_allclose(value, found[name], rtol=1e-4, atol=1e-5)
    own = names({'params': mesh.take_trial(ts.params, 0)})['params/backbone/stage1/conv/kernel']
    assert not np.allclose(own, every['lora']['params/backbone/stage1/conv/kernel'], atol=1e-5)


def test_methods_that_move_the_trunk_themselves_are_refused(tmp_path):
    knobs = {'wrappers': ('lora',), 'lora_rank': 2}
    with pytest.raises(UserError, match='lora: the method changes the weights of the trunk after a step') as caught:
        seeds.build_and_try(settings({'name': 'regsl', **knobs}), tmp_path / 'a')
    assert '\n' not in str(caught.value)
    for name in ({'name': 'regsl', 'form': 'penalty'}, {'name': 'rifle'}, {'name': 'smile'}):
        seeds.build_and_try(settings({**name, **knobs}), tmp_path / name['name'])


@pytest.mark.parametrize(
    ('knobs', 'sentence'),
    [
        ({'rank': 0}, 'rank must be at least 1, not 0'),
        ({'alpha': 0.0}, 'alpha must be above 0'),
        ({'rank': 8}, 'no kernel of trunk has more than 8 rows and columns; lower the rank'),
        ({'parts': ('stagee1',)}, "parts has 'stagee1'; did you mean 'stage1'.; this network has trunk, stage1, stem"),
    ],
)
def test_impossible_low_ranks_are_refused(knobs, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        seeds.build_and_try(settings({'name': 'lora', 'rank': 2, **knobs}), tmp_path)


def test_matrices_and_small_convolutions_of_many_channels_are_adapted():
    shapes = {
        'fc': (16, 12), 'point': (1, 1, 16, 12), 'conv': (3, 3, 16, 12),
        'wide': (5, 5, 16, 12), 'depth': (3, 3, 1, 16), 'narrow': (16, 8),
    }  # fmt: skip
    params = {'backbone': {'stage1': {k: {'kernel': jnp.ones(s), 'bias': jnp.ones(s[-1])} for k, s in shapes.items()}}}
    made = lora.wrap(Method(None), CLASSES).parameters(None, params, jax.random.key(0))
    assert made['lora']['stage1'].keys() == {'fc', 'point', 'conv'}
    with pytest.raises(UserError, match='no kernel'):
        lora.wrap(Method(None), CLASSES, parts=('stage1',), rank=12).parameters(None, params, jax.random.key(0))


@pytest.mark.parametrize('name', [name for name in SHIPPED if name not in ALIKE])
def test_every_network_has_kernels_to_adapt(name):
    net, side = models.build(name), NETWORKS[name][1][1] if is_vit(name) else 32
    image = jnp.zeros((1, side, side, 1 if 'glyph' in name or 'lenet' in name else 3))
    params = jax.eval_shape(lambda key: net.init(key, image, {'target': 10}), jax.random.key(0))['params']
    wrapped = lora.wrap(Method(None), CLASSES)
    made = jax.eval_shape(lambda p: wrapped.parameters(net, p, jax.random.key(0)), params)
    count = sum(x.size for x in jax.tree.leaves(made['lora']))
    assert 0 < count < 0.6 * sum(x.size for x in jax.tree.leaves(params['backbone']))


# --- sam --------------------------------------------------------------------------------------------------------------


def bowl(net, params, ctx):
    """L = (a^2 + b^2) / 2, and a draw that shows the random numbers of a pass."""
    value = 0.5 * sum((w**2).sum() for w in jax.tree.leaves(params))
    return value + 0 * jax.random.normal(ctx.rng), Aux({'seen': ctx.model_state['seen'] + 1}, {'twice': 2 * value})


def bowled(factors=None, **knobs):
    method = sam.wrap(Method(bowl), CLASSES, **knobs)
    run = Run(4, 1.0, (), (), **({'factors': lambda params: factors} if factors else {}))
    ctx = Ctx({'seen': jnp.zeros(())}, (), (), {}, jax.random.key(0), jnp.zeros((), jnp.int32), run)
    params = {'a': jnp.asarray(3.0), 'b': jnp.asarray(4.0)}
    (value, aux), grads = jax.value_and_grad(method.loss, argnums=1, has_aux=True)(None, params, ctx)
    return method, value, aux, (float(grads['a']), float(grads['b']))


def test_sharpness_by_hand():
    """g = (3, 4) of norm 5: with rho 0.5 the gradient is that at (3.3, 4.4), and the loss there 15.125."""
    method, value, aux, grads = bowled(rho=0.5)
    assert method.whole_batch
    np.testing.assert_allclose(grads, (3.3, 4.4), rtol=1e-6)
    assert float(value) == 12.5 and float(aux.metrics['twice']) == 25 and float(aux.model_state['seen']) == 1
    np.testing.assert_allclose(aux.metrics['sam_rise'], 15.125 - 12.5, rtol=1e-5)
    # b is frozen: only a is in the norm, and only a moves.
    np.testing.assert_allclose(bowled({'a': (1.0, 1.0), 'b': (0.0, 0.0)}, rho=0.5)[3], (3.5, 4.0), rtol=1e-6)
    # t = (3.01, 4.01), t g = (9.03, 16.04), of norm 18.407: a = 3 + 0.5 * 3.01 * 9.03 / 18.407.
    t, tg = np.array([3.01, 4.01]), np.array([9.03, 16.04])
    wanted = np.array([3, 4]) + 0.5 * t * tg / np.sqrt(9.03**2 + 16.04**2)
    np.testing.assert_allclose(bowled(rho=0.5, adaptive=True)[3], wanted, rtol=1e-6)
    np.testing.assert_allclose(bowled(rho=0.0)[3], (3, 4), rtol=1e-6)


@pytest.mark.parametrize('name', ['finetune', 'mixup'])
def test_gradient_is_that_of_the_method_at_the_other_point(name):
    plain, one = setting(name), setting(name)
    one.method = sam.wrap(plain.method, CLASSES, rho=0.2)
    value, aux, grads = of(plain)
    norm = float(np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads))))
    there = setting(name)
    there.params = jax.tree.map(lambda w, g: w + 0.2 * g / norm, plain.params, grads)
    risen, _, wanted = of(there)
    found, found_aux, found_grads = of(one)
    np.testing.assert_allclose(found, value, rtol=1e-6)
    assert_close(found_grads, wanted, 1e-5)
    assert_close(found_aux.model_state, aux.model_state, 1e-6)
    np.testing.assert_allclose(found_aux.metrics['sam_rise'], risen - value, atol=1e-5)


def test_run_knows_what_learns(tmp_path):
    """The method's factors and the config's, as the optimiser has them."""
    config = settings({'name': 'bitfit', 'wrappers': ('sam',)}, optim={'freeze': ('stage1',), 'factors': ('heads=10',)})
    built, data, ts = opened(config, tmp_path)
    one = mesh.take_trial(ts, 0)
    ctx = step.context(built.feed, built.run, one, (), jax.tree.map(lambda x: x[0], data.inputs))
    factors = ctx.run.factors(one.params)
    assert factors['backbone']['stem']['bn'] == {'bias': (1, 1), 'scale': (0, 0)}
    assert factors['backbone']['stage1']['bn']['bias'] == (0, 0) and factors['heads']['target']['bias'] == (10, 1)


def test_inside_low_rank_a_kernel_counts_as_its_change_does():
    seen = {}

    def loss(net, params, ctx):
        seen.update(ctx.run.factors(params))
        return jnp.zeros(()), Aux(ctx.model_state)

    one, wrapped, params = low_rank(Method(loss, groups={'stage1': (0.5, 1.0)}), rank=2)
    run = one.ctx.run._replace(
        factors=lambda p: jax.tree_util.tree_map_with_path(
            lambda path, x: wrapped.groups(tuple(key.key for key in path), p), p
        )
    )
    wrapped.loss(one.net, params, one.ctx._replace(run=run))
    assert seen['backbone']['stage1'] == {'conv': {'kernel': (0.5, 1)}, 'bn': {'scale': (0, 0), 'bias': (0, 0)}}
    assert seen['backbone']['stem']['conv']['kernel'] == (1, 1) and 'lora' not in seen


def test_whole_batches_only():
    with pytest.raises(UserError, match='accumulate=2: the loss of sam is not a mean over the examples'):
        config = settings('sam', accumulate=2)
        config.mix.groups = 2
        program.build(config)


# --- a wrapper by its name is a method --------------------------------------------------------------------------------


def test_names_of_wrappers_are_methods():
    assert {'bitfit', 'ema', 'lntune', 'lora', 'sam', 'wiseft'} <= set(method_registry.names())
    assert method_registry.knobs(method_registry.load('sam')) == {'rho': 0.05, 'adaptive': False}
    # A method that has the name itself goes before.
    assert 'label_smoothing' in method_registry.knobs(method_registry.load('mixup'))
    plain, one, other = setting('finetune'), setting('finetune'), setting('finetune')
    one.method = method_registry.build({'name': 'sam', 'rho': 0.3}, CLASSES)
    other.method = method_registry.build({'name': 'finetune', 'wrappers': ('sam',), 'sam_rho': 0.3}, CLASSES)
    assert_trees_equal(of(one), of(other))
    assert float(of(one)[0]) == pytest.approx(float(of(plain)[0]))
    config = config_lib.load('quickstart', [('method.name', 'lora'), ('method.rank', '2'), ('method.parts', 'stage2')])
    assert config.method.to_dict() == {'name': 'lora', 'rank': 2, 'alpha': 8.0, 'parts': ('stage2',), 'norms': False}
    with pytest.raises(UserError, match="did you mean 'wiseft'"):
        method_registry.load('wisefit')
    with pytest.raises(UserError, match="sam has no setting 'roh'"):
        method_registry.build({'name': 'sam', 'roh': 1.0}, CLASSES)


def test_wrapper_of_ones_own_is_a_method_too(tmp_path, monkeypatch):
    (tmp_path / 'own_wrappers').mkdir()
    (tmp_path / 'own_wrappers' / 'half.py').write_text(
        'def wrap(method, classes_t, *, factor: float = 0.5):\n'
        '    def loss(net, params, ctx):\n'
        '        value, aux = method.loss(net, params, ctx)\n'
        '        return factor * value, aux\n\n'
        '    return method._replace(loss=loss)\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    one, plain = setting('finetune'), setting('finetune')
    one.method = method_registry.build({'name': 'own_wrappers.half', 'factor': 0.25}, CLASSES)
    np.testing.assert_allclose(of(one)[0], 0.25 * of(plain)[0], rtol=1e-6)


def test_added_parameters_begin_alike_for_a_seed(tmp_path):
    config = settings({'name': 'lora', 'rank': 2})
    built = seeds.build_and_try(config, tmp_path)
    states = [seeds.open_seed(built, seed, tmp_path).state.params['lora'] for seed in (0, 0, 1)]
    assert_trees_equal(*states[:2])
    assert changed(states[0], states[2]) == {'stage1/conv/kernel/a'}
    assert init.method_params(built.net, method_registry.build({'name': 'sam'}, 10), {'x': 1}, None) == {'x': 1}
