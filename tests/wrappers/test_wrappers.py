"""Wrappers: a method with mixed images and labels in front of its loss, from the config to the prediction."""

import json
import sys
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mixjax
from mixjax import config as config_lib
from mixjax import losses, mix, models
from mixjax.analysis import sweep
from mixjax.config import method_registry
from mixjax.config.method_registry import WRAPPER
from mixjax.errors import UserError
from mixjax.models import net as net_lib
from mixjax.report import read, settings
from mixjax.rundir import checkpoint, files
from mixjax.train import experiment, mesh, program, seed_batch, seeds
from tests.support.common import Tiny, assert_trees_equal
from tests.support.method_setting import CLASSES, assert_close, of, part, setting
from tests.support.pages import blocks
from tests.support.toy import losses_of, opened, walk
from tests.support.toy import settings as toy

SIX = {
    'l2sp': {'form': 'smile'},
    'delta': {'form': 'smile', 'head_epochs': 1, 'batches': 1},
    'bss': {},
    'rifle': {},
    'cotuning': {'relation': 'direct', 'calibration': 1.0},
    'regsl': {},
}
MIXING = {
    'mixup': {},
    'cutmix': {'cutmix_probability': 1.0},
    'manifold_mixup': {'manifold_mixup_layers': ('input', 'stem', 'stage1')},
    'puzzlemix': {},
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(models.BACKBONES, 'tiny', lambda dtype=None: Tiny(8))


def wrapped(one, *wrappers, **knobs):
    """A setting of tests/methods/test_baselines.py with wrappers around its method."""
    for name in wrappers:
        mine = {k.removeprefix(f'{name}_'): v for k, v in knobs.items() if k.startswith(f'{name}_')}
        one.method = method_registry.load(name, kind=WRAPPER)(one.method, CLASSES, **mine)
    return one


def by_hand(one, lam, image=None):
    """(outputs for the mixed images in train mode, mixed labels, cross-entropy) of mixup with this lam."""
    partner, label = one.ctx.batch['partner'], one.ctx.batch['label']
    x = one.ctx.batch['image']
    order = np.asarray(partner[0])
    image = lam * x + (1 - lam) * x[order] if image is None else image
    y = np.eye(CLASSES)[np.asarray(label)]
    target = lam * y + (1 - lam) * y[order]
    out, _ = one.net.apply(one.ctx.variables(one.params), image, train=True)
    return out, target, -(target * np.asarray(jax.nn.log_softmax(out.logits['target']))).sum(1).mean()


# --- labels: integers or soft targets ---------------------------------------------------------------------------------


def test_losses_take_integers_or_soft_targets():
    logits = jax.random.normal(jax.random.key(0), (4, 3))
    label, lam = jnp.array([0, 2, 1, 0]), 0.3
    hard, other = losses.cross_entropy(logits, label), losses.cross_entropy(logits, label[::-1])
    y = losses.one_hot(label, 3)
    np.testing.assert_allclose(losses.cross_entropy(logits, y), hard, rtol=1e-6)
    mixed = losses.cross_entropy(logits, lam * y + (1 - lam) * y[::-1])
    np.testing.assert_allclose(mixed, lam * hard + (1 - lam) * other, rtol=1e-5)
    np.testing.assert_array_equal(losses.one_hot(y, 3, 0.3), losses.one_hot(label, 3, 0.3))
    table = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.25, 0.75]])
    np.testing.assert_array_equal(losses.label_rows(table, label), table[label])
    np.testing.assert_allclose(losses.label_rows(table, jnp.array([[0.2, 0.0, 0.8]])), [[0.4, 0.6]], rtol=1e-6)


# --- around fine-tuning they are the mixing methods -------------------------------------------------------------------


