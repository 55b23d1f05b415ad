"""One contract for every method and variant, and what is particular to each."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixjax import method as method_lib
from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.models import net as net_lib
from mixjax.train import accuracy, mesh, prepare, program, seed_batch, seeds, step
from mixjax.train.shared import shared_setup
from tests.support.common import assert_trees_equal, fixture
from tests.support.contract import assert_contract, assert_layouts_agree, laid_out
from tests.support.toy import losses_of, opened, settings, tiny, walk  # noqa: F401 (for every test: tiny)
from tests.support.variants import VARIANTS


def test_smile_compares_a_map_that_the_network_has(tmp_path):
    with pytest.raises(UserError, match='feature must be one of last, map, stage1, stage1.conv, vector, not .maps.'):
        seeds.build_and_try(settings({'name': 'smile', 'feature': 'maps'}), tmp_path)
    seeds.build_and_try(settings({'name': 'smile', 'feature': 'stage1.conv'}), tmp_path)


def test_progress_names_what_prepare_does(tmp_path, monkeypatch):
    said = []
    config = settings({'name': 'cotuning', 'relation': 'direct', 'calibration': 1.0})
    on = shared_setup(config, lambda line: said.append(line) if 'prepar' in line else None)
    seeds.build_and_try(config, tmp_path, on)
    assert said == ['cotuning: preparing seed 0']  # a moment is not worth a second line
    monkeypatch.setattr(seeds, 'WORTH_SAYING', 0.0)
    seeds.load_or_prepare(program.build(config, on), 1, tmp_path)
    assert said[1] == 'cotuning: preparing seed 1' and said[2].startswith('cotuning: prepared seed 1 in ')
    seeds.build_and_try(settings('finetune'), tmp_path / 'other', on)
    assert len(said) == 3  # it has nothing to prepare


def test_every_method_has_a_variant_here():
    assert {v.get('name', k) for k, v in VARIANTS.items()} == set(method_registry.names())


# Those that between them use every part of the contract; all others run with `make test-parity`.
ALWAYS = (
    'finetune', 'smile', 'xmixup', 'lamix', 'puzzlemix', 'regsl', 'seqtrain', 'cotrain', 'fixmatch', 'supcon projected',
    'ema', 'lora averaged', 'lpft',
)  # fmt: skip


@pytest.mark.parametrize(
    'variant', [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.parity) for name in VARIANTS]
)
def test_contract(variant, tmp_path):
    assert_contract(settings({'name': variant} | VARIANTS[variant]), tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize('variant', VARIANTS)
def test_every_layout_is_the_same_experiment(variant, tmp_path):
    assert_layouts_agree(partial(settings, {'name': variant} | VARIANTS[variant]), tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize('method', ['finetune', 'mixup', 'smile', 'xmixup', 'lamix'])
def test_one_device_and_eight_agree_in_float32(method, tmp_path):
    one, eight = (losses_of(laid_out(partial(settings, method), n, 1), tmp_path / str(n)) for n in (1, 8))
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-5)


CUT = ('smile', 'xmixup', 'delta', 'lamix', 'lora averaged')


@pytest.mark.parametrize('method', [pytest.param(name, marks=pytest.mark.parity) for name in CUT])
def test_sharded_parameters_give_the_same_experiment(method, tmp_path, monkeypatch):
    """Two seeds on four devices each: whole parameters on each, and parameters that are cut over the four."""
    monkeypatch.setattr(mesh, 'SMALL', 8)  # the network is tiny
    with jax.enable_x64(True):
        found = {}
        for cut in (False, True):
            config = settings({'name': method} | VARIANTS[method], devices=8, num_seeds=2, shard_params=cut)
            config.model.dtype = 'float64'
            (tmp_path / str(cut)).mkdir()
            built, data, ts = opened(config, tmp_path / str(cut), (0, 1))
            begin = ts
            losses = []
            for _ in range(20):
                ts, metrics = built.advance(1)(ts, built.shared.start, data.frozen, data.inputs)
                losses.append(np.array(metrics['loss']))
            correct = accuracy.measure(built.evaluate, built.evaluated(ts), *data.test)
            found[cut] = np.array(losses), correct, jax.tree.map(np.array, ts.params)
            sizes = [
                (x.addressable_shards[0].data.size, x.size)
                for tree in (ts.params, ts.opt_state, ts.state)
                for x in jax.tree.leaves(tree)
            ]
            mine, every = np.sum(sizes, axis=0)
            assert mine * (2 * 3 if cut else 2) <= every  # of two seeds; a bias or two cannot be cut
            assert [x.sharding for x in jax.tree.leaves(ts.params)] == [
                x.sharding for x in jax.tree.leaves(begin.params)
            ]
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-9)
    chex.assert_trees_all_close(found[True][2], found[False][2], rtol=1e-9, atol=1e-12)
    assert found[True][1][0]['accuracy'] == found[False][1][0]['accuracy']


def test_no_traffic_between_trials(tmp_path):
    built, data, ts = opened(settings('xmixup', devices=8, num_seeds=3), tmp_path, (0, 1, 2))
    text = built.advance(1).lower(ts, built.shared.start, data.frozen, data.inputs).compile().as_text()
    groups = set(re.findall(r'replica_groups=(\S+?),? ', text))
    # Devices 0 and 1 are of the first trial, 2 and 3 of the second: every group is such a pair.
    assert groups and groups <= {'{{0,1},{2,3},{4,5}}', '[3,2]<=[6]'}
    assert 'collective-permute' not in text


def test_seeds_that_differ_in_size_are_trained_apart(tmp_path):
    built = program.build(settings('xmixup', devices=8, num_seeds=3))
    assert seeds.group_seeds(built, tmp_path) == [[0, 1, 2]]
    narrow = seeds.load_or_prepare(built, 1, tmp_path)
    chosen = narrow.frozen['chosen'][:-1]
    prepare.save_prepared(tmp_path / 'prepared-1.npz', narrow._replace(frozen={**narrow.frozen, 'chosen': chosen}))
    assert seeds.group_seeds(built, tmp_path) == [[0, 2], [1]]
    placed = seed_batch.place_seeds(built, [seeds.open_seed(built, seed, tmp_path) for seed in (0, 2)])
    assert placed.seeds == (0, 2) and jax.tree.leaves(placed.inputs)[0].shape[0] == 3


def test_several_steps_in_one_program_are_the_same_steps(tmp_path):
    built, data, ts = opened(settings('smile'), tmp_path)
    one, metrics = walk(built, data, ts, 4)
    ts = seed_batch.stack_states(built, [seeds.open_seed(built, 0, tmp_path).state])
    four, last = built.advance(4)(ts, built.shared.start, data.frozen, data.inputs)
    assert int(four.step[0]) == int(one.step[0]) == 4
    np.testing.assert_allclose(last['loss'][0], metrics[-1]['loss'], rtol=1e-5)
    chex.assert_trees_all_close(one.params, four.params, rtol=1e-7, atol=1e-5)


FROM_SCRATCH = {
    'finetune', 'feature_extraction', 'bss', 'rifle', 'label_smoothing', 'mixup', 'cutmix', 'manifold_mixup',
    'puzzlemix', 'lamix', 'rdrop', 'supcon', 'fixmatch', 'bitfit', 'lntune', 'lora', 'sam', 'ema',
}  # fmt: skip


@pytest.mark.parametrize('name', method_registry.names())
def test_without_pretrained_weights_methods_train_or_refuse(name, tmp_path):
    """Methods that mix or smooth need no pretrained network; those that compare with one say that it is missing."""
    config = settings({'name': name} | VARIANTS[name])
    with config.unlocked():
        config.model.weights = ''
    if name not in FROM_SCRATCH:
        with pytest.raises(UserError, match='config.model.weights'):
            seeds.build_and_try(config, tmp_path)
        return
    built = seeds.build_and_try(config, tmp_path)  # traces a step
    assert built.shared.start is None and not list(tmp_path.iterdir())


# --- SMILE ------------------------------------------------------------------------------------------------------------


def test_the_teacher_moves_every_ten_steps_by_the_weights_of_before_the_step(tmp_path):
    built, data, ts = opened(settings('smile'), tmp_path)
    teacher = jax.tree.map(np.array, ts.state['teacher'])
    assert_trees_equal(mesh.take_trial(teacher, 0), jax.tree.map(np.array, built.shared.start['params']))
    for i in range(21):
        before = jax.tree.map(np.array, ts.params['backbone'])
        ts, _ = walk(built, data, ts, 1)
        if i % 10 == 0:
            teacher['backbone'] = jax.tree.map(lambda t, s: 0.999 * t + 0.001 * s, teacher['backbone'], before)
        chex.assert_trees_all_close(teacher, ts.state['teacher'], rtol=1e-6, atol=1e-8)
    # Its classifier never moves, and its statistics are the pretrained network's: it has none of its own.
    heads = jax.tree.map(np.array, built.shared.start['params']['heads'])
    assert_trees_equal(mesh.take_trial(teacher['heads'], 0), heads)
    assert set(ts.state['teacher']) == {'backbone', 'heads'}


@pytest.mark.parametrize('x64', [True, False], ids=['float64', 'float32'])
def test_moving_average_equals_the_released_code(x64):
    f = fixture('smile')
    trunk_t = [not name.startswith('fc.') for name in f['ema_teacher_param_of_entry']]
    trunk_s = [not name.startswith('fc.') for name in f['ema_student_param_of_entry']]
    method = method_registry.load('smile')(3)
    with jax.enable_x64(x64):
        teacher = {'backbone': jnp.asarray(f['ema_teacher_init'][trunk_t]), 'heads': {}}
        student = f['ema_student_init']
        for i, increment in enumerate(f['ema_student_increment']):
            old, new = ({'backbone': jnp.asarray(x[trunk_s])} for x in (student, student + increment))
            ctx = method_lib.Ctx({}, {'teacher': teacher}, (), {}, jax.random.key(0), jnp.asarray(i), ())
            params, state = method.after_step(None, old, new, None, ctx)
            teacher, student = state['teacher'], student + increment
            expected = f['ema_teacher_after_loss'][i][trunk_t]
            tolerance = {'rtol': 1e-12} if x64 else {'rtol': 0, 'atol': 1e-6}
            np.testing.assert_allclose(teacher['backbone'], expected, **tolerance)
            assert params is new


def test_the_source_head_starts_as_the_pretrained_classifier(tmp_path):
    built, data, ts = opened(settings('smile'), tmp_path)
    image = jax.random.normal(jax.random.key(0), (4, 16, 16, 1))
    one = mesh.take_trial(ts, 0)
    out, _ = built.net.apply({'params': one.params, **one.model_state}, image, train=False)
    source = net_lib.bind(built.net, built.shared.start).source(image)
    np.testing.assert_array_equal(out.logits['source'], source.logits['source'])


def test_smile_without_a_pretrained_network(tmp_path):
    config = settings('smile')
    with config.unlocked():
        config.model.weights = ''
    with pytest.raises(UserError, match='config.model.weights'):
        opened(config, tmp_path)


# --- XMixup -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('variant', ['xmixup', 'xmixup two rounds'])
def test_every_source_image_is_of_a_class_paired_with_the_targets(variant, tmp_path):
    built = program.build(settings({'name': variant} | VARIANTS[variant]))
    one = seeds.open_seed(built, 0, tmp_path)
    draw, frozen = one.prepared.draw, one.prepared.frozen
    source_label = built.sets.source.labels[draw.rows]
    allowed = {t: {int(source_label[draw.start[t, k]]) for k in range(draw.rounds[t])} for t in range(len(draw.start))}
    assert all(len(classes) == draw.start.shape[1] for classes in allowed.values())
    inputs = jax.tree.map(jnp.asarray, one.inputs)
    batch = jax.jit(lambda ts: step.context(built.feed, built.run, ts, frozen, inputs).batch)
    for i in range(5):
        found = batch(one.state._replace(step=jnp.asarray(i)))
        for t, s in zip(found['label'], found['source_label'], strict=True):
            assert int(s) in allowed[int(t)]
    assert set(np.unique(frozen['column'])) == {-1, *range(len(frozen['chosen']))}


def test_xmixup_takes_over_pretrained_rows(tmp_path):
    built, data, ts = opened(settings({'name': 'xmixup', 'source_rows': 'pretrained'}), tmp_path)
    classifier = built.shared.start['params']['heads']['source']
    chosen = np.asarray(data.frozen['chosen'][0])
    head = mesh.take_trial(ts.params['heads']['joint'], 0)
    np.testing.assert_array_equal(head['kernel'][:, 10:], classifier['kernel'][:, chosen])
    assert not np.isin(head['bias'][:10], classifier['bias']).any()


def test_xmixup_without_source_data(tmp_path):
    config = settings('xmixup')
    with config.unlocked():
        config.source.name = ''
    with pytest.raises(UserError, match='config.source.name'):
        opened(config, tmp_path)


# --- LaMix ------------------------------------------------------------------------------------------------------------


def lamix_loss(f, c, beta, *, stop):
    """The method's own loss on the reference's features: the network is replaced by two linear heads."""
    method = method_registry.load('lamix')(c, beta=beta, stop_global=stop)
    lam, perm = float(f[f'c{c}_lam']), jnp.asarray(f[f'c{c}_perm'])[None]

    def loss(features, heads):
        def apply(variables, image, *, train):
            logits = {name: features @ w + b for name, (w, b) in heads.items()}
            return net_lib.Out(logits, features, {}), {}

        net = net_lib.Net(None, apply, None, None)
        batch = {'image': features, 'label': jnp.asarray(f[f'c{c}_labels']), 'partner': perm}
        ctx = method_lib.Ctx({}, (), (), batch, jax.random.key(0), jnp.asarray(1), ())
        return method.loss(net, {}, ctx)[0]

    return loss, lam


@pytest.mark.parametrize('x64', [True, False], ids=['float64', 'float32'])
@pytest.mark.parametrize('c', [10, 100])
@pytest.mark.parametrize('stop', [False, True])
def test_lamix_equals_the_closed_form(c, stop, x64, monkeypatch):
    f = fixture('lamix')
    close = {'rtol': 1e-9, 'atol': 1e-12} if x64 else {'rtol': 0, 'atol': 1e-5}
    for k, beta in enumerate(f['beta']):
        with jax.enable_x64(x64):
            loss, lam = lamix_loss(f, c, float(beta), stop=stop)
            monkeypatch.setattr(jax.random, 'uniform', lambda *_, lam=lam, **__: jnp.asarray(lam))
            features = jnp.asarray(f[f'c{c}_features'])
            heads = {
                name: (jnp.asarray(f[f'c{c}_W_{part}']), jnp.asarray(f[f'c{c}_b_{part}']))
                for name, part in (('target', 'local'), ('global', 'global'))
            }
            value, (d_features, d_heads) = jax.value_and_grad(loss, argnums=(0, 1))(features, heads)
            mode = 'stop' if stop else 'full'
            np.testing.assert_allclose(value, f[f'c{c}_loss'][k], rtol=1e-10 if x64 else 1e-5)
            np.testing.assert_allclose(d_features, f[f'c{c}_grad_{mode}_dS'][k], **close)
            np.testing.assert_allclose(d_heads['target'][0], f[f'c{c}_grad_full_dWl'][k], **close)
            np.testing.assert_allclose(d_heads['target'][1], f[f'c{c}_grad_full_dbl'][k], **close)
            np.testing.assert_allclose(d_heads['global'][1], f[f'c{c}_grad_{mode}_dbt'][k], **close)
            if stop or beta == 1:
                assert float(jnp.abs(d_heads['global'][0]).max()) == 0
            else:
                np.testing.assert_allclose(d_heads['global'][0], f[f'c{c}_grad_full_dWt'][k], **close)


def test_lamix_shows_originals_on_even_steps_and_averages_on_odd_ones(tmp_path):
    built = program.build(settings('lamix'))
    one = seeds.open_seed(built, 0, tmp_path)
    seen = []

    def apply(variables, image, *, train, tap=None):
        seen.append(image)
        return built.net.apply(variables, image, train=train)

    for i in (0, 1):
        ctx = step.context(built.feed, built.run, one.state._replace(step=jnp.asarray(i)), (), one.inputs)
        built.method.loss(built.net._replace(apply=apply), one.state.params, ctx)
        image = ctx.batch['image']
        other = image[ctx.batch['partner'][0]]
        np.testing.assert_allclose(seen[-1], image if i == 0 else (image + other) / 2, atol=1e-6)


# --- what a method of one's own may do wrong ---


@pytest.mark.parametrize(
    'metrics', [{'step': jnp.zeros(())}, {'loss': jnp.zeros(())}, {'each': jnp.zeros(4)}], ids=['step', 'loss', 'each']
)
def test_reserved_or_nonscalar_metrics_are_refused(metrics, tmp_path, monkeypatch):
    def make(classes_t):
        def loss(net, params, ctx):
            out, model_state = net.apply(ctx.variables(params), ctx.batch['image'], train=True)
            return out.features.mean(), method_lib.Aux(model_state, metrics)

        return method_lib.Method(loss)

    monkeypatch.setattr(method_registry, 'load', lambda name, *_: make)
    built, data, ts = opened(settings('mine'), tmp_path)
    with pytest.raises(UserError, match='must be a scalar, and not be called'):
        walk(built, data, ts, 1)


load_finetune = method_registry.load('finetune')


def test_an_init_that_works_on_the_host(tmp_path, monkeypatch):
    """It cannot be tried beforehand, and is none the worse for it."""

    def make(classes_t):
        def init(net, params, prepared, data):
            batch = next(data.target.batches(4))
            return {'means': jnp.asarray(data.target.class_means()), 'first': np.asarray(batch['label'])}

        return load_finetune(classes_t)._replace(init=init)

    monkeypatch.setattr(method_registry, 'load', lambda name, *_: make)
    built = seeds.build_and_try(settings('mine'), tmp_path)
    assert seeds.open_seed(built, 0, tmp_path).state.state['means'].shape == (10, 8)


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'groups': {'stage7': (0.0, 0.0)}}, "'stage7'; did you mean 'stage1'"),
        ({'predict': lambda out: out.logits['nope']}, 'nope'),
    ],
)
def test_invalid_settings_fail_before_training(changes, words, tmp_path, monkeypatch):
    made = method_registry.load('finetune')(10)._replace(**changes)
    monkeypatch.setattr(method_registry, 'load', lambda name, *_: lambda classes_t: made)
    with pytest.raises((UserError, KeyError), match=words):
        seeds.build_and_try(settings('mine'), tmp_path)


def test_seeds_go_on_together_from_one_step_only(tmp_path):
    """Begun on one device, where seeds come one after the other, and continued on eight."""
    built = program.build(settings('finetune', devices=8, num_seeds=3))
    assert seeds.group_seeds(built, tmp_path) == [[0, 1, 2]]
    for seed, steps in ((0, (20, 40)), (1, (20,)), (2, (20, 40))):
        for i in steps:
            (tmp_path / 'checkpoints' / str(seed) / f'step_{i}').mkdir(parents=True)
    (tmp_path / 'checkpoints' / '1' / 'step_40.orbax-checkpoint-tmp').mkdir()
    assert seeds.group_seeds(built, tmp_path) == [[0, 2], [1]]


def test_head_with_its_own_initializer(tmp_path, monkeypatch):
    def make(classes_t):
        finetune = load_finetune(classes_t)
        return finetune._replace(heads=lambda t, s, prepared: {'target': method_lib.Head(t, std=0.01), 'wide': 300})

    monkeypatch.setattr(method_registry, 'load', lambda name, *_: make)
    built, data, ts = opened(settings('mine'), tmp_path)
    heads = mesh.take_trial(ts.params['heads'], 0)
    target, wide = heads['target'], heads['wide']
    assert float(jnp.abs(target['bias']).max()) == 0 and 0.005 < float(target['kernel'].std()) < 0.015
    assert float(jnp.abs(wide['bias']).max()) > 0 and wide['bias'].shape == (300,)


# --- loading ----------------------------------------------------------------------------------------------------------


def test_load_names_the_nearest_method():
    with pytest.raises(UserError, match="did you mean 'xmixup'"):
        method_registry.load('xmixupp')
    with pytest.raises(UserError, match='no module'):
        method_registry.load('no_such_package.method')
    with pytest.raises(UserError, match='no function make'):
        method_registry.load('os.path')


def test_knobs_are_the_keyword_arguments():
    assert method_registry.knobs(method_registry.load('mixup')) == {'alpha': 1.0, 'fold': False, 'label_smoothing': 0.0}


@pytest.mark.parametrize(
    ('method', 'knob', 'value'),
    [
        ('mixup', 'alpha', 0.0),
        ('mixup', 'label_smoothing', 1.0),
        ('smile', 'ema_every', 0),
        ('smile', 'source_weight', -1.0),
        ('xmixup', 'labels', 'both'),
        ('xmixup', 'source_rows', 'random'),
        ('xmixup', 'per_class', -1),
        ('lamix', 'beta', 1.5),
        ('lamix', 'local_label', 'half'),
    ],
)
def test_methods_refuse_impossible_values(method, knob, value):
    with pytest.raises(UserError, match='must be'):
        method_registry.load(method)(10, **{knob: value})
