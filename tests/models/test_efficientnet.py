from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mixjax import models
from mixjax.models import efficientnet
from mixjax.models.efficientnet import EfficientNet, Group, MBConv, widened, zeros
from mixjax.models.layers import BatchNorm
from mixjax.models.net import bind, from_linen
from tests.support.filled import filled

SHAPE = (2, 24, 24, 3)
GROUPS = (Group(1, 8, 1, 1, 3), Group(6, 8, 3, 2, 3))
SMALL = partial(EfficientNet, groups=GROUPS, stem=8, top=32)


def same(h):
    return h


@pytest.mark.parametrize(
    ('width', 'factor', 'want'),
    [(32, 1.4, 48), (16, 1.4, 24), (320, 1.4, 448), (1280, 1.4, 1792), (24, 1.1, 24), (40, 1.1, 48), (16, 0.1, 8)],
)
def test_widths_are_multiples_of_eight_and_never_ten_percent_too_small(width, factor, want):
    assert widened(width, factor) == want


def test_b4_has_the_published_blocks():
    b4 = models.BACKBONES['efficientnet_b4']()
    assert isinstance(b4, EfficientNet)
    assert b4.blocks == (2, 4, 4, 6, 6, 8, 2) and sum(b4.blocks) == 32
    assert b4.dropout == 0.4 and b4.drop_path == 0.2


def test_dropout_grows_with_the_network():
    rates = [models.BACKBONES[f'efficientnet_b{i}']().dropout for i in range(5)]
    assert rates == [0.2, 0.2, 0.3, 0.3, 0.4]


# --- padding ----------------------------------------------------------------------------------------------------------


def side(padding, size, stride, at):
    layer = nn.Conv(1, (size, size), strides=stride, padding=zeros(padding, size, stride))
    return jax.eval_shape(lambda: layer.init_with_output(jax.random.key(0), jnp.zeros((1, at, at, 1)))[0]).shape[1]