@pytest.mark.parametrize(
    ('name', 'knobs', 'method_knobs'),
    [
        ('mixup', {}, {}),
        ('mixup', {'alpha': 0.2, 'fold': True}, {}),
        ('cutmix', {'beta': 0.5, 'probability': 1.0}, {}),
        ('cutmix', {'probability': 0.0}, {}),
        ('manifold_mixup', {'layers': ('input', 'stem', 'stage1')}, {'loss': 'ce'}),
        pytest.param('puzzlemix', {'transport': False}, {'loss': 'ce'}, marks=pytest.mark.slow),
        ('puzzlemix', {}, {'loss': 'ce'}),
    ],
)
def test_fine_tuning_wrapped_is_the_mixing_method(name, knobs, method_knobs):
    """The same draws; loss, gradient and statistics to rounding, and of mixup to the last bit."""
    plain = setting(name, **knobs, **method_knobs)
    mine = wrapped(setting('finetune'), name, **{f'{name}_{k}': v for k, v in knobs.items()})
    keys = [jax.random.key(seed) for seed in range(3)]
    told = 'weight' if name == 'puzzlemix' else 'lam'
    for found, wanted in zip(outcomes(mine, keys), outcomes(plain, keys), strict=True):
        (value, aux, grads), (expected, expected_aux, expected_grads) = found, wanted
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(aux.metrics[f'{name}_lam'], expected_aux.metrics[told], rtol=1e-6)
        assert_close(grads, expected_grads, 1e-6)
        assert_close(aux.model_state, expected_aux.model_state, 1e-6)
        if name == 'mixup':
            assert float(value) == float(expected)
            assert_trees_equal(grads, expected_grads)


def outcomes(one, keys):
    """(loss, aux, gradient) with each key of a step, compiled once."""

    @jax.jit
    def run(params, rng):
        ctx = one.ctx._replace(rng=rng)
        return jax.value_and_grad(lambda p: one.method.loss(one.net, p, ctx), has_aux=True)(params)

    return [(value, aux, grads) for (value, aux), grads in (run(one.params, key) for key in keys)]


def test_label_smoothing_wrapped_is_smoothed_mixup():
    mine, plain = wrapped(setting('label_smoothing', epsilon=0.2), 'mixup'), setting('mixup', label_smoothing=0.2)
    np.testing.assert_allclose(of(mine)[0], of(plain)[0], rtol=1e-6)


# Every change is tested with one network, with two and with a second head; the others by night.
@pytest.mark.parametrize(
    'name',
    [
        name if name in ('finetune', 'delta', 'cotuning') else pytest.param(name, marks=pytest.mark.slow)
        for name in ('finetune', *SIX, 'feature_extraction')
    ],
)
def test_manifold_mixup_of_the_image_is_mixup(name):
    """For every method: also where two networks are compared, or the network is in eval mode."""
    one, plain = wrapped(prepared(name), 'manifold_mixup', manifold_mixup_layers=('input',)), prepared(name)
    lam = mix.beta(jax.random.split(one.ctx.rng)[0], 2.0, 2.0)
    x, partner = plain.ctx.batch['image'], plain.ctx.batch['partner']
    y = losses.one_hot(plain.ctx.batch['label'], CLASSES)
    batch = {'image': mix.blend(lam, x, mix.partner(x, partner)), 'label': mix.blend(lam, y, mix.partner(y, partner))}
    plain.ctx = plain.ctx._replace(batch={**plain.ctx.batch, **batch})
    (value, _, grads), (expected, _, expected_grads) = of(one), of(plain)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def prepared(name):
    one = setting(name, **SIX.get(name, {}))
    if name == 'delta':
        made = one.method.prepare(one.net, part()[0], jax.random.key(0))
        one.ctx = one.ctx._replace(frozen=jax.tree.map(jnp.asarray, made.frozen))
    if name == 'cotuning':
        relation = jax.random.dirichlet(jax.random.key(5), jnp.ones(7), (CLASSES,))
        one.ctx = one.ctx._replace(frozen={'relation': relation})
        keys = jax.random.split(jax.random.key(6))
        d = one.params['heads']['target']['kernel'].shape[0]
        source = {'kernel': jax.random.normal(keys[0], (d, 7)), 'bias': jax.random.normal(keys[1], (7,))}
        one.params = {**one.params, 'heads': {**one.params['heads'], 'source': source}}
    return one


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_l2sp_with_mixup_by_hand():
    one = wrapped(setting('l2sp', form='delta', alpha=0.3, beta=0.2), 'mixup', mixup_alpha=0.4, mixup_fold=True)
    lam = float(jax.random.beta(one.ctx.rng, 0.4, 0.4))
    lam = max(lam, 1 - lam)
    _, _, ce = by_hand(one, lam)
    start = one.start['params']['backbone']
    pairs = zip(jax.tree.leaves(one.params['backbone']), jax.tree.leaves(start), strict=True)
    distance = 0.5 * sum(float(((a - b) ** 2).sum()) for a, b in pairs)
    head = 0.5 * sum(float((w**2).sum()) for w in jax.tree.leaves(one.params['heads']))
    value, aux, _ = of(one)
    np.testing.assert_allclose(value, ce + 0.3 * distance + 0.2 * head, rtol=1e-5)
    np.testing.assert_allclose([aux.metrics['mixup_lam'], aux.metrics['ce']], [lam, ce], rtol=1e-5)


