"""What is particular to each baseline: its loss and gradient by hand, its groups, what `prepare` makes."""

from itertools import islice
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixjax import config as config_lib
from mixjax import losses, mix
from mixjax.config import method_registry
from mixjax.errors import UserError
from mixjax.maths import channel_attention
from mixjax.models import net as net_lib
from mixjax.train import optim
from tests.support.common import assert_trees_equal, fixture, tiny_net
from tests.support.method_setting import CLASSES, B, assert_close, drawn, of, part, setting


def plain(one, image=None):
    """Plain fine-tuning on the same parameters: what the network gives, and the cross-entropy of each example."""
    image = one.ctx.batch['image'] if image is None else image
    out, _ = one.net.apply(one.ctx.variables(one.params), image, train=True)
    return out, losses.cross_entropy(out.logits['target'], one.ctx.batch['label'])


# --- all of them ------------------------------------------------------------------------------------------------------

WAYS = {
    'label_smoothing': {},
    'mixup': {'label_smoothing': 0.2},
    'cutmix': {'probability': 1.0},
    'manifold_mixup': {'layers': ('input', 'stem', 'stage1')},
    'feature_extraction': {},
    'l2sp': {},
    'delta': {},
    'bss': {},
    'rifle': {},
}


def prepared(one):
    """The setting with what `prepare` makes."""
    made = one.method.prepare(one.net, part()[0], jax.random.key(0))
    one.ctx = one.ctx._replace(frozen=jax.tree.map(jnp.asarray, made.frozen))
    return one


@pytest.mark.parity  # beside tests/methods/test_methods.py's layouts
@pytest.mark.parametrize('name', WAYS)
def test_a_sharded_batch_gives_the_same_loss_and_gradient(name):
    knobs = WAYS[name] | ({'head_epochs': 1, 'batches': 1} if name == 'delta' else {})
    with jax.enable_x64(True):
        one = prepared(setting(name, dtype=jnp.float64, groups=8, **knobs))
        value, _, grads = of(one)
        mesh = Mesh(np.array(jax.devices()), ('batch',))
        split = {k: jax.device_put(v, NamedSharding(mesh, P('batch'))) for k, v in one.ctx.batch.items()}
        one.ctx = one.ctx._replace(batch=split)
        sharded, _, sharded_grads = of(one)
        np.testing.assert_allclose(sharded, value, rtol=1e-10)
        assert_close(sharded_grads, grads, 1e-10)
        assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype('float64')} == {value.dtype}