@pytest.mark.parametrize('size', [3, 5])
@pytest.mark.parametrize('design', [224, 240, 260, 300, 380])
def test_a_fixed_size_pads_the_end_more_whatever_comes_in(design, size):
    low = (size - 2) // 2
    assert zeros(design, size, 2) == [(low, size - 2 - low)] * 2 == [{3: (0, 1), 5: (1, 2)}[size]] * 2
    assert zeros(design, size, 1) == zeros('symmetric', size, 1) == [(size // 2, size // 2)] * 2


@pytest.mark.parametrize('size', [3, 5])
@pytest.mark.parametrize('at', [95, 96, 190])
def test_the_three_kinds_of_padding_give_maps_of_these_sides(at, size):
    assert side('same', size, 2, at) == side('symmetric', size, 2, at) == -(-at // 2)
    assert side(380, size, 2, at) == at // 2  # so an odd map of 95 becomes 47 and not 48


def test_the_published_package_has_47_in_the_third_stage_at_380():
    sides = {}
    for name in ('efficientnet_b4', 'efficientnet_b4_fixed380', 'efficientnet_b4_symmetric'):
        net = from_linen(models.BACKBONES[name]().clone(depth=0.1))  # one block in each stage
        image = jax.ShapeDtypeStruct((1, 380, 380, 3), jnp.float32)
        variables = jax.eval_shape(lambda rng, x, n=net: n.init(rng, x, {'target': 2}), jax.random.key(0), image)
        out, _ = jax.eval_shape(lambda v, x, n=net: n.apply(v, x, train=False), variables, image)
        sides[name] = [out.maps[f'stage{i}'].shape[1] for i in (1, 2, 3, 4, 5, 6, 7, 8)]
    assert sides['efficientnet_b4'] == [190, 95, 48, 24, 24, 12, 12, 12] == sides['efficientnet_b4_symmetric']
    assert sides['efficientnet_b4_fixed380'] == [190, 95, 47, 23, 23, 11, 11, 11]


@pytest.mark.parametrize(('at', 'equal'), [(64, True), (32, True), (76, False)])
def test_on_maps_of_even_sides_fixed_and_same_are_one_program(at, equal):
    """So what holds for one at 224 pixels, where all halved sides are even, holds for the other."""
    image = jnp.zeros((1, at, at, 3))
    groups = (Group(1, 8, 1, 1, 3), Group(6, 8, 1, 2, 5), Group(6, 8, 1, 2, 3))
    programs = []
    for padding in ('same', 380):
        net = from_linen(EfficientNet(groups=groups, stem=8, top=8, padding=padding))
        variables = jax.eval_shape(lambda x, n=net: n.init(jax.random.key(0), x, {'target': 2}), image)
        programs.append(str(jax.make_jaxpr(lambda v, n=net: n.apply(v, image, train=False)[0].logits)(variables)))
    assert (programs[0] == programs[1]) is equal


def test_maps_of_224_have_even_sides():
    at = 224
    for _ in range(5):
        assert at % 2 == 0
        at //= 2


# --- dropout and drop-connect -----------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def image():
    return jax.random.normal(jax.random.key(5), SHAPE)


def test_dropout_is_between_the_features_and_the_classifier(image):
    """With the identity as classifier the logits are features / keep, or zero."""
    net = from_linen(SMALL(dropout=0.4, drop_path=0.0))
    variables = filled(lambda: net.init(jax.random.key(0), image, {'target': 32}))
    head = {'kernel': jnp.eye(32), 'bias': jnp.zeros(32)}
    variables = {**variables, 'params': {**variables['params'], 'heads': {'target': head}}}
    run = jax.jit(lambda rng: net.apply(variables, image, train=True, rng=rng)[0])
    plain = jax.jit(lambda: net.apply(variables, image, train=True)[0])()
    kept = []
    for seed in range(20):
        out = run(jax.random.key(seed))
        np.testing.assert_allclose(out.features, plain.features, rtol=1e-5, atol=1e-6)
        alive = np.asarray(out.logits['target']) != 0
        np.testing.assert_allclose(out.logits['target'], np.where(alive, plain.features / 0.6, 0), rtol=1e-5, atol=1e-6)
        kept.append(alive.mean())
    assert abs(np.mean(kept) - 0.6) < 0.06  # 1280 draws
    assert np.std(kept) > 0  # another key is another mask


def both(width, stride, drop, batch):
    """A block's input (B, 6, 6, 8), and in train mode its output without and with a key."""
    block = MBConv(1, width, stride, 3, drop, 'same', partial(BatchNorm, 0.99, 1e-3, None))
    h = jax.random.normal(jax.random.key(0), (batch, 6, 6, 8))
    variables = filled(lambda: block.init(jax.random.key(1), h, False, same))

    def apply(rngs):
        return block.apply(variables, h, True, same, mutable=['batch_stats'], rngs=rngs)[0][0]

    return h, *jax.jit(lambda key: (apply({}), apply({'dropout': key})))(jax.random.key(2))


def test_drop_connect_leaves_out_an_examples_block_as_a_whole():
    """y = x + branch / keep, or x: one draw for each example, not for each value."""
    h, plain, dropped = both(8, 1, 0.3, 64)
    gone = np.array([np.array_equal(y, x) for y, x in zip(dropped, h, strict=True)])
    np.testing.assert_allclose(dropped[~gone], (h + (plain - h) / 0.7)[~gone], rtol=1e-4, atol=1e-5)
    assert 8 < gone.sum() < 31  # 64 draws at 0.3, within three standard deviations


def test_a_block_that_changes_the_shape_is_never_left_out():
    for width, stride in [(8, 2), (16, 1)]:
        _, plain, dropped = both(width, stride, 0.999, 4)
        np.testing.assert_array_equal(plain, dropped)


def test_drop_connect_grows_linearly_from_zero():
    net = models.build('efficientnet_b0')
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(lambda rng, x: net.init(rng, x, {'target': 2}), jax.random.key(0), image)
    rates = {}

    def record(call, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            rates['/'.join(context.module.path)] = context.module.rate
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        jax.eval_shape(lambda v, x: net.apply(v, x, train=False), variables, image)
    assert rates.pop('dropout') == 0.2
    # Stage: the number of its second block (the first changes the shape) in a count from 0, and how many follow.
    stages = {2: (2, 1), 3: (4, 1), 4: (6, 2), 5: (9, 2), 6: (12, 3)}
    want = {}
    for stage, (first, count) in stages.items():
        for i in range(count):
            want[f'backbone/stage{stage}/block{i + 1}/drop'] = 0.2 * (first + i) / 16
    assert rates == pytest.approx(want)


def test_without_a_key_and_in_eval_mode_nothing_is_dropped(image):
    net, still = from_linen(SMALL(dropout=0.5, drop_path=0.5)), from_linen(SMALL(dropout=0.0, drop_path=0.0))
    variables = filled(lambda: net.init(jax.random.key(0), image, {'target': 3}))
    key = jax.random.key(1)
    bound = bind(net, variables, key)  # as the trainer does

    def programs(train):
        """Of the network without dropout, of ours without a key, with a key, and as the trainer has it."""
        runs = [
            lambda v, x: still.apply(v, x, train=train),
            lambda v, x: net.apply(v, x, train=train),
            lambda v, x: net.apply(v, x, train=train, rng=key),
            lambda v, x: bound.apply(v, x, train=train),
        ]
        return [str(jax.make_jaxpr(run)(variables, image)) for run in runs]

    plain, without, given, trainers = programs(train=False)
    assert plain == without == given == trainers
    plain, without, given, trainers = programs(train=True)
    assert plain == without != given == trainers


def test_masks_do_not_depend_on_the_layout():
    """A batch on eight devices, and two trials with a key each, drop what one device drops."""
    image = jax.random.normal(jax.random.key(5), (16, 12, 12, 3))
    net = from_linen(SMALL(dropout=0.5, drop_path=0.5))
    variables = filled(lambda: net.init(jax.random.key(0), image, {'target': 3}))
    keys = jax.random.split(jax.random.key(1))

    def run(variables, image, key):
        out, _ = net.apply(variables, image, train=True, rng=key)
        return out.logits['target']

    alone = [jax.jit(run)(variables, image, key) for key in keys]
    data = jax.make_mesh((8,), ('data',), (AxisType.Auto,))
    split = jax.device_put(image, NamedSharding(data, P('data')))
    np.testing.assert_allclose(jax.jit(run)(variables, split, keys[0]), alone[0], rtol=1e-4, atol=1e-4)

    trials = jax.make_mesh((2, 4), ('trial', 'data'), (AxisType.Auto, AxisType.Auto))
    each = jax.shard_map(
        lambda key: run(variables, image, key[0])[None],
        mesh=trials,
        in_specs=P('trial'),
        out_specs=P('trial'),
        axis_names={'trial'},
        check_vma=False,
    )
    np.testing.assert_allclose(jax.jit(each)(keys), np.stack(alone), rtol=1e-4, atol=1e-4)
    assert np.abs(alone[0] - alone[1]).max() > 0.01


def test_the_law_of_a_depthwise_kernel_counts_one_channel():
    kernel = np.asarray(efficientnet.depthwise_out(jax.random.key(0), (5, 5, 1, 2000)))
    np.testing.assert_allclose(kernel.std(), (2 / 25) ** 0.5, rtol=0.01)