def test_cotuning_with_mixup_by_hand():
    one = wrapped(prepared('cotuning'), 'mixup')
    lam = float(jax.random.uniform(one.ctx.rng))  # Beta(1, 1)
    out, target, ce = by_hand(one, lam)
    relation = np.asarray(one.ctx.frozen['relation'])
    source_ce = -((target @ relation) * np.asarray(jax.nn.log_softmax(out.logits['source']))).sum(1).mean()
    np.testing.assert_allclose(of(one)[0], ce + 2.3 * source_ce, rtol=1e-5)


def test_delta_compares_both_networks_on_the_mixed_image():
    one = wrapped(prepared('delta'), 'mixup')
    lam = float(jax.random.uniform(one.ctx.rng))
    x, order = one.ctx.batch['image'], np.asarray(one.ctx.batch['partner'][0])
    image = lam * x + (1 - lam) * x[order]
    out, _, ce = by_hand(one, lam)
    (weight,) = one.ctx.frozen['attention'].values()
    gap = np.asarray(out.maps['last']) - np.asarray(one.net.source(image).maps['last'])
    distance = (np.asarray(weight) * (gap**2).mean((1, 2))).sum()
    np.testing.assert_allclose(of(one)[0], ce + 0.01 * distance, rtol=1e-4)


def test_two_wrappers_mix_twice_and_the_first_is_innermost():
    one = wrapped(setting('finetune'), 'mixup', 'cutmix', cutmix_probability=1.0, cutmix_beta=0.7)
    partner = one.ctx.batch['partner']
    image, share = mix.cutmix(
        one.ctx.rng, one.ctx.batch['image'], partner, 0.7, 1.0
    )  # the outer one is the first to mix
    y = losses.one_hot(one.ctx.batch['label'], CLASSES)
    target = mix.blend(share, y, mix.partner(y, partner))
    lam = jax.random.uniform(jax.random.fold_in(one.ctx.rng, 1))
    image = mix.blend(lam, image, mix.partner(image, partner))
    target = mix.blend(lam, target, mix.partner(target, partner))
    out, _ = one.net.apply(one.ctx.variables(one.params), image, train=True)
    value, aux, _ = of(one)
    np.testing.assert_allclose(value, losses.soft_cross_entropy(out.logits['target'], target).mean(), rtol=1e-5)
    np.testing.assert_allclose([aux.metrics['cutmix_lam'], aux.metrics['mixup_lam']], [share, lam], rtol=1e-6)


def test_a_tap_comes_after_that_of_the_method_and_in_every_pass():
    one = setting('finetune')
    net = net_lib.tapped(one.net, lambda name, hidden: 2 * hidden if name == 'input' else hidden)
    image = one.ctx.batch['image']

    def own(name, hidden):
        return hidden + 1 if name == 'input' else hidden

    variables = one.ctx.variables(one.params)
    for train in (False, True):
        out, _ = net.apply(variables, image, train=train, tap=own)
        expected, _ = one.net.apply(variables, 2 * (image + 1), train=train)
        np.testing.assert_array_equal(out.logits['target'], expected.logits['target'])
    np.testing.assert_array_equal(net.source(image).features, one.net.source(2 * image).features)
    bare = net_lib.tapped(net_lib.bind(net, None), lambda name, hidden: hidden)
    np.testing.assert_array_equal(
        bare.apply(variables, image, train=False, rng=None)[0].features,
        net.apply(variables, image, train=False)[0].features,
    )


# --- what cannot be wrapped -------------------------------------------------------------------------------------------