@pytest.mark.parity
@pytest.mark.parametrize('name', WAYS)
def test_the_loss_traces_inside_shard_map(name):
    knobs = WAYS[name] | ({'attention': 'none'} if name == 'delta' else {})
    one = prepared(setting(name, groups=8, **knobs))
    mesh = Mesh(np.array(jax.devices()), ('batch',))

    def local(batch):
        value, _ = one.method.loss(one.net, one.params, one.ctx._replace(batch=batch))
        return value[None]

    values = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P('batch'), out_specs=P('batch')))(one.ctx.batch)
    # Each device has the loss of its own share of the batch.
    share = jax.tree.map(lambda x: x[: len(x) // 8], one.ctx.batch)
    np.testing.assert_allclose(values[0], local(share)[0], rtol=1e-4)
    assert values.shape == (8,) and np.isfinite(values).all()


@pytest.mark.parametrize(
    ('method', 'knob', 'value'),
    [
        ('label_smoothing', 'epsilon', 1.0),
        ('cutmix', 'beta', 0.0),
        ('cutmix', 'probability', 1.5),
        ('manifold_mixup', 'alpha', -1.0),
        ('manifold_mixup', 'loss', 'mse'),
        ('manifold_mixup', 'layers', ()),
        ('manifold_mixup', 'layers', ('stage1', 'stage1')),
        ('feature_extraction', 'bn', 'train'),
        ('l2sp', 'form', 'paper'),
        ('l2sp', 'alpha', -1.0),
        ('delta', 'form', 'paper'),
        ('delta', 'attention', 'all'),
        ('delta', 'beta', -1.0),
        ('delta', 'batches', 0),
        ('bss', 'k', 0),
        ('bss', 'weight', -1.0),
        ('bss', 'trunk_factor', 0.0),
        ('rifle', 'resets', 0),
    ],
)
def test_impossible_values(method, knob, value):
    with pytest.raises(UserError, match=f'{knob}.* must be'):
        method_registry.load(method)(10, **{knob: value})


# --- label smoothing --------------------------------------------------------------------------------------------------


def test_label_smoothing_is_cross_entropy_with_every_class_mixed():
    one = setting('label_smoothing', epsilon=0.3)
    out, ce = plain(one)
    every = -jax.nn.log_softmax(out.logits['target']).mean(axis=1)
    np.testing.assert_allclose(of(one)[0], (0.7 * ce + 0.3 * every).mean(), rtol=1e-5)


def test_without_smoothing_it_is_fine_tuning():
    one, other = setting('label_smoothing', epsilon=0.0), setting('finetune')
    (value, _, grads), (expected, _, expected_grads) = of(one), of(other)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert_close(grads, expected_grads, 1e-6)


def test_mixup_with_smoothing_mixes_in_every_class():
    smooth, bare = setting('mixup', label_smoothing=0.3), setting('mixup')
    value, aux, _ = of(smooth)
    without, aux_bare, _ = of(bare)
    lam = aux.metrics['lam']
    assert lam == aux_bare.metrics['lam'] and 0 < lam < 1
    image = smooth.ctx.batch['image']
    out, _ = plain(smooth, mix.blend(lam, image, mix.partner(image, smooth.ctx.batch['partner'])))
    every = -jax.nn.log_softmax(out.logits['target']).mean()
    np.testing.assert_allclose(value, 0.7 * without + 0.3 * every, rtol=1e-5)


# --- CutMix -----------------------------------------------------------------------------------------------------------


def seen_by(one):
    """(loss, aux, image the network saw), for many keys at once."""

    def loss(key):
        seen = []

        def apply(variables, image, **words):
            seen.append(image)
            return one.net.apply(variables, image, **words)

        value, aux = one.method.loss(one.net._replace(apply=apply), one.params, one.ctx._replace(rng=key))
        return value, aux, seen[0]

    return jax.jit(jax.vmap(loss))(jax.random.split(jax.random.key(5), 24))


def test_cutmix_pastes_one_box_and_weighs_labels_by_its_area():
    one = setting('cutmix', probability=1.0)
    # Every pixel tells whose it is.
    image = jnp.broadcast_to(jnp.arange(B, dtype=jnp.float32)[:, None, None, None], (B, 8, 8, 3))
    one.ctx = one.ctx._replace(batch=one.ctx.batch | {'image': image})
    partner = np.asarray(one.ctx.batch['partner'][0])
    label = one.ctx.batch['label']
    values, aux, seen = seen_by(one)
    shares = []
    for value, lam, mixed in zip(values, aux.metrics['lam'], np.asarray(seen), strict=True):
        moved = partner != np.arange(B)
        foreign = mixed[moved] != np.arange(B)[moved, None, None, None]
        assert (foreign == foreign[:1]).all()
        box = foreign[0, :, :, 0]
        assert box.sum() == box.any(axis=0).sum() * box.any(axis=1).sum()
        np.testing.assert_array_equal(mixed, np.where(box[..., None], image[partner], image))
        np.testing.assert_allclose(lam, 1 - box.mean(), rtol=1e-6)
        shares.append(float(lam))
        logits = plain(one, jnp.asarray(mixed))[0].logits['target']
        expected = losses.mixed_cross_entropy(logits, label, label[partner], lam).mean()
        np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert len(set(shares)) > 5


def test_cutmix_leaves_a_share_of_the_batches_alone():
    never = setting('cutmix', probability=0.0)
    _, aux, seen = seen_by(never)
    np.testing.assert_array_equal(aux.metrics['lam'], 1.0)
    np.testing.assert_array_equal(seen[3], never.ctx.batch['image'])
    value, _, grads = of(never)
    expected, _, expected_grads = of(setting('finetune'))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert_close(grads, expected_grads, 1e-6)
    _, aux, _ = seen_by(setting('cutmix', probability=0.5, beta=1.0))
    assert 4 < (aux.metrics['lam'] == 1).sum() < 20


# --- manifold mixup ---------------------------------------------------------------------------------------------------


def mixed_at(one, layer, lam, objective):
    """Loss with one layer mixed, by hand."""
    partner = one.ctx.batch['partner']

    def tap(name, hidden):
        return lam * hidden + (1 - lam) * mix.partner(hidden, partner) if name == layer else hidden

    out, state = one.net.apply(one.ctx.variables(one.params), one.ctx.batch['image'], train=True, tap=tap)
    y = jax.nn.one_hot(one.ctx.batch['label'], CLASSES)
    target = lam * y + (1 - lam) * mix.partner(y, partner)
    return objective(out.logits['target'], target).mean(), state


@pytest.mark.parametrize('layer', ['input', 'stage1'])
@pytest.mark.parametrize('loss', ['bce', 'ce'])
def test_manifold_mixup_mixes_the_layer_and_the_label(layer, loss):
    one = setting('manifold_mixup', layers=(layer,), loss=loss)
    value, aux, _ = of(one)
    objective = {'bce': losses.binary_cross_entropy, 'ce': losses.soft_cross_entropy}[loss]
    expected, state = mixed_at(one, layer, aux.metrics['lam'], objective)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    # BatchNorm's statistics are those of the mixed activations.
    assert_close(aux.model_state, state, 1e-6)


def test_manifold_mixup_draws_one_layer_for_each_batch(monkeypatch):
    monkeypatch.setattr(mix, 'beta', lambda *_, **__: jnp.asarray(0.3))
    names = ('input', 'stem', 'stage1')
    one = setting('manifold_mixup', layers=names)
    alone = [float(mixed_at(one, name, 0.3, losses.binary_cross_entropy)[0]) for name in names]
    values, _, _ = seen_by(one)
    gaps = np.abs(np.asarray(values)[:, None] - np.array(alone))
    np.testing.assert_allclose(gaps.min(axis=1), 0, atol=1e-6)
    assert (np.bincount(gaps.argmin(axis=1), minlength=3) >= 2).all()
    assert np.abs(np.subtract.outer(alone, alone))[~np.eye(3, dtype=bool)].min() > 1e-4


def test_manifold_mixup_refuses_a_layer_that_the_network_lacks():
    one = setting('manifold_mixup')  # the tiny network has no second stage
    with pytest.raises(UserError, match=r'layers must be some of input, .*stage1.*: this network has no .*stage2'):
        of(one)


# --- feature extraction -----------------------------------------------------------------------------------------------


def stepped(one, steps=2):
    """Parameters and statistics after some steps of the optimiser, with decay."""
    settings = config_lib.base().optim
    settings.lr, settings.weight_decay = 0.1, 0.01
    tx, _ = optim.make(settings, 10, lambda params: optim.factors(one.method.groups, one.net.group, params))
    params, opt = one.params, tx.init(one.params)
    for _ in range(steps):
        _, aux, grads = of(SimpleNamespace(**vars(one) | {'params': params}))
        updates, opt = tx.update(grads, opt, params)
        params = jax.tree.map(jnp.add, params, updates)
        one.ctx = one.ctx._replace(model_state=aux.model_state)
    return params, one.ctx.model_state


def test_feature_extraction_trains_the_head_alone():
    one = setting('feature_extraction')
    before = one.ctx.model_state
    params, state = stepped(one)
    assert_trees_equal(params['backbone'], one.params['backbone'])
    assert_trees_equal(state, before)
    assert not np.array_equal(params['heads']['target']['kernel'], one.params['heads']['target']['kernel'])
    # The loss is that of the network in eval mode.
    out, _ = one.net.apply(one.ctx.variables(one.params), one.ctx.batch['image'], train=False)
    ce = losses.cross_entropy(out.logits['target'], one.ctx.batch['label']).mean()
    np.testing.assert_allclose(of(one)[0], ce, rtol=1e-5)


def test_the_released_feature_extraction_moves_the_statistics():
    one = setting('feature_extraction', bn='leak')
    before = one.ctx.model_state
    params, state = stepped(one)
    assert_trees_equal(params['backbone'], one.params['backbone'])
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(before), strict=True):
        assert not np.array_equal(a, b)


# --- L2-SP ------------------------------------------------------------------------------------------------------------


def test_l2sp_by_hand():
    one = setting('l2sp', alpha=0.3, beta=0.2)
    value, aux, grads = of(one)
    ce, _, ce_grads = of(setting('finetune'))
    start = one.start['params']['backbone']
    gap = jax.tree.map(jnp.subtract, one.params['backbone'], start)
    pull = sum(0.5 * float(jnp.sum(g**2)) for g in jax.tree.leaves(gap))
    head = sum(0.5 * float(jnp.sum(w**2)) for w in jax.tree.leaves(one.params['heads']))
    np.testing.assert_allclose(value, ce + 0.3 * pull + 0.2 * head, rtol=1e-5)
    np.testing.assert_allclose(aux.metrics['distance'], pull, rtol=1e-5)
    pulls = {
        'backbone': jax.tree.map(lambda g: 0.3 * g, gap),
        'heads': jax.tree.map(lambda w: 0.2 * w, one.params['heads']),
    }
    assert_close(grads, jax.tree.map(jnp.add, ce_grads, pulls), 1e-5)
    assert dict(one.method.groups) == {'trunk': (1.0, 0.0), 'heads': (1.0, 0.0)}


def test_l2sp_in_the_form_of_smile_leaves_the_head_and_the_decay_to_the_optimiser():
    one = setting('l2sp', form='smile', alpha=0.3, beta=0.2)
    value, aux, _ = of(one)
    np.testing.assert_allclose(value, aux.metrics['ce'] + 0.3 * aux.metrics['distance'], rtol=1e-6)
    assert aux.metrics['distance'] > 0 and not one.method.groups


def test_l2sp_is_zero_at_the_starting_point():
    one = setting('l2sp', form='smile', moved=0.0)
    _, aux, grads = of(one)
    assert aux.metrics['distance'] == 0
    assert_close(grads, of(setting('finetune', moved=0.0))[2], 1e-7)


# --- DELTA ------------------------------------------------------------------------------------------------------------


def toy_net(f):
    """The fixture's network: two convolutions with BatchNorm in eval mode, the second with stride 2."""

    def norm(h, name):
        scale, bias, mean, var = (f[f'net__{name}__{k}'] for k in ('weight', 'bias', 'running_mean', 'running_var'))
        return jax.nn.relu((h - mean) / jnp.sqrt(var + 1e-5) * scale + bias)

    def apply(variables, image, *, train, tap=net_lib.no_tap):
        assert not train
        h, maps = image, {}
        for i, stride in ((1, 1), (2, 2)):
            kernel = variables['params'][f'conv{i}']
            h = jax.lax.conv_general_dilated(
                h, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
                precision=jax.lax.Precision.HIGHEST,
            )  # fmt: skip
            h = maps[f'conv{i}'] = tap(f'conv{i}', h)
            h = norm(h, f'bn{i}')
        features = h.mean((1, 2))
        logits = features @ f['net__fc__weight'] + f['net__fc__bias']
        return net_lib.Out({'target': logits}, features, maps), {}

    kernels = {name: jnp.asarray(f[f'net__{name}__weight']) for name in ('conv1', 'conv2')}
    return net_lib.Net(None, apply, None, None), {'params': kernels}


@pytest.mark.parametrize('x64', [True, False], ids=['float64', 'float32'])
def test_channel_scores_equal_the_released_code(x64):
    f = fixture('delta_channel_importance')
    with jax.enable_x64(x64):
        f = {name: jnp.asarray(array) for name, array in f.items()}
        net, variables = toy_net(f)
        batches = [{'image': x, 'label': y} for x, y in zip(f['batches_x'], f['batches_y'], strict=True)]
        for i, batch in enumerate(batches):
            logits = net.apply(variables, batch['image'], train=False)[0].logits['target']
            np.testing.assert_allclose(logits, f['logits_unablated'][i], rtol=0, atol=1e-12 if x64 else 1e-5)
            ce = losses.cross_entropy(logits, batch['label']).mean()
            np.testing.assert_allclose(ce, f['ce_unablated'][i], rtol=1e-12 if x64 else 1e-5)
        for layer in ('conv1', 'conv2'):
            score = channel_attention.channel_scores(net, variables, batches, layer)
            np.testing.assert_allclose(score, f[f'score_{layer}'], rtol=0, atol=1e-12 if x64 else 1e-6)
            weight = losses.attention(jnp.asarray(score))
            np.testing.assert_allclose(weight, f[f'attention_{layer}'], rtol=0, atol=1e-12 if x64 else 1e-5)
            # In chunks that do not divide the channels, too.
            chunked = channel_attention.channel_scores(net, variables, batches, layer, chunk=3)
            np.testing.assert_allclose(chunked, score, rtol=0, atol=1e-12 if x64 else 1e-6)


def test_hiding_a_channel_is_setting_its_filter_to_zero():
    net = tiny_net()
    variables = drawn(1, 'target', CLASSES)
    batches = list(islice(part()[0].target.batches(8, augmented=True), 2))
    scores = channel_attention.channel_scores(net, variables, batches, 'stage1.conv')
    for channel, score in enumerate(scores):
        stage = variables['params']['backbone']['stage1']
        kernel = stage['conv']['kernel'].at[..., channel].set(0)
        trunk = {**variables['params']['backbone'], 'stage1': {**stage, 'conv': {'kernel': kernel}}}
        without = {**variables, 'params': {**variables['params'], 'backbone': trunk}}
        gaps = []
        for b in batches:
            both = [net.apply(v, b['image'], train=False)[0].logits['target'] for v in (without, variables)]
            gaps.append(np.subtract(*(float(losses.cross_entropy(z, b['label']).mean()) for z in both)))
        np.testing.assert_allclose(score, np.mean(gaps), atol=1e-6)


def test_the_stages_are_named_in_order():
    names = ['last', 'stage10.conv', 'stage2', 'stage2.conv', 'stage1', 'stem.conv', 'stage1.conv']
    assert channel_attention.conv_layers(names) == ['stage1.conv', 'stage2.conv', 'stage10.conv']
    with pytest.raises(UserError, match='must be one that shows'):
        channel_attention.conv_layers(['last'])


@pytest.mark.parametrize('drift', [False, True])
def test_the_new_head_is_trained_alone(drift):
    one = setting('delta')
    data, served = part()

    def train(epochs):
        stream = data.target.batches(8, augmented=True)
        key = jax.random.key(0)
        return channel_attention.train_head(one.net, stream, CLASSES, key, epochs=epochs, steps=5, drift=drift)

    def ce(variables):
        out, _ = one.net.apply(variables, next(data.target.batches(40, augmented=True))['image'], train=drift)
        return float(losses.cross_entropy(out.logits['target'], jnp.arange(40) % CLASSES).mean())

    early = train(1)
    assert len(served) == 5
    late = train(8)
    assert ce(late) < ce(early)
    assert_trees_equal(late['params']['backbone'], one.start['params']['backbone'])
    same = jax.tree.leaves(jax.tree.map(np.array_equal, late['batch_stats'], one.start['batch_stats']))
    assert not any(same) if drift else all(same)


def test_the_heads_optimiser_is_torchs():
    # Two steps by hand: decay on weight and bias, plain momentum, the first epoch's rate lowered already.
    one = setting('delta')
    first, second = islice(part()[0].target.batches(8, augmented=True), 2)
    stream = part()[0].target.batches(8, augmented=True)
    found = channel_attention.train_head(one.net, stream, CLASSES, jax.random.key(0), epochs=2, steps=1, drift=False)
    head = one.net.init(jax.random.key(0), first['image'], {'target': CLASSES})['params']['heads']['target']
    momentum = jax.tree.map(jnp.zeros_like, head)
    for k, batch in enumerate((first, second)):
        features = one.net.source(batch['image']).features

        def loss(h, features=features, batch=batch):
            return losses.cross_entropy(features @ h['kernel'] + h['bias'], batch['label']).mean()

        slope = jax.grad(loss)(head)
        momentum = jax.tree.map(lambda m, g, w: 0.9 * m + g + 1e-4 * w, momentum, slope, head)
        rate = 0.01 * 0.1 ** ((k + 1) / 6)  # one step an epoch
        head = jax.tree.map(lambda w, m, rate=rate: w - rate * m, head, momentum)
    assert_close(found['params']['heads']['target'], head, 1e-6)


def test_delta_prepares_weights_for_each_stage():
    one = setting('delta', head_epochs=2, batches=3)
    data, served = part(40)
    made = one.method.prepare(one.net, data, jax.random.key(0))
    assert served == [32] * (2 * 2 + 3)  # two batches an epoch, and not one more than `batches`
    weight = made.frozen['attention']['stage1.conv']
    assert list(made.frozen['attention']) == ['stage1.conv'] and weight.shape == (4,)
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-6)
    assert weight.min() > 0 and np.ptp(weight) > 1e-3
    again = one.method.prepare(one.net, part(40)[0], jax.random.key(0))
    np.testing.assert_array_equal(again.frozen['attention']['stage1.conv'], weight)
    # Fewer examples than 32: a batch is all of them.
    few, served = part(20)
    setting('delta', head_epochs=1, batches=1).method.prepare(one.net, few, jax.random.key(0))
    assert served == [20, 20]
    assert setting('delta', attention='none').method.prepare(one.net, None, None).frozen == ()