OTHERS = set(method_registry.names(WRAPPER)) - set(MIXING)  # those that leave images and labels as they are
TAKES_SOFT_LABELS = {
    *SIX, *OTHERS, 'finetune', 'feature_extraction', 'label_smoothing', 'seqtrain', 'lpft', 'rdrop', 'distill',
    'selftrain', 'fixmatch',
}  # fmt: skip


@pytest.mark.parametrize('wrapper', MIXING)
def test_methods_that_need_integer_labels_refuse(wrapper):
    for name in method_registry.names():
        settings = {'name': name, 'wrappers': (wrapper,)}
        if name in TAKES_SOFT_LABELS:
            assert method_registry.build(settings, 5).soft_labels
        else:
            with pytest.raises(UserError, match=f'^{wrapper}: it mixes labels, and the loss of this method takes'):
                method_registry.build(settings, 5)
    with pytest.raises(UserError, match='or stores labels'):
        method_registry.build({'name': 'regsl', 'wrappers': (wrapper,), 'self_label': True}, 5)


@pytest.mark.parametrize(
    ('knobs', 'sentence'),
    [
        ({'mixup_alpha': 0.0}, 'config.method: mixup: alpha must be above 0'),
        ({'wrappers': ('cutmix',), 'cutmix_beta': -1.0}, 'cutmix: beta must be above 0'),
        ({'wrappers': ('cutmix',), 'cutmix_probability': 1.5}, 'cutmix: probability must be'),
        (
            {'wrappers': ('manifold_mixup',), 'manifold_mixup_layers': ()},
            'manifold_mixup: layers must be different names',
        ),
        ({'wrappers': ('puzzlemix',), 'puzzlemix_gamma': 2.0}, 'puzzlemix: gamma must be between'),
        ({'wrappers': ('mixupp',)}, "unknown wrapper 'mixupp'; did you mean 'mixup'.; the wrappers are bitfit, "),
        ({'wrappers': ('mixup', 'mixup')}, "wrappers has 'mixup' twice"),
        ({'wrappers': 'mixup'}, "names of wrappers, as in ..mixup',., not 'mixup'"),
        ({'wrappers': (1,)}, 'names of wrappers'),
        ({'wrappers': ('no.such_module',)}, "wrapper 'no.such_module': there is no module 'no'"),
        ({'wrappers': ('mixjax.losses',)}, 'has no function wrap'),
        ({'mixup_alfa': 1.0}, "has no knob 'mixup_alfa'.*did you mean 'mixup_alpha'"),
        ({'mixup_alpha': 'much'}, 'config.method.mixup_alpha must be a number'),
        ({'cutmix_beta': 1.0}, "'l2sp . mixup' has no knob 'cutmix_beta'"),
        ({'name': 'smile'}, 'mixes labels'),
    ],
)
def test_wrong_settings_end_in_one_sentence(knobs, sentence):
    config = config_lib.load('quickstart').copy_and_resolve_references().unlock()
    config.compare = {}
    config.baseline = ''
    config.method = {'name': 'l2sp', 'wrappers': ('mixup',), **knobs}
    with pytest.raises(UserError, match=sentence) as caught:
        config_lib.check(config_lib.complete(config))
    assert '\n' not in str(caught.value) and str(caught.value).count('config.method') >= 1


def test_settings_that_would_share_a_name_are_refused(monkeypatch):
    module = ModuleType('lately.form')
    module.wrap = lambda method, classes_t, *, x=1: method
    other = ModuleType('lately.mine')
    exec('def make(classes_t, *, form_x: int = 1):\n  pass', other.__dict__)
    for one in (ModuleType('lately'), module, other):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    with pytest.raises(UserError, match="two settings would be called 'form_x'"):
        method_registry.layers({'name': 'lately.mine', 'wrappers': ('lately.form',)})
    exec('def make(classes_t, *, wrappers: int = 1):\n  pass', other.__dict__)
    with pytest.raises(UserError, match='wrappers means something else in a config'):
        method_registry.layers({'name': 'lately.mine'})


# --- from the config --------------------------------------------------------------------------------------------------