def distances(**knobs):
    one = setting('delta', **knobs)
    weight = jnp.array([0.1, 0.2, 0.3, 0.4])
    one.ctx = one.ctx._replace(frozen={'attention': {'stage1.conv': weight}})
    value, aux, _ = of(one)
    maps, start = plain(one)[0].maps, one.net.source(one.ctx.batch['image']).maps
    return one, value, aux.metrics, jax.tree.map(jnp.subtract, maps, start), weight


def test_delta_by_hand():
    one, value, metrics, gap, weight = distances(alpha=0.3, beta=0.2)
    expected = 0.5 * 4 * (weight * (gap['stage1.conv'] ** 2).sum(axis=(0, 1, 2))).sum() / 16
    np.testing.assert_allclose(metrics['distance'], expected, rtol=1e-4)
    head = sum(0.5 * float(jnp.sum(w**2)) for w in jax.tree.leaves(one.params['heads']))
    np.testing.assert_allclose(value, metrics['ce'] + 0.3 * metrics['distance'] + 0.2 * head, rtol=1e-5)
    assert dict(one.method.groups) == {'trunk': (1.0, 0.0), 'heads': (1.0, 0.0)}


def test_delta_without_attention_is_the_plain_distance():
    _, _, metrics, gap, _ = distances(attention='none')
    np.testing.assert_allclose(metrics['distance'], 0.5 * (gap['stage1.conv'] ** 2).sum(), rtol=1e-4)


def test_delta_in_the_form_of_smile_takes_the_last_map_only():
    one, value, metrics, gap, weight = distances(form='smile', alpha=0.3)
    expected = (weight * (gap['last'] ** 2).sum(axis=(0, 1, 2))).sum() / 16
    np.testing.assert_allclose(metrics['distance'], expected, rtol=1e-4)
    np.testing.assert_allclose(value, metrics['ce'] + 0.3 * metrics['distance'], rtol=1e-5)
    assert not one.method.groups


def test_delta_in_the_form_of_smile_has_attention():
    with pytest.raises(UserError, match="attention must be 'channels'"):
        method_registry.load('delta')(10, form='smile', attention='none')


# --- BSS --------------------------------------------------------------------------------------------------------------


def test_bss_adds_the_smallest_singular_values_of_the_whole_batch():
    one = setting('bss', weight=0.5, k=2)
    value, aux, _ = of(one)
    out, ce = plain(one)
    smallest = np.linalg.svd(np.asarray(out.features, np.float64), compute_uv=False)[-2:]
    np.testing.assert_allclose(aux.metrics['shrinkage'], (smallest**2).sum(), rtol=1e-4)
    np.testing.assert_allclose(value, ce.mean() + 0.5 * (smallest**2).sum(), rtol=1e-5)
    assert dict(setting('bss', trunk_factor=0.1).method.groups) == {'trunk': (0.1, 1.0)}