def test_the_command_line_wraps_a_method_and_sets_its_settings():
    config = config_lib.load(
        'quickstart',
        [
            ('method.mixup_alpha', '0.2'),
            ('method.wrappers', 'mixup'),
            ('method.form', 'smile'),
            ('method.name', 'l2sp'),
        ],
    )
    assert config.method.to_dict() == {
        'name': 'l2sp', 'wrappers': ('mixup',), 'form': 'smile', 'alpha': 0.01, 'beta': 0.01,
        'mixup_alpha': 0.2, 'mixup_fold': False,
    }  # fmt: skip
    assert not config.compare and config.is_locked
    config = config_lib.load('quickstart', [('compare.finetune.wrappers', 'mixup, cutmix')])
    assert config.compare.finetune.wrappers == ('mixup', 'cutmix')
    assert config.compare.finetune.cutmix_probability == 0.5
    layers = ('method.manifold_mixup_layers', 'input,stage3')
    config = config_lib.load('quickstart', [('method.name', 'bss'), ('method.wrappers', 'manifold_mixup'), layers])
    assert config.method.manifold_mixup_layers == ('input', 'stage3')
    with pytest.raises(UserError, match='config.method.wrappers has no effect: this config compares'):
        config_lib.load('quickstart', [('method.wrappers', 'mixup')])
    with pytest.raises(UserError, match="unknown config key 'compare.finetun.wrappers'; did you mean 'finetune'"):
        config_lib.load('quickstart', [('compare.finetun.wrappers', 'mixup')])
    with pytest.raises(UserError, match="did you mean 'method.mixup_alpha'"):
        config_lib.load(
            'quickstart', [('method.name', 'bss'), ('method.wrappers', 'mixup'), ('method.mixup_alfa', '1')]
        )


def test_other_wrappers_take_the_place_of_the_files_with_their_settings(tmp_path):
    (tmp_path / 'mine.py').write_text(
        'from mixjax.config import read\n\n\ndef get_config():\n    config = read("quickstart")\n'
        "    config.compare, config.baseline = {}, ''\n"
        "    config.method = {'name': 'l2sp', 'beta': 0.5, 'wrappers': ('mixup', 'cutmix'), 'mixup_alpha': 0.3, "
        "'cutmix_beta': 0.4}\n    return config\n"
    )
    mine = str(tmp_path / 'mine.py')
    assert config_lib.load(mine).method.wrappers == ('mixup', 'cutmix')
    found = config_lib.load(mine, [('method.wrappers', 'cutmix')]).method
    assert found.to_dict() == {
        'name': 'l2sp', 'wrappers': ('cutmix',), 'form': 'delta', 'alpha': 0.01, 'beta': 0.5,
        'cutmix_beta': 0.4, 'cutmix_probability': 0.5,
    }  # fmt: skip
    none = config_lib.load(mine, [('method.wrappers', '')]).method
    assert none.to_dict() == {'name': 'l2sp', 'form': 'delta', 'alpha': 0.01, 'beta': 0.5}
    assert config_lib.load(mine, [('method.name', 'smile')]).method.get('wrappers', ()) == ()


def test_config_without_wrappers_is_unchanged(tmp_path):
    plain = config_lib.load('quickstart')
    assert 'wrappers' not in plain.to_json()
    config = config_lib.load('quickstart').unlock()
    config.compare.finetune.wrappers = ()
    assert files.to_data(config_lib.complete(config)) == files.to_data(plain)
    wrapped = config_lib.load('quickstart', [('compare.finetune.wrappers', 'mixup')])
    data = json.loads(json.dumps(files.to_data(wrapped)))
    assert files.to_data(config_lib.from_data(data)) == data
    assert config_lib.from_data(data).compare.finetune.wrappers == ('mixup',)
    (tmp_path / 'config.json').write_text(json.dumps(files.to_data(plain)))
    assert not files.check_folder(tmp_path, plain)  # an old work directory goes on
    with pytest.raises(UserError, match='compare.finetune.mixup_alpha: .*absent'):
        files.check_folder(tmp_path, wrapped)


OWN = """
def wrap(method, classes_t, *, factor: float = 2.0):
    def loss(net, params, ctx):
        value, aux = method.loss(net, params, ctx)
        return factor * value, aux

    return method._replace(loss=loss)
"""