# --- RIFLE ------------------------------------------------------------------------------------------------------------


def after_steps(one, total, steps):
    """The parameters that `after_step` leaves at each of the given steps, all from the same ones."""
    run = one.ctx.run._replace(total_steps=total)

    def after(step):
        ctx = one.ctx._replace(step=step, rng=jax.random.fold_in(jax.random.key(9), step), run=run)
        params, state = one.method.after_step(one.net, None, one.params, None, ctx)
        assert state == ()
        return params

    return jax.jit(jax.vmap(after))(jnp.arange(steps))


@pytest.mark.parametrize('case', range(5))
def test_rifle_redraws_at_the_iterations_of_the_released_code(case):
    f = fixture('schedules')
    total, n = (int(x) for x in f['rifle_config_max_iters_num'][case])
    one = setting('rifle', resets=n)
    found = after_steps(one, total, total)['heads']['target']
    changed = (np.asarray(found['kernel']) != np.asarray(one.params['heads']['target']['kernel'])).all(axis=(1, 2))
    expected = f['rifle_reset_iteration_index'][case]
    np.testing.assert_array_equal(np.flatnonzero(changed), expected[expected >= 0])


def test_rifle_redraws_the_head_only_by_its_own_law_and_anew_each_time():
    one = setting('rifle', resets=4)
    params = after_steps(one, 12, 12)
    for step in (2, 5, 8, 11):
        at = jax.tree.map(lambda x, step=step: x[step], params)
        assert_trees_equal(at['backbone'], one.params['backbone'])
    head = params['heads']['target']
    bound = 4**-0.5
    assert (jnp.abs(head['kernel'][2]) <= bound).all() and (jnp.abs(head['bias'][2]) <= bound).all()
    assert not np.isin(head['kernel'][2], head['kernel'][5]).any()
    np.testing.assert_array_equal(head['kernel'][11], one.params['heads']['target']['kernel'])  # not after the last


def test_rifle_refuses_more_resets_than_steps():
    with pytest.raises(UserError, match='resets must be at most the number of steps, 12, not 13'):
        after_steps(setting('rifle', resets=13), 12, 1)