def test_user_wrapper_is_named_on_the_command_line_only(tmp_path, monkeypatch):
    (tmp_path / 'my_wrappers').mkdir()
    (tmp_path / 'my_wrappers' / 'twice.py').write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    settings = {'name': 'lamix', 'wrappers': ('my_wrappers.twice',), 'twice_factor': 3.0}
    with pytest.raises(UserError, match='model.json names the wrapper my_wrappers.twice.*--import=my_wrappers.twice'):
        method_registry.build(settings, 5, 'model.json')
    assert method_registry.defaults(settings)['twice_factor'] == 2.0
    assert method_registry.build(settings, 5, 'model.json')  # imported by now
    one, other = setting('finetune'), setting('finetune')
    other.method = method_registry.build({**settings, 'name': 'finetune'}, CLASSES)
    np.testing.assert_allclose(of(other)[0], 3 * of(one)[0], rtol=1e-6)
    with pytest.raises(UserError, match="lamix . my_wrappers.twice has no setting 'twice_fctor'"):
        method_registry.build({'name': 'lamix', 'wrappers': ('my_wrappers.twice',), 'twice_fctor': 1.0}, 5)


def test_the_wrapper_of_the_documentation(tmp_path, monkeypatch):
    code = next(block for block in blocks('docs/methods.md', 'python') if 'def wrap' in block)
    (tmp_path / 'halving').mkdir()
    (tmp_path / 'halving' / 'halves.py').write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    one = setting('finetune')
    config = {'name': 'finetune', 'wrappers': ('halving.halves',), 'halves_least': 0.3}
    one.method = method_registry.build(config, CLASSES)
    x, order = one.ctx.batch['image'], np.asarray(one.ctx.batch['partner'][0])
    share = float(jax.random.uniform(one.ctx.rng, minval=0.3))
    kept = sum(column < share * 8 for column in range(8))
    image = jnp.concatenate([x[:, :, :kept], x[order][:, :, kept:]], axis=2)
    _, _, ce = by_hand(one, kept / 8, image)
    value, aux, _ = of(one)
    np.testing.assert_allclose([value, aux.metrics['halves_lam']], [ce, kept / 8], rtol=1e-5)


# --- training ---------------------------------------------------------------------------------------------------------


def mixed_config(name, *wrappers, **changes):
    knobs = {k: v for wrapper in wrappers for k, v in MIXING[wrapper].items()}
    return toy({'name': name, 'wrappers': wrappers, **SIX.get(name, {}), **knobs}, **changes)


@pytest.mark.parametrize('wrapper', MIXING)
@pytest.mark.parametrize('name', SIX)
def test_each_of_the_six_with_each_wrapper_traces(name, wrapper):
    """The loss and its gradient; all that the contract says of the rest of the method stays."""
    one = prepared(name)
    plain = one.method
    wrapped(one, wrapper, **MIXING[wrapper])

    def run(params):
        return jax.value_and_grad(lambda p: one.method.loss(one.net, p, one.ctx), has_aux=True)(params)

    (value, aux), grads = jax.eval_shape(run, one.params)
    assert value.shape == () and f'{wrapper}_lam' in aux.metrics
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, one.params)
    assert one.method._replace(loss=plain.loss, tasks=plain.tasks) == plain
    assert set(one.method.tasks) <= set(plain.tasks)


@pytest.mark.parametrize('wrapper', MIXING)
def test_a_step_of_each_wrapper_is_ready_to_train(wrapper, tmp_path):
    """From the config, with `prepare`, and a step traced as it is trained."""
    name = {'mixup': 'bss', 'cutmix': 'delta', 'manifold_mixup': 'rifle', 'puzzlemix': 'regsl'}[wrapper]
    config = mixed_config(name, wrapper)
    built = seeds.build_and_try(config, tmp_path)
    assert built.method.soft_labels and built.method.whole_batch == (name in ('delta', 'bss'))


@pytest.mark.parametrize(
    'name',
    [name if name in ('l2sp', 'cotuning', 'regsl') else pytest.param(name, marks=pytest.mark.parity) for name in SIX],
)
def test_with_mixup_the_contract_holds(name, tmp_path):
    built, data, ts = opened(mixed_config(name, 'mixup'), tmp_path)
    shapes = jax.eval_shape(lambda x: x, ts)
    middle, metrics = walk(built, data, ts, 15)
    with checkpoint.open_folder(tmp_path / 'checkpoints') as manager:
        checkpoint.save(manager, 15, mesh.take_trial(middle, 0))
        manager.wait_until_finished()
        fresh = seeds.open_seed(built, 0, tmp_path)
        resumed = seed_batch.stack_states(built, [checkpoint.restore(manager, 15, fresh.state)])
    straight, rest = walk(built, data, middle, 25)
    again, rest_again = walk(built, data, resumed, 25)
    assert_trees_equal(straight, again)
    assert rest == rest_again and built.advance(1)._cache_size() == 1
    found = [m['loss'] for m in metrics + rest]
    assert np.isfinite(found).all() and jax.eval_shape(lambda x: x, straight) == shapes
    half = slice(12, 20), slice(0, 8)  # RIFLE draws its head anew at step 20
    late, early = half if name == 'rifle' else (slice(-8, None), slice(0, 8))
    assert np.mean(found[late]) < np.mean(found[early])
    lam = [m['mixup_lam'] for m in metrics + rest]
    assert len(set(lam)) == 40 and min(lam) >= 0 and max(lam) <= 1


@pytest.mark.parity
@pytest.mark.parametrize('name', SIX)
def test_with_mixup_one_device_and_eight_have_the_same_losses(name, tmp_path):
    with jax.enable_x64(True):
        found = []
        for devices in (1, 8):
            config = mixed_config(name, 'mixup', devices=devices)
            config.model.dtype = 'float64'
            found.append(losses_of(program.build(config), tmp_path / str(devices))[0])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


def test_parts_of_a_batch_are_mixed_within_themselves(tmp_path):
    """As the method mixup does it, in the same parts with the same numbers."""
    found = []
    for method in ({'name': 'finetune', 'wrappers': ('mixup',)}, {'name': 'mixup'}):
        config = toy(method, accumulate=2, mix={'groups': 2})
        found.append(losses_of(program.build(config), tmp_path / method['name'])[0])
    np.testing.assert_array_equal(found[0], found[1])
    with pytest.raises(UserError, match='the loss of bss . mixup is not a mean over the examples'):
        program.build(mixed_config('bss', 'mixup', accumulate=2, mix={'groups': 2}))


def test_a_layer_that_the_network_lacks_is_refused(tmp_path):
    with pytest.raises(UserError, match='this network has no stage9'):
        seeds.build_and_try(
            toy({'name': 'l2sp', 'wrappers': ('manifold_mixup',), 'manifold_mixup_layers': ('stage9',)}), tmp_path
        )


def test_a_wrapped_method_is_another_method_in_a_sweep():
    plain = {'name': 'l2sp', 'alpha': 1.0}
    methods = {'a': plain, 'b': {**plain, 'alpha': 2.0}, 'c': {**plain, 'wrappers': ['mixup'], 'mixup_alpha': 1.0}}
    assert sweep.knob(methods, {}) == ('l2sp', 'alpha', {'a': 1.0, 'b': 2.0}, ('c',))


def test_a_wrapped_run_is_trained_reported_and_predicts(tmp_path):
    """Co-Tuning has two heads, so prediction goes through its method."""
    config = mixed_config('cotuning', 'mixup', steps=4, eval_every=4, checkpoint_every=4, log_every=1)
    folder = tmp_path / 'run'
    results = experiment.run(config, folder)
    assert (results['label'], results['method']) == ('cotuning + mixup', 'cotuning + mixup')
    assert experiment.run(config, folder) == results  # finished
    lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
    assert all('mixup_lam' in line for line in lines if line['kind'] == 'train')
    about = json.loads((folder / 'model.json').read_text())
    assert about['method']['wrappers'] == ['mixup'] and about['method']['mixup_alpha'] == 1.0
    (one,) = read.read([str(folder)])
    text = settings.settings_html(one)
    assert 'cotuning + mixup' in text and 'mixup_alpha = 1' in text and 'wrappers = mixup' not in text
    predictor = mixjax.load(folder)
    assert predictor.probabilities(np.zeros((3, 16, 16, 1), np.uint8)).shape == (3, 10)
